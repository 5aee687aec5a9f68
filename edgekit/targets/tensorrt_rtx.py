"""TensorRT-RTX engines, built ahead of time with or without a GPU.

They load in TensorRT-RTX only, on desktop and workstation GPUs from Turing on; not in TensorRT, and
not on a Jetson.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.engines.tensorrt import gpu_index
from edgekit.runtime.probe import Gpu, probe_gpus
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._plan import rules as rules
from edgekit.targets._plan.target import PlanOptions, built_here, trial, usual_capabilities

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "REQUIRES", "Options", "compile", "examine", "supports", "trial"]

REQUIRES = ("tensorrt_rtx",)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FLOAT_LAYERS = ("LSTM", "GRU", "RNN")
"""Computed in fp16 or bf16, whatever a plan says."""
VERSIONS = ("rtx-1.7",)
ONLY_RTX = "this engine loads in TensorRT-RTX only: not in TensorRT, and not on a Jetson"


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """`compute_capabilities` such as 8.6 are those to build for; none: the GPU that is here, else
    every one from Ampere on that TensorRT-RTX knows."""

    compute_capabilities: tuple[str, ...] = ()


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """Why TensorRT-RTX would refuse the graph; empty when nothing is known against it."""
    return [one for one in examine(graph, precision, VERSIONS) if one.severity == "error"]


def examine(graph: onnx.ModelProto, precision: str, versions: tuple[str, ...]) -> list[Problem]:
    """Everything the graph meets in TensorRT-RTX, what edgekit cures by itself included."""
    return rules.findings(graph, precision, versions or VERSIONS)


def compile(
    graph: Path, shapes: Shapes, precision: str, options: Options, out: Path, progress: Progress = silent
) -> Build:
    """Build `model.engine` in the folder `out`; no GPU is needed for it, only to prove it.

    Raises:
        UnsupportedError: TensorRT-RTX does not take the graph, the precision or a compute capability.
        SystemRefusedError: there is not enough memory.
    """
    here, reason = _gpu(options)
    wanted = options.compute_capabilities or (() if here else usual_capabilities())
    if here and wanted and _number(here) not in wanted:
        reason = f"it is built for {', '.join(wanted)}, and the GPU here has {_number(here)}"
    return built_here(
        "tensorrt_rtx", graph, shapes, precision, options, out, progress,
        capabilities=wanted, deferred=f"proving it needs a GPU: {reason}" if reason else "",
        notes=(ONLY_RTX,),
    )  # fmt: skip


def _gpu(options: Options) -> tuple[Gpu | None, str]:
    found = probe_gpus()
    index = gpu_index(options.device)
    if index < len(found.devices):
        return found.devices[index], ""
    return None, found.reason or f"there is no GPU number {index}"


def _number(gpu: Gpu) -> str:
    return ".".join(map(str, gpu.compute_capability))
