"""What a sweep came to, as data, as rows for a person and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from string import Template
from typing import Any

from edgekit.report import Report
from edgekit.runtime.errors import HardwareError, MissingPackageError, UnsupportedError

SCHEMA = 1
CANNOT = {
    MissingPackageError.exit_code: "missing-package",
    UnsupportedError.exit_code: "refused",
    HardwareError.exit_code: "no-hardware",
}
"""States of a cell that cannot be, by the exit code of `compile`; nothing is wrong with it."""
BROKEN = "broken"
"""The state of a cell that came to no answer, or to an error that says that something is wrong."""
COLUMNS = (
    "model", "target", "precision", "state", "error", "score", "drop", "p50 ms", "speedup", "engine MB",
    "verdict",
)  # fmt: skip
NUMBERS = ("error", "score", "drop", "p50 ms", "speedup", "engine MB")
MB = 1e6
STEADY = 2.0
"""Medians of one network on an idle machine differ by less than this factor."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell: a model on a target in a precision, and what came of it.

    `state` is that of its report (`proved`, `built`, `deferred`), one of CANNOT, or BROKEN. `exit_code` is
    what `compile` would have ended with; `error` is the relative L2 error against PyTorch, of the graph
    where the engine cannot run here. `seconds` are those of the sweep's own steps.
    """

    model: str
    target: str
    precision: str
    state: str
    exit_code: int
    passed: bool | None = None
    reason: str = ""
    hint: str = ""
    bundle: str | None = None
    error: float | None = None
    accuracy: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    engine_mb: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a person would say it."""
        return f"{self.model} {self.target} {self.precision}"

    @property
    def waits(self) -> bool:
        """Whether its latency is still to be measured."""
        return self.state == "proved" and self.latency is None

    @property
    def wrong(self) -> bool:
        """Whether a check failed, or no answer was come to."""
        return self.passed is False or self.state == BROKEN


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The content of `sweep.json`; its keys are stable within a schema.

    `rows` are the cells that are done, of `total`, in the order in which they were asked for; `kept` of
    them were there already.
    """

    rows: tuple[Row, ...]
    total: int
    kept: int = 0
    command: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every cell was built and timed, or cannot be."""
        return len(self.rows) == self.total and not any(row.waits for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0; 1 when something is wrong with a cell; when no cell can be, the code that says why."""
        if any(row.wrong for row in self.rows):
            return 1
        nowhere = bool(self.rows) and all(row.state in CANNOT.values() for row in self.rows)
        return max(row.exit_code for row in self.rows) if nowhere else 0

    def told(self) -> dict[str, Any]:
        """As it is written: plain data."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "environment": dict(self.environment),
            "total": self.total,
            "kept": self.kept,
            "complete": self.complete,
            "passed": {0: True, 1: False}.get(self.exit_code) if self.complete else None,
            "doubts": doubts(self),
            "cells": [asdict(row) for row in self.rows],
        }

    def json(self) -> str:
        """One JSON document."""
        return json.dumps(self.told(), indent=1, ensure_ascii=False)


def row_of(report: Report, engine_mb: float | None, seconds: Mapping[str, float]) -> Row:
    """The row of a cell whose bundle is there."""
    broken = [check for check in report.checks if not check.passed]
    return Row(
        model=report.model,
        target=report.target,
        precision=report.precision,
        state=report.state,
        exit_code={True: 0, False: 1, None: HardwareError.exit_code}[report.passed],
        passed=report.passed,
        reason=_reason(report),
        hint=report.next,
        bundle=report.bundle,
        error=_error(report),
        accuracy=report.accuracy,
        latency=report.latency,
        layers=report.layers,
        failed=tuple(check.name for check in broken),
        engine_mb=engine_mb,
        seconds=seconds,
    )


def _reason(report: Report) -> str:
    if report.passed is False:
        return "; ".join(
            f"{check.name} {check.value:.4g}, limit {check.limit:g}"
            for check in report.checks
            if not check.passed
        )
    return report.notes[-1] if report.passed is None and report.notes else ""


def _error(report: Report) -> float | None:
    """Relative L2 on held-out data; where the engine cannot run, the largest of the graphs it is made of."""
    values: dict[str, float | None] = {check.name: check.told()["value"] for check in report.checks}
    if "parity.rel_l2" in values:
        return values["parity.rel_l2"]
    found = [value for name, value in values.items() if name.endswith(".rel_l2") and value is not None]
    return max(found, default=None)


def cells(row: Row) -> dict[str, str]:
    """A row of the table, as texts under COLUMNS."""
    latency, accuracy = row.latency, row.accuracy
    texts = (
        row.model,
        row.target,
        row.precision,
        row.state,
        "" if row.error is None else f"{row.error:.2g}",
        f"{_score(accuracy, 'target')} {accuracy['metric']}" if accuracy else "",
        _score(accuracy, "drop") if accuracy else "",
        f"{latency['target']['p50_ms']:.3f}" if latency else "",
        f"{latency['speedup']:.2f}" if latency else "",
        "" if row.engine_mb is None else f"{row.engine_mb:.3g}",
        verdict(row),
    )
    return dict(zip(COLUMNS, texts, strict=True))


def _score(accuracy: Mapping[str, Any], key: str) -> str:
    sign = "+" if key == "drop" else ""
    return (
        f"{100 * accuracy[key]:{sign}.2f}%" if accuracy.get("share", True) else f"{accuracy[key]:{sign}.4g}"
    )


def verdict(row: Row) -> str:
    """Passed, or what stands against it, in a line."""
    said = " ".join(row.reason.replace(":\n  - ", ": ").replace("\n  - ", "; ").split())
    if row.passed is True:
        return "passed" if row.latency else "passed, not timed yet"
    return f"FAILED: {said}" if row.wrong else said


def doubts(sweep: Sweep) -> list[str]:
    """Where PyTorch, timed anew beside every cell of a model, was not equally fast: what else ran then?"""
    times: dict[str, list[float]] = {}
    for row in sweep.rows:
        if row.latency and row.latency.get("reference"):
            times.setdefault(row.model, []).append(row.latency["reference"]["p50_ms"])
    return [
        f"{model}: PyTorch itself took {min(found):.3g} to {max(found):.3g} ms, so the machine was busy; "
        "time it again with --fresh when it is idle"
        for model, found in times.items()
        if max(found) > STEADY * min(found)
    ]


def sentence(sweep: Sweep) -> str:
    """How many cells came to what."""
    words = Counter("failed" if row.wrong else "passed" if row.passed else row.state for row in sweep.rows)
    listed = ", ".join(f"{count} {word}" for word, count in words.items())
    cells = "one cell" if sweep.total == 1 else f"{sweep.total} cells"
    kept = f"; {sweep.kept} were there already" if sweep.kept else ""
    return f"{cells}: {listed or 'none done yet'}{kept}"


PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 88rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
h1 { font-size: 1.4rem; margin-bottom: .3rem } code { overflow-wrap: anywhere }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .9rem .3rem 0; vertical-align: top }
th { border-bottom: 1px solid #8c959f }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:not(:last-child) { white-space: nowrap } td:last-child { min-width: 18rem }
tr.first td { border-top: 1px solid #d8dee4 } .passed { color: #1a7f37 }
.failed td { color: #cf222e; font-weight: 600 }
.cannot td { color: #57606a } dt { color: #57606a } dd { margin: 0 0 .5rem }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3 } tr.first td { border-color: #30363d }
  dt, .cannot td { color: #9198a1 } .passed { color: #3fb950 } .failed td { color: #ff7b72 }
}
</style>
<h1>$title</h1>
<div class="scroll"><table>$rows</table></div>
<dl>$facts</dl>
</html>
""")
MEANING = (
    ("error", "relative L2 of the outputs against PyTorch on held-out data; of the graph alone where the "
     "engine cannot run here"),
    ("score, drop", "the task's metric on held-out data, and what was lost against PyTorch"),
    ("p50, speedup", "the median call at batch 1, arrays in and out, and how many times as fast as PyTorch; "
     "one process each, in turn, on a machine that did nothing else"),
)  # fmt: skip


def html(sweep: Sweep) -> str:
    """The table as a page that needs nothing from outside."""
    head = "".join(f"<th{_side(column)}>{column}" for column in COLUMNS)
    before = ("", *(row.model for row in sweep.rows))
    body = "".join(_html_row(row, row.model != last) for row, last in zip(sweep.rows, before, strict=False))
    facts: Sequence[tuple[str, str]] = (
        *(("doubtful", doubt) for doubt in doubts(sweep)),
        *MEANING,
        ("command", sweep.command),
        ("machine", ", ".join(f"{key} {value}" for key, value in sweep.environment.items() if value)),
    )
    return PAGE.substitute(
        title=escape(sentence(sweep)),
        rows=f"<tr>{head}</tr>{body}",
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in facts if said),
    )


def _html_row(row: Row, first: bool) -> str:
    kind = "failed" if row.wrong else "" if row.passed else "cannot"
    style = " ".join(word for word in (kind, "first" if first else "") if word)
    said = cells(row)
    *others, last = (f"<td{_side(column)}>{escape(text)}" for column, text in said.items())
    if row.passed:
        last = f'<td class="passed">{escape(said["verdict"])}'
    return f'<tr class="{style}">{"".join(others)}{last}</tr>'


def _side(column: str) -> str:
    return " class=n" if column in NUMBERS else ""
