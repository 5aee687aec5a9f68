"""int8 layers in the forms for which ONNX Runtime has integer kernels. Everything works in place.

What it cannot fuse into one of them it computes in float, from weights that it dequantizes again at every
run: slower than the float network. So a convolution gets a quantized result, a matrix product becomes
one operator that takes a float bias (`_integer_matrix.py`), and what is left gets its float weights back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.targets._lowering import PASSES, STANDARD_DOMAINS, Wires, clip_bounds, scopes
from edgekit.targets._recurrent import add, note, replace, tidy, value_of

if TYPE_CHECKING:
    import onnx

OUTPUT_RANGE = "edgekit.output_range"
"""On a convolution: the largest magnitude of its result, after the activation function behind it."""
RESULT_RANGE = "edgekit.result_range"
"""On a convolution: the largest magnitude of its own result, after a ReLU at most."""
_CURVES = {
    "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_FLAT_FROM = {"Sigmoid": 8.0, "Tanh": 5.0}
"""From this magnitude on the function is nearer to its limit than 4e-4, a tenth of a step of its int8."""
_LEVELS = 127


@dataclass(frozen=True)
class Converter:
    """What a DequantizeLinear reads, by name."""

    codes: str
    scale: str
    zero: str


@dataclass(frozen=True)
class _Pair:
    """A tensor, and the QuantizeLinear and DequantizeLinear that are to stand right behind its maker."""

    tensor: str
    quantize: onnx.NodeProto
    restore: onnx.NodeProto


def integer_convolutions(model: onnx.ModelProto) -> list[str]:
    """Q/DQ behind every convolution of int8 codes whose result is float: the one kernel is QLinearConv.

    They go behind a ReLU that alone reads the result, else before the activation function, which no
    kernel takes in. The range is in the node's metadata: `OUTPUT_RANGE`, or `RESULT_RANGE` where there is
    an activation function. To be called before the zero points are changed. Returns records.
    """
    count = sum(_quantize_results(graph, wires) for graph, wires in scopes(model.graph))
    return [f"{count} convolutions: Q/DQ behind the result"] if count else []


def _quantize_results(graph: onnx.GraphProto, wires: Wires) -> int:
    """How many convolutions got Q/DQ behind them."""
    found = [_pair(node, graph, wires) for node in quantized_layers(graph, ("Conv",), wires)]
    pairs = [pair for pair in found if pair is not None]
    for pair in pairs:
        _read_restored(pair, graph, wires)
    if pairs:
        _place(pairs, graph, wires)
    return len(pairs)


def float_leftovers(model: onnx.ModelProto) -> list[str]:
    """Float weights of the same values for layers that have no integer kernel here. Returns records."""
    left = [name for graph, wires in scopes(model.graph) for name in _fold_leftovers(graph, wires)]
    why = "ONNX Runtime has no integer kernel for them"
    return [f"{', '.join(left)}: int8 weights -> float, the same values: {why}"] if left else []


def _fold_leftovers(graph: onnx.GraphProto, wires: Wires) -> list[str]:
    left = [
        node
        for node in quantized_layers(graph, ("Conv", "ConvTranspose", "Gemm"), wires)
        if node.op_type == "ConvTranspose" or not is_quantized(after_relu(node, wires), wires)
    ]
    for node in left:
        value = value_of(node.input[1], wires.constants.get, wires.makers.get)
        if value is not None:
            node.input[1] = add(graph, f"{node.input[1]}.float", value)
    tidy(graph)
    return [node.name or node.op_type for node in left]


def quantized_layers(graph: onnx.GraphProto, kinds: Iterable[str], wires: Wires) -> list[onnx.NodeProto]:
    """The layers of these kinds that read dequantized codes and dequantized constant weights."""
    return [
        node
        for node in graph.node
        if node.op_type in kinds
        and node.domain in STANDARD_DOMAINS
        and stored(node.input[1], wires) is not None
        and origin(node.input[0], wires) is not None
    ]


def stored(tensor: str, wires: Wires) -> onnx.NodeProto | None:
    """The DequantizeLinear of constants that makes a tensor; None if it is made otherwise."""
    maker = wires.makers.get(tensor)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    return maker if all(name in wires.constants for name in maker.input) else None


def origin(tensor: str, wires: Wires) -> Converter | None:
    """The codes of an activation that a tensor is restored from, perhaps rearranged on the way."""
    maker = wires.makers.get(tensor)
    while maker is not None and maker.op_type in PASSES:
        maker = wires.makers.get(maker.input[0])
    if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < 3:
        return None
    if maker.input[0] in wires.constants or wires.constants.get(maker.input[1], np.zeros(2)).size != 1:
        return None
    return Converter(*maker.input)


def after_relu(node: onnx.NodeProto, wires: Wires) -> str:
    """The layer's result, behind the ReLU or ReLU6 that alone reads it: an unsigned result is cut there."""
    tensor: str = node.output[0]
    readers = wires.readers[tensor]
    cut = len(readers) == 1 and tensor not in wires.outputs and _cuts_at_zero(readers[0], wires)
    return str(readers[0].output[0]) if cut else tensor


def _cuts_at_zero(node: onnx.NodeProto, wires: Wires) -> bool:
    return node.op_type == "Relu" or (node.op_type == "Clip" and clip_bounds(node, wires)[0] == 0)


def is_quantized(tensor: str, wires: Wires) -> bool:
    """Whether one QuantizeLinear is all that reads the tensor."""
    readers = wires.readers[tensor]
    return len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and tensor not in wires.outputs


def _pair(node: onnx.NodeProto, graph: onnx.GraphProto, wires: Wires) -> _Pair | None:
    """What is to be behind the result of a convolution; None if it is there, or the range is unknown."""
    tensor = after_relu(node, wires)
    if is_quantized(tensor, wires):
        return None
    for quantize in wires.readers[tensor]:
        for restore in wires.readers[quantize.output[0]] if quantize.op_type == "QuantizeLinear" else ():
            if restore.op_type == "DequantizeLinear":
                return _Pair(tensor, quantize, restore)
    top = _range(node, tensor, wires)
    return _new_pair(tensor, top, graph) if top else None


def _range(node: onnx.NodeProto, tensor: str, wires: Wires) -> float:
    """The largest magnitude of `tensor`, as the metadata or the activation function tells; 0: unknown."""
    readers = wires.readers[tensor]
    curves = [reader for reader in readers if reader.op_type in _CURVES]
    told = note(node, RESULT_RANGE) or ("" if curves else note(node, OUTPUT_RANGE))
    limit = _flat_from(curves[0], wires) if len(curves) == len(readers) == 1 else np.inf
    top = min(float(told) if told else np.inf, limit)
    return top if np.isfinite(top) else 0.0


def _flat_from(curve: onnx.NodeProto, wires: Wires) -> float:
    """The magnitude from which on an activation function does not change any more."""
    if curve.op_type == "Clip":
        return max(map(abs, clip_bounds(curve, wires)))
    return _FLAT_FROM.get(curve.op_type, np.inf)


def _new_pair(tensor: str, top: float, graph: onnx.GraphProto) -> _Pair:
    from onnx import helper

    scale = add(graph, f"{tensor}/edgekit.scale", np.array(top / _LEVELS, np.float32))
    zero = add(graph, f"{tensor}/edgekit.zero", np.zeros((), np.int8))
    codes, restored = f"{tensor}/edgekit.codes", f"{tensor}/edgekit.restored"
    return _Pair(
        tensor,
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], f"{tensor}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [restored], f"{tensor}/DequantizeLinear"),
    )


def _read_restored(pair: _Pair, graph: onnx.GraphProto, wires: Wires) -> None:
    """Whoever else reads the tensor reads it restored; a result of the graph keeps its name."""
    tensor, restored = pair.tensor, pair.restore.output[0]
    for reader in wires.readers[tensor]:
        if reader is not pair.quantize:
            reader.input[:] = [restored if name == tensor else name for name in reader.input]
    if tensor not in wires.outputs:
        return
    inner = f"{tensor}/edgekit.float"
    wires.makers[tensor].output[:] = [inner]
    pair.quantize.input[0] = inner
    pair.restore.output[:] = [tensor]
    for node in graph.node:
        node.input[:] = [tensor if name == restored else name for name in node.input]


def _place(pairs: Iterable[_Pair], graph: onnx.GraphProto, wires: Wires) -> None:
    """The pairs right behind the makers of their tensors."""
    behind = {id(wires.makers[pair.tensor]): [pair.quantize, pair.restore] for pair in pairs}
    placed = {id(node) for nodes in behind.values() for node in nodes}
    nodes = [node for node in graph.node if id(node) not in placed]
    replace(graph, [each for node in nodes for each in (node, *behind.get(id(node), ()))])
