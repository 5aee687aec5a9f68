"""Changes to the canonical graph that keep its meaning and that a target needs. All work in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.runtime.errors import BadFileError
from edgekit.spec import Problem

if TYPE_CHECKING:
    import onnx

MODULE_KEY = "edgekit.module"
STANDARD_DOMAINS = ("", "ai.onnx")
_RECURRENT = {"LSTM", "GRU", "RNN"}
_PASSES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool"}
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "Softmax"}


class Wires:
    """Who makes and who reads each tensor of a graph, and the constants among them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            for name in _reads(node):
                self.readers[name].append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)


def module_of(node: onnx.NodeProto) -> str:
    """The PyTorch module a node was exported from; empty when the graph does not say."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")


def read(path: Path) -> onnx.ModelProto:
    """The graph in an ONNX file.

    Raises:
        BadFileError: it is missing or no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path)
    except (OSError, DecodeError) as cause:
        raise BadFileError(f"{path} is not an ONNX model: {cause}", "export it again") from cause


def problem(node: onnx.NodeProto, reason: str, cure: str = "") -> Problem:
    """A `Problem` about one node."""
    return Problem(node=node.name or node.op_type, module=module_of(node), reason=reason, cure=cure)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph has Q/DQ nodes."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def common_problems(model: onnx.ModelProto, precision: str, domains: Iterable[str]) -> list[Problem]:
    """What no target takes: operators of a foreign domain, int8 without Q/DQ nodes."""
    problems = [
        problem(node, f"{node.op_type} is of the domain {node.domain!r}, which is not ONNX's own")
        for node in model.graph.node
        if node.domain not in domains
    ]
    if precision == "int8" and not is_quantized(model):
        reason = "int8 is asked for, but the graph has no QuantizeLinear/DequantizeLinear nodes"
        problems.append(Problem(node="", module="", reason=reason, cure="quantize it first"))
    return problems


def refuse(precision: str, takes: Iterable[str], cure: str) -> list[Problem]:
    """A problem if `precision` is none of those that the target `takes`."""
    if precision in takes:
        return []
    return [Problem(node="", module="", reason=f"{precision} does not run on this target", cure=cure)]


def unsigned_activations(model: onnx.ModelProto) -> list[str]:
    """Activation Q/DQ from int8 zero point 0 to uint8 zero point 128, same scale: the same numbers.

    What is never negative gets zero point 0 and scale * 127/255 instead: the same range in steps half as
    large, and an engine can drop the ReLU before it. What feeds a recurrent layer with quantized weights
    stays signed. Returns records for the manifest.
    """
    graph = model.graph
    wires = Wires(graph)
    shifted = finer = 0
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or not _signed_activation(node, wires):
            continue
        readers = wires.readers[node.output[0]]
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            continue
        if any(_feeds_quantized_recurrent(reader.output[0], wires) for reader in readers):
            continue
        if _never_negative(node.input[0], wires):
            _requantize([node, *readers], graph, wires, 0, np.float32(127 / 255))
            finer += 1
        else:
            _requantize([node, *readers], graph, wires, 128, np.float32(1))
            shifted += 1
    del graph.value_info[:]  # types written down for inner tensors no longer hold
    drop_unused(graph)
    return [
        *_record(shifted, "activations: int8 zero point 0 -> uint8 zero point 128, same scale"),
        *_record(finer, "activations after a ReLU: int8 zero point 0 -> uint8 zero point 0, same range"),
    ]


def explicit_bias(model: onnx.ModelProto) -> list[str]:
    """`Conv(x, w, b)` to `Add(Conv(x, w), b')` with b' of shape (1, channels, 1, ...).

    Returns records for the manifest.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    wires = Wires(graph)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in wires.constants:
            continue
        bias = wires.constants[node.input[2]].reshape(1, -1, *[1] * (_weight_rank(node, wires) - 2))
        name, result = f"edgekit.bias.{node.output[0]}", node.output[0]
        graph.initializer.append(numpy_helper.from_array(bias, name))
        node.output[0] = f"{result}.without_bias"
        del node.input[2:]
        add = helper.make_node("Add", [node.output[0], name], [result], name=f"{node.name}.bias")
        add.metadata_props.extend(node.metadata_props)
        nodes.append(add)
    changed = len(nodes) - len(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return _record(changed, "convolutions: bias -> a separate addition")


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the initializers that nothing reads."""
    used = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)


def _signed_activation(node: onnx.NodeProto, wires: Wires) -> bool:
    zero = wires.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or node.input[0] in wires.constants or node.input[1] not in wires.constants:
        return False
    return zero.dtype.name == "int8" and zero.size == 1 and not zero.any()


def _feeds_quantized_recurrent(tensor: str, wires: Wires) -> bool:
    return any(
        _quantized_recurrent(reader, wires)
        or (reader.op_type in _PASSES and _feeds_quantized_recurrent(reader.output[0], wires))
        for reader in wires.readers[tensor]
    )


def _quantized_recurrent(node: onnx.NodeProto, wires: Wires) -> bool:
    maker = wires.makers.get(node.input[1]) if node.op_type in _RECURRENT else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _never_negative(tensor: str, wires: Wires) -> bool:
    maker = wires.makers.get(tensor)
    if maker is None:
        return False
    passes = maker.op_type in _PASSES
    return maker.op_type in _NEVER_NEGATIVE or (passes and _never_negative(maker.input[0], wires))


def _requantize(
    pair: Sequence[onnx.NodeProto], graph: onnx.GraphProto, wires: Wires, zero: int, factor: np.float32
) -> None:
    """Give a Q and its DQs another scale and a uint8 zero point."""
    scale = wires.constants[pair[0].input[1]]
    zero_name = f"edgekit.uint8_zero_point.{zero}.{scale.ndim}d"
    scale_name = pair[0].input[1] if factor == 1 else f"edgekit.scale.{pair[0].input[1]}"
    _add_constant(graph, zero_name, np.full(scale.shape, zero, np.uint8))
    _add_constant(graph, scale_name, scale * factor)
    for node in pair:
        node.input[1], node.input[2] = scale_name, zero_name


def _add_constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    from onnx import numpy_helper

    known = {tensor.name for tensor in graph.initializer}
    made = {output for node in graph.node if node.op_type == "Constant" for output in node.output}
    if name not in known | made:
        graph.initializer.append(numpy_helper.from_array(value, name))


def _record(count: int, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []


def _weight_rank(node: onnx.NodeProto, wires: Wires) -> int:
    name = node.input[1]
    while name not in wires.constants:
        name = wires.makers[name].input[0]
    return wires.constants[name].ndim
