from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import _mnist, moving_digits
from edgekit.data.moving_digits import MOTIONS, SIDE, MovingDigits, Options
from edgekit.runtime.errors import UsageError


def load(split: str = "test", **options: str) -> MovingDigits:
    return moving_digits.load(split, Options(**options), Path())  # type: ignore[arg-type]


def path_of(clip: np.ndarray) -> np.ndarray:
    """Centre of the ink in the first and in the last frames: (2, row and column)."""
    light = np.clip(clip - np.median(clip) - 60.0, 0, None)
    places = np.arange(SIDE)
    rows = (light.sum(2) @ places) / light.sum((1, 2))
    columns = (light.sum(1) @ places) / light.sum((1, 2))
    return np.stack([rows, columns], 1)[[0, -1]]


def clips_of(motion: str, count: int = 25) -> list[np.ndarray]:
    data, first = load(), list(MOTIONS).index(motion)
    return [data.clip(first + len(MOTIONS) * place) for place in range(count)]


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("up", 0, -1), ("down", 0, 1), ("left", 1, -1), ("right", 1, 1)]
)
def test_a_digit_drifts_where_its_label_says(motion: str, axis: int, sign: int) -> None:
    moved = np.array([np.subtract(*path_of(clip)[::-1]) for clip in clips_of(motion)])
    assert np.median(moved[:, axis]) * sign > 5
    assert abs(np.median(moved[:, 1 - axis])) < 1


@pytest.mark.parametrize(("motion", "larger"), [("growing", True), ("shrinking", False)])
def test_a_digit_gets_as_large_as_its_label_says(motion: str, larger: bool) -> None:
    def ink(frame: np.ndarray) -> int:
        return int((frame > np.median(frame) + 60).sum())

    clips = clips_of(motion)
    assert np.mean([(ink(clip[-1]) > ink(clip[0])) == larger for clip in clips]) > 0.9


@pytest.mark.parametrize(("motion", "step"), [("clockwise", 1), ("anticlockwise", -1)])
def test_a_digit_turns_as_its_label_says(motion: str, step: int) -> None:
    image = np.zeros((_mnist.SIDE, _mnist.SIDE), np.uint8)
    image[13:15, 14:26] = 255  # a hand that points to the right
    part, direction = MOTIONS[motion]
    poses = np.zeros((2, 4))
    poses[1, part] = direction * np.pi / 2
    shown = moving_digits._placed(image, poses)
    middle = SIDE // 2
    assert shown[0, :, middle:].sum() > 0.8 * shown[0].sum()
    below = shown[1, middle:].sum() > 0.8 * shown[1].sum()
    assert below == (step == 1)


def test_the_splits_have_every_motion_alike_and_no_digit_in_common() -> None:
    for split, size in moving_digits.SIZES.items():
        data = load(split)
        assert len(data) == size
        assert set(Counter(data.motion(index) for index in range(size)).values()) == {size / len(MOTIONS)}
        np.testing.assert_array_equal(data._digits, _mnist.images(split)[0])
    assert len(load()) >= 1000


def test_samples_are_normalised_clips_of_any_length() -> None:
    samples = [load()[index] for index in range(40)]
    assert {len(sample.inputs[0]) for sample in samples} <= set(range(8, 17))
    assert all(sample.inputs[0].shape[1:] == (1, SIDE, SIDE) for sample in samples)
    values = np.concatenate([sample.inputs[0].ravel() for sample in samples])
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.2
    assert abs(values.std() - 1) < 0.2


def test_a_clip_is_the_same_each_time_and_another_in_the_next_epoch() -> None:
    first, second = load("train"), load("train")
    np.testing.assert_array_equal(first.clip(5), second.clip(5))
    second.set_epoch(1)
    assert not np.array_equal(first.clip(5), second.clip(5))
    fixed, before = load("validation"), load("validation").clip(5)
    fixed.set_epoch(1)
    np.testing.assert_array_equal(fixed.clip(5), before)


def test_a_frame_is_one_of_the_clips() -> None:
    frames, whole = load(form="frame"), load()
    sample = frames[7]
    assert sample.inputs[0].shape == (1, SIDE, SIDE)
    assert sample.target == whole[7].target
    assert any(np.array_equal(sample.inputs[0], frame) for frame in whole[7].inputs[0])


def test_poses_of_a_random_frame_do_not_tell_the_motion() -> None:
    """Spread and centre of each part of the pose are those of the digits that stand still."""
    seen = {}
    for motion, (part, direction) in MOTIONS.items():
        rng, found = np.random.default_rng(0), []
        for _ in range(3000):
            poses = moving_digits._poses(rng, part, direction)
            found.append(poses[rng.integers(len(poses))])
        seen[motion] = np.array(found)
    still = seen.pop("still")
    for motion, poses in seen.items():
        np.testing.assert_allclose(poses.std(0), still.std(0), rtol=0.06, err_msg=motion)
        np.testing.assert_allclose(poses.mean(0), still.mean(0), atol=0.25, err_msg=motion)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="dev"):
        load("dev")
