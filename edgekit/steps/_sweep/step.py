"""The same done with each of some cells, some at once, each in a process of its own."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from queue import Empty, Queue
from statistics import mean

from edgekit import recipe as recipes
from edgekit.report.sweep import Row
from edgekit.steps._sweep import rows
from edgekit.steps._sweep.cell import Cell
from edgekit.steps._sweep.child import Child, Said, undisturbed
from edgekit.steps._sweep.ledger import Ledger
from edgekit.steps._sweep.standing import Running, Standing, Watch

TICK_S = 0.5


class Step:
    """`building` or `timing` of `cells`, `jobs` at once with `threads` each; None: as many as there are."""

    def __init__(
        self, name: str, cells: Iterable[Cell], jobs: int, threads: int | None, ledger: Ledger, watch: Watch
    ) -> None:
        self._name = name
        self._waiting = deque(cells)
        self._total = len(self._waiting)
        self._jobs = jobs
        self._threads = threads
        self._ledger = ledger
        self._watch = watch
        self._running: dict[Child, Cell] = {}
        self._mail: Queue[Said] = Queue()

    def run(self) -> None:
        """Until none is left; when it is interrupted, no process and nothing half-written is left either."""
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < self._jobs:
                    self._start(self._waiting.popleft())
                self._tell()
                self._hear()
        finally:
            for child in self._running:
                child.interrupt()
            for child, cell in self._running.items():
                child.end()
                self._ledger.tidy(cell)
                self._ledger.log(cell).unlink(missing_ok=True)

    def _start(self, cell: Cell) -> None:
        request = {
            "step": self._name,
            "recipe": recipes.told(cell.recipe),
            "place": str(cell.place),
            "threads": self._threads,
            "argv": sys.argv,
        }
        with undisturbed():
            self._running[Child(request, self._threads, self._ledger.log(cell), self._mail)] = cell

    def _hear(self) -> None:
        try:
            said = self._mail.get(timeout=TICK_S)
        except Empty:
            return
        if said.told is not None:
            said.child.hear(said.told)
            return
        with undisturbed():
            cell = self._running.pop(said.child)
            row = self._row(cell, said.child)
            self._ledger.write(cell, row)
        self._tell(row)

    def _row(self, cell: Cell, child: Child) -> Row:
        """What came of a cell whose process has ended."""
        code, last = child.ending()
        child.close()
        before = self._ledger.row(cell) if self._name == "timing" else None
        seconds = {**(before.seconds if before else {}), self._name: round(child.seconds, 1)}
        log = self._ledger.log(cell)
        if child.outcome is None:
            self._ledger.tidy(cell)
            return rows.died(cell, code, last, log, seconds)
        log.unlink(missing_ok=True)
        if error := child.outcome.get("error"):
            return rows.refused(cell, error, seconds)
        return rows.made(cell, seconds)

    def _tell(self, finished: Row | None = None) -> None:
        running = tuple(_running(child, cell) for child, cell in self._running.items())
        self._watch(
            Standing(
                step=self._name,
                done=self._total - len(self._waiting) - len(running),
                total=self._total,
                running=running,
                left_s=self._left(),
                finished=finished,
            )
        )

    def _left(self) -> float | None:
        """Seconds, by the mean of what was done so far; what will have to be timed is guessed likewise."""
        known = self._ledger.sweep().rows
        built = [row.seconds["building"] for row in known if "building" in row.seconds]
        timed = [row.seconds["timing"] for row in known if "timing" in row.seconds]
        ahead = len(self._waiting) + len(self._running) / 2
        if self._name == "timing":
            return mean(timed) * ahead if timed else None
        if not built:
            return None
        to_time = sum(row.waits for row in known) * (1 + ahead / len(built))
        return mean(built) * ahead / self._jobs + mean(timed or built) * to_time


def _running(child: Child, cell: Cell) -> Running:
    doing, done, total = child.doing
    return Running(cell=cell.spoken, doing=doing, done=done, total=total, seconds=child.seconds)
