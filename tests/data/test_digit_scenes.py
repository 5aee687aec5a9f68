from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import _photographs, digit_scenes
from edgekit.runtime.errors import BadFileError, MissingPackageError, UsageError


def load(split: str, **options: int) -> digit_scenes.Scenes:
    return digit_scenes.load(split, digit_scenes.Options(**options), Path())


def test_no_photograph_is_in_two_splits() -> None:
    hashes = [sha256 for files in _photographs.FILES.values() for _, _, sha256 in files]
    assert len(hashes) == len(set(hashes)) == 15
    for one, other in zip(
        _photographs.photographs("calibration"), _photographs.photographs("train"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_no_digit_is_in_two_splits() -> None:
    digits = [{image.tobytes() for image in load(split)._digits} for split in digit_scenes.SCENES]
    for one, other in combinations(digits, 2):
        assert not one & other


def test_the_test_split_is_large_enough() -> None:
    assert len(load("test")) >= 1000


@pytest.mark.parametrize("size", [64, 96])
def test_a_sample_is_an_image_and_its_boxes(size: int) -> None:
    data = load("test", size=size)
    for index in range(20):
        sample = data[index]
        assert sample.inputs[0].shape == (3, size, size)
        assert sample.inputs[0].dtype == np.float32
        assert np.abs(sample.inputs[0]).max() <= 1
        boxes, classes = sample.target.boxes, sample.target.classes
        assert 1 <= len(boxes) == len(classes) == len(sample.target.ignored) <= 5
        assert boxes.min() >= 0
        assert boxes.max() <= size
        longest = (boxes[:, 2:] - boxes[:, :2]).max(1)
        assert (longest >= size / 10).all()
        assert (longest <= 0.7 * size).all()


def test_every_box_is_tight_about_what_was_written() -> None:
    rng = np.random.default_rng(0)
    ink = digit_scenes._written(load("test")._digits[3], 96, rng)
    dark = ink * 255 > digit_scenes.INK
    assert dark[0].any()
    assert dark[-1].any()
    assert dark[:, 0].any()
    assert dark[:, -1].any()


def test_a_scene_changes_with_epoch_and_seed_in_training_alone() -> None:
    train, test = load("train"), load("test")
    first, fixed = train.scene(3)[0], test.scene(3)[0]
    np.testing.assert_array_equal(first, load("train").scene(3)[0])
    train.set_epoch(1)
    test.set_epoch(1)
    assert (first != train.scene(3)[0]).any()
    assert (first != load("train", seed=1).scene(3)[0]).any()
    np.testing.assert_array_equal(fixed, test.scene(3)[0])
    np.testing.assert_array_equal(fixed, load("test", seed=1).scene(3)[0])


def test_faults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="dev"):
        load("dev")
    with pytest.raises(IndexError):
        load("test").scene(1000)
    with pytest.raises(ValueError, match="32 to 256"):
        digit_scenes.Options(size=8)
    _photographs.photographs.cache_clear()
    changed = tuple((folder, name, "0") for folder, name, _ in _photographs.FILES["test"])
    with monkeypatch.context() as patch:
        patch.setitem(_photographs.FILES, "test", changed)
        with pytest.raises(BadFileError, match=r"flower\.jpg: not the photograph"):
            load("test")
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingPackageError, match="scikit-image") as caught:
        load("test")
    assert "edgekit-deploy[train]" in caught.value.hint
    _photographs.photographs.cache_clear()
