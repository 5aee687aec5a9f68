"""Boxes as people have them: each layout is read, and each mistake is named with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.data._boxes import load_boxes, size_of
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import to_image, to_input

LABELS = Labels(("cat", "dog"), "boxes")
LETTERBOX = Preprocess(height=32, width=32, channels=3, fit="letterbox")
STRETCH = Preprocess(height=32, width=32, channels=3)
# Images of 64 x 32 at half the size: letterboxed 8 pixels lower, stretched twice as high.
BOX = (8, 4, 24, 20)
LETTERBOXED, STRETCHED = [4, 10, 12, 18], [4, 4, 12, 20]

VOC = """<annotation>
  <filename>{name}</filename>
  <object>
    <name>dog</name>
    <bndbox><xmin>8</xmin><ymin>4</ymin><xmax>24</xmax><ymax>20</ymax></bndbox>
  </object>
  <object><name>cat</name><difficult>1</difficult>
    <bndbox><xmin>0</xmin><ymin>0</ymin><xmax>64</xmax><ymax>32</ymax></bndbox></object>
</annotation>"""
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 30, "bbox": [8, 4, 16, 16], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 20, "bbox": [0, 0, 64, 32], "iscrowd": 1},
    ],
    "categories": [{"id": 20, "name": "cat"}, {"id": 30, "name": "dog"}],
}
YOLO = "1 0.25 0.375 0.25 0.5\n\n0 0.5 0.5 1 1\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32), (200, 40, 40)).save(path)


def voc(folder: Path) -> Path:
    picture(folder / "JPEGImages" / "a.png")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(VOC.format(name="a.png"))
    return folder / "Annotations" / "a.xml"


def coco(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        picture(folder / "images" / name)
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "instances_val.json"
    path.write_text(json.dumps(COCO))
    (folder / "annotations" / "captions_val.json").write_text("{}")
    return path


def yolo(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        picture(folder / "images" / "val" / name)
    (folder / "labels" / "val").mkdir(parents=True)
    path = folder / "labels" / "val" / "a.txt"
    path.write_text(YOLO)
    return path


LAYOUTS = {"voc": (voc, 1, True), "coco": (coco, 2, True), "yolo": (yolo, 2, False)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("preprocess", "expected"), [(LETTERBOX, LETTERBOXED), (STRETCH, STRETCHED)])
def test_each_layout_is_read_into_pixels_of_the_input(
    layout: str, preprocess: Preprocess, expected: list[float], tmp_path: Path
) -> None:
    make, count, may_ignore = LAYOUTS[layout]
    make(tmp_path)
    data = load_boxes(tmp_path, preprocess, LABELS)
    assert len(data) == count
    sample = data[0]
    assert sample.inputs[0].shape == (3, 32, 32)
    assert sample.target.boxes[0].tolist() == pytest.approx(expected)
    assert sample.target.classes.tolist() == [1, 0]
    assert sample.target.ignored.tolist() == [False, may_ignore]
    assert sample.target.boxes.dtype == np.float32
    if count == 2:
        assert data[1].target.boxes.shape == (0, 4)


def test_boxes_go_into_the_input_and_back() -> None:
    boxes = np.array([[1, 2, 50, 30], [0, 0, 64, 32]], np.float32)
    for preprocess in (LETTERBOX, STRETCH):
        there = to_input(boxes, preprocess, 32, 64)
        np.testing.assert_allclose(to_image(there, preprocess, 32, 64), boxes, atol=1e-4)


def test_a_coco_file_itself_may_be_given(tmp_path: Path) -> None:
    path = coco(tmp_path)
    assert len(load_boxes(path, LETTERBOX, LABELS)) == 2
    (path.parent / "instances_train.json").write_text("{}")
    with pytest.raises(BadFileError, match="several JSON files"):
        load_boxes(tmp_path, LETTERBOX, LABELS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "path: .\nnames: ['dog', \"cat\"]  # two\nnc: 2\n"),
        ("data.yaml", "names:\n  - dog\n  # the other\n  - 'cat'\nnc: 2\n"),
        ("data.yaml", "train: x\nnames:\n  0: dog\n  1: cat # small\n"),
        ("classes.txt", "dog\ncat\n"),
    ],
)
def test_names_of_yolo_are_the_files(name: str, text: str, tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / name).write_text(text)
    assert load_boxes(tmp_path, LETTERBOX, LABELS)[0].target.classes.tolist() == [0, 1]


def test_a_split_of_yolo_alone(tmp_path: Path) -> None:
    """As `images/val` with `labels/val`, and as `val/images` with `val/labels`; the names lie above."""
    yolo(tmp_path / "one")
    picture(tmp_path / "one" / "images" / "train" / "c.png")
    (tmp_path / "one" / "data.yaml").write_text("names: [dog, cat]\n")
    yolo(tmp_path / "labels" / "two" / "val")
    picture(tmp_path / "labels" / "two" / "train" / "images" / "c.png")
    (tmp_path / "labels" / "two" / "data.yaml").write_text("names: [dog, cat]\n")
    (tmp_path / "labels" / "two" / "classes.txt").write_text("of something else\n")
    for split in (
        Path("one/images/val"),
        Path("labels/two/val"),
        Path("labels/two/val/images"),
        Path("labels/two/val/images/val"),
    ):
        data = load_boxes(tmp_path / split, LETTERBOX, LABELS)
        assert len(data) == 2
        assert data[0].target.classes.tolist() == [0, 1]
    with pytest.raises(BadFileError, match="no image for it") as caught:
        load_boxes(tmp_path / "labels" / "two", LETTERBOX, LABELS)
    assert caught.value.hint.endswith(f"images and labels: {tmp_path / 'labels' / 'two' / 'val'}")


def test_a_split_of_yolo_alone_has_the_names_of_its_whole(tmp_path: Path) -> None:
    yolo(tmp_path / "one")
    for place in ("classes.txt", "labels/classes.txt"):
        (tmp_path / "one" / place).write_text("dog\ncat\n")
        (tmp_path / "one" / "images" / "val" / "data.yaml").write_text("nc: 2\n")
        assert load_boxes(tmp_path / "one" / "images/val", LETTERBOX, LABELS)[0].target.classes[0] == 0
        (tmp_path / "one" / place).unlink()
    store = tmp_path / "store"
    (tmp_path / "one" / "images").rename(store)
    (tmp_path / "one" / "images").symlink_to(store)
    assert len(load_boxes(tmp_path / "one" / "images/val", LETTERBOX, LABELS)) == 2


def test_texts_beside_the_images_win_over_a_folder_that_holds_none(tmp_path: Path) -> None:
    mine = tmp_path / "images" / "mine"
    picture(mine / "a.png")
    (mine / "a.txt").write_text(YOLO)
    (tmp_path / "labels" / "mine").mkdir(parents=True)
    assert load_boxes(mine, LETTERBOX, LABELS)[0].target.classes.tolist() == [1, 0]


def test_texts_may_lie_beside_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(YOLO)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert load_boxes(tmp_path, LETTERBOX, LABELS)[0].target.classes.tolist() == [1, 0]


def test_an_annotation_may_name_the_picture_that_was_converted(tmp_path: Path) -> None:
    path = voc(tmp_path)
    path.write_text(VOC.format(name="C:\\shots\\a.tif"))
    assert len(load_boxes(tmp_path, LETTERBOX, LABELS)) == 1


def test_a_turned_photograph_is_measured_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    assert size_of(tmp_path / "turned.jpg") == (64, 32)


# Mistakes.

Change = Callable[[Path], Any]


def swapped(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


BOMB = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>\n<annotation>'
OUTSIDE = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n<annotation>'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swapped("dog", "dot"), r"a\.xml, line 5: there is no class 'dot'"),
        (swapped("<xmax>24", "<xmax>66"), r"a\.xml, line 5: the box 8 4 66 20 lies outside the image a\.png"),
        (swapped("<xmin>8", "<xmin>-2"), r"line 5: the box -2 4 24 20 lies outside"),
        (swapped("<xmax>24", "<xmax>8"), r"line 5: the box 8 4 8 20 has no area"),
        (swapped("<xmax>24</xmax>", ""), r"line 5: '8 4  20' is not a box of xmin, ymin, xmax, ymax"),
        (swapped("24", "wide"), r"line 5: '8 4 wide 20' is not a box"),
        (swapped("24", "nan"), r"line 5: '8 4 nan 20' is not a box"),
        (swapped("<name>dog</name>", ""), r"line 3: the object has no <name>"),
        (swapped("bndbox", "box"), r"line 5: this is no XML"),
        (swapped("a.png", "z.png"), r"a\.xml: the image 'z\.png' does not exist"),
        (swapped("<annotation>", BOMB), r"line 2: it declares a document type, which is refused"),
        (swapped("<annotation>", OUTSIDE), r"line 2: it declares a document type, which is refused"),
        (swapped("<annotation>", "<annotation>" + "<a>" * 40), r"line 1: elements too deep"),
        (lambda path: path.write_text("<svg/>"), r"line 1: <svg> is no annotation"),
        (lambda path: path.write_text(""), r"line 1: this is no XML: no element found"),
        (lambda path: path.write_text("<annotation/>"), r"1 images and no box"),
    ],
)
def test_mistakes_in_voc_are_named(change: Change, said: str, tmp_path: Path) -> None:
    change(voc(tmp_path))
    with pytest.raises(BadFileError, match=said) as caught:
        load_boxes(tmp_path, LETTERBOX, LABELS)
    assert caught.value.hint


def edited(table: str, index: int, **values: Any) -> Change:
    def change(path: Path) -> None:
        told = json.loads(path.read_text())
        told[table][index] |= values
        path.write_text(json.dumps(told))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited("categories", 0, name="cow"), r"annotations\[1\]: there is no class 'cow'"),
        (edited("annotations", 0, bbox=[8, 4, 60, 16]), r"annotations\[0\]: the box 8 4 68 20 lies outside"),
        (edited("annotations", 0, bbox=[8, 4, 16]), r"annotations\[0\]: it has no bbox"),
        (edited("annotations", 0, bbox=[8, 4, 16, "x"]), r"annotations\[0\]: '8 4 16 x' is not a bbox"),
        (edited("annotations", 0, bbox=[8, 4, 16, float("nan")]), r"annotations\[0\]: '8 4 16 nan' is not"),
        (edited("annotations", 0, bbox=[8, 4, -2, 16]), r"annotations\[0\]: .* has no area"),
        (edited("annotations", 0, image_id=8), r"annotations\[0\]: there is no image with the id 8"),
        (edited("annotations", 0, image_id=[7]), r"annotations\[0\]: it has no proper 'image_id'"),
        (edited("annotations", 0, category_id=3), r"annotations\[0\]: there is no category with the id 3"),
        (edited("images", 1, file_name="c.png"), r"images\[1\]: the image 'c\.png' does not exist"),
        (edited("images", 1, file_name="../../../c.png"), r"images\[1\]: the image .* leaves the folder"),
        (edited("images", 1, file_name="/etc/passwd"), r"images\[1\]: the image .* leaves the folder"),
        (lambda path: path.write_text('{"images": []}'), r"has no list 'annotations'"),
        (lambda path: path.write_text("[1, 2]"), r"has no list 'images'"),
        (swapped('{"id": 7, "file_name": "a.png"}', "3"), r"images\[0\] is no object"),
        (edited("images", 1, file_name="a\0.png"), r"images\[1\]: .* is no name of a file"),
        (lambda path: path.write_text('{\n"images": ['), r"instances_val\.json, line 2: this is no JSON"),
        (lambda path: path.write_text("[" * 100_000), r"this is no JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), r"is not UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_in_coco_are_named(change: Change, said: str, tmp_path: Path) -> None:
    change(coco(tmp_path))
    with pytest.raises(BadFileError, match=said) as caught:
        load_boxes(tmp_path, LETTERBOX, LABELS)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swapped("1 0.25", "5 0.25"), r"a\.txt, line 1: there is no class 5"),
        (swapped("0.5 1 1", "0.5 1"), r"a\.txt, line 3: '0 0\.5 0\.5 1' is not a line"),
        (swapped("0 0.5", "cat 0.5"), r"a\.txt, line 3: 'cat 0\.5"),
        (swapped("0.5 1 1", "0.5 1 x"), r"a\.txt, line 3: '0\.5 0\.5 1 x' is not"),
        (swapped("0.5 0.5 1 1", "0.9 0.5 1 1"), r"a\.txt, line 3: the box .* lies outside the image a\.png"),
        (swapped("0.5 0.5 1 1", "0.5 0.5 0 1"), r"a\.txt, line 3: .* has no area"),
        (lambda path: path.rename(path.with_name("z.txt")), r"z\.txt: there is no image for it"),
        (lambda path: path.write_text("\n"), r"2 images and no box"),
        (lambda path: (path.parents[2] / "data.yaml").write_text("names:\n  - dog\n  2: x\n"),
         r"data\.yaml, line 3: '2: x' is not the name of class 1"),
        (lambda path: (path.parents[2] / "data.yaml").write_text("nc: 2\nnames: dog\n"),
         r"data\.yaml, line 2: 'dog' is no list of names"),
        (lambda path: (path.parents[2] / "classes.txt").write_text("dog\n"), r"there is no class 1"),
        (lambda path: (path.parents[2] / "images" / "val" / "a.png").write_text("no"), r"no readable image"),
    ],
)  # fmt: skip
def test_mistakes_in_yolo_are_named(change: Change, said: str, tmp_path: Path) -> None:
    change(yolo(tmp_path))
    with pytest.raises(BadFileError, match=said) as caught:
        load_boxes(tmp_path, LETTERBOX, LABELS)
    assert caught.value.hint


def test_what_is_no_data_says_what_would_be(tmp_path: Path) -> None:
    for place, said in [(tmp_path, "no images with boxes"), (tmp_path / "gone", "does not exist")]:
        with pytest.raises(BadFileError, match=said) as caught:
            load_boxes(place, LETTERBOX, LABELS)
        assert "Pascal VOC" in caught.value.hint
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(BadFileError, match="no images with boxes"):
        load_boxes(tmp_path / "notes.md", LETTERBOX, LABELS)
