"""What the end of a cell's process means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.report import read
from edgekit.report.sweep import BROKEN, CANNOT, MB, Row, row_of
from edgekit.steps._sweep.cell import Cell

Seconds = Mapping[str, float]


def made(cell: Cell, seconds: Seconds) -> Row:
    """Its bundle is there."""
    engine = cell.place / "engine"
    size = sum(path.stat().st_size for path in engine.rglob("*") if path.is_file()) / MB
    row = row_of(read(cell.place), round(size, 3) or None, seconds)
    if row.precision == cell.recipe.precision:
        return row
    became = f"no int8 plan keeps the limits: it became {row.precision}"
    return replace(row, precision=cell.recipe.precision, reason="; ".join(filter(None, (became, row.reason))))


def refused(cell: Cell, error: Mapping[str, Any], seconds: Seconds) -> Row:
    """It said why there is none."""
    state = CANNOT.get(error["exit_code"], BROKEN)
    return cell.row(
        state=state,
        exit_code=error["exit_code"],
        passed=False if state == BROKEN else None,
        reason=error["message"],
        hint=error["hint"],
        seconds=seconds,
    )


def died(cell: Cell, code: int, last: str, log: Path, seconds: Seconds) -> Row:
    """It said nothing."""
    return cell.row(
        state=BROKEN, exit_code=code, passed=False, reason=last, hint=f"look into {log}", seconds=seconds
    )
