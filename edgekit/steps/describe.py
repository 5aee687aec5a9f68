"""What a bundle says of itself: its manifest and the environment it was made in."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import __version__, cache
from edgekit import recipe as recipes
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.manifest import Manifest, TensorSpec, with_states
from edgekit.spec import Artifact, Build, Recipe
from edgekit.steps.compile import target_of, threads_of
from edgekit.steps.load import Network
from edgekit.steps.prove import limits_of

PACKAGES = (
    "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13", "numpy",
)  # fmt: skip


def manifest(
    recipe: Recipe, network: Network, graph: Artifact, build: Build, plan: Mapping[str, str], work: Path
) -> Manifest:
    """The manifest before the proof: no verdict and no hashes yet."""
    inputs, outputs = with_states(graph.inputs, graph.outputs, graph.states)
    inputs = tuple(narrowed(spec, build.ranges) for spec in inputs)
    return Manifest(
        model=recipe.name,
        target=recipe.target.name,
        precision=recipe.precision,
        device=build.settings["device"],
        state="deferred" if build.engine is None else "built",
        passed=None,
        engine=_engine(recipe, build, work),
        inputs=inputs,
        outputs=outputs,
        states=graph.states,
        preprocess=network.preprocess,
        words=network.words,
        labels=network.labels,
        detection=network.detection,
        limits=limits_of(recipe),
        plan=plan,
        lowering=build.lowering,
        recipe={**recipes.told(recipe), "weights_sha256": network.weights_sha256},
        versions=versions(),
        seed=recipe.seed,
        command=command(),
    )


def plan(layers: Mapping[str, str], recipe: Recipe, build: Build) -> dict[str, str]:
    """The plan with the precision that the engine's float layers are in."""
    _, options = target_of(recipe.target, recipe.board, recipe.device, recipe.precision)
    rest = getattr(options, "rest", "") or build.settings.get("precision", "fp32")
    return {layer: "int8" if precision == "int8" else rest for layer, precision in layers.items()}


def narrowed(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> TensorSpec:
    """The input with the sizes that the engine takes."""
    fewer = {dim: ranges[dim] for dim in spec.dynamic if dim in ranges}
    return replace(spec, ranges={**spec.ranges, **fewer})


def _engine(recipe: Recipe, build: Build, work: Path) -> dict[str, Any]:
    file = build.engine.relative_to(work).as_posix() if build.engine else None
    return {
        "kind": recipe.target.name,
        "file": file,
        "threads": threads_of(recipe),
        "precision": build.settings.get("precision", "fp32"),
        "settings": dict(build.settings),
        **_kit(build.kit),
        **({"deferred": build.deferred} if build.deferred else {}),
        **({"built_on": dict(build.built_on)} if build.built_on else {}),
    }


def _kit(kit: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.py build` reads, and beside it what a person wants to know of it."""
    if not kit:
        return {}
    return {"build": kit["request"], "kit": {key: value for key, value in kit.items() if key != "request"}}


def settled(said: Manifest, settings: Mapping[str, Any]) -> Manifest:
    """The manifest with what the opened engine says that it was set to."""
    engine = {**said.engine, "settings": {**said.engine["settings"], **settings}}
    return replace(said, engine=engine)


def command() -> str:
    """The command line that made something, or the Python API."""
    if Path(sys.argv[0]).name in ("edgekit", "__main__.py"):
        return shlex.join(["edgekit", *sys.argv[1:]])
    return "edgekit's Python API"


def versions() -> dict[str, str]:
    """The versions of edgekit and of every package that had a part in the bundle."""
    found = {package: cache.installed(package) for package in PACKAGES}
    return {"edgekit": __version__, **{package: said for package, said in found.items() if said}}


def environment() -> dict[str, Any]:
    """The machine that something was measured on."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions(),
    }


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return found[0] if found else platform.machine()
