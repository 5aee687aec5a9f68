"""Boxes as people's files have them: in pixels of the image, each with a class and where that is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.data._folder import SUFFIXES
from edgekit.runtime.errors import BadFileError

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One object: corners x1, y1, x2, y2 in pixels, its class by name or by number, the place in the file
    for messages, and whether it need not be found."""

    corners: Corners
    label: str | int
    where: str
    ignored: bool = False


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One image and its objects, which may be none."""

    image: Path
    marks: tuple[Mark, ...]


def numbers(values: Sequence[Any], where: str, what: str) -> tuple[float, ...]:
    """The values as finite numbers; `what` says what they should have been.

    Raises:
        BadFileError: one of them is no number.
    """
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError("a truth value is no number")
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadFileError(f"{where}: {_short(values)} is not {what}", "correct it there") from error
    if not all(map(math.isfinite, found)):
        raise BadFileError(f"{where}: {_short(values)} is not {what}", "correct it there")
    return found


def _short(values: Sequence[Any]) -> str:
    text = " ".join(map(str, values))
    return repr(text if len(text) <= 60 else text[:57] + "...")


def located(name: str, folders: Iterable[Path], root: Path, where: str) -> Path:
    """The image that a file of boxes names, in the first of `folders` that has it.

    A name with another suffix than the image's is taken where nothing else fits: annotations often name
    the picture that was converted.

    Raises:
        BadFileError: there is no such image, or it is outside `root`.
    """
    inside = root.resolve()
    every = list(dict.fromkeys(folders))
    if "\0" in name:
        raise BadFileError(f"{where}: {name!r} is no name of a file", "correct it there")
    for place in (folder / name for folder in every):
        if inside not in place.resolve().parents:
            continue
        if place.is_file():
            return place
        for other in (place.with_suffix(suffix) for suffix in SUFFIXES if place.name):
            if other.is_file():
                return other
    if not name or any(inside not in (folder / name).resolve().parents for folder in every):
        raise BadFileError(f"{where}: the image {name!r} leaves the folder", "name images of the folder only")
    looked = ", ".join(map(str, every))
    raise BadFileError(f"{where}: the image {name!r} does not exist", f"put it into one of {looked}")


def text_of(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        BadFileError: it is not.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFileError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8") from error
