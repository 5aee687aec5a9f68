"""Quantized tensors of a stranger's graph in the forms that every engine has kernels for: the same values.

Tried with OpenVINO 2026.4: int8 activations around a zero point that is not 0 do not compile beside bf16,
and uint8 weights run in float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.exporting._adopt_order import reads
from edgekit.sources._onnx_walk import settle_type

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
_MIDDLE = 128


def usual_codes(graph: onnx.GraphProto) -> None:
    """Activations become uint8 where their zero point is not 0, weights int8 where they fit, biases float32.

    In place, and no value changes.
    """
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        return
    codes = _Codes(graph)
    for node in list(graph.node):
        settle_type(node)
        if node.op_type == "QuantizeLinear":
            codes.unsigned_activation(node)
        elif node.op_type == "DequantizeLinear":
            codes.signed_weight(node)
            codes.float_bias(node)


class _Codes:
    """The constants of a graph, and who reads each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._results = {value.name for value in graph.output}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(reads(node)):
                self._readers[name].append(node)

    def unsigned_activation(self, node: onnx.NodeProto) -> None:
        """int8 around z to uint8 around z + 128, in a Q and every DQ behind it."""
        zero = self._zero(node)
        readers = self._readers[node.output[0]]
        alone = node.output[0] not in self._results and all(
            reader.op_type == "DequantizeLinear" and _same(self._zero(reader), zero) for reader in readers
        )
        if zero is not None and zero.dtype == np.int8 and zero.any() and alone:
            self._rezero([node, *readers], (zero.astype(np.int16) + _MIDDLE).astype(np.uint8))

    def signed_weight(self, node: onnx.NodeProto) -> None:
        """uint8 around z to int8 around 0, where every code fits."""
        codes, zero = self._constants.get(node.input[0]), self._zero(node)
        if codes is None or codes.dtype != np.uint8 or zero is None or _in_blocks(node):
            return
        shifted = codes.astype(np.int16) - _along(zero.astype(np.int16), node, codes.ndim)
        if shifted.size and shifted.min() >= -_MIDDLE and shifted.max() < _MIDDLE:
            node.input[0] = self._add(f"{node.output[0]}/int8", shifted.astype(np.int8))
            self._rezero([node], np.zeros(zero.shape, np.int8))

    def float_bias(self, node: onnx.NodeProto) -> None:
        """What int32 codes stand for, as the constant itself."""
        codes, scale = (self._constants.get(name) for name in node.input[:2])
        zero = self._zero(node) if len(node.input) > 2 else np.zeros((), np.int32)
        if codes is None or scale is None or zero is None or codes.dtype != np.int32 or _in_blocks(node):
            return
        around = codes - _along(zero, node, codes.ndim)
        value = around.astype(scale.dtype) * _along(scale, node, codes.ndim)
        constant = self._add(f"{node.output[0]}/{scale.dtype}", value)
        for reader in self._readers[node.output[0]]:
            reader.input[:] = [constant if name == node.output[0] else name for name in reader.input]

    def _zero(self, node: onnx.NodeProto) -> Array | None:
        return self._constants.get(node.input[2]) if len(node.input) > 2 else None

    def _rezero(self, nodes: Iterable[onnx.NodeProto], zero: Array) -> None:
        for node in nodes:
            node.input[2] = self._add(f"{node.output[0]}/{zero.dtype}_zero", zero)

    def _add(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        while name in self._constants:
            name += "_"
        self._constants[name] = value
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def _same(left: Array | None, right: Array | None) -> bool:
    return left is not None and right is not None and np.array_equal(left, right)


def _in_blocks(node: onnx.NodeProto) -> bool:
    return any(setting.name == "block_size" and setting.i for setting in node.attribute)


def _along(value: Array, node: onnx.NodeProto, rank: int) -> Array:
    """One value per channel, shaped to meet a tensor of this rank."""
    if value.size == 1:
        return value.reshape(())
    axis = next((setting.i for setting in node.attribute if setting.name == "axis"), 1)
    shape = [1] * rank
    shape[axis % rank] = -1
    return value.reshape(shape)
