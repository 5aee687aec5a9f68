"""TensorRT plans. A plan is tied to its GPU, so one is built only where the GPU is; elsewhere there is
a kit: what the device needs to build it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines import tensorrt as engine
from edgekit.runtime.errors import HardwareError
from edgekit.runtime.manifest import TensorSpec
from edgekit.runtime.probe import probe_gpus
from edgekit.spec import Build, Problem
from edgekit.targets._lowering import STANDARD_DOMAINS, common_problems, problem, read, refuse

if TYPE_CHECKING:
    import onnx

REQUIRES = ("tensorrt",)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
JETPACKS = {"5.1": "8.5", "6.1": "10.3", "6.2": "10.3", "7.0": "10.13", "7.1": "10.13", "7.2": "10.16"}
"""The TensorRT that each JetPack carries."""

_FLAGS = {"fp32": "--noTF32", "fp16": "--fp16", "bf16": "--bf16", "int8": "--int8 --fp16"}
_OLDEST = {"fp32": "8.5", "fp16": "8.5", "bf16": "10.0", "int8": "8.5"}
_FREE_SIZES = (1, 1024)
_PLACES = ("min", "opt", "max")
_NEVER = {
    "NonMaxSuppression": "TensorRT parses NonMaxSuppression, then fails to build it",
    "DynamicQuantizeLinear": "TensorRT has no DynamicQuantizeLinear",
    "MatMulInteger": "TensorRT has no MatMulInteger",
    "QLinearConv": "TensorRT has no QLinearConv",
    "QLinearMatMul": "TensorRT has no QLinearMatMul",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """`workspace_mb` is what the builder may use, `usual_batch` the batch to tune for; `ranges` bounds the
    dynamic dimensions whose inputs declare no range."""

    device: str = "GPU"
    threads: int = 0
    workspace_mb: int = 1024
    usual_batch: int = 1
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """Why TensorRT would refuse the graph; empty when nothing is known against it."""
    problems = refuse(precision, PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    problems += common_problems(graph, precision, STANDARD_DOMAINS)
    for node in graph.graph.node:
        if node.op_type in _NEVER:
            problems.append(problem(node, _NEVER[node.op_type]))
        if node.op_type in ("LSTM", "GRU", "RNN") and _batch_first(node):
            reason = "TensorRT accepts layout=1 and ignores it: the answer would be wrong"
            problems.append(problem(node, reason, "export the layer with layout=0"))
    return problems


def ready(precision: str) -> str | None:
    """None when a plan can be built here, else the reason why not."""
    found = probe_gpus()
    if not found.devices:
        return found.reason
    return None if find_spec("tensorrt") else "the Python package tensorrt is not installed"


def kit(graph: Path, inputs: Sequence[TensorSpec], precision: str, options: Options) -> dict[str, Any]:
    """What the device needs to know to build the plan from the bundle's `model.onnx`."""
    shapes = profiles(inputs, options)
    return {
        "graph": graph.name,
        "engine": "engine/model.engine",
        "precision": precision,
        "profiles": shapes,
        "workspace_bytes": options.workspace_mb << 20,
        "tensorrt": f">={_OLDEST[precision]},<12",
        "jetpack": {pack: version for pack, version in JETPACKS.items() if _carries(version, precision)},
        "trtexec": {
            "8.5 to 10": _trtexec(graph.name, shapes, _FLAGS[precision]),
            **_typed(graph, shapes, precision),
        },
    }


def compile(graph: Path, precision: str, options: Options, out: Path) -> Build:
    """Build `model.engine` in the folder `out`, on the GPU that is here.

    Raises:
        HardwareError: there is no GPU, or tensorrt is not installed on the machine that has it.
        UnsupportedError: this TensorRT does not take the graph or the precision.
    """
    reason = ready(precision)
    if reason:
        raise HardwareError(reason, "write a kit instead, and build on the device")
    out.mkdir(parents=True, exist_ok=True)
    shapes = profiles(_inputs(read(graph)), options)
    plan = engine.build(graph, shapes, precision, out / "model.engine", options.workspace_mb << 20)
    settings = {"device": options.device, "precision": precision, "threads": 0, "profiles": shapes}
    return Build(engine=plan, settings=settings)


def profiles(inputs: Sequence[TensorSpec], options: Options) -> dict[str, engine.Profile]:
    """The smallest, usual and largest shape of each input that has a dynamic dimension."""
    return {spec.name: _profile(spec, options) for spec in inputs if spec.dynamic}


def _profile(spec: TensorSpec, options: Options) -> engine.Profile:
    bounds = {dim: spec.ranges.get(dim, options.ranges.get(dim, _FREE_SIZES)) for dim in spec.dynamic}
    usual = {
        dim: min(max(options.usual_batch if dim == "batch" else _middle(low, high), low), high)
        for dim, (low, high) in bounds.items()
    }
    return (
        list(spec.at({dim: low for dim, (low, _) in bounds.items()})),
        list(spec.at(usual)),
        list(spec.at({dim: high for dim, (_, high) in bounds.items()})),
    )


def _middle(low: int, high: int) -> int:
    """The geometric mean: sizes are spread by their ratio, not by their difference."""
    return round(math.sqrt(low * high))


def _trtexec(graph: str, shapes: dict[str, engine.Profile], flags: str) -> str:
    bounds = [f"--{name}Shapes={_listed(shapes, place)}" for place, name in enumerate(_PLACES) if shapes]
    return " ".join(["trtexec", f"--onnx={graph}", *bounds, "--saveEngine=engine/model.engine", flags])


def _typed(graph: Path, shapes: dict[str, engine.Profile], precision: str) -> dict[str, str]:
    """TensorRT 11 takes floating precision from the graph's own types, and this graph's are fp32."""
    return {"11": _trtexec(graph.name, shapes, "--stronglyTyped")} if precision in ("fp32", "int8") else {}


def _listed(shapes: dict[str, engine.Profile], place: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, profile[place]))}" for name, profile in shapes.items())


def _carries(version: str, precision: str) -> bool:
    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    return number(version) >= number(_OLDEST[precision])


def _batch_first(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "layout" and attribute.i == 1 for attribute in node.attribute)


def _inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    return [
        TensorSpec(
            value.name,
            tuple(dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim),
        )
        for value in model.graph.input
    ]
