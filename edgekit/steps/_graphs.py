"""Where no engine can run, the graphs that it is built from are run by ONNX Runtime and compared.

That finds a wrong lowering and an overflow of fp16 before the board does. It says nothing of the
engine's own kernels: those are proved on the device, by `run.py build` or `run.py check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines import Layer, Runner
from edgekit.runtime.manifest import Manifest, TensorSpec
from edgekit.runtime.proof import Check, Parity
from edgekit.runtime.session import Session
from edgekit.spec import Build
from edgekit.steps._half import widened
from edgekit.steps.prove import Proof, Trial, grid, limits_of

if TYPE_CHECKING:
    import numpy as np


def prove_graphs(trial: Trial, reference: Session, work: Path, manifest: Manifest, build: Build) -> Proof:
    """Parity of every graph that the engine may be built from, and the layers that a builder counted."""
    checks: list[Check] = []
    files = dict.fromkeys(variant["file"] for variant in manifest.engine["build"]["variants"])
    for file in files:
        with Session(manifest, GraphRunner(work / file)) as graph:
            checks += _parity(trial, reference, graph, Path(file).stem)
    if trial.recipe.precision == "int8" and build.layers:
        checks.append(Check("layers.int8", build.layers.get("int8", 0), 1, at_least=True))
    return Proof(checks=tuple(checks), layers=build.layers)


def _parity(trial: Trial, reference: Session, graph: Session, name: str) -> list[Check]:
    """What has a limit: relative L2, of all outputs together and of each."""
    found = Parity()
    feeds = list(grid(trial.network, trial.held_out, graph.manifest))
    for done, feed in enumerate(feeds, 1):
        found.add(reference.infer(feed), graph.infer(feed))
        trial.progress(f"parity of the graph {name} in ONNX Runtime", done, len(feeds))
    checks = found.checks(limits_of(trial.recipe), f"graph.{name}")
    return [check for check in checks if check.limit is not None]


class GraphRunner:
    """ONNX Runtime as a plain evaluator: its optimizations crash on fp16 graphs of dynamic width, and it
    computes fp16 in float32 without rounding, so that an overflow would not show."""

    def __init__(self, path: Path) -> None:
        import onnx
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        content = widened(onnx.load(path)).SerializeToString()
        self._session = onnxruntime.InferenceSession(content, settings, ["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.settings: Mapping[str, Any] = {}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))

    def layers(self) -> list[Layer]:
        return []

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
