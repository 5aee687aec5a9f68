"""Changes to the canonical graph that keep its meaning and that a target needs. All work in place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.runtime.errors import BadFileError
from edgekit.spec import Problem

if TYPE_CHECKING:
    import onnx

MODULE_KEY = "edgekit.module"
LOW, HIGH = "edgekit.low", "edgekit.high"
"""On a QuantizeLinear of an activation: the least and the largest value that its codes are to cover."""
_TOP = 127
_UNSIGNED = {
    "shifted": ": int8 zero point 0 -> uint8 zero point 128, same scale",
    "never negative": " after a ReLU: int8 zero point 0 -> uint8 zero point 0, same range",
    "known": ": int8 zero point 0 -> uint8, all codes within the range that was measured",
}
STANDARD_DOMAINS = ("", "ai.onnx")
_ONNX_RUNTIME = "com.microsoft"
_INTEGER = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_WEIGHTS_CURE = (
    "quantize it with int8 weights (onnxruntime: weight_type=QuantType.QInt8), or take --target onnxruntime "
    "or --precision fp32"
)
_INTEGER_OF_ONNX_RUNTIME = (
    "DynamicQuantize", "MatMulInteger", "MatMulNBits", "QAttention", "QEmbed", "QGemm", "QLinear",
)  # fmt: skip
_QDQ_CURE = (
    "take --target onnxruntime, give the float file with --precision int8, or quantize it in QDQ form "
    "(onnxruntime: quant_format=QuantFormat.QDQ)"
)
_LOOPS = {"Scan", "Loop"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
PASSES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool"}
"""Operators whose results are numbers of their first input, in another order."""
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt"}
_AVERAGES = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
_CONVERTERS = {"QuantizeLinear", "DequantizeLinear"}


class Wires:
    """Who makes and who reads each tensor of a graph, and the constants among them."""

    def __init__(self, graph: onnx.GraphProto, around: Mapping[str, np.ndarray] | None = None) -> None:
        """`around` are the constants of the graph whose body this one is."""
        from onnx import numpy_helper

        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.outputs = {value.name for value in graph.output}
        self.constants = dict(around or {})
        self.constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            for name in reads(node):
                self.readers[name].append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)


def scopes(graph: onnx.GraphProto) -> list[tuple[onnx.GraphProto, Wires]]:
    """The bodies of Scan and Loop, then the graph itself: each with its wires."""
    wires = Wires(graph)
    bodies = [
        attribute.g
        for node in graph.node
        for attribute in node.attribute
        if node.op_type in _LOOPS and attribute.name == "body"
    ]
    return [*((body, Wires(body, wires.constants)) for body in bodies), (graph, wires)]


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


def common_problems(model: onnx.ModelProto, precision: str, domains: Collection[str]) -> list[Problem]:
    """What no target takes: operators of a foreign domain, int8 without Q/DQ nodes or integer operators."""
    integer = [node for node in model.graph.node if _is_integer(node)]
    problems = [] if _ONNX_RUNTIME in domains else _integer_problem(integer)
    problems += [
        problem(node, f"{node.op_type} is of the domain {node.domain!r}, which is not ONNX's own")
        for node in model.graph.node
        if node.domain not in domains and not _is_integer(node)
    ]
    if precision == "int8" and not integer and not is_quantized(model):
        reason = "int8 is asked for, but the graph has no QuantizeLinear/DequantizeLinear nodes"
        problems.append(Problem(node="", module="", reason=reason, cure="quantize it first"))
    if precision == "int8" and _ONNX_RUNTIME not in domains:
        problems += _unsigned_weights(model)
    return problems


def _unsigned_weights(model: onnx.ModelProto) -> list[Problem]:
    """Where no weight's codes fit into int8: only ONNX Runtime has kernels for them."""
    wires = Wires(model.graph)
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weights = [node for node in nodes if np.ndim(wires.constants.get(node.input[0], 0)) > 1]
    if not weights or any(_fits_int8(node, wires) for node in weights):
        return []
    layer = next(iter(wires.readers[weights[0].output[0]]), weights[0])
    reason = (
        "its weights are uint8 codes around a zero point that int8 has no room for, as all weights of the "
        "network are, and this target would run every layer in float"
    )
    return [problem(layer, reason, _WEIGHTS_CURE)]


def _fits_int8(node: onnx.NodeProto, wires: Wires) -> bool:
    codes = wires.constants[node.input[0]]
    zero = wires.constants.get(node.input[2]) if len(node.input) > 2 else np.zeros((), codes.dtype)
    if codes.dtype != np.uint8 or zero is None or not codes.size:
        return True
    low, high = (int(codes.min()) - int(zero.max()), int(codes.max()) - int(zero.min()))
    return low >= -128 and high <= 127


def _is_integer(node: onnx.NodeProto) -> bool:
    """Whether a node computes on codes itself, in place of a float operator between Q/DQ nodes."""
    foreign = node.domain == _ONNX_RUNTIME and node.op_type.startswith(_INTEGER_OF_ONNX_RUNTIME)
    return foreign or (node.domain in STANDARD_DOMAINS and node.op_type in _INTEGER)


def _integer_problem(nodes: Sequence[onnx.NodeProto]) -> list[Problem]:
    """One for all of them, about the first."""
    if not nodes:
        return []
    many = f", one of {len(nodes)}" if len(nodes) > 1 else ""
    reason = (
        f"{nodes[0].op_type} is an integer operator{many}; this target takes quantized layers with "
        "QuantizeLinear and DequantizeLinear nodes only"
    )
    return [problem(nodes[0], reason, _QDQ_CURE)]


def refuse(precision: str, takes: Iterable[str], cure: str) -> list[Problem]:
    """A problem if `precision` is none of those that the target `takes`."""
    if precision in takes:
        return []
    return [Problem(node="", module="", reason=f"{precision} does not run on this target", cure=cure)]


def unsigned_activations(model: onnx.ModelProto) -> list[str]:
    """Activation Q/DQ from int8 zero point 0 to uint8, in place; Scan and Loop bodies too.

    Where the node knows the range (`LOW`, `HIGH`) the 256 codes cover it and 0 (Jacob et al., 2017,
    section 2.1). What is never negative gets zero point 0 and the same range in steps half as large: an
    engine can drop the ReLU before it. The rest gets zero point 128 and keeps its numbers. What feeds a
    recurrent layer with quantized weights stays signed. Returns records for the manifest.
    """
    kinds = Counter(kind for graph, wires in scopes(model.graph) for kind in _unsigned(graph, wires))
    return [f"{kinds[kind]} activations{words}" for kind, words in _UNSIGNED.items() if kinds[kind]]


def _unsigned(graph: onnx.GraphProto, wires: Wires) -> list[str]:
    """What was done to each of the activations: the keys of `_UNSIGNED`."""
    done = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or not _signed_activation(node, wires):
            continue
        readers = wires.readers[node.output[0]]
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            continue
        if any(_feeds_quantized_recurrent(reader.output[0], wires) for reader in readers):
            continue
        kind, low, high = _bounds(node, wires)
        _requantize([node, *readers], graph, wires, low, high)
        done.append(kind)
    del graph.value_info[:]  # types written down for inner tensors no longer hold
    drop_unused(graph)
    return done


def _bounds(node: onnx.NodeProto, wires: Wires) -> tuple[str, float, float]:
    """What tells the range of an activation, and the range in units of its scale, 0 in it."""
    known = {entry.key: float(entry.value) for entry in node.metadata_props if entry.key in (LOW, HIGH)}
    step = float(wires.constants[node.input[1]].item())
    low, high = (min(max(known.get(key, 0.0) / step, -_TOP), _TOP) for key in (LOW, HIGH))
    if min(low, 0) < max(high, 0):
        return "known", min(low, 0), max(high, 0)
    if _never_negative(node.input[0], wires):
        return "never negative", 0, _TOP
    return "shifted", -128, 127


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
    used = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)
        yield from (value.name for value in attribute.g.output)


def _signed_activation(node: onnx.NodeProto, wires: Wires) -> bool:
    zero = wires.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or node.input[0] in wires.constants or node.input[1] not in wires.constants:
        return False
    return zero.dtype.name == "int8" and zero.size == 1 and not zero.any()


def _undoes(reader: onnx.NodeProto, node: onnx.NodeProto, wires: Wires) -> bool:
    """Whether a DequantizeLinear has the scale and the zero point of a QuantizeLinear."""
    if reader.op_type != "DequantizeLinear" or len(reader.input) != len(node.input):
        return False
    pairs = zip(reader.input[1:], node.input[1:], strict=True)
    known = wires.constants
    return all(
        one == other or (one in known and other in known and np.array_equal(known[one], known[other]))
        for one, other in pairs
    )


def _feeds_quantized_recurrent(tensor: str, wires: Wires) -> bool:
    return any(
        _quantized_recurrent(reader, wires)
        or (reader.op_type in PASSES and _feeds_quantized_recurrent(reader.output[0], wires))
        for reader in wires.readers[tensor]
    )


def _quantized_recurrent(node: onnx.NodeProto, wires: Wires) -> bool:
    maker = wires.makers.get(node.input[1]) if node.op_type in _RECURRENT else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _never_negative(tensor: str, wires: Wires) -> bool:
    maker = wires.makers.get(tensor)
    if maker is None:
        return False
    if maker.op_type in ("Concat", "Add", "Mul"):
        return all(_never_negative(name, wires) or _is_positive(name, wires) for name in maker.input)
    if maker.op_type in PASSES | _AVERAGES | _CONVERTERS:
        return _never_negative(maker.input[0], wires)
    return maker.op_type in _NEVER_NEGATIVE or (maker.op_type == "Clip" and clip_bounds(maker, wires)[0] >= 0)


def _is_positive(tensor: str, wires: Wires) -> bool:
    value = wires.constants.get(tensor)
    return value is not None and bool((value >= 0).all())


def clip_bounds(node: onnx.NodeProto, wires: Wires) -> tuple[float, float]:
    """The limits of a Clip; NaN for one that is no constant."""
    low, high = (node.input[index] if index < len(node.input) else "" for index in (1, 2))
    return _scalar(low, wires, -np.inf), _scalar(high, wires, np.inf)


def _scalar(name: str, wires: Wires, default: float) -> float:
    value = wires.constants.get(name, np.array(np.nan)) if name else np.array(default)
    return float(value.reshape(-1)[0])


def _requantize(
    pair: Sequence[onnx.NodeProto], graph: onnx.GraphProto, wires: Wires, low: float, high: float
) -> None:
    """Give a Q and its DQs uint8 codes for the range `low` to `high`, in units of their scale."""
    scale = wires.constants[pair[0].input[1]]
    zero = round(-255 * low / (high - low))
    named = f"{pair[0].output[0]}/uint8"
    _add_constant(graph, f"{named}.zero_point", np.full(scale.shape, zero, np.uint8))
    _add_constant(graph, f"{named}.scale", scale * np.float32((high - low) / 255))
    for node in pair:
        node.input[1], node.input[2] = f"{named}.scale", f"{named}.zero_point"


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
