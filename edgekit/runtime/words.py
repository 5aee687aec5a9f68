"""From a text to the network's input, with the standard library and NumPy."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List, Union

import numpy as np

from .errors import BadFileError
from .manifest import Words

SUFFIX = ".txt"
STEM = "*"
UNKNOWN = 1
FIRST = 2
"""The id of the first entry of a vocabulary."""


def read_text(source: Union[str, Path]) -> str:
    """The text itself, or what the `.txt` file of that name holds.

    Raises:
        BadFileError: the file is not there, cannot be read or is not UTF-8.
    """
    if not str(source).lower().endswith(SUFFIX) or "\n" in str(source):
        return str(source)
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as cause:
        raise BadFileError(
            "{}: no readable text ({})".format(source, cause), "give a .txt file in UTF-8, or the text itself"
        ) from cause


def ids(text: str, words: Words) -> np.ndarray:
    """The ids of a text: (1, time) int64, time at least 1 and at most `words.longest`.

    Raises:
        BadFileError: the pattern of `words` is no regular expression.
    """
    known = _numbers(words.vocabulary)
    found = [UNKNOWN if number is None else number for number in _found(text, words, known)]
    return np.array([found[: words.longest] or [UNKNOWN]], np.int64)


def _found(text: str, words: Words, known: Dict[str, int]) -> Iterator[Union[int, None]]:
    """The id of each entry; None for a word that is not in the vocabulary."""
    for entry in entries(text, words):
        if entry in known or not is_derived(entry):
            yield known.get(entry)


def entries(text: str, words: Words) -> List[str]:
    """What could stand in a vocabulary, in order: each word, then its stem and its pair with the last one."""
    found: List[str] = []
    last = ""
    for word in _words(text, words):
        found.append(word)
        if words.stem and len(word) > words.stem:
            found.append(word[: words.stem] + STEM)
        if words.pairs and last:
            found.append(last + " " + word)
        last = word
    return found


def is_derived(entry: str) -> bool:
    """Whether an entry is a stem or a pair."""
    return len(entry) > 1 and (entry.endswith(STEM) or " " in entry)


def _words(text: str, words: Words) -> List[str]:
    try:
        return [hit.group() for hit in re.finditer(words.pattern, text.lower() if words.lower else text)]
    except re.error as cause:
        raise BadFileError(
            "words: {!r} is no regular expression ({})".format(words.pattern, cause),
            "compile the bundle again",
        ) from cause


@lru_cache(maxsize=4)
def _numbers(vocabulary: str) -> Dict[str, int]:
    return {entry: FIRST + line for line, entry in enumerate(vocabulary.split("\n"))}
