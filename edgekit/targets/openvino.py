"""OpenVINO IR. Precision is asked for when the engine is opened; the file stays fp32 or int8."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines import last_line, usable_cores
from edgekit.runtime.engines.openvino import TENSORS
from edgekit.runtime.errors import UnsupportedError
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._loop_states import made_late
from edgekit.targets._lowering import (
    STANDARD_DOMAINS,
    common_problems,
    explicit_bias,
    module_of,
    read,
    refuse,
    unsigned_activations,
)
from edgekit.targets._lstm import static_or_float
from edgekit.targets._overlooked import overlooked
from edgekit.targets._recurrent import in_float

if TYPE_CHECKING:
    import onnx
    import openvino

REQUIRES = ("openvino", "onnx")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`rest` is what an int8 graph's float layers run in; empty: bf16 where the device has it."""

    device: str = "CPU"
    threads: int = 0
    rest: str = ""


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """Why OpenVINO would refuse the graph; empty when nothing is known against it."""
    problems = refuse(precision, PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    problems += common_problems(graph, precision, STANDARD_DOMAINS)
    return problems + overlooked(graph)


def compile(
    graph: Path, shapes: Shapes, precision: str, options: Options, out: Path, progress: Progress = silent
) -> Build:
    """Write `model.xml` and `model.bin` into the folder `out`.

    Raises:
        BadFileError: the file is no ONNX model.
        UnsupportedError: OpenVINO cannot convert the graph; names node and module.
    """
    import openvino

    canonical = read(graph)
    tensors = _tensors(canonical)
    lowering = lower(canonical)
    try:
        model = openvino.Core().read_model(canonical.SerializeToString())
    except RuntimeError as cause:
        raise UnsupportedError(
            f"OpenVINO cannot convert {graph}: {_culprits(canonical, cause)}",
            "try another target, or change the layer",
        ) from cause
    model.set_rt_info(json.dumps(tensors), TENSORS)
    _name_by_place(model)
    engine = out / "model.xml"
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, engine, compress_to_fp16=False)
    settings = _settings(precision, options)
    asked = precision == "int8"
    notes = in_float(canonical, ("GRU", "RNN"), settings["precision"], "OpenVINO") if asked else ()
    return Build(engine=engine, lowering=lowering, settings=settings, notes=notes)


def lower(model: onnx.ModelProto) -> tuple[str, ...]:
    """Change the canonical graph, in place, into the one that OpenVINO gets; says what was changed.

    Unsigned, because signed activations around a Concat come out wrong on CPUs without AMX; the bias
    apart, because it gets lost where an output is quantized and dynamic, and is faster even elsewhere;
    a loop's initial states late, because they get lost when lengths change.
    """
    lowered = (*static_or_float(model), *unsigned_activations(model), *explicit_bias(model))
    return (*lowered, *made_late(model))


def _culprits(model: onnx.ModelProto, error: BaseException) -> str:
    """The nodes whose operator the converter's report names (`Det-18`), else its last line."""
    named = set(re.findall(r"(\w+)-\d+", str(error)))
    found = [
        f"node {node.name!r} ({node.op_type}) of module {module_of(node)!r}"
        for node in model.graph.node
        if node.op_type in named
    ]
    return "; ".join(found) or last_line(error)


def _name_by_place(model: openvino.Model) -> None:
    """Nodes that the converter adds are named by a counter of the whole process: the same graph would
    give other bytes the second time."""
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}.{place}")


def _settings(precision: str, options: Options) -> dict[str, Any]:
    return {
        "device": options.device,
        "precision": _float_precision(precision, options),
        "threads": options.threads or usable_cores(),
    }


def _float_precision(precision: str, options: Options) -> str:
    if precision != "int8":
        return precision
    return options.rest or ("bf16" if _has_bf16(options.device) else "fp32")


def rests(options: Options) -> tuple[str, ...]:
    """What the float layers of an int8 engine may run in, the fastest first."""
    return (options.rest,) if options.rest else ("bf16", "fp32") if _has_bf16(options.device) else ("fp32",)


def _has_bf16(device: str) -> bool:
    """A device that is not here is judged when the engine is opened on it."""
    import openvino

    core = openvino.Core()
    if device not in core.available_devices:
        return False
    return "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def _tensors(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Shapes of inputs and outputs with the names of their dynamic dimensions."""
    return {
        value.name: [dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
