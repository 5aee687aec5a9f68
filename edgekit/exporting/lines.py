"""The line of the user's own code in an error of torch, wherever torch keeps it."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_LIBRARIES = ("site-packages", "dist-packages")
_HERE = Path(__file__).parents[1]
_NOT_THE_USERS = (
    *(str(_HERE / room) for room in ("exporting", "sources", "steps")),
    sysconfig.get_path("stdlib"),
)
_USER_LOC = re.compile(r"(?P<code>.*?)\s+# (?P<file>\S+):(?P<number>\d+) in ")


def chain_of(error: BaseException) -> list[BaseException]:
    """The error and its causes, the deepest first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain[::-1]


def line_of(error: BaseException) -> str:
    """`file.py:12: code` of the line of the user's network that led to the error; empty if unknown."""
    chain = chain_of(error)
    stacks = [traceback.extract_tb(cause.__traceback__) for cause in chain]
    stacks += [stack for cause in chain if (stack := getattr(cause, "real_stack", None))]
    for stack in stacks:
        for frame in reversed(stack):
            if _is_users(frame.filename):
                return _told(frame.filename, frame.lineno or 0)
    return next((line for cause in chain for line in _guard_lines(cause)), "")


def line_of_stack(frame: FrameType | None) -> str:
    """The innermost line of the user's network on a stack that is running."""
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return _told(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def _guard_lines(error: BaseException) -> Iterator[str]:
    """Lines that torch.export made a check of sizes for, those that fix a size first.

    The error is raised after tracing; the checks are with the shapes that were traced.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    owners = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    guards: list[Any] = next(
        (list(owner.guards) for owner in owners if isinstance(owner, ShapeEnv) and owner.guards), []
    )
    for guard in sorted(guards, key=lambda guard: type(guard.expr).__name__ != "Equality"):
        if line := _guard_line(guard.sloc):
            yield line


def _guard_line(place: Any) -> str:
    frame, said = getattr(place, "framework_loc", None), getattr(place, "maybe_user_loc", None)
    if isinstance(frame, traceback.FrameSummary) and _is_users(frame.filename):
        return _told(frame.filename, frame.lineno or 0)
    found = _USER_LOC.match(said or "")
    if found and not found["file"].startswith(("nn/", "torch/", "functional.py", "_")):
        return f"{Path(found['file']).name}:{found['number']}: {found['code'].strip()}"
    return ""


def _told(filename: str, number: int) -> str:
    code = linecache.getline(filename, number).strip()
    return f"{Path(filename).name}:{number}" + (f": {code}" if code else "")


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or any(folder in path.parts for folder in _LIBRARIES):
        return False
    return not filename.startswith(_NOT_THE_USERS)
