"""Every cell of models, targets and precisions: built side by side, then timed one after another.

A cell is built and proved in a process of its own, as many at once as there are cores. Latencies are
measured when nothing of that runs any more. What is done is kept, and the next sweep begins there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit import recipe as recipes
from edgekit import registry
from edgekit.report.sweep import Sweep
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UsageError
from edgekit.spec import Recipe
from edgekit.steps._sweep.cell import Cell, cell_of, machine
from edgekit.steps._sweep.ledger import Ledger
from edgekit.steps._sweep.standing import Standing, Watch, unseen
from edgekit.steps._sweep.step import Step
from edgekit.steps.describe import command

__all__ = ["HALF", "Standing", "Sweep", "Watch", "half_of", "sweep", "unseen"]

HALF = "half"
HALVES = ("bf16", "fp16")
MEMORY = 2.0 * 1e9
"""What a building process takes at most for the networks that are carried, in bytes, with room to spare."""


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
        Step("building", _models_in_turn(unbuilt), at_once, share, ledger, watch).run()
        untimed = [cell for cell in every if (row := ledger.row(cell)) and row.waits]
        Step("timing", untimed, 1, None, ledger, watch).run()
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
