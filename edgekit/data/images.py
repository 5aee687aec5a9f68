"""Labelled images of your own, for weights of your own: `--data` and `--calibration` bring them.

A folder has one sub-folder per class, or images beside a `labels.tsv` of lines `file<TAB>label`. The
defaults are what published ImageNet weights were trained on: 224x224, RGB, that mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.spec import Source

SOURCES: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """The network's input, and the names of its classes in their order.

    Without `labels` class i of `classes` is called by its number. `mean` and `std` are per channel, for
    values from 0 to 1.
    """

    height: int = 224
    width: int = 224
    channels: Literal[1, 3] = 3
    fit: Literal["stretch", "letterbox"] = "stretch"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    classes: int = 1000
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.classes) < 1:
            raise ValueError("height, width and classes must be at least 1")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std must have {self.channels} numbers, one a channel")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from one another")


def preprocess(options: Options) -> Preprocess:
    """As the options say."""
    return Preprocess(
        height=options.height,
        width=options.width,
        channels=options.channels,
        fit=options.fit,
        mean=options.mean,
        std=options.std,
    )


def labels(options: Options) -> Labels:
    """The names given, or the numbers of the classes."""
    return Labels(options.labels or tuple(map(str, range(options.classes))))


def load(split: str, options: Options, cache: Path) -> NoReturn:
    """There is no split of its own.

    Raises:
        UsageError: always; it names the option that brings the images.
    """
    option = {"test": "--data", "calibration": "--calibration"}.get(split)
    if option is None:
        raise UsageError(f"the data set images has no split {split!r}", "train on another data set")
    raise UsageError(
        f"the data set images has no images of its own for the split {split!r}",
        f"give {option} FOLDER, with one sub-folder per class",
    )
