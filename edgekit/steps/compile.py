"""From the canonical graph to the engine of one target, or to what the device needs to build it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit import recipe as recipes
from edgekit import registry
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import with_states
from edgekit.spec import Artifact, Build, Problem, Recipe
from edgekit.steps.load import Network


def compile_engine(network: Network, graph: Artifact, recipe: Recipe, out: Path) -> Build:
    """Write the engine of `recipe.target` into the folder `out`.

    Raises:
        MissingPackageError: the target's package is not installed.
        UnsupportedError: the target does not take the graph or the precision; names node and module.
        HardwareError: the device is not here.
    """
    import onnx

    target = registry.load("target", recipe.target.name)
    options = recipes.options_of(target, recipe.target)
    options = replace(options, device=recipe.device or options.device)
    refuse(target.supports(onnx.load(graph.path), recipe.precision), recipe)
    if hasattr(target, "ready") and (reason := target.ready(recipe.precision)):
        inputs, _ = with_states(graph.inputs, graph.outputs, graph.states)
        kit = target.kit(graph.path, inputs, recipe.precision, options)
        return Build(engine=None, settings={"device": options.device}, deferred=reason, kit=kit)
    registry.require(target.REQUIRES)
    out.mkdir()
    if hasattr(target, "compile_module"):
        built: Build = target.compile_module(
            network.module, network.inputs, network.outputs, network.states, recipe.precision, options, out
        )
        return built
    made: Build = target.compile(graph.path, recipe.precision, options, out)
    return made


def threads_of(recipe: Recipe) -> int:
    """Threads for reference and engine alike: as the target's options say, else one per usable core."""
    return int(recipe.target.options.get("threads", 0)) or usable_cores()


def refuse(problems: list[Problem], recipe: Recipe) -> None:
    """Raise UnsupportedError when there is a problem; all of them are named."""
    if not problems:
        return
    listed = "".join(f"\n  - {_told(problem)}" for problem in problems)
    raise UnsupportedError(
        f"{recipe.name} cannot go to {recipe.target.name} in {recipe.precision}:{listed}",
        problems[0].cure,
    )


def _told(problem: Problem) -> str:
    where = f"node {problem.node!r}" + (f" of module {problem.module!r}" if problem.module else "")
    return f"{where}: {problem.reason}" if problem.node else problem.reason
