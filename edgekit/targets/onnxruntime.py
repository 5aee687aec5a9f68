"""ONNX Runtime: the canonical graph itself, or its fp16 form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UnsupportedError
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._bodies import dynamic_products
from edgekit.targets._integer import float_leftovers, integer_convolutions
from edgekit.targets._integer_matrix import integer_matrices
from edgekit.targets._lowering import STANDARD_DOMAINS, common_problems, read, refuse, unsigned_activations
from edgekit.targets._lstm import dynamic_lstm
from edgekit.targets._recurrent import fold, in_float

if TYPE_CHECKING:
    import onnx

REQUIRES = ("onnxruntime", "onnx")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`threads` 0 means one per usable core."""

    device: str = "CPU"
    threads: int = 0


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """Why ONNX Runtime would refuse the graph; empty when nothing is known against it."""
    problems = refuse(precision, PRECISIONS, "fp32 or int8 here, or bf16 on the target openvino")
    return problems + common_problems(graph, precision, (*STANDARD_DOMAINS, "com.microsoft", "ai.onnx.ml"))


def compile(
    graph: Path, shapes: Shapes, precision: str, options: Options, out: Path, progress: Progress = silent
) -> Build:
    """Write `model.onnx` into the folder `out`.

    Raises:
        BadFileError: the file is no ONNX model.
        UnsupportedError: the precision is none of PRECISIONS, or the graph has no fp16 form.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(
            f"the target onnxruntime does not run {precision}", f"one of {', '.join(PRECISIONS)}"
        )
    model, lowering = _lowered(read(graph), precision)
    out.mkdir(parents=True, exist_ok=True)
    engine = out / "model.onnx"
    engine.write_bytes(model.SerializeToString(deterministic=True))
    settings = {
        "device": options.device,
        "precision": "fp16" if precision == "fp16" else "fp32",
        "threads": options.threads or usable_cores(),
    }
    notes = in_float(model, ("GRU", "RNN"), "fp32", "ONNX Runtime") if precision == "int8" else ()
    return Build(engine=engine, lowering=lowering, settings=settings, notes=notes)


def _lowered(model: onnx.ModelProto, precision: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    if precision == "fp16":
        return _half(model), ("float tensors and weights -> float16; inputs and outputs stay float32",)
    if precision != "int8":
        return model, ()
    recurrent = [*dynamic_lstm(model), *dynamic_products(model)]
    recurrent += fold(model, "ONNX Runtime computes these layers in float")
    # Its integer convolutions take in a ReLU only where the zero point makes it superfluous.
    layers = [*integer_convolutions(model), *unsigned_activations(model), *integer_matrices(model)]
    return model, (*layers, *float_leftovers(model), *recurrent)


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    _sort(half.graph)
    return half


def _sort(graph: onnx.GraphProto) -> None:
    """Producers before consumers: the converter appends its Cast nodes at the end."""
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise UnsupportedError(f"the fp16 form of {graph.name} has a cycle", "use fp32")
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)
