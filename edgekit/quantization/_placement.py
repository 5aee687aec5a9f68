"""Where QuantizeLinear and DequantizeLinear belong: at the inputs, weights and results of weighted layers.

Results are quantized after their activation function, inputs before they are pooled or reshaped, so
that an engine finds whole chains of int8 layers to fuse. What a recurrent layer reads stays float:
TensorRT-RTX 1.7 fails to build an LSTM of dynamic length whose input is dequantized.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

RECURRENT = ("LSTM", "GRU", "RNN")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_ACTIVATIONS = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "PRelu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "Gelu",
)


@dataclass(frozen=True)
class Layer:
    """A node with a constant weight; `axis` is that of the output channels, or None."""

    node: onnx.NodeProto
    axis: int | None


class Wiring:
    """Who makes and who reads each tensor of a graph's top level."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def layers(self, op_types: Collection[str]) -> list[Layer]:
        """Every layer of `op_types` whose weight is constant and whose input is not."""
        return [
            Layer(node, _axis(node))
            for node in self.graph.node
            if node.op_type in op_types and self._weighted(node)
        ]

    def _weighted(self, node: onnx.NodeProto) -> bool:
        weight = self.constants.get(node.input[1])
        transposed = node.op_type == "Gemm" and _attribute(node, "transA", 0)
        flat = node.op_type != "MatMul" or (weight is not None and len(weight.dims) == 2)
        is_float = weight is not None and weight.data_type == 1
        return is_float and flat and not transposed and node.input[0] not in self.constants

    def origin(self, tensor: str) -> str:
        """The tensor that `tensor` is merely a rearrangement of: int8 may start as early as there."""
        while tensor in self.producers and self.producers[tensor].op_type in _MOVES:
            source = self.producers[tensor].input[0]
            if any(map(self.is_recurrent, self.readers[source])):
                break
            tensor = source
        return tensor

    def is_recurrent(self, node: onnx.NodeProto) -> bool:
        """Whether the node is a recurrent layer, or merely rearranges the input of one."""
        if node.op_type not in _MOVES:
            return node.op_type in RECURRENT
        return any(map(self.is_recurrent, self.readers.get(node.output[0], [])))

    def activated(self, tensor: str) -> str:
        """The result after the activation functions that alone read it: engines fuse them with the layer."""
        readers = self.readers.get(tensor, [])
        while len(readers) == 1 and readers[0].op_type in _ACTIVATIONS and tensor not in self._outputs:
            tensor = readers[0].output[0]
            readers = self.readers.get(tensor, [])
        return tensor

    @cached_property
    def _outputs(self) -> set[str]:
        return {value.name for value in self.graph.output}


def activations(wiring: Wiring, layers: Iterable[Layer]) -> dict[str, list[onnx.NodeProto]]:
    """The tensors to quantize, each with the nodes that shall read it dequantized.

    They are what the layers read, and what convolutions give after their activation function.
    """
    found: dict[str, list[onnx.NodeProto]] = {}
    for layer in layers:
        tensors = [wiring.origin(layer.node.input[0])]
        if layer.node.op_type in _CONVOLUTIONS:
            tensors.append(wiring.activated(layer.node.output[0]))
        for tensor in tensors:
            readers = [node for node in wiring.readers.get(tensor, []) if not wiring.is_recurrent(node)]
            if readers:
                found[tensor] = readers
    return found


def _axis(node: onnx.NodeProto) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None
    return 0 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else 1


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
