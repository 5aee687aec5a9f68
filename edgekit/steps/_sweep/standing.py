"""Where a sweep stands, for who watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.report.sweep import Row


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a process is at: the cell, its step, how much of that is done, and since when it runs."""

    cell: str
    doing: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a sweep stands: `done` of `total` cells of its step (`building`, `timing`).

    `left_s` is what is left of the whole sweep in seconds, None before anything is known of it; `finished`
    is the row that has just come in.
    """

    step: str
    done: int
    total: int
    running: tuple[Running, ...]
    left_s: float | None = None
    finished: Row | None = None


Watch = Callable[[Standing], None]


def unseen(standing: Standing) -> None:
    """A Watch that shows nothing."""
