from __future__ import annotations

import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import activity
from edgekit.runtime.errors import BadFileError, UsageError


def stretch(person: int, kind: int, steps: int = 400) -> activity.Stretch:
    rng = np.random.default_rng(person)
    return activity.Stretch(person, kind, rng.normal(size=(steps, 6)).astype(np.float32))


STRETCHES = tuple(stretch(person, person % 6) for person in range(1, 31))


def made(split: str, **options: object) -> activity.Activity:
    return activity.Activity(split, activity.Options(**options), STRETCHES)  # type: ignore[arg-type]


def test_nobody_is_in_two_splits_and_everybody_in_one() -> None:
    assert sorted(itertools.chain(*activity.PEOPLE.values())) == list(range(1, 31))
    for split in activity.SPLITS:
        data = made(split)
        people = {data.person(index) for index in range(len(data))}
        assert people <= set(activity.PEOPLE["train" if split == "calibration" else split])
        assert people


def test_windows_overlap_by_half_and_never_leave_their_stretch() -> None:
    data = made("test")
    assert len(data) == 9 * 5
    first, second = data[0].inputs[0], data[1].inputs[0]
    assert first.shape == (128, 6)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first[64:], second[:64])
    assert data[0].target == activity.ACTIVITIES[2]


def test_training_windows_vary_reproducibly_with_the_epoch() -> None:
    first, second, still = made("train"), made("train"), made("train", augment=0.0)
    np.testing.assert_array_equal(first[3].inputs[0], second[3].inputs[0])
    second.set_epoch(1)
    assert (first[3].inputs[0] != second[3].inputs[0]).any()
    np.testing.assert_array_equal(still[3].inputs[0], STRETCHES[0].signal[192:320])


def test_a_turned_phone_feels_as_much() -> None:
    turn = activity._rotation(np.array([1.0, 2.0, 3.0]), 0.2)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ [1, 2, 3], [1, 2, 3])
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(0.2))


def test_motion_is_two_labels_of_ten_channels() -> None:
    data = made("test", labels="motion", window=100, derived=True)
    sample = data[0]
    assert sample.inputs[0].shape == (100, len(activity.channels(activity.Options(derived=True))))
    assert {data[index].target for index in range(len(data))} == {"resting", "moving"}
    assert sample.target == "moving"
    window = sample.inputs[0]
    np.testing.assert_allclose(window[:, 6], np.linalg.norm(window[:, :3], axis=1), rtol=1e-5)
    np.testing.assert_allclose(window[5, 9], np.linalg.norm(window[5, 3:6] - window[4, 3:6]), rtol=1e-5)


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dev"):
        activity.load("dev", activity.Options(), tmp_path)
    with pytest.raises(ValueError, match="augment"):
        activity.Options(augment=2)
    package = tmp_path / "package.tar.gz"
    with tarfile.open(package, "w:gz"):
        """An archive without the file."""
    with pytest.raises(BadFileError, match="is not kcc2020"):
        activity._stretches(package)


def test_the_real_recordings(cache: Path) -> None:
    """The only test that needs the package's 19 MB."""
    data = activity.load("test", activity.Options(), cache)
    assert len(data) == 2996
    assert {data.person(index) for index in range(len(data))} == set(activity.PEOPLE["test"])
    laying = np.mean(
        [data[index].inputs[0].mean(0) for index in range(len(data)) if data[index].target == "laying"], 0
    )
    standing = np.mean(
        [data[index].inputs[0].mean(0) for index in range(len(data)) if data[index].target == "standing"], 0
    )
    assert abs(laying[0]) < 0.3 < 0.9 < standing[0] < 1.1
