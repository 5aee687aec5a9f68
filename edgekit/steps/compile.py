"""From the canonical graph to the engine of one target, or to what the device needs to build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import boards, registry
from edgekit import recipe as recipes
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.runtime.manifest import with_states
from edgekit.spec import Artifact, Build, Choice, Problem, Progress, Recipe, Shapes, silent
from edgekit.steps.load import Network, samples, stacked

SEEN = 256
"""Samples whose sizes decide where an engine is tuned."""


def compile_engine(
    network: Network, graph: Artifact, recipe: Recipe, out: Path, progress: Progress = silent
) -> Build:
    """Write the engine of `recipe.target` into the folder `out`.

    Raises:
        MissingPackageError: the target's package is not installed.
        UnsupportedError: the target does not take the graph or the precision, or the board not the
            target; names node and module.
        HardwareError: the device is not here.
    """
    import onnx

    target, options = target_of(recipe.target, recipe.board, recipe.device, recipe.precision)
    refuse(target.supports(onnx.load(graph.path), recipe.precision), recipe)
    shapes = shapes_of(network, graph, recipe, options)
    if hasattr(target, "ready") and (reason := target.ready(recipe.precision, options)):
        kit = target.kit(graph.path, shapes, recipe.precision, options)
        kit.update(_software(recipe, kit["oldest"]))
        settings = {"device": options.device}
        ranges = kit.pop("ranges")
        return Build(
            engine=None, settings=settings, deferred=reason, kit=kit, notes=_needs(kit), ranges=ranges
        )
    registry.require(target.REQUIRES)
    out.mkdir()
    if hasattr(target, "compile_module"):
        if network.module is None:
            raise UnsupportedError(
                f"{recipe.name} is a bare ONNX file, and {recipe.target.name} runs PyTorch networks",
                "use the target onnxruntime or openvino",
            )
        built: Build = target.compile_module(
            network.module, network.inputs, network.outputs, network.states, recipe.precision, options, out
        )
        return built
    made: Build = target.compile(graph.path, shapes, recipe.precision, options, out, progress)
    return made


def target_of(choice: Choice, board: str = "", device: str = "", precision: str = "fp32") -> tuple[Any, Any]:
    """The target's module and its options, with what the board and the device say laid over them.

    Raises:
        UnsupportedError: the target does not run on the board, or not in that precision.
        UsageError: the options contradict the board.
    """
    target = registry.load("target", choice.name)
    options = recipes.options_of(target, choice)
    if board:
        profile = boards.read(board)
        boards.refuse(profile, choice.name)
        _refuse_board(profile, options, precision)
        if getattr(options, "workspace_mb", None) == 0:
            options = replace(options, workspace_mb=boards.workspace_mb(profile))
    return target, replace(options, device=device or options.device)


def _refuse_board(board: boards.Board, options: Any, precision: str) -> None:
    """Raise for what the board's hardware or its kind cannot do, before anything is prepared for it."""
    rest = getattr(options, "rest", "fp32") if precision == "int8" else precision
    for wanted in dict.fromkeys((precision, rest)):
        if wanted not in board.precisions:
            takes = ", ".join(board.precisions)
            raise UnsupportedError(f"{board.title} does not compute in {wanted}", f"it has {takes}")
    if getattr(options, "dla", -1) >= 0 and not any(board.dla_cores):
        raise UnsupportedError(f"{board.title} has no DLA", "leave target.options.dla out")
    if getattr(options, "hardware_compatible", False) and board.kind == "jetson":
        raise UnsupportedError(
            "TensorRT builds hardware-compatible plans on desktop and data-centre GPUs only",
            "leave target.options.hardware_compatible out: the board builds its own plan",
        )
    named = getattr(options, "compute_capabilities", ())
    if named and board.compute_capability and board.compute_capability not in named:
        raise UsageError(
            f"{board.title} has compute capability {board.compute_capability}, not {' or '.join(named)}",
            "name one or the other",
        )


def shapes_of(network: Network, graph: Artifact, recipe: Recipe, options: Any) -> Shapes:
    """The inputs with their ranges, and the sizes that real samples have, where the target cares."""
    inputs, _ = with_states(graph.inputs, graph.outputs, graph.states)
    free = {dim for spec in network.inputs for dim in spec.dynamic} - {"batch"}
    if not free or getattr(options, "buckets", 1) < 2:
        return Shapes(inputs=inputs)
    data = samples(recipe, "calibration" if recipe.own is None else "test", network)
    seen: dict[str, list[int]] = {dim: [] for dim in sorted(free)}
    for index in range(min(len(data), SEEN)):
        feed = stacked(network.inputs, [data[index]])
        for spec in network.inputs:
            for dim, size in zip(spec.shape, feed[spec.name].shape, strict=True):
                if dim in free:
                    seen[str(dim)].append(size)
    return Shapes(inputs=inputs, seen={dim: tuple(sizes) for dim, sizes in seen.items()})


def _software(recipe: Recipe, oldest: str) -> dict[str, Any]:
    """Which JetPacks carry a TensorRT that takes the kit: those of the board, or all."""
    known = boards.releases()
    board = boards.read(recipe.board) if recipe.board else None
    wanted = board.software if board and board.kind == "jetson" else tuple(known) if board is None else ()
    fit = {version: known[version].tensorrt for version in wanted if known[version].tensorrt}
    return {
        "board": recipe.board,
        "jetpack": {version: has for version, has in fit.items() if _number(has) >= _number(oldest)},
    }


def _needs(kit: Mapping[str, Any]) -> tuple[str, ...]:
    """What the device must have, in a sentence."""
    carried = ", ".join(f"{pack} has {version}" for pack, version in kit["jetpack"].items())
    packs = f"; JetPack {carried}" if carried else ""
    return (
        f"to build it: TensorRT {kit['tensorrt']}, compute capability {kit['compute_capability']}{packs}",
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


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
