"""Text lines rendered from real fonts and real words, for reading without regard to case.

Fonts and words of the test split are never seen in training, those of the validation split neither:
a word's split is decided by its hash, a font's by its family. The letters are drawn in mixed case,
the labels are lower-case, as in the CRNN paper (arXiv 1507.05717).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data import _typefaces
from edgekit.runtime.errors import MissingPackageError, UsageError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare
from edgekit.spec import Sample

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz "
SPLITS = ("train", "validation", "calibration", "test")
SOURCES = _typefaces.sources()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Numbers of samples, longest line in letters, and how strong the distortions are (0 to 1)."""

    train: int = 20000
    validation: int = 1000
    calibration: int = 300
    test: int = 2000
    longest: int = 20
    strength: float = 1.0
    calibration_strength: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.calibration, self.test) < 1:
            raise ValueError("train, validation, calibration and test must be at least 1")
        if not (0 <= self.strength <= 1 and 0 <= self.calibration_strength <= 1):
            raise ValueError("strength and calibration_strength must be from 0 to 1")


def preprocess(options: Options) -> Preprocess:
    """Grey, 32 pixels high, aspect kept, width a multiple of 16, values -1 to 1."""
    return Preprocess(height=32, width_multiple=16, width_range=(32, 2048), mean=(0.5,), std=(0.5,))


def labels(options: Options) -> Labels:
    """The CTC blank, then digits, letters and the space."""
    return Labels(("", *ALPHABET), decoder="ctc")


def load(split: str, options: Options, cache: Path) -> TextLines:
    """The lines of one split; rendered when asked for, nothing is written to `cache`.

    Raises:
        UsageError: an unknown split.
        MissingPackageError: fonts, words or Pillow are not installed.
    """
    if split not in SPLITS:
        raise UsageError(f"text_lines has no split {split!r}", "splits: " + ", ".join(SPLITS))
    return TextLines(split, options)


class TextLines:
    """Lines of a split. `Sample.inputs[0]` is (1, 32, width) float32, `Sample.target` the text."""

    def __init__(self, split: str, options: Options) -> None:
        try:
            from edgekit.data._rendering import render
        except ImportError as cause:
            raise MissingPackageError(
                "text_lines draws with Pillow, which is not installed", _typefaces.INSTALL
            ) from cause
        source = "train" if split == "calibration" else split
        self._draw = render
        self._split = SPLITS.index(split)
        self._length: int = getattr(options, split)
        self._only_words = split in ("validation", "test")
        self._strength = options.calibration_strength if split == "calibration" else options.strength
        self._words = _typefaces.words(source)
        self._families = _typefaces.families(source)
        for family in self._families:
            _typefaces.faces(family)
        self._preprocess = preprocess(options)
        self._options = options
        self._epoch = 0

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Draw other lines; only the training split changes."""
        self._epoch = epoch if self._split == 0 else 0

    def __getitem__(self, index: int) -> Sample:
        text, image = self.image(index)
        return Sample((prepare(image, self._preprocess)[0],), text.lower())

    def image(self, index: int) -> tuple[str, np.ndarray]:
        """The text as it is drawn and its picture, grey uint8 (height, width)."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng((self._options.seed, self._split, self._epoch, index))
        text = _cased(self._text(rng), rng)
        paths = _typefaces.faces(self._families[rng.integers(len(self._families))])
        return text, self._draw(text, paths[rng.integers(len(paths))], rng, self._strength)

    def _text(self, rng: np.random.Generator) -> str:
        if self._only_words:
            return self._word(rng)
        kind = rng.random()
        if kind < 0.75:
            return self._word(rng)
        return self._line(rng) if kind < 0.9 else _number(rng)

    def _word(self, rng: np.random.Generator) -> str:
        return self._words[rng.integers(len(self._words))]

    def _line(self, rng: np.random.Generator) -> str:
        count = rng.integers(2, 5)
        parts = [_number(rng) if rng.random() < 0.15 else self._word(rng) for _ in range(count)]
        while len(parts) > 1 and len(" ".join(parts)) > self._options.longest:
            parts.pop()
        return " ".join(parts)


def _number(rng: np.random.Generator) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, rng.integers(1, 9)))


def _cased(text: str, rng: np.random.Generator) -> str:
    styles: tuple[Callable[[str], str], ...] = (str.lower, str.title, str.upper)
    return styles[rng.choice(3, p=(0.5, 0.25, 0.25))](text)
