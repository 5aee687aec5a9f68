"""What a graph that somebody else has quantized says of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.sources._onnx_operators import is_integer
from edgekit.sources._onnx_walk import every_tensor, nodes_of

if TYPE_CHECKING:
    import onnx

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_PASSES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast")
_REFERENCE = (
    "the reference is ONNX Runtime on the quantized file itself: "
    "what its quantization costs against the float network is not measured"
)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph has Q/DQ nodes or integer operators."""
    return any(node.op_type in _PAIR or is_integer(node) for node in nodes_of(model.graph.node))


def quantized_layers(model: onnx.ModelProto) -> dict[str, str]:
    """The precision of every layer with weights: that of their codes in the graph, or `fp32`."""
    graph = _Graph(model)
    return {node.name: precision for node in graph.nodes if (precision := graph.precision(node))}


def notes(model: onnx.ModelProto) -> tuple[str, ...]:
    """What is to be said of a quantized graph; nothing of a float one."""
    if not is_quantized(model):
        return ()
    count = sum(precision != "fp32" for precision in quantized_layers(model).values())
    form = "integer" if any(map(is_integer, nodes_of(model.graph.node))) else "Q/DQ"
    taken = f"its {count} {form} layers are taken as they are"
    if count == 1:
        taken = f"its one {form} layer is taken as it is"
    return (f"the file is already quantized: {taken}", _REFERENCE)


class _Graph:
    """Who makes each tensor, sub-graphs included, and the types of the constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import TensorProto

        self.nodes = list(nodes_of(model.graph.node))
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._codes = {
            name: TensorProto.DataType.Name(tensor.data_type).lower() for name, tensor in every_tensor(model)
        }

    def precision(self, node: onnx.NodeProto) -> str:
        """Empty for what is no layer with weights."""
        if is_integer(node):
            return _integer_precision(node)
        if node.op_type not in _WEIGHTED:
            return ""
        sources = [list(self._behind(name)) for name in node.input[:2]]
        weight = next((found for found in sources if found[-1] in self._codes), sources[-1])
        return self._dequantized(weight) or "fp32"

    def _behind(self, tensor: str) -> Iterator[str]:
        """The tensor, and what it is merely another form of."""
        yield tensor
        while tensor in self._makers and self._makers[tensor].op_type in (*_PASSES, "DequantizeLinear"):
            tensor = self._makers[tensor].input[0]
            yield tensor

    def _dequantized(self, tensors: list[str]) -> str:
        """The codes behind a DequantizeLinear; of an activation, those of its zero point."""
        for tensor in tensors:
            maker = self._makers.get(tensor)
            if maker is not None and maker.op_type == "DequantizeLinear":
                known = (self._codes.get(name, "") for name in (maker.input[0], *maker.input[2:]))
                return next((kind for kind in known if kind), "uint8").removeprefix("u")
        return ""


def _integer_precision(node: onnx.NodeProto) -> str:
    """Of an integer operator that has weights; the others only hand codes on."""
    layer = any(kind in node.op_type for kind in ("Conv", "MatMul", "Gemm", "LSTM", "Attention"))
    return ("int4" if node.op_type == "MatMulNBits" else "int8") if layer else ""
