"""A user's own images with boxes, as Pascal VOC, COCO or YOLO has them, mapped into a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.data import _boxes_coco, _boxes_voc, _boxes_yolo
from edgekit.data._array_checks import near
from edgekit.data._marks import Mark, Marked
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare, read_image, to_input
from edgekit.spec import Objects, Sample

LAYOUTS = (
    "give images with XML files (Pascal VOC), an instances.json with its images (COCO), "
    "or the folders images and labels (YOLO)"
)
BEYOND = 1.0
"""A side may lie so many pixels outside the image: some tools count from 1, some round."""


class BoxDataset:
    """Images with boxes, read and prepared when they are asked for."""

    def __init__(self, marked: Sequence[Marked], preprocess: Preprocess, labels: Labels) -> None:
        self._marked, self._preprocess = marked, preprocess
        self._classes = [[_class(mark, labels) for mark in one.marks] for one in marked]
        for one in marked:
            _refuse_outside(one)

    def __len__(self) -> int:
        return len(self._marked)

    def __getitem__(self, index: int, /) -> Sample:
        one = self._marked[index]
        pixels = read_image(one.image)
        corners = np.array([mark.corners for mark in one.marks], np.float32).reshape(-1, 4)
        objects = Objects(
            to_input(corners, self._preprocess, *pixels.shape[:2]),
            np.array(self._classes[index], np.int64),
            np.array([mark.ignored for mark in one.marks], bool),
        )
        return Sample((prepare(pixels, self._preprocess)[0],), objects)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


def load_boxes(place: Path, preprocess: Preprocess, labels: Labels) -> BoxDataset:
    """The images and boxes in a folder, or those that a COCO file names.

    Raises:
        BadFileError: it is missing, unreadable, empty or of no known layout; a box is outside its image
            or has no area; a class is none of `labels`. Names the file with line or object.
    """
    if not place.exists():
        raise BadFileError(f"the data folder {place} does not exist", LAYOUTS)
    try:
        return BoxDataset(_marked(place), preprocess, labels)
    except OSError as error:
        raise BadFileError(f"the data folder {place} cannot be read: {error.strerror}") from error


def _marked(place: Path) -> list[Marked]:
    found = None
    if place.is_dir() and _boxes_voc.files(place):
        found = _boxes_voc.read(place)
    elif (listed := _boxes_coco.file(place)) is not None:
        found = _boxes_coco.read(listed)
    elif place.is_dir() and _boxes_yolo.takes(place):
        found = _boxes_yolo.read(place, size_of)
    if not found:
        raise BadFileError(f"{place} holds no images with boxes", LAYOUTS)
    if not any(one.marks for one in found):
        raise BadFileError(f"{place} holds {len(found)} images and no box", LAYOUTS)
    return found


def _class(mark: Mark, labels: Labels) -> int:
    """The place of an object's class among the network's."""
    known = labels.values
    told = f"the network's classes are: {', '.join(known)}"
    if isinstance(mark.label, int):
        if mark.label < len(known):
            return mark.label
        raise BadFileError(f"{mark.where}: there is no class {mark.label}", told)
    if mark.label not in known:
        raise BadFileError(f"{mark.where}: there is no class {mark.label!r}", near(mark.label, known) or told)
    return known.index(mark.label)


def _refuse_outside(one: Marked) -> None:
    if not one.marks:
        return
    height, width = size_of(one.image)
    for mark in one.marks:
        x1, y1, x2, y2 = mark.corners
        told = f"{mark.where}: the box " + " ".join(f"{side:g}" for side in mark.corners)
        if x2 <= x1 or y2 <= y1:
            raise BadFileError(f"{told} has no area", "x1 y1 x2 y2: the second corner is the lower right one")
        if min(x1, y1) < -BEYOND or x2 > width + BEYOND or y2 > height + BEYOND:
            raise BadFileError(
                f"{told} lies outside the image {one.image.name} of {width} x {height}",
                "correct the box, or check that it is the same image",
            )


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` gives it; of most only the head is read.

    Raises:
        BadFileError: it is no image.
    """
    from PIL import Image

    if path.suffix.lower() == ".npy":
        return read_image(path).shape[:2]
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= FIRST_TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFileError(f"{path}: no readable image ({error})", "give a whole PNG or JPEG") from error


ORIENTATION, FIRST_TURNED = 0x0112, 5
"""The EXIF tag of a camera's orientation, and its first value that exchanges height and width."""
