"""Is the engine right, how right, and how fast? Against the PyTorch reference, on held-out data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from math import isfinite, prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit import recipe as recipes
from edgekit.data._array_checks import batch_axis
from edgekit.runtime.decode import answers as read_answers
from edgekit.runtime.engines import EngineOptions, Runner
from edgekit.runtime.manifest import Manifest, TensorSpec, with_states
from edgekit.runtime.proof import Check, Parity, save_pairs, summary
from edgekit.runtime.session import Session
from edgekit.runtime.timing import Worker, alternate
from edgekit.spec import Dataset, Progress, Recipe, Sample, TaskPlugin, silent
from edgekit.steps import _metric
from edgekit.steps._batches import size_of
from edgekit.steps.load import Network, feeds_of, sizes_of

if TYPE_CHECKING:
    import numpy as np

    from edgekit.tasks._own import OwnTask

T = TypeVar("T")

BATCHES = (1, 2, 3, 7, 12)
BATCH = 32
MOST_SHAPES = 60
"""Parity is looked at for every combination of sizes up to so many."""
GOLDEN = 8
TIMED = 16
BLOCKS = 6
CALLS = (8, 32)
BLOCK_S = 0.8

Feeds = Mapping[str, "np.ndarray"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is judged, and the held-out samples that it is judged on.

    `threads` are the engine's while it is compared; None: as many as it ships with. It is timed with those.
    """

    network: Network
    recipe: Recipe
    held_out: Dataset
    progress: Progress = silent
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured: the checks with their limits, and the tables that go into the report."""

    checks: tuple[Check, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    layers: Mapping[str, int] = field(default_factory=dict)


def limits_of(recipe: Recipe) -> dict[str, float]:
    """The parity limits of the recipe's precision, and `rel_l2.NAME` of outputs with one of their own."""
    limits = recipe.limits
    common = {"rel_l2": limits.rel_l2[recipe.precision], "agreement": limits.agreement[recipe.precision]}
    return {**common, **{f"rel_l2.{name}": limit for name, limit in limits.outputs.items()}}


def reference_session(network: Network, manifest: Manifest) -> Session:
    """The reference behind the same face as the engine, for what is compared and not timed.

    On one thread: beside an engine in the same process, or on a busy machine, PyTorch's threads
    spend more time waiting for each other than they save.
    """
    return Session(manifest, reference_runner(network, threads=1))


def reference_runner(network: Network, threads: int) -> Runner:
    """PyTorch in eval mode; for a bare ONNX file ONNX Runtime in float32."""
    if network.module is None:
        return _graph_runner(network, threads)
    from edgekit.targets.pytorch import ModuleRunner

    module: Runner = ModuleRunner(
        network.module, network.inputs, network.outputs, network.states, threads=threads
    )
    return module


def _graph_runner(network: Network, threads: int) -> Runner:
    """ONNX Runtime on the user's file as it is, but for what only ONNX Runtime minds."""
    import onnx

    from edgekit.runtime.engines.onnxruntime import open_engine
    from edgekit.sources._onnx_boxes import before_suppression
    from edgekit.sources._onnx_file import read_model
    from edgekit.sources._onnx_probe import readable
    from edgekit.sources._onnx_walk import is_half

    with TemporaryDirectory(prefix="edgekit-") as scratch:
        copy = Path(scratch) / "reference.onnx"
        model, _ = before_suppression(read_model(required(network.graph)))
        onnx.save(readable(model, network.inputs), copy)
        precision = "fp16" if is_half(model) else "fp32"  # opened as fp32 it may crash the process
        return open_engine(copy, EngineOptions(precision=precision, threads=threads))


def reference_name(network: Network) -> str:
    """What the reference is, for a person."""
    return "PyTorch" if network.module is not None else "ONNX Runtime fp32"


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
    feeds = list(grid(trial.network, trial.held_out, target.manifest))
    for done, feed in enumerate(feeds, 1):
        found.add(reference.infer(feed), target.infer(feed))
        trial.progress("parity over batch sizes and shapes", done, len(feeds))
    return found.checks(limits_of(trial.recipe), "parity.grid", answers=False)


def grid(network: Network, data: Dataset, manifest: Manifest) -> Iterator[Feeds]:
    """Real samples, tiled or cut to every combination of sizes that the engine takes."""
    ranges = {dim: bounds for spec in manifest.inputs for dim, bounds in spec.ranges.items()}
    inputs, _ = with_states(network.inputs, (), network.states)
    dims = tuple(dict.fromkeys(dim for spec in inputs for dim in spec.dynamic))
    group = [data[index % len(data)] for index in range(max(BATCHES))]
    singles = [feeds_of(network, sample) for sample in group]
    tried = [_sizes(dim, *ranges.get(dim, (1, max(BATCHES))), inputs, singles) for dim in dims]
    for sizes in _combined(tried):
        at = dict(zip(dims, sizes, strict=True))
        yield {
            spec.name: _assembled([single[spec.name] for single in singles], spec.at(at), batch_axis(spec))
            for spec in inputs
        }


def _combined(tried: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """Every combination; of very many, every size in turn with the others spread."""
    if prod(map(len, tried)) <= MOST_SHAPES:
        yield from product(*tried)
        return
    for step in range(MOST_SHAPES):
        yield tuple(sizes[(step * (place + 1)) % len(sizes)] for place, sizes in enumerate(tried))


def _assembled(arrays: Sequence[np.ndarray], shape: Sequence[int], axis: int | None) -> np.ndarray:
    """Samples of different sizes, each cut or repeated to one shape, as a batch."""
    import numpy as np

    if axis is None:
        return _resized(arrays[0], shape)
    one = [*shape[:axis], 1, *shape[axis + 1 :]]
    return np.concatenate([_resized(array, one) for array in arrays[: shape[axis]]], axis)


def _sizes(
    dim: str, low: int, high: int, inputs: Sequence[TensorSpec], singles: Sequence[Feeds]
) -> Sequence[int]:
    """Sizes to try: the batch sizes; or the smallest, odd ones between, and twice the largest seen."""
    if dim == "batch":
        return [size for size in BATCHES if low <= size <= high] or [low]
    spec = next(spec for spec in inputs if dim in spec.shape)
    seen = sorted(single[spec.name].shape[spec.shape.index(dim)] for single in singles)
    tried = (low, seen[len(seen) // 2] + 5, seen[-1] + 1, 2 * seen[-1] - 1)
    return sorted({min(max(size, low), high) for size in tried})


def _resized(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Repeat or cut an array along each axis to `shape`."""
    import numpy as np

    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size), axis=axis, mode="wrap")
    return array


def accuracy(trial: Trial, reference: Session, target: Session) -> tuple[list[Check], dict[str, Any] | None]:
    """Parity on the held-out set, and the metric of both, where there is one."""
    network, data = trial.network, trial.held_out
    difference = Parity(network.labels)
    answers: dict[str, list[Any]] = {"reference": [], "target": []}
    targets: list[Any] = []
    judged = network.task is not None and any(data[index].target is not None for index in range(1))
    for group in batches(data, largest_batch(target.manifest)):
        feed = feeds_of(network, *group)
        expected, found = reference.infer(feed), target.infer(feed)
        difference.add(expected, found)
        if judged:
            answers["reference"] += answers_of(network, expected, len(group))
            answers["target"] += answers_of(network, found, len(group))
        targets += [sample.target for sample in group]
        trial.progress("accuracy on held-out data", len(targets), len(data))
    checks = difference.checks(limits_of(trial.recipe))
    if not judged or network.task is None:
        return checks, None
    told = told_scores(network.task, answers, targets)
    return [*checks, Check("accuracy.drop", told["drop"], trial.recipe.limits.max_drop)], told


def answers_of(network: Network, outputs: Feeds, count: int) -> list[Any]:
    """What a batch's outputs say of each sample, in the form that the task scores."""
    from edgekit.tasks._own import OwnTask

    if isinstance(network.task, OwnTask):
        return network.task.split(outputs, count, network.outputs)
    in_order = {spec.name: outputs[spec.name] for spec in network.outputs}
    detection = _metric.judged(network.task, network.detection)
    return read_answers(in_order, required(network.labels), detection, size_of(network.inputs))


def required(value: T | None) -> T:
    """A value that this kind of network always has."""
    if value is None:
        raise TypeError("a built-in network has labels, and a graph has a path")
    return value


def told_scores(
    task: TaskPlugin | OwnTask, answers: Mapping[str, list[Any]], targets: list[Any]
) -> dict[str, Any]:
    before, after = answers["reference"], answers["target"]
    scores = [task.scores(found, targets) for found in (before, after)]
    drop, low, high = _metric.drop(task, before, after, targets)
    return {
        "metric": task.METRIC,
        "reference": _metric.value(task, before, targets),
        "target": _metric.value(task, after, targets),
        "drop": drop,
        "drop_interval": [low, high] if isfinite(high - low) else None,
        "significant": not low <= 0 <= high,
        "samples": len(targets),
        "share": all(bool(one.min() >= 0 and one.max() <= 1) for one in scores),
    }


def largest_batch(manifest: Manifest) -> int:
    """At most BATCH samples at once, and no more than the engine takes; 1 where an input has no batch."""
    if any("batch" not in spec.shape for spec in manifest.inputs):
        return 1
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
        reference = _reference_command(trial, told, pairs, manifest)
        workers = {
            "reference": stack.enter_context(Worker(reference)),
            "target": stack.enter_context(Worker(engine_command(folder, pairs, {}))),
        }
        if shapes:
            alone = Path(scratch) / "fixed.npz"
            save_pairs(alone, [feeds[middle]])
            workers["fixed"] = stack.enter_context(Worker(engine_command(folder, alone, shapes)))
        for worker in workers.values():
            worker.ready()
        found = _measure(workers, middle, trial.progress)
        for worker in workers.values():
            worker.close()
        report = _latency_report(found, workers, shapes)
    report["reference_engine"] = reference_name(trial.network)
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
    sizes = sizes_of(specs, feed)
    return sizes if set(sizes) - {"batch"} else {}


def _reference_command(trial: Trial, recipe: Path, feeds: Path, manifest: Manifest) -> list[str]:
    threads = str(manifest.engine.get("threads", 0))
    command = [
        sys.executable, "-m", "edgekit.steps.reference",
        "--recipe", str(recipe), "--feeds", str(feeds), "--threads", threads,
    ]  # fmt: skip
    if is_handed_over(trial.recipe):
        command += ["--traced", str(_traced(trial.network, recipe.parent))]
    return command


def is_handed_over(recipe: Recipe) -> bool:
    """Whether the network is an object of this process, which another process cannot make again."""
    return recipe.own is not None and recipe.own.module is not None


def _traced(network: Network, folder: Path) -> Path:
    """The reference as a TorchScript trace, for the process that times it."""
    from edgekit.targets import pytorch

    made = pytorch.compile_module(
        required(network.module), network.inputs, network.outputs, network.states, "fp32",
        pytorch.Options(), folder / "reference",
    )  # fmt: skip
    return required(made.engine)


def engine_command(folder: Path, feeds: Path, shapes: Mapping[str, int]) -> list[str]:
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
