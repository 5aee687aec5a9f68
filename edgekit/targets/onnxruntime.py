"""ONNX Runtime: the canonical graph itself, or its fp16 form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import UnsupportedError
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._lowering import STANDARD_DOMAINS, common_problems, read, refuse, unsigned_activations

if TYPE_CHECKING:
    import onnx

REQUIRES = ("onnxruntime", "onnx")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`threads` 0 means one per usable core. `dynamic_lstm` runs the LSTM layers of an int8 graph on int8
    weights, with the scales of their activations found at every step."""

    device: str = "CPU"
    threads: int = 0
    dynamic_lstm: bool = False


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
    model, lowering = _lowered(read(graph), precision, options)
    out.mkdir(parents=True, exist_ok=True)
    engine = out / "model.onnx"
    engine.write_bytes(model.SerializeToString(deterministic=True))
    settings = {
        "device": options.device,
        "precision": "fp16" if precision == "fp16" else "fp32",
        "threads": options.threads or usable_cores(),
    }
    return Build(engine=engine, lowering=lowering, settings=settings)


def _lowered(
    model: onnx.ModelProto, precision: str, options: Options
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    if precision == "fp16":
        return _half(model), ("float tensors and weights -> float16; inputs and outputs stay float32",)
    if precision != "int8":
        return model, ()
    # Its integer convolutions take in a ReLU only where the zero point makes it superfluous.
    records = unsigned_activations(model)
    if options.dynamic_lstm:
        model = _dynamic_lstm(model)
        records.append("LSTM -> DynamicQuantizeLSTM, int8 weights per channel")
    return model, tuple(records)


def _dynamic_lstm(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        result = Path(folder, "model.onnx")
        quantize_dynamic(
            model, result, op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QInt8
        )
        return onnx.load(result)


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
