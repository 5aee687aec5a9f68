"""From the float graph to the one with Q/DQ nodes: by the plan that is given, or by one that is searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit import cache, precision_plan, registry
from edgekit import recipe as recipes
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import sha256_of
from edgekit.runtime.proof import Check
from edgekit.spec import Artifact, Choice, Dataset, Progress, Recipe, silent
from edgekit.steps import _integers
from edgekit.steps._calibration import Feeds, feeds_from, fingerprint
from edgekit.steps._quantized import already_quantized, with_limits
from edgekit.steps._search.samples import split
from edgekit.steps.compile import target_of
from edgekit.steps.load import Network, samples
from edgekit.steps.search import search

if TYPE_CHECKING:
    import onnx

PACKAGES = ("numpy", "onnx", "onnxruntime", "nncf")
WARNINGS = "edgekit.warnings"
"""Where a quantized graph in the cache keeps what its calibration warned of."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The graph to compile, and the recipe and plan (layer -> precision) that it was made with.

    A search adds what it measured (`told`), the samples to prove its choice on, and, when no plan keeps
    the limits, the layers to `blame`; `checks` are its own. `parted`: samples were held
    back from calibration.
    """

    graph: Artifact
    recipe: Recipe
    plan: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, Any] | None = None
    proving: Dataset | None = None
    notes: tuple[str, ...] = ()
    blame: str = ""
    checks: tuple[Check, ...] = ()
    parted: bool = False


def quantize(
    network: Network, graph: Artifact, recipe: Recipe, out: Path, progress: Progress = silent
) -> Quantized:
    """Write the graph of the recipe's precision to `out`; without int8 it is the float graph.

    A graph that came quantized is left as it is too, and no samples are asked for.

    Raises:
        BadFileError: a calibration sample is not finite or does not fit.
        UsageError: the plan names an unknown layer.
        UnsupportedError: nothing in the graph can be quantized, or not as the plan says.
    """
    if (layers := already_quantized(graph, recipe)) is not None:
        plan = layers if recipe.precision == "int8" else {}
        return Quantized(graph=_copied(graph, out), recipe=with_limits(recipe), plan=plan, told={})
    if recipe.precision != "int8":
        return Quantized(graph=_copied(graph, out), recipe=recipe)
    planned = _planned(graph, recipe)
    make = _searched if recipe.search and not recipe.plan else _by_plan
    made = make(network, graph, planned, out, progress)
    return replace(made, notes=(*made.notes, *_integers.warnings(made.recipe)))


def _copied(graph: Artifact, out: Path) -> Artifact:
    if graph.path != out:
        copyfile(graph.path, out)
    return replace(graph, path=out)


def _planned(graph: Artifact, recipe: Recipe) -> Recipe:
    """The recipe with its plan by ONNX node, and with the floating precision that the plan names."""
    import onnx

    if not recipe.plan:
        return recipe
    method = registry.load("method", recipe.quantization.name)
    registry.require(method.REQUIRES)
    model = onnx.load(graph.path)
    found = method.candidates(model, recipes.options_of(method, recipe.quantization))
    modules = {name: one.module for name, one in found.items()}
    plan = precision_plan.resolved(recipe.plan, modules, {node.name for node in model.graph.node})
    return with_rest(replace(recipe, plan=plan), precision_plan.rest_of(plan))


def with_rest(recipe: Recipe, rest: str) -> Recipe:
    """The recipe whose target computes in `rest` what is not int8.

    Raises:
        UnsupportedError: the target does not.
    """
    if not rest:
        return recipe
    target, options = target_of(recipe.target, recipe.board, recipe.device, "int8")
    takes = [one for one in target.PRECISIONS if one != "int8"] if hasattr(options, "rest") else ["fp32"]
    if rest not in takes:
        raise UnsupportedError(
            f"the plan has layers in {rest}, and beside int8 the target {recipe.target.name} computes in "
            f"{' or '.join(takes)}",
            f"write {takes[0]} in the plan in place of {rest}",
        )
    if not hasattr(options, "rest"):
        return recipe
    options = {**recipe.target.options, "rest": rest}
    return replace(recipe, target=Choice(name=recipe.target.name, options=options))


def _searched(network: Network, graph: Artifact, recipe: Recipe, out: Path, progress: Progress) -> Quantized:
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        found = search(network, graph, recipe, Path(scratch), progress)
        made = _copied(found.graph, out)
    return Quantized(
        graph=made,
        recipe=found.recipe,
        plan=found.recipe.plan,
        told=found.told,
        proving=found.proving,
        notes=found.notes,
        blame=found.blame,
        checks=found.checks,
        parted=True,
    )


def _by_plan(network: Network, graph: Artifact, recipe: Recipe, out: Path, progress: Progress) -> Quantized:
    import onnx

    method = registry.load("method", recipe.quantization.name)
    registry.require(method.REQUIRES)
    options = recipes.options_of(method, recipe.quantization)
    splits = split(recipe, network) if recipe.search else None
    learning = splits.learning if splits else samples(recipe, "calibration", network)
    feeds = feeds_from(network, learning, progress)

    def make(path: Path) -> None:
        model = onnx.load(graph.path)
        measured = method.measure(model, feeds, options)
        made = method.quantize(model, measured, recipe.plan, options)
        onnx.helper.set_model_props(made, {**_props(made), WARNINGS: json.dumps(measured.warnings)})
        onnx.save(made, path)

    made = onnx.load(cache.fetch(cache.key("quantize", _parts(graph, recipe, feeds), PACKAGES), make))
    warnings = json.loads(_props(made)[WARNINGS])
    kept = {key: value for key, value in _props(made).items() if key != WARNINGS}
    onnx.helper.set_model_props(made, kept)
    onnx.save(made, out)
    made_by = {"method": recipe.quantization.name, "samples": len(feeds), "calibration": fingerprint(feeds)}
    return Quantized(
        graph=replace(graph, path=out, sha256=sha256_of(out), made_by={**graph.made_by, **made_by}),
        recipe=recipe,
        plan=method.quantized_layers(made),
        proving=splits.proving if splits else None,
        notes=tuple(warnings),
        parted=splits is not None,
    )


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _parts(graph: Artifact, recipe: Recipe, feeds: Feeds) -> dict[str, object]:
    return {
        "graph": graph.sha256,
        "method": asdict(recipe.quantization),
        "plan": dict(recipe.plan),
        "calibration": fingerprint(feeds),
    }
