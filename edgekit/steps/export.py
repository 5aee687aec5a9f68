"""From a PyTorch network to one canonical ONNX graph, proved at shapes it was never traced at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shutil import copyfile

from edgekit import cache
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Artifact, Recipe
from edgekit.steps.load import Network

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(network: Network, recipe: Recipe, out: Path) -> Artifact:
    """Write the graph of `network` to `out`.

    Raises:
        UnsupportedError: torch cannot export it, or the graph is wrong at another shape.
        BadFileError: a weight is NaN or infinite.
    """
    from edgekit.exporting import export_onnx

    def make(path: Path) -> None:
        export_onnx(
            network.module, network.inputs, network.outputs, network.states, path, opset=recipe.export.opset
        )

    copyfile(cache.fetch(cache.key("export", _parts(network, recipe), PACKAGES), make), out)
    return Artifact(
        kind="onnx",
        path=out,
        sha256=sha256_of(out),
        inputs=network.inputs,
        outputs=network.outputs,
        states=network.states,
    )


def _parts(network: Network, recipe: Recipe) -> dict[str, object]:
    return {
        "model": asdict(recipe.model),
        "export": asdict(recipe.export),
        "weights": network.weights_sha256,
    }
