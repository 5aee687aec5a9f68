"""From a PyTorch network to one canonical ONNX graph, proved at shapes it was never traced at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shutil import copyfile

from edgekit import cache
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Artifact, Found, Recipe
from edgekit.steps.load import Network, samples

USUAL = "torch.export"
FEW = 8
"""Real samples that an adopted graph is checked on, beside the unseen shapes."""
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(network: Network, recipe: Recipe, out: Path) -> Artifact:
    """Write the graph of `network` to `out`.

    Raises:
        UnsupportedError: torch cannot export it, or the graph is wrong at another shape.
        BadFileError: a weight is NaN or infinite.
    """

    def make(path: Path) -> None:
        _make(network, recipe, path)

    made_by: dict[str, object] = {}
    if recipe.own is not None:  # no key holds all that a user's code reads: helpers, settings
        made_by = dict(_make(network, recipe, out).made_by)
    else:
        copyfile(cache.fetch(cache.key("export", _parts(network, recipe), PACKAGES), make), out)
    return Artifact(
        kind="onnx",
        path=out,
        sha256=sha256_of(out),
        inputs=network.inputs,
        outputs=network.outputs,
        states=network.states,
        made_by=made_by,
    )


def _make(network: Network, recipe: Recipe, path: Path) -> Artifact:
    from edgekit.exporting import adopt_onnx, export_onnx

    if network.module is None:
        data = samples(recipe, "test", network)
        few = [data[index] for index in range(min(len(data), FEW))]
        return adopt_onnx(found_of(network), path, opset=recipe.export.opset, samples=few)
    return export_onnx(
        network.module, network.inputs, network.outputs, network.states, path, opset=recipe.export.opset
    )


def found_of(network: Network) -> Found:
    """The network as its source gave it."""
    return Found(
        module=network.module,
        graph=network.graph,
        inputs=network.inputs,
        outputs=network.outputs,
        states=network.states,
        sha256=network.weights_sha256,
    )


def notes(graph: Artifact) -> tuple[str, ...]:
    """How the graph was made, where it was not the usual way."""
    way = graph.made_by.get("way", USUAL)
    said = tuple(graph.made_by.get("notes", ()))
    return said if way == USUAL else (*said, f"exported by {way}: the ways before it failed")


def _parts(network: Network, recipe: Recipe) -> dict[str, object]:
    return {
        "model": asdict(recipe.model),
        "export": asdict(recipe.export),
        "weights": network.weights_sha256,
    }
