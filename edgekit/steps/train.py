"""Trains a recipe's network and writes its weights with their provenance."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, registry
from edgekit import recipe as recipes
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Artifact, DataPlugin, ModelPlugin, Recipe, Sample, TaskPlugin
from edgekit.steps import _metric
from edgekit.steps._batches import Reading, evaluate, gather
from edgekit.steps._fitting import Fitting, Job, TrainOptions, TrainProgress, key_of
from edgekit.steps._memory import keep_freed_memory
from edgekit.steps._weights import load_weights, save_weights, write_whole
from edgekit.steps.describe import cpu_name
from edgekit.steps.load import detection_of, labels_of

if TYPE_CHECKING:
    import torch

__all__ = ["TrainOptions", "TrainProgress", "load_weights", "save_weights", "train"]

PACKAGES = ("torch", "numpy", "pillow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A recipe with its plug-ins loaded and their options made."""

    recipe: Recipe
    model: ModelPlugin
    model_options: Any
    task: TaskPlugin
    data: DataPlugin
    data_options: Any
    options: TrainOptions


def train(
    recipe: Recipe,
    out: Path,
    progress: Callable[[TrainProgress], None] | None = None,
    command: str = "",
) -> Artifact:
    """Train, keep the weights that validate best, and score them once on the test split.

    Writes `NAME.safetensors` and `NAME.provenance.json` into `out`, and while it runs
    `NAME.checkpoint.safetensors`, which an interrupt leaves whole and `train.resume` goes on from.

    Args:
        command: what made it, for the provenance; by default the plain command of the recipe.

    Raises:
        UsageError: bad training options, or the loss is no longer finite.
        MissingPackageError: torch, safetensors or the data's packages are not installed.
        HardwareError: CUDA is asked for and not there.
        BadFileError: the checkpoint to resume from is not this training's.
        SystemRefusedError: `out` cannot be written.
    """
    registry.require(("torch", "safetensors"))
    plan = _planned(recipe)
    keep_freed_memory()
    with _threads(plan.options.threads):
        return _trained(plan, out, progress or _silent, command)


def _trained(plan: _Plan, out: Path, progress: Callable[[TrainProgress], None], command: str) -> Artifact:
    recipe, started, computed = plan.recipe, time.perf_counter(), _computed()
    module = _fresh(plan)
    checkpoint = out / f"{recipe.name}.checkpoint.safetensors"
    reading = _reading(plan)
    job = _job(plan, module, reading, checkpoint)
    if hasattr(plan.model, "begin"):
        plan.model.begin(module, gather(job.train, plan.options.workers), reading.labels)
    best = Fitting(job, progress).run()
    samples = gather(plan.data.load("test", plan.data_options, cache.folder()), plan.options.workers)
    answers = evaluate(module, samples, plan.task, reading)
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": _computed() - computed}
    weights = out / f"{recipe.name}.safetensors"
    save_weights(module, weights)
    made_by = _provenance(plan, command or f"edgekit train {recipe.name} --seed {recipe.seed}", took)
    made_by |= {
        "scores": _scores(plan.task, best, len(job.validation), answers, samples),
        "input": _inputs(plan),
        "parameters": _size(module),
        "sha256": sha256_of(weights),
    }
    write_whole(out / f"{recipe.name}.provenance.json", (json.dumps(made_by, indent=2) + "\n").encode())
    checkpoint.unlink(missing_ok=True)
    return _artifact(plan, weights, made_by)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(progress: TrainProgress) -> None:
    """A progress that shows nothing."""


def _planned(recipe: Recipe) -> _Plan:
    options, faults = recipes.build(TrainOptions, recipe.train, "train")
    if faults:
        raise UsageError("; ".join(faults), "correct the recipe's [train] table or --set train.key=value")
    model, data = registry.load("model", recipe.model.name), registry.load("data", recipe.data.name)
    return _Plan(
        recipe=recipe,
        model=model,
        model_options=recipes.options_of(model, recipe.model),
        task=registry.load("task", recipe.task.name),
        data=data,
        data_options=recipes.options_of(data, recipe.data),
        options=options,
    )


def _fresh(plan: _Plan) -> torch.nn.Module:
    import torch

    torch.manual_seed(plan.recipe.seed)
    return plan.model.build(plan.model_options)


def _reading(plan: _Plan) -> Reading:
    return Reading(
        inputs=plan.model.inputs(plan.model_options),
        outputs=plan.model.outputs(plan.model_options),
        labels=labels_of(plan.task, plan.data, plan.data_options),
        detection=_metric.judged(plan.task, detection_of(plan.model, plan.model_options)),
    )


def _job(plan: _Plan, module: torch.nn.Module, reading: Reading, checkpoint: Path) -> Job:
    return Job(
        module=module,
        task=plan.task,
        reading=reading,
        train=plan.data.load("train", plan.data_options, cache.folder()),
        validation=plan.data.load("validation", plan.data_options, cache.folder()),
        options=plan.options,
        seed=plan.recipe.seed,
        checkpoint=checkpoint,
        key=key_of(plan.options, **_chosen(plan)),
    )


def _chosen(plan: _Plan) -> dict[str, Any]:
    return {
        "model": {"name": plan.recipe.model.name, "options": asdict(plan.model_options)},
        "task": plan.recipe.task.name,
        "data": {"name": plan.recipe.data.name, "options": asdict(plan.data_options)},
        "seed": plan.recipe.seed,
    }


def _provenance(plan: _Plan, command: str, took: Mapping[str, float]) -> dict[str, Any]:
    import torch

    sources = plan.data.SOURCES
    packages = sorted({*PACKAGES, *(source.package for source in sources if source.package)})
    return {
        "name": plan.recipe.name,
        "command": command,
        **_chosen(plan),
        "train": asdict(plan.options),
        "sources": [{**asdict(source), "version": _version(source.package)} for source in sources],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "processor": cpu_name(),
        "threads": torch.get_num_threads(),
        **{name: round(seconds, 1) for name, seconds in took.items()},
    }


def _computed() -> float:
    """Seconds that this process and the ended ones that it started have computed, whatever else ran."""
    return sum(os.times()[:4])


def _scores(
    task: TaskPlugin, validation: float, validated: int, answers: Sequence[Any], test: Sequence[Sample]
) -> dict[str, Any]:
    targets = [sample.target for sample in test]
    low, high = _metric.interval(task, answers, targets)
    return {
        "metric": task.METRIC,
        "validation": {"value": round(validation, 6), "n": validated},
        "test": {
            "value": round(_metric.value(task, answers, targets), 6),
            "interval": [round(max(low, 0.0), 4), round(min(high, 1.0), 4)],
            "n": len(test),
        },
    }


def _inputs(plan: _Plan) -> str:
    """What the network takes: `image float32[batch,1,32,width]`."""
    specs = plan.model.inputs(plan.model_options)
    return ", ".join(f"{spec.name} {spec.dtype}[{','.join(map(str, spec.shape))}]" for spec in specs)


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _version(package: str) -> str:
    """The version of a distribution; empty where a source names none, or it is not installed."""
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""


def _artifact(plan: _Plan, weights: Path, made_by: Mapping[str, Any]) -> Artifact:
    return Artifact(
        kind="weights",
        path=weights,
        sha256=made_by["sha256"],
        inputs=plan.model.inputs(plan.model_options),
        outputs=plan.model.outputs(plan.model_options),
        states=plan.model.states(plan.model_options) if hasattr(plan.model, "states") else (),
        made_by=made_by,
    )
