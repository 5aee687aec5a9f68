"""Which engine is the fastest: one process each, blocks in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgekit.runtime.proof import save_pairs
from edgekit.runtime.timing import Worker, alternate
from edgekit.spec import Progress, silent
from edgekit.steps.prove import engine_command

if TYPE_CHECKING:
    import numpy as np

    from edgekit.steps._search.candidate import Candidate

BLOCKS = 6
BLOCK_S = 0.15
CALLS = (5, 40)
NOISE = 0.03
"""Two medians that differ by less than this share are the same."""


def race(
    folders: Mapping[str, Path],
    feeds: Sequence[Mapping[str, np.ndarray]],
    scratch: Path,
    progress: Progress = silent,
    blocks: int = BLOCKS,
) -> dict[str, float]:
    """The median milliseconds of a call, for the engine in each folder, at batch 1 on `feeds`.

    Raises:
        SystemRefusedError: a process that times an engine has ended.
    """
    pairs = scratch / "race.npz"
    save_pairs(pairs, feeds)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(engine_command(folder, pairs, {})))
            for name, folder in folders.items()
        }
        for worker in workers.values():
            worker.ready()
        calls = _calls(next(iter(workers.values())))
        turns: dict[str, Any] = {name: worker.block for name, worker in workers.items()}
        times = alternate(turns, blocks, calls, lambda done, total: progress("timing in turns", done, total))
        for worker in workers.values():
            worker.close()
    return {name: round(median(found), 4) for name, found in times.items()}


def rivals(precisions: Sequence[str], device: str) -> list[str]:
    """The floating precisions that int8 has to beat; CPUs compute fp16 in another precision."""
    return [one for one in precisions if one != "int8" and not (one == "fp16" and device == "CPU")]


def worth_timing(candidates: Sequence[Candidate]) -> list[int]:
    """Of what keeps the limits every float, and of the int8 ones with the same rest the last two.

    A search ends with the most int8 layers that hold, and the same without the recurrent ones.
    """
    keeping = [index for index, one in enumerate(candidates) if one.keeps]
    groups: dict[str, list[int]] = {}
    for index in keeping:
        form = candidates[index].form
        kind = f"int8 {form.rest}" if form.precision == "int8" else form.precision
        groups.setdefault(kind, []).append(index)
    return [index for group in groups.values() for index in _largest_and_last(group, candidates)]


def _largest_and_last(group: Sequence[int], candidates: Sequence[Candidate]) -> list[int]:
    largest = max(group, key=lambda index: (len(candidates[index].form.quantized), index))
    return sorted({largest, group[-1]})


def _calls(worker: Worker) -> int:
    few, many = CALLS
    usual = median(worker.block(few))
    return max(few, min(many, round(BLOCK_S * 1000 / usual)))
