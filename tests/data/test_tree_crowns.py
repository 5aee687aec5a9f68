from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data import tree_crowns
from edgekit.runtime.errors import SystemRefusedError, UsageError

TREE = (
    "<object><name>Tree</name><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object>"
)
CROWNS = [(2, 4, 22, 30), (28, 2, 48, 22), (60, 60, 90, 90)]
"""In tiles of 32 pixels the second one is cut in shares of 4 and 16 of 20."""


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as deepforest is, with one small picture under every name."""
    picture = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    Image.fromarray(pixels).save(picture, "PNG")
    path = tmp_path / "forest.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name in (name for names in tree_crowns.PICTURES.values() for name in names):
            packed.writestr(f"deepforest/data/{name}.png", picture.getvalue())
            crowns = "".join(TREE.format(*crown) for crown in CROWNS)
            packed.writestr(f"deepforest/data/{name}.xml", f"<annotation>{crowns}</annotation>")
    monkeypatch.setattr(tree_crowns, "fetch", lambda *said: path)
    return path


def load(split: str) -> tree_crowns.Tiles:
    return tree_crowns.load(split, tree_crowns.Options(size=32), Path())


def test_no_picture_is_in_two_splits() -> None:
    names = [name for names in tree_crowns.PICTURES.values() for name in names]
    assert len(names) == len(set(names)) == 4


@pytest.mark.usefixtures("wheel")
def test_tiles_lie_side_by_side_and_cut_crowns_are_kept_by_what_is_seen() -> None:
    data = load("test")
    assert len(data) == 2 * 3
    first, second = data[0].target, data[1].target
    assert first.boxes.tolist() == [[2, 4, 22, 30], [28, 2, 32, 22]]
    assert first.ignored.tolist() == [False, True]
    assert second.boxes.tolist() == [[0, 2, 16, 22]]
    assert second.ignored.tolist() == [False]
    assert data[0].inputs[0].shape == (3, 32, 32)


@pytest.mark.usefixtures("wheel")
def test_boxes_turn_with_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the box before is in it after: a dark crown on white says where it is."""
    pixels = np.full((70, 100, 3), 255, np.uint8)
    left, top, right, bottom = CROWNS[0]
    pixels[top:bottom, left:right] = 0
    boxes = np.array(CROWNS[:1], np.float32)
    monkeypatch.setattr(tree_crowns, "_picture", lambda wheel, name: (pixels, boxes))
    data = load("train")
    turned = 0
    for index in range(200):
        sample = data[index]
        for box, hidden in zip(sample.target.boxes, sample.target.ignored, strict=True):
            rows, columns = np.nonzero(sample.inputs[0].mean(0) < 0)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] or hidden
            turned += 1
    assert turned > 20


@pytest.mark.usefixtures("wheel")
def test_training_tiles_change_with_the_epoch_alone() -> None:
    first, second = load("train"), load("train")
    np.testing.assert_array_equal(first[3].inputs[0], second[3].inputs[0])
    second.set_epoch(1)
    assert (first[3].inputs[0] != second[3].inputs[0]).any()
    assert len(first) == 1000


@pytest.mark.usefixtures("wheel")
def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match="dev"):
        load("dev")
    with pytest.raises(IndexError):
        load("test")[6]
    with pytest.raises(ValueError, match="32 to 400"):
        tree_crowns.Options(size=8)


@pytest.mark.slow
def test_the_package_holds_951_crowns(tmp_path: Path) -> None:
    try:
        splits = [tree_crowns.load(name, tree_crowns.Options(), tmp_path) for name in tree_crowns.PICTURES]
    except SystemRefusedError as error:
        pytest.skip(error.message)
    assert sum(len(boxes) for split in splits for _, boxes in split._pictures) == 951
    assert len(splits[-1]) == 42
