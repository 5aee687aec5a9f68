"""Every cell of models, targets and precisions: built side by side, then timed one after another.

A cell is built and proved in a process of its own, as many at once as there are cores. Latencies are
measured when nothing of that runs any more. What is done is kept, and the next sweep begins there.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from statistics import mean

from edgekit import recipe as recipes
from edgekit import registry
from edgekit.report import read
from edgekit.report.sweep import BROKEN, CANNOT, MB, Row, Sweep, row_of
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UsageError
from edgekit.spec import Recipe
from edgekit.steps._sweep.cell import Cell, cell_of, machine
from edgekit.steps._sweep.child import Child, Said
from edgekit.steps._sweep.ledger import Ledger
from edgekit.steps.describe import command

__all__ = ["HALF", "Standing", "Sweep", "Watch", "half_of", "sweep", "unseen"]

HALF = "half"
HALVES = ("bf16", "fp16")
TICK_S = 0.5
MEMORY = 2.0 * 1e9
"""What a building process takes at most for the networks that are carried, in bytes, with room to spare."""


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


def half_of(recipe: Recipe) -> str:
    """The fastest half precision of the recipe's target; empty when it has none."""
    target = registry.load("target", recipe.target.name)
    options = recipes.options_of(target, recipe.target)
    here = all(map(registry.available, target.REQUIRES))
    fastest = target.rests(options) if here and hasattr(target, "rests") else (getattr(options, "rest", ""),)
    return next((one for one in (*fastest, *target.PRECISIONS) if one in HALVES), "")


def sweep(
    cells: Sequence[Recipe], output: Path, jobs: int = 0, fresh: bool = False, watch: Watch = unseen
) -> Sweep:
    """Build, prove and time a bundle for each recipe in the folder `output`, and write `sweep.json` there.

    `jobs` processes build at once; 0: one per usable core, fewer where the memory is short. What an
    earlier sweep has made is kept when nothing that it depends on has changed; with `fresh` it is not.

    Raises:
        UsageError: a recipe without weights, two of one name, or a place that is taken.
        BadFileError: weights are missing.
        SystemRefusedError: the folder cannot be written, or another sweep writes into it.
    """
    here = machine()
    every = [cell_of(recipe, output, here) for recipe in cells]
    _refuse_twins(every)
    ledger = Ledger(output, every, command(), here)
    with ledger.locked():
        unbuilt = [cell for cell in every if fresh or ledger.recall(cell) is None]
        ledger.publish()
        at_once = min(jobs or _jobs(), max(len(unbuilt), 1))
        share = max(1, usable_cores() // at_once)
        _Step("building", _models_in_turn(unbuilt), at_once, share, ledger, watch).run()
        untimed = [cell for cell in every if (row := ledger.row(cell)) and row.waits]
        _Step("timing", untimed, 1, None, ledger, watch).run()
        return ledger.sweep()


def _refuse_twins(cells: Sequence[Cell]) -> None:
    names = [cell.name for cell in cells]
    if twins := [cell.recipe.name for cell in cells if names.count(cell.name) > 1]:
        raise UsageError(f"two of the models are called {twins[0]!r}", "give one of the recipes another name")


def _jobs() -> int:
    return max(1, min(usable_cores(), int(_free_memory() / MEMORY)))


def _free_memory() -> float:
    """Bytes that can be had without swapping; where the system does not tell, memory is not looked at."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("1e18")
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(found[0]) * 1024 if found else float("1e18")


def _models_in_turn(cells: Sequence[Cell]) -> Iterator[Cell]:
    """One cell of each model, then the next: those that need the same export seldom wait for each other."""
    queues: dict[str, deque[Cell]] = {}
    for cell in cells:
        queues.setdefault(cell.recipe.name, deque()).append(cell)
    while queues:
        for name in list(queues):
            yield queues[name].popleft()
            if not queues[name]:
                del queues[name]


class _Step:
    """The same done with each of some cells, `jobs` at once, each in a process of its own."""

    def __init__(
        self,
        step: str,
        cells: Iterator[Cell] | Sequence[Cell],
        jobs: int,
        threads: int | None,
        ledger: Ledger,
        watch: Watch,
    ) -> None:
        self._step = step
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
            "step": self._step,
            "recipe": recipes.told(cell.recipe),
            "place": str(cell.place),
            "threads": self._threads,
            "argv": sys.argv,
        }
        child = Child(request, self._threads, self._ledger.log(cell), self._mail)
        self._running[child] = cell

    def _hear(self) -> None:
        try:
            said = self._mail.get(timeout=TICK_S)
        except Empty:
            return
        if said.told is not None:
            said.child.hear(said.told)
            return
        cell = self._running.pop(said.child)
        row = self._row(cell, said.child)
        self._ledger.write(cell, row)
        self._tell(row)

    def _row(self, cell: Cell, child: Child) -> Row:
        """What came of a cell whose process has ended."""
        code, last = child.ending()
        child.close()
        before = self._ledger.row(cell) if self._step == "timing" else None
        seconds = {**(before.seconds if before else {}), self._step: round(child.seconds, 1)}
        log = self._ledger.log(cell)
        if child.outcome is None:
            self._ledger.tidy(cell)
            return cell.row(
                state=BROKEN, exit_code=code, passed=False, reason=last, hint=f"look into {log}",
                seconds=seconds,
            )  # fmt: skip
        log.unlink(missing_ok=True)
        if refusal := child.outcome.get("error"):
            state = CANNOT.get(refusal["exit_code"], BROKEN)
            return cell.row(
                state=state, exit_code=refusal["exit_code"], passed=False if state == BROKEN else None,
                reason=refusal["message"], hint=refusal["hint"], seconds=seconds,
            )  # fmt: skip
        return _made(cell, seconds)

    def _tell(self, finished: Row | None = None) -> None:
        running = tuple(
            Running(
                cell=cell.spoken, doing=child.doing[0], done=child.doing[1], total=child.doing[2],
                seconds=child.seconds,
            )
            for child, cell in self._running.items()
        )  # fmt: skip
        self._watch(
            Standing(
                step=self._step,
                done=self._total - len(self._waiting) - len(running),
                total=self._total,
                running=running,
                left_s=self._left(),
                finished=finished,
            )
        )

    def _left(self) -> float | None:
        """Seconds, by the mean of what was done so far; what will have to be timed is guessed likewise."""
        rows = self._ledger.sweep().rows
        built, timed = (
            [row.seconds[step] for row in rows if step in row.seconds] for step in ("building", "timing")
        )
        if self._step == "timing":
            return mean(timed) * (len(self._waiting) + len(self._running)) if timed else None
        if not built:
            return None
        ahead = len(self._waiting) + len(self._running) / 2
        to_time = sum(row.waits for row in rows) * (1 + ahead / len(built))
        return mean(built) * ahead / self._jobs + mean(timed or built) * to_time


def _made(cell: Cell, seconds: dict[str, float]) -> Row:
    engine = cell.place / "engine"
    size = sum(path.stat().st_size for path in engine.rglob("*") if path.is_file()) / MB
    row = row_of(read(cell.place), round(size, 3) or None, seconds)
    if row.precision == cell.recipe.precision:
        return row
    became = f"no int8 plan keeps the limits: it became {row.precision}"
    return replace(row, precision=cell.recipe.precision, reason="; ".join(filter(None, (became, row.reason))))
