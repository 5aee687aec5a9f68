"""From the float graph to the one with Q/DQ nodes, calibrated on real samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import cache, registry
from edgekit import recipe as recipes
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Artifact, Progress, Recipe, silent
from edgekit.steps.load import Network, feeds_of, samples

if TYPE_CHECKING:
    import numpy as np

PACKAGES = ("numpy", "onnx", "onnxruntime", "nncf")


def quantize(
    network: Network, graph: Artifact, recipe: Recipe, out: Path, progress: Progress = silent
) -> tuple[Artifact, dict[str, str]]:
    """Write the int8 graph to `out`; answers with it and with the plan: layer -> precision.

    Raises:
        BadFileError: a calibration sample is not finite or does not fit.
        UnsupportedError: nothing in the graph can be quantized.
    """
    import onnx

    method = registry.load("method", recipe.quantization.name)
    registry.require(method.REQUIRES)
    options = recipes.options_of(method, recipe.quantization)
    feeds = calibration(network, recipe, progress)

    def make(path: Path) -> None:
        onnx.save(method.quantize(onnx.load(graph.path), feeds, {}, options), path)

    kept = cache.fetch(cache.key("quantize", _parts(graph, recipe, feeds), PACKAGES), make)
    out.write_bytes(kept.read_bytes())
    made_by = {"method": recipe.quantization.name, "samples": len(feeds), "calibration": fingerprint(feeds)}
    plan = method.quantized_layers(onnx.load(out))
    return replace(graph, path=out, sha256=sha256_of(out), made_by=made_by), plan


def calibration(
    network: Network, recipe: Recipe, progress: Progress = silent
) -> Sequence[Mapping[str, np.ndarray]]:
    """Every sample of the calibration split, one feed each."""
    data = samples(recipe, "calibration", network)
    feeds = []
    for index in range(len(data)):
        feeds.append(feeds_of(network, data[index]))
        progress("reading calibration samples", index + 1, len(data))
    return feeds


def fingerprint(feeds: Sequence[Mapping[str, np.ndarray]]) -> str:
    """A hash of the samples: which data an int8 graph was calibrated on."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in feed.items():
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _parts(graph: Artifact, recipe: Recipe, feeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, object]:
    return {
        "graph": graph.sha256,
        "method": asdict(recipe.quantization),
        "calibration": fingerprint(feeds),
    }
