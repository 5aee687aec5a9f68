"""What is known of each cell, kept beside the bundles, so that a sweep goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit import bundle
from edgekit.report.sweep import CANNOT, Row, Sweep, html
from edgekit.runtime.errors import EdgekitError, SystemRefusedError, UnsupportedError
from edgekit.runtime.manifest import FILE_NAME, read_manifest, sha256_of, verify
from edgekit.steps._sweep.cell import Cell

HIDDEN = ".sweep"
JSON = "sweep.json"
PAGE = "sweep.html"
KEPT = ("proved", "built", "deferred", CANNOT[UnsupportedError.exit_code])
"""What is missing now may be there the next time, and what broke may not break again."""


class Ledger:
    """One record a cell, and the sweep's documents, each written whole or not at all."""

    def __init__(self, output: Path, cells: Sequence[Cell], command: str, machine: Mapping[str, Any]) -> None:
        self._output = output
        self._cells = cells
        self._command = command
        self._machine = machine
        self._rows: dict[str, Row] = {}
        self._kept: set[str] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else sweeps into the folder.

        Raises:
            SystemRefusedError: somebody does, or it cannot be written.
        """
        from filelock import FileLock, Timeout

        try:
            (self._output / HIDDEN).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemRefusedError(
                f"{self._output} is no folder that can be written: {error.strerror}", "give another --output"
            ) from error
        try:
            with FileLock(self._output / HIDDEN / "lock", timeout=0):
                yield
        except Timeout as error:
            raise SystemRefusedError(
                f"another sweep writes into {self._output}", "wait for it, or give another --output"
            ) from error

    def recall(self, cell: Cell) -> Row | None:
        """The row of an earlier sweep, where it still holds: the same key, and the bundle as it was left."""
        try:
            told = json.loads(self._record(cell).read_text(encoding="utf-8"))
            row = Row(**{**told["row"], "failed": tuple(told["row"]["failed"])})
            same = bool(cell.key) and told["key"] == cell.key and row.state in KEPT
            if not same or (row.bundle and told["manifest"] != _manifest(cell)):
                return None
            if row.bundle:
                verify(cell.place, read_manifest(cell.place))
        except (OSError, ValueError, KeyError, TypeError, EdgekitError):
            return None  # nothing that can be built on: the cell is made again
        self._rows[cell.name] = row
        self._kept.add(cell.name)
        return row

    def write(self, cell: Cell, row: Row) -> None:
        """Keep a row, then say it in the sweep's documents."""
        self._rows[cell.name] = row
        self._kept.discard(cell.name)
        told = {"key": cell.key, "manifest": _manifest(cell) if row.bundle else "", "row": asdict(row)}
        _whole(self._record(cell), json.dumps(told, indent=1, ensure_ascii=False))
        self.publish()

    def row(self, cell: Cell) -> Row | None:
        """What is known of a cell."""
        return self._rows.get(cell.name)

    def sweep(self) -> Sweep:
        """All that is known."""
        rows = tuple(self._rows[cell.name] for cell in self._cells if cell.name in self._rows)
        return Sweep(
            rows=rows,
            total=len(self._cells),
            kept=len(self._kept),
            command=self._command,
            environment=self._machine,
        )

    def publish(self) -> None:
        """Write the sweep's documents."""
        sweep = self.sweep()
        _whole(self._output / JSON, sweep.json() + "\n")
        _whole(self._output / PAGE, html(sweep))

    def log(self, cell: Cell) -> Path:
        """The file for what the cell's process prints."""
        return self._output / HIDDEN / f"{cell.name}.log"

    def tidy(self, cell: Cell) -> None:
        """Remove what a process that was killed has left half-written."""
        for left in self._output.glob(f".{cell.name}.????????.tmp"):
            shutil.rmtree(left, ignore_errors=True)

    def _record(self, cell: Cell) -> Path:
        return self._output / HIDDEN / f"{cell.name}.json"


def _manifest(cell: Cell) -> str:
    """The hash of the manifest, which holds those of all other files."""
    return sha256_of(cell.place / FILE_NAME)


def _whole(path: Path, text: str) -> None:
    with bundle.whole_file(path, path.name) as (fresh, _):
        fresh.write_text(text, encoding="utf-8")
