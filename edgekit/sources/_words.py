"""What is said of a user's own code: the line where it failed, and the name that was meant."""

from __future__ import annotations

import contextlib
import difflib
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

_LIBRARIES = ("site-packages", "dist-packages")
_HERE = str(Path(__file__).parents[1])
_STANDARD = sysconfig.get_path("stdlib")


def told(error: BaseException) -> str:
    """The kind of an error and its first line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    words = text.strip().splitlines()
    return f"{type(error).__name__}: {words[0].strip()}" if words else type(error).__name__


def user_line(error: BaseException) -> str:
    """`file.py:12: code` of the innermost line outside the libraries; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return _line(error.filename, error.lineno or 0)
    current: BaseException | None = error
    while current is not None:
        for frame in reversed(traceback.extract_tb(current.__traceback__)):
            if _is_users(frame.filename):
                return _line(frame.filename, frame.lineno or 0)
        current = current.__cause__ or current.__context__
    return ""


def blamed(error: BaseException) -> str:
    """What went wrong, and at which line of the user's code."""
    where = user_line(error)
    return told(error) + (f" (at {where})" if where else "")


def _line(filename: str, number: int) -> str:
    code = linecache.getline(filename, number).strip()
    return f"{Path(filename).name}:{number}" + (f": {code}" if code else "")


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or any(folder in path.parts for folder in _LIBRARIES):
        return False
    return not filename.startswith((_HERE, _STANDARD))


def meant(name: str, known: Iterable[str]) -> str:
    """A hint with the name that was probably meant, or the names there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there is: {', '.join(names[:8])}" if names else ""


@contextlib.contextmanager
def prints_aside() -> Iterator[None]:
    """What the user's code prints goes to stderr: stdout holds edgekit's own answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
