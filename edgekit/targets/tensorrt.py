"""TensorRT plans. A plan is tied to its GPU, so one is built only where the GPU is; elsewhere there is
a kit: what the device needs to build it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines.tensorrt import gpu_index
from edgekit.runtime.errors import HardwareError
from edgekit.runtime.probe import probe_gpus
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._plan import rules as rules
from edgekit.targets._plan.target import PlanOptions as Options
from edgekit.targets._plan.target import built_here, ranges, request, trial, trtexec

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "REQUIRES", "Options", "compile", "examine", "kit", "ready", "supports", "trial"]

REQUIRES = ("tensorrt",)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FLOAT_LAYERS = ("LSTM", "GRU", "RNN")
"""Computed in fp16 or bf16, whatever a plan says."""
OLDEST = {"fp32": "8.5", "fp16": "8.5", "bf16": "10.0", "int8": "8.5"}
"""The first TensorRT that takes a precision, of those that edgekit builds for."""
COMPUTE_CAPABILITY = {"fp32": "7.2", "fp16": "7.2", "bf16": "8.0", "int8": "7.2"}
"""The smallest with which the hardware has it at speed, Jetson Xavier being the oldest board."""


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """Why TensorRT would refuse the graph; empty when nothing is known against it."""
    return rules.supports(graph, precision)


def examine(graph: onnx.ModelProto, precision: str, versions: tuple[str, ...]) -> list[Problem]:
    """Everything the graph meets in these versions of TensorRT, what edgekit cures by itself included."""
    return rules.findings(graph, precision, versions)


def ready(precision: str, options: Options) -> str | None:
    """None when a plan can be built here, else the reason why not."""
    found = probe_gpus()
    if gpu_index(options.device) >= len(found.devices):
        return found.reason or f"there is no GPU number {gpu_index(options.device)}"
    return None if find_spec("tensorrt") else "the Python package tensorrt is not installed"


def kit(graph: Path, shapes: Shapes, precision: str, options: Options) -> dict[str, Any]:
    """What the device needs to know to build the plan from the bundle that `graph` stands in."""
    asked = request(graph, shapes, precision, options)
    return {
        "request": asked.told(),
        "ranges": ranges(shapes, options),
        "oldest": OLDEST[precision],
        "tensorrt": f">={OLDEST[precision]},<12",
        "compute_capability": f">={COMPUTE_CAPABILITY[precision]}",
        "trtexec": trtexec(asked),
    }


def compile(
    graph: Path, shapes: Shapes, precision: str, options: Options, out: Path, progress: Progress = silent
) -> Build:
    """Build `model.engine` in the folder `out`, on the GPU that is here.

    Raises:
        HardwareError: there is no GPU, or tensorrt is not installed on the machine that has it.
        UnsupportedError: this TensorRT does not take the graph or the precision.
        SystemRefusedError: there is not enough memory.
    """
    reason = ready(precision, options)
    if reason:
        raise HardwareError(reason, "write a kit instead, and build on the device")
    return built_here("tensorrt", graph, shapes, precision, options, out, progress)
