"""Is the engine right, how right, and how fast? Against the PyTorch reference, on held-out data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit import recipe as recipes
from edgekit.runtime.manifest import Manifest, TensorSpec
from edgekit.runtime.proof import Check, Parity, paired_drop, save_pairs, summary
from edgekit.runtime.session import Session
from edgekit.runtime.timing import Worker, alternate
from edgekit.spec import Dataset, Progress, Recipe, Sample, silent
from edgekit.steps.load import Network, feeds_of

if TYPE_CHECKING:
    import numpy as np

BATCHES = (1, 2, 3, 7, 12)
BATCH = 32
GOLDEN = 8
TIMED = 16
BLOCKS = 6
CALLS = (8, 32)
BLOCK_S = 0.8

Feeds = Mapping[str, "np.ndarray"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is judged, and the held-out samples that it is judged on."""

    network: Network
    recipe: Recipe
    held_out: Dataset
    progress: Progress = silent


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured: the checks with their limits, and the tables that go into the report."""

    checks: tuple[Check, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    layers: Mapping[str, int] = field(default_factory=dict)


def limits_of(recipe: Recipe) -> dict[str, float]:
    """The parity limits of the recipe's precision."""
    limits = recipe.limits
    return {"rel_l2": limits.rel_l2[recipe.precision], "agreement": limits.agreement[recipe.precision]}


def reference_session(network: Network, manifest: Manifest) -> Session:
    """The PyTorch module behind the same face as the engine, for what is compared and not timed.

    On one thread: beside an engine in the same process, or on a busy machine, PyTorch's threads
    spend more time waiting for each other than they save.
    """
    from edgekit.targets.pytorch import ModuleRunner

    runner = ModuleRunner(network.module, network.inputs, network.outputs, network.states, threads=1)
    return Session(manifest, runner)


def record(trial: Trial, reference: Session, path: Path) -> None:
    """Write the golden pairs: real inputs of different sizes and what PyTorch makes of them."""
    feeds = spread(trial, GOLDEN)
    save_pairs(path, feeds, [reference.infer(feed) for feed in feeds])


def spread(trial: Trial, count: int) -> list[Feeds]:
    """`count` feeds of one sample each, from the smallest to the largest of the first samples."""
    data = trial.held_out
    found = [data[index] for index in range(min(len(data), 8 * count))]
    found.sort(key=lambda sample: sum(array.size for array in sample.inputs))
    step = max(len(found) - 1, 1) / max(count - 1, 1)
    chosen = [found[min(round(step * place), len(found) - 1)] for place in range(min(count, len(found)))]
    return [feeds_of(trial.network, sample) for sample in chosen]


def parity(trial: Trial, reference: Session, target: Session) -> list[Check]:
    """Parity on a grid of batch sizes and lengths, most of which nothing was ever traced at."""
    found = Parity(trial.network.labels)
    feeds = list(grid(trial.network.inputs, trial.held_out, target.manifest))
    for done, feed in enumerate(feeds, 1):
        found.add(reference.infer(feed), target.infer(feed))
        trial.progress("parity over batch sizes and shapes", done, len(feeds))
    return found.checks({"rel_l2": limits_of(trial.recipe)["rel_l2"]}, "parity.grid")


def grid(inputs: Sequence[TensorSpec], data: Dataset, manifest: Manifest) -> Iterator[Feeds]:
    """Real samples, tiled or cut to every combination of sizes that the engine takes."""
    import numpy as np

    spec = manifest.inputs[0]
    stack = [data[index % len(data)].inputs for index in range(max(BATCHES))]
    dims = spec.dynamic
    for sizes in product(*(_sizes(spec, dim, stack) for dim in dims)):
        at = dict(zip(dims, sizes, strict=True))
        yield {
            item.name: np.stack(
                [_resized(arrays[place], item.at(at)[1:]) for arrays in stack[: item.at(at)[0]]]
            )
            for place, item in enumerate(inputs)
        }


def _sizes(spec: TensorSpec, dim: str, stack: Sequence[tuple[np.ndarray, ...]]) -> Sequence[int]:
    """Sizes to try: the batch sizes; or the smallest, odd ones between, and twice the largest seen."""
    low, high = spec.ranges[dim]
    if dim == "batch":
        return [size for size in BATCHES if low <= size <= high] or [low]
    seen = sorted(arrays[0].shape[spec.shape.index(dim) - 1] for arrays in stack)
    tried = (low, seen[len(seen) // 2] + 5, seen[-1] + 1, 2 * seen[-1] - 1)
    return sorted({min(max(size, low), high) for size in tried})


def _resized(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Repeat or cut an array along each axis to `shape`."""
    import numpy as np

    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size), axis=axis, mode="wrap")
    return array


def accuracy(trial: Trial, reference: Session, target: Session) -> tuple[list[Check], dict[str, Any]]:
    """The task's metric of both on the held-out set, and parity on the same samples."""
    import numpy as np

    from edgekit.runtime.decode import decode

    network, data = trial.network, trial.held_out
    output = network.outputs[0].name
    difference = Parity(network.labels)
    answers: dict[str, list[Any]] = {"reference": [], "target": []}
    targets: list[Any] = []
    for group in batches(data, largest_batch(target.manifest)):
        feed = {
            spec.name: np.stack([sample.inputs[place] for sample in group])
            for place, spec in enumerate(network.inputs)
        }
        expected, found = reference.infer(feed), target.infer(feed)
        difference.add(expected, found)
        answers["reference"] += decode(expected[output], network.labels)
        answers["target"] += decode(found[output], network.labels)
        targets += [sample.target for sample in group]
        trial.progress("accuracy on held-out data", len(targets), len(data))
    told = _told(network, answers, targets)
    drop = Check("accuracy.drop", told["drop"], trial.recipe.limits.max_drop)
    return [*difference.checks(limits_of(trial.recipe)), drop], told


def _told(network: Network, answers: Mapping[str, list[Any]], targets: list[Any]) -> dict[str, Any]:
    before = network.task.scores(answers["reference"], targets)
    after = network.task.scores(answers["target"], targets)
    drop, low, high = paired_drop(before, after)
    return {
        "metric": network.task.METRIC,
        "reference": float(before.mean()),
        "target": float(after.mean()),
        "drop": drop,
        "drop_interval": [low, high],
        "significant": not low <= 0 <= high,
        "samples": len(targets),
    }


def largest_batch(manifest: Manifest) -> int:
    """At most BATCH samples at once, and no more than the engine takes."""
    return min(BATCH, *(spec.ranges.get("batch", (1, BATCH))[1] for spec in manifest.inputs))


def batches(data: Dataset, size: int = BATCH) -> Iterator[list[Sample]]:
    """All samples, in groups of equal shape and at most `size`."""
    waiting: dict[tuple[Any, ...], list[Sample]] = {}
    for index in range(len(data)):
        sample = data[index]
        group = waiting.setdefault(tuple(array.shape for array in sample.inputs), [])
        group.append(sample)
        if len(group) == size:
            yield group.copy()
            group.clear()
    yield from (group for group in waiting.values() if group)


def latency(trial: Trial, folder: Path, manifest: Manifest) -> tuple[list[Check], dict[str, Any]]:
    """Reference and engine at batch 1 on real samples of varying size, then at one fixed size.

    Each is a process of its own; `runtime/timing.py` says why.
    """
    feeds = spread(trial, TIMED)
    with TemporaryDirectory(prefix="edgekit-") as scratch, ExitStack() as stack:
        pairs = Path(scratch) / "feeds.npz"
        save_pairs(pairs, feeds)
        middle = len(feeds) // 2
        told = Path(scratch) / "recipe.json"
        told.write_text(json.dumps(recipes.told(trial.recipe)))
        shapes = _shapes(trial.network.inputs, feeds[middle])
        workers = {
            "reference": stack.enter_context(Worker(_reference_command(told, pairs, manifest))),
            "target": stack.enter_context(Worker(_engine_command(folder, pairs, {}))),
        }
        if shapes:
            alone = Path(scratch) / "fixed.npz"
            save_pairs(alone, [feeds[middle]])
            workers["fixed"] = stack.enter_context(Worker(_engine_command(folder, alone, shapes)))
        for worker in workers.values():
            worker.ready()
        found = _measure(workers, middle, trial.progress)
        for worker in workers.values():
            worker.close()
        report = _latency_report(found, workers, shapes)
    limit = trial.recipe.limits.p50_ms
    return [Check("latency.p50", report["target"]["p50_ms"], limit, "ms")], report


def _measure(workers: Mapping[str, Worker], middle: int, progress: Progress) -> dict[str, list[float]]:
    def shown(offset: int) -> Any:
        rounds = 2 * BLOCKS if "fixed" in workers else BLOCKS
        return lambda done, total: progress("latency, processes in turn", offset + done, rounds)

    varying = {name: workers[name].block for name in ("reference", "target")}
    calls = _calls(workers["reference"])
    found = alternate(varying, BLOCKS, calls, shown(0))
    if "fixed" in workers:
        fixed = {
            "fixed_reference": lambda calls: workers["reference"].block(calls, middle),
            "fixed_target": workers["fixed"].block,
        }
        found.update(alternate(fixed, BLOCKS, calls, shown(BLOCKS)))
    return found


def _calls(reference: Worker) -> int:
    """Calls in a block: as many as fit into BLOCK_S, so that a slow network does not take minutes."""
    few, many = CALLS
    usual = sorted(reference.block(few))[few // 2]
    return max(few, min(many, round(BLOCK_S * 1000 / usual)))


def _latency_report(
    times: Mapping[str, list[float]], workers: Mapping[str, Worker], shapes: Mapping[str, int]
) -> dict[str, Any]:
    def row(name: str, worker: str) -> dict[str, Any]:
        parts = _parts(workers[worker])
        return {
            **summary(times[name]),
            "peak_mb": workers[worker].peak_mb,
            **({"parts": parts} if parts else {}),
        }

    report = {
        "boundary": "engine",
        "threads": workers["target"].settings.get("threads"),
        "reference_threads": workers["reference"].settings.get("threads"),
        **_pair(row("reference", "reference"), row("target", "target")),
    }
    if shapes:
        fixed = _pair(row("fixed_reference", "reference"), row("fixed_target", "fixed"))
        report["fixed_shape"] = {"shape": dict(shapes), **fixed}
    return report


def _parts(worker: Worker) -> dict[str, float]:
    """Where a call's time goes, as the engine itself says: the medians of copies and compute in ms."""
    from statistics import median

    return {name: round(median(times), 4) for name, times in worker.parts.items() if times}


def _pair(reference: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    speedup = round(reference["p50_ms"] / target["p50_ms"], 3)
    return {"reference": reference, "target": target, "speedup": speedup}


def _shapes(specs: Sequence[TensorSpec], feed: Feeds) -> dict[str, int]:
    """The sizes that a feed gives to the dynamic dimensions; empty when only the batch varies."""
    sizes = {
        dim: size
        for spec in specs
        for dim, size in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    return sizes if set(sizes) - {"batch"} else {}


def _reference_command(recipe: Path, feeds: Path, manifest: Manifest) -> list[str]:
    threads = str(manifest.engine.get("threads", 0))
    return [
        sys.executable, "-m", "edgekit.steps.reference",
        "--recipe", str(recipe), "--feeds", str(feeds), "--threads", threads,
    ]  # fmt: skip


def _engine_command(folder: Path, feeds: Path, shapes: Mapping[str, int]) -> list[str]:
    return [
        sys.executable, "-m", "edgekit.runtime",
        str(folder), "worker", "--feeds", str(feeds), "--shapes", json.dumps(shapes),
    ]  # fmt: skip


def count_layers(target: Session) -> dict[str, int]:
    """How many layers the engine really runs in each precision."""
    counted: dict[str, int] = {}
    for layer in target.runner.layers():
        counted[layer.precision] = counted.get(layer.precision, 0) + 1
    return dict(sorted(counted.items()))


def prove(trial: Trial, reference: Session, target: Session, proofs: Sequence[str]) -> Proof:
    """Parity and accuracy, as `proofs` asks, and what the engine says of its layers."""
    checks: list[Check] = []
    told = None
    if "parity" in proofs:
        checks += parity(trial, reference, target)
    if "accuracy" in proofs:
        found, told = accuracy(trial, reference, target)
        checks += found
    layers = count_layers(target)
    if trial.recipe.precision == "int8":
        checks.append(Check("layers.int8", layers.get("int8", 0), 1, at_least=True))
    return Proof(checks=tuple(checks), accuracy=told, layers=layers)


def with_latency(proof: Proof, trial: Trial, folder: Path, manifest: Manifest) -> Proof:
    """The proof with latency added."""
    checks, told = latency(trial, folder, manifest)
    return replace(proof, checks=(*proof.checks, *checks), latency=told)
