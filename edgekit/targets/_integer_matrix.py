"""Matrix products of int8 codes for ONNX Runtime: one operator, MatMulIntegerToFloat, bias included.

By itself ONNX Runtime makes a float Gemm of a MatMul and an Add, and leaves a Gemm whose bias is float as
it is: ten times as slow as the float network, because the weights are dequantized at every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._integer import Converter, after_relu, is_quantized, origin, quantized_layers, stored
from edgekit.targets._lowering import Wires, scopes
from edgekit.targets._recurrent import add, replace, setting, tidy

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
DOMAIN = "com.microsoft"


def integer_matrices(model: onnx.ModelProto) -> list[str]:
    """Gemm, or MatMul with the Add of a constant bias behind it, on int8 codes -> MatMulIntegerToFloat.

    Where the result is quantized too, ONNX Runtime finds its operator by itself. To be called after the
    zero points are changed. Returns records.
    """
    count = sum(_fuse_all(graph, wires) for graph, wires in scopes(model.graph))
    if count:
        _import_domain(model)
    return [f"{count} matrix products with their bias: -> MatMulIntegerToFloat"] if count else []


def _fuse_all(graph: onnx.GraphProto, wires: Wires) -> int:
    changes = _Changes(graph, wires)
    count = sum(map(changes.fuse, quantized_layers(graph, ("Gemm", "MatMul"), wires)))
    if count:
        changes.apply()
        tidy(graph)
    return count


class _Changes:
    """What is to be put in the place of nodes, and which nodes go."""

    def __init__(self, graph: onnx.GraphProto, wires: Wires) -> None:
        self._graph, self._wires = graph, wires
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._gone: set[int] = set()
        self._codes: set[str] = set()

    def fuse(self, node: onnx.NodeProto) -> bool:
        """Turns a layer, in place, into the integer operator; False if it has no such form."""
        source = origin(node.input[0], self._wires)
        weight = _stored_codes(node, self._wires)
        if source is None or weight is None or is_quantized(after_relu(node, self._wires), self._wires):
            return False
        columns = weight[0].shape[1]
        behind = None if node.op_type == "Gemm" else self._bias_behind(node, columns)
        bias = _own_bias(node, self._wires, columns) if behind is None else behind[1]
        if bias is None:
            return False
        names = [self._source(node, source), source.scale, source.zero]
        if behind is not None:
            node.output[:] = behind[0].output
            self._gone.add(id(behind[0]))
        self._become_integer(node, names, weight, bias)
        return True

    def apply(self) -> None:
        """Put the nodes where they belong."""
        kept = [node for node in self._graph.node if id(node) not in self._gone]
        replace(self._graph, [each for node in kept for each in (*self._before.get(id(node), ()), node)])

    def _bias_behind(self, node: onnx.NodeProto, columns: int) -> tuple[onnx.NodeProto, Array] | None:
        """The Add that alone reads a result, and the constant that it adds to every row."""
        tensor = node.output[0]
        readers = self._wires.readers[tensor]
        if len(readers) != 1 or readers[0].op_type != "Add" or tensor in self._wires.outputs:
            return None
        other = next((name for name in readers[0].input if name != tensor), tensor)
        value = self._wires.constants.get(other)
        if value is None or value.dtype != np.float32 or value.shape[-1:] != (columns,):
            return None
        return (readers[0], value.reshape(-1)) if value.size == columns and value.ndim <= 2 else None

    def _source(self, node: onnx.NodeProto, source: Converter) -> str:
        """The codes that the layer reads; rearranged ones are quantized again, which loses nothing."""
        from onnx import helper

        tensor = node.input[0]
        if self._wires.makers[tensor].op_type == "DequantizeLinear":
            return source.codes
        codes = f"{tensor}/edgekit.codes"
        if codes not in self._codes:
            self._codes.add(codes)
            inputs = [tensor, source.scale, source.zero]
            made = helper.make_node("QuantizeLinear", inputs, [codes], f"{tensor}/QuantizeLinear")
            self._before[id(node)] = [made]
        return codes

    def _become_integer(
        self, node: onnx.NodeProto, source: list[str], weight: tuple[Array, Array, Array], bias: Array
    ) -> None:
        name = self._wires.makers[node.input[1]].input[0]
        form = ".transposed" if node.op_type == "Gemm" and setting(node, "transB", 0) else ""
        codes = add(self._graph, f"{name}{form}", weight[0]) if form else name
        scale = add(self._graph, f"{node.name}/edgekit.scale", weight[1])
        zero = add(self._graph, f"{node.name}/edgekit.zero", weight[2]) if weight[2].any() else ""
        inputs = [source[0], codes, source[1], scale, source[2], zero]
        if bias.any():
            inputs.append(add(self._graph, f"{node.name}/edgekit.bias", bias.astype(np.float32)))
        node.op_type, node.domain = "MatMulIntegerToFloat", DOMAIN
        node.input[:] = inputs
        del node.attribute[:]


def _stored_codes(node: onnx.NodeProto, wires: Wires) -> tuple[Array, Array, Array] | None:
    """Codes (rows, columns), scale and zero point of a layer's weight: one, or one per column."""
    maker = stored(node.input[1], wires)
    if maker is None or setting(maker, "block_size", 0):
        return None
    codes, scale = wires.constants[maker.input[0]], wires.constants[maker.input[1]]
    zero = wires.constants[maker.input[2]] if len(maker.input) > 2 else np.zeros(scale.shape, codes.dtype)
    turned = node.op_type == "Gemm" and setting(node, "transB", 0)
    fits = scale.size == 1 or setting(maker, "axis", 1) % 2 == (0 if turned else 1)
    plain = codes.ndim == 2 and codes.dtype in (np.int8, np.uint8) and scale.dtype == np.float32
    if not (fits and plain) or setting(node, "transA", 0):
        return None
    factor = np.float32(setting(node, "alpha", 1.0))
    return (np.ascontiguousarray(codes.T) if turned else codes), scale * factor, zero


def _own_bias(node: onnx.NodeProto, wires: Wires, columns: int) -> Array | None:
    """The constant that a Gemm adds to every row, zeros without one; None if it is no such constant."""
    name = node.input[2] if len(node.input) > 2 else ""
    value = wires.constants.get(name) if name else np.zeros(columns, np.float32)
    if value is None or value.size not in (1, columns) or value.shape[-1:] not in ((), (1,), (columns,)):
        return None
    return np.broadcast_to(value.reshape(-1) * np.float32(setting(node, "beta", 1.0)), (columns,))


def _import_domain(model: onnx.ModelProto) -> None:
    from onnx import helper

    if all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
