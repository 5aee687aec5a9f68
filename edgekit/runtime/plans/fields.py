"""Tests of single values that were read from JSON: a manifest may hold anything."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Callable, Mapping, Tuple

Test = Callable[[Any], bool]
Field = Tuple[Test, str]
"""What holds for a value, and how that is said."""


def refuse(values: Mapping[str, Any], fields: Mapping[str, Field], where: str = "") -> None:
    """Hold each value that is there against the field of its name.

    Raises:
        ValueError: names the value that does not fit; so too for one that has no field.
    """
    if not table(values):
        raise ValueError("{}it is no table".format(where))
    for name, value in values.items():
        if name not in fields:
            raise ValueError("{}{} is unknown".format(where, name))
        holds, said = fields[name]
        if not holds(value):
            raise ValueError("{}{} is {!r}, not {}".format(where, name, value, said))


def whole(low: int, high: int) -> Test:
    """A whole number from `low` to `high`; `true` is none."""
    return lambda value: type(value) is int and low <= value <= high


def number(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and abs(value) < float("inf")


def truth(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def table(value: Any) -> bool:
    """Values by name."""
    return isinstance(value, dict)


def optional(holds: Test) -> Test:
    """None, or what `holds`."""
    return lambda value: value is None or holds(value)


def one_of(*choices: str) -> Test:
    """One of these strings."""
    return lambda value: text(value) and value in choices


def matching(pattern: str) -> Test:
    """A string that is all of `pattern`."""
    return lambda value: text(value) and re.fullmatch(pattern, value) is not None


def every(holds: Test) -> Test:
    """A list of what `holds`."""
    return lambda value: isinstance(value, (list, tuple)) and all(holds(one) for one in value)


def inside(value: Any) -> bool:
    """A path with forward slashes to something inside the folder that it is relative to."""
    if not text(value) or "\0" in value:
        return False
    path = PurePosixPath(value)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
