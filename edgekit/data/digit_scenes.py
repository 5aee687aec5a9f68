"""Handwritten digits on photographs, with the box of each.

Digits of MNIST (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition,
Proc. IEEE 1998) in any size, place, slant and colour are laid on photographs that packages carry, as
MNIST-M does (Ganin et al., arXiv 1505.07818) with whole scenes in place of single digits. No digit and
no photograph of the test split is in another one. A scene is made anew from its number whenever it is
asked for, and training makes other ones in every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.data import _photographs
from edgekit.data._boxes import BoxDataset, load_boxes
from edgekit.data._mnist import CLASSES, SHARES, SOURCE, images
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import BOXES, Labels, Preprocess
from edgekit.runtime.preprocess import LUMA, prepare
from edgekit.spec import Objects, Sample

SOURCES = (SOURCE, *_photographs.SOURCES)
SCENES = {"train": 4000, "validation": 400, "calibration": 200, "test": 1000}
SMALLEST, LARGEST = 1 / 6, 1 / 2
"""The longer side of a digit, in shares of the scene's."""
WIDEST = 6
"""A scene shows at most so many of its sides of a photograph."""
INK = 64
"""Where the ink is darker than so much of 255 it counts as the digit's edge."""
MIN_CONTRAST = 60.0
"""Grey levels between a digit and what lies under it, at least."""
MOST_DIGITS = 5
TRIES = 12
APART = 0.05
"""Two boxes share no more than so much of the smaller one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`size` is the side of a scene in pixels; `seed` makes other scenes for training."""

    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 256:
            raise ValueError("size must be from 32 to 256 pixels")


def preprocess(options: Options) -> Preprocess:
    """Colour, fitted into a square on grey, values -1 to 1."""
    size, half = options.size, (0.5, 0.5, 0.5)
    return Preprocess(height=size, width=size, channels=3, fit="letterbox", fill=128, mean=half, std=half)


def labels(options: Options) -> Labels:
    """The ten digits."""
    return Labels(tuple(str(digit) for digit in range(CLASSES)), BOXES)


def load(split: str, options: Options, cache: Path) -> Scenes:
    """The scenes of one split; nothing is written to `cache`.

    Raises:
        UsageError: an unknown split.
        MissingPackageError: a package that carries digits or photographs is not installed.
        BadFileError: a file of theirs is not the one that is known.
    """
    if split not in SCENES:
        raise UsageError(f"digit_scenes has no split {split!r}", "splits: " + ", ".join(SCENES))
    return Scenes(split, options)


def read(place: Path, options: Options) -> BoxDataset:
    """A user's own images with boxes: see `_boxes.load_boxes`."""
    return load_boxes(place, preprocess(options), labels(options))


class Scenes:
    """Scenes of a split. `Sample.inputs[0]` is (3, size, size) float32, `Sample.target` its `Objects`."""

    def __init__(self, split: str, options: Options) -> None:
        self._digits, self._classes = images(split)
        self._photographs = _photographs.photographs(split)
        self._count = SCENES[split]
        self._place = list(SHARES).index(split)
        self._varies = split == "train"
        self._seed = options.seed if self._varies else 0
        self._size = options.size
        self._preprocess = preprocess(options)
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Other scenes; only the training split changes."""
        self._epoch = epoch if self._varies else 0

    def __getitem__(self, index: int) -> Sample:
        scene, objects = self.scene(index)
        return Sample((prepare(scene, self._preprocess)[0],), objects)

    def scene(self, index: int) -> tuple[np.ndarray, Objects]:
        """The picture, uint8 (size, size, 3), and what is to be seen in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self._seed, self._place, self._epoch, index))
        scene = self._ground(rng)
        boxes: list[np.ndarray] = []
        classes: list[int] = []
        for _ in range(int(rng.integers(1, MOST_DIGITS + 1))):
            number = int(rng.integers(len(self._digits)))
            ink = _written(self._digits[number], self._size, rng)
            box = _free_place(ink.shape, boxes, self._size, rng)
            if box is not None:
                _laid_on(scene, ink, box, rng)
                boxes.append(box)
                classes.append(int(self._classes[number]))
        noisy = scene + np.float32(rng.uniform(0.0, 6.0)) * rng.standard_normal(scene.shape, np.float32)
        picture = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        none = np.zeros(len(boxes), bool)
        return picture, Objects(np.array(boxes, np.float32), np.array(classes, np.int64), none)

    def _ground(self, rng: np.random.Generator) -> np.ndarray:
        """What is written upon: part of a photograph, which training gives other colours and patches."""

        def cut() -> np.ndarray:
            photograph = self._photographs[rng.integers(len(self._photographs))]
            return _background(photograph, self._size, rng)

        if not self._varies:
            return cut()
        ground = _varied(cut(), rng)
        if rng.random() < 0.15:
            share = rng.uniform(0.2, 0.8)
            ground = share * ground + (1 - share) * _varied(cut(), rng)
        if rng.random() < 0.3:
            _patched(ground, _varied(cut(), rng), rng)
        return ground


def _varied(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned by quarters; half of them in other colours: channels exchanged, paler or stronger, negative."""
    turned = np.rot90(pixels, int(rng.integers(4)))
    if rng.random() < 0.5:
        return turned.copy()
    turned = turned[..., rng.permutation(3)]
    grey = (turned @ np.asarray(LUMA, np.float32))[..., None]
    turned = grey + np.float32(rng.uniform(0.0, 1.5)) * (turned - grey)
    turned = 255 - turned if rng.random() < 0.2 else turned
    return np.asarray(np.clip(turned * rng.uniform(0.75, 1.25, 3).astype(np.float32), 0, 255))


def _patched(ground: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> None:
    """Lay pieces of another photograph on one: what does not belong there is no digit yet."""
    size = len(ground)
    for _ in range(int(rng.integers(1, 4))):
        height, width = rng.integers(size // 12, size // 2, 2)
        top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
        ground[top : top + height, left : left + width] = other[top : top + height, left : left + width]


def _background(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, mirrored half the time, lighter or darker: float32 (size, size, 3)."""
    height, width = photograph.shape[:2]
    largest = min(height, width, WIDEST * size)
    side = int(rng.integers(min(size, largest), largest + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    cut = Image.fromarray(photograph[top : top + side, left : left + side])
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BOX), np.float32)
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    lit = pixels * np.float32(rng.uniform(0.7, 1.2)) + np.float32(rng.uniform(-20, 20))
    return np.asarray(np.clip(lit, 0, 255))


def _written(digit: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The ink of a digit, slanted and scaled, cropped to its edges: 0 to 1, (height, width)."""
    angle, shear = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.2, 0.2)
    wanted = size * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    rows, columns = np.nonzero(digit > INK)
    scale = wanted / max(np.ptp(rows) + 1, np.ptp(columns) + 1)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix @ np.array([[1.0, shear], [0.0, 1.0]]) / scale
    side = int(np.ceil(2 * len(digit) * scale))
    shift = len(digit) / 2 - matrix @ np.full(2, side / 2)
    coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
    drawn = Image.fromarray(digit).transform(
        (side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    ink = np.asarray(drawn, np.uint8)
    rows, columns = np.nonzero(ink > INK)
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] / np.float32(255)


def _free_place(
    shape: tuple[int, ...], taken: list[np.ndarray], size: int, rng: np.random.Generator
) -> np.ndarray | None:
    """A box of that height and width that keeps clear of the others; None if none is found."""
    height, width = shape
    for _ in range(TRIES):
        if height > size or width > size:
            return None
        left, top = rng.integers(size - width + 1), rng.integers(size - height + 1)
        box = np.array([left, top, left + width, top + height])
        if all(_shared(box, other) <= APART for other in taken):
            return box
    return None


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """What two boxes share, in shares of the smaller one."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    smaller = min((box[2:] - box[:2]).prod() for box in (one, other))
    return float(np.clip(sides, 0, None).prod() / smaller)


def _laid_on(scene: np.ndarray, ink: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> None:
    """Write a digit into the scene in a colour that stands out from what is under it."""
    left, top, right, bottom = box
    under = scene[top:bottom, left:right]
    grey = float(under.mean(axis=(0, 1)) @ LUMA)
    colour = rng.uniform(0, 255, 3)
    while abs(float(colour @ LUMA) - grey) < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    alpha = ink[..., None] * np.float32(rng.uniform(0.8, 1.0))
    under += alpha * (colour.astype(np.float32) - under)
