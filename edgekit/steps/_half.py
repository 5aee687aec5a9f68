"""A graph in half precision as it can be run honestly on any CPU: in float32, every result rounded.

ONNX Runtime computes fp16 in float32 on a CPU and drops the casts between two such nodes, so that an
overflow vanishes again; bf16 it refuses. Here each result is rounded by two casts that it has to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.targets._plan.graph import (
    bodies,
    changed_copy,
    constant_of,
    opset_of,
    replace_nodes,
    set_setting,
    setting,
)
from edgekit.targets._plan.types import Types

if TYPE_CHECKING:
    import onnx

_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16  # onnx.TensorProto
NAMES = {_FLOAT16: "float16", _BFLOAT16: "bfloat16"}
_TYPE_SETTINGS = ("to", "dtype", "output_datatype", "output_dtype")


def half_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """`float16` or `bfloat16` for each tensor of the top level that is in half precision."""
    known = Types(model.graph, opset_of(model)).named()
    return {name: NAMES[kind] for name, kind in known.items() if kind in NAMES}


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32 with the same values: every result is rounded to the type that it had.

    A node accumulates in float32 as accelerators do; the tensors keep their names.
    """
    copy = changed_copy(model)
    _widen(copy.graph, Types(copy.graph, opset_of(copy)))
    return copy


def _widen(graph: onnx.GraphProto, types: Types) -> None:
    made: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if any(True for _ in bodies(node)):
            for body, inner in zip(bodies(node), types.inside(node), strict=True):
                _widen(body, inner)
        made += _rounded(node, types)
    replace_nodes(graph, made)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in NAMES:
            value.type.tensor_type.elem_type = _FLOAT
    for tensor in graph.initializer:
        if tensor.data_type in NAMES:
            tensor.CopyFrom(_as_float(tensor))


def _rounded(node: onnx.NodeProto, types: Types) -> Iterator[onnx.NodeProto]:
    """The node in float32, and the casts that round what it makes."""
    from onnx import helper

    for name in _TYPE_SETTINGS:
        if setting(node, name) in NAMES:
            set_setting(node, name, _FLOAT)
    _widen_value(node)
    casts = []
    for index, name in enumerate(node.output):
        kind = types.of(name) if name else 0
        if kind not in NAMES or constant_of(node) is not None:
            continue
        exact, low = f"{name}/edgekit.exact", f"{name}/edgekit.{NAMES[kind]}"
        node.output[index] = exact
        casts.append(helper.make_node("Cast", [exact], [low], name=f"{low}/Cast", to=kind))
        casts.append(helper.make_node("Cast", [low], [name], name=f"{exact}/Cast", to=_FLOAT))
    yield node
    yield from casts


def _widen_value(node: onnx.NodeProto) -> None:
    """Constant and ConstantOfShape carry a tensor."""
    from onnx import TensorProto

    value = setting(node, "value") if node.op_type in ("Constant", "ConstantOfShape") else None
    if isinstance(value, TensorProto) and value.data_type in NAMES:
        set_setting(node, "value", _as_float(value))


def _as_float(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
