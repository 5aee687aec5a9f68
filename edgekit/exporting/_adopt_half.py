"""A file in float16 as the float32 network that it was made from: precision is asked of the target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edgekit.sources._onnx_walk import (
    HALF,
    TYPE_SETTINGS,
    bodies,
    every_graph,
    every_node,
    every_tensor,
    is_half,
)

if TYPE_CHECKING:
    import onnx

_FLOAT = 1  # onnx.TensorProto.FLOAT
NOTE = (
    "the file is in float16: its weights are held in float32, the same values, "
    "and --precision fp16 asks the target for half precision"
)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float32 between inputs and outputs of the types that they have.

    Weights keep their values. Results are not rounded to half precision on the way.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not is_half(model):
        return copy
    superfluous = _superfluous_casts(copy)
    for _, tensor in every_tensor(copy):
        if tensor.data_type == HALF:
            _widen(tensor)
    for node in every_node(copy):
        for setting in node.attribute:
            if setting.name in TYPE_SETTINGS and setting.i == HALF:
                setting.i = _FLOAT
    for graph in list(every_graph(copy))[1:]:
        _declare_float((*graph.input, *graph.output, *graph.value_info))
    _declare_float(copy.graph.value_info)
    _cast_ends(copy.graph)
    _drop(copy.graph, superfluous)
    return copy


def _widen(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _declare_float(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = _FLOAT


def _superfluous_casts(model: onnx.ModelProto) -> set[str]:
    """Results of casts between float16 and float32, where ONNX can tell."""
    from onnx import shape_inference

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    try:
        graph = shape_inference.infer_shapes(model).graph
    except (ValueError, shape_inference.InferenceError):  # they stay then: they change nothing
        return set()
    for value in (*graph.input, *graph.value_info):
        types.setdefault(value.name, value.type.tensor_type.elem_type)
    results = {value.name for value in graph.output}
    floating = (_FLOAT, HALF)
    return {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast"
        and types.get(node.input[0]) in floating
        and any(setting.name == "to" and setting.i in floating for setting in node.attribute)
        and node.output[0] not in results
    }


def _cast_ends(graph: onnx.GraphProto) -> None:
    """Inputs and outputs in float16 stay what they are; what is between reads and makes float32."""
    from onnx import helper

    entries = [value.name for value in graph.input if value.type.tensor_type.elem_type == HALF]
    results = [value.name for value in graph.output if value.type.tensor_type.elem_type == HALF]
    for name in (*entries, *results):
        _rename(graph.node, name, f"{name}/float32")
    for node in graph.node:
        node.output[:] = [f"{name}/float32" if name in results else name for name in node.output]
    for tensor in graph.initializer:
        tensor.name = f"{tensor.name}/float32" if tensor.name in results else tensor.name
    for name in entries:
        graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}/float32"], f"{name}/Cast", to=_FLOAT))
    for name in results:
        cast = helper.make_node("Cast", [f"{name}/float32"], [name], f"{name}/float32/Cast", to=HALF)
        graph.node.append(cast)


def _rename(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Let `nodes` read another tensor, from inside their sub-graphs too."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        for body in bodies(node):
            own = {value.name for value in (*body.input, *body.initializer)}
            if old in own | {name for inner in body.node for name in inner.output}:
                continue
            _rename(body.node, old, new)
            for value in body.output:
                value.name = new if value.name == old else value.name


def _drop(graph: onnx.GraphProto, results: set[str]) -> None:
    """Remove casts, and let their readers read what was cast."""
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in results:
            _rename(graph.node, node.output[0], node.input[0])
    for place in reversed(range(len(graph.node))):
        if graph.node[place].output[0] in results:
            del graph.node[place]
