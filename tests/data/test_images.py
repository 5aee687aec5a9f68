from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.data import images
from edgekit.runtime.errors import UsageError


def test_the_default_is_what_published_weights_want() -> None:
    prepared = images.preprocess(images.Options())
    assert (prepared.channels, prepared.height, prepared.width) == (3, 224, 224)
    assert prepared.mean == (0.485, 0.456, 0.406)
    assert len(images.labels(images.Options()).values) == 1000


def test_names_take_the_place_of_numbers() -> None:
    assert images.labels(images.Options(labels=("cat", "dog"))).values == ("cat", "dog")
    assert images.labels(images.Options(classes=3)).values == ("0", "1", "2")


@pytest.mark.parametrize(("split", "option"), [("test", "--data"), ("calibration", "--calibration")])
def test_there_are_no_images_but_the_users(split: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images of its own") as told:
        images.load(split, images.Options(), tmp_path)
    assert option in told.value.hint


def test_nothing_is_trained_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'train'"):
        images.load("train", images.Options(), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"height": 0}, "at least 1"),
        ({"channels": 1}, "mean and std must have 1 numbers"),
        ({"std": (1.0, 1.0, 0.0)}, "above 0"),
        ({"labels": ("cat", "cat")}, "differ"),
    ],
)
def test_options_that_say_nothing_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        images.Options(**wrong)
