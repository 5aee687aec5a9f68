"""Every graph, node and tensor of an ONNX model: those in sub-graphs, functions and attributes too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from google.protobuf.message import Message  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import onnx

HALF = 10  # onnx.TensorProto.FLOAT16
TYPE_SETTINGS = ("to", "dtype", "output_dtype", "output_datatype")
"""The attributes of operators that name a type of tensor."""


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, each followed by those in its sub-graphs."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nodes_of(body.node)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The sub-graphs of one node: the body of a Loop or Scan, the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, of its sub-graphs and of the model's own functions."""
    yield from nodes_of(model.graph.node)
    for function in model.functions:
        yield from nodes_of(function.node)


def every_graph(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph, then every sub-graph."""
    yield model.graph
    for node in every_node(model):
        yield from bodies(node)


def every_tensor(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and tensors in attributes, each with a name to tell the user."""
    for graph in every_graph(model):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in every_node(model):
        for attribute in node.attribute:
            label = node.output[0] if len(node.output) else node.name or node.op_type
            if attribute.HasField("t"):
                yield label, attribute.t
            yield from ((label, tensor) for tensor in attribute.tensors)


def is_half(model: onnx.ModelProto) -> bool:
    """Whether anything in the model is float16."""
    tensors = any(tensor.data_type == HALF for _, tensor in every_tensor(model))
    ends = any(
        value.type.tensor_type.elem_type == HALF for value in (*model.graph.input, *model.graph.output)
    )
    return (
        tensors
        or ends
        or any(
            setting.i == HALF
            for node in every_node(model)
            for setting in node.attribute
            if setting.name in TYPE_SETTINGS
        )
    )


def settle_type(node: onnx.NodeProto) -> None:
    """Remove the type of a QuantizeLinear's codes where its zero point says it. In place.

    ONNX Runtime 1.31 changes the zero point of some, and then minds that the other is as it was.
    """
    if node.op_type != "QuantizeLinear" or len(node.input) < 3 or not node.input[2]:
        return
    for place in reversed(range(len(node.attribute))):
        if node.attribute[place].name == "output_dtype":
            del node.attribute[place]


def texts(message: Message) -> Iterator[str]:
    """Every text in a message of protobuf; raises UnicodeDecodeError where one is not UTF-8."""
    for field, content in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for one in [content] if isinstance(content, (str, bytes, Message)) else content:
            if isinstance(one, Message):
                yield from texts(one)
            else:
                yield one if isinstance(one, str) else one.decode()


def weights(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers: some files list them among the inputs too."""
    return {tensor.name for tensor in graph.initializer}


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are fed."""
    constant = weights(graph)
    return [value for value in graph.input if value.name not in constant]
