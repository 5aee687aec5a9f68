"""The same graph in a newer version of ONNX's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._plan.context import CannotLower, Context, Ranks
from edgekit.targets._plan.graph import (
    Names,
    add_constant,
    changed_copy,
    nodes,
    opset_of,
    scopes,
    set_opset,
    set_setting,
    setting,
)
from edgekit.targets._plan.types import Types

if TYPE_CHECKING:
    import onnx

_CONVERTED = 18
"""From this opset on the newer ones differ in few operators, and those are handled here."""


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy in an opset no older than `opset`. Node names and module keys stay.

    Raises:
        CannotLower: ONNX's own converter knows no way.
    """
    if opset_of(model) >= opset:
        return model
    made = changed_copy(model if opset_of(model) >= _CONVERTED else _converted(model))
    source = opset_of(made)
    names, ranks = Names(made), Ranks(made)
    for scope in scopes(made.graph):
        context = Context(scope, Types(scope.graph, source), names, ranks, opset)
        for node in scope.graph.node:
            for since, change in _RAISED.get(node.op_type, ()):
                if source < since <= opset:
                    change(node, context)
    set_opset(made, opset)
    made.ir_version = max(made.ir_version, 10)
    return made


def _new_modes(node: onnx.NodeProto, context: Context) -> None:
    new = {"bilinear": "linear", "bicubic": "cubic"}
    mode = setting(node, "mode", "bilinear")
    set_setting(node, "mode", new.get(mode, mode))


def _widen(node: onnx.NodeProto, context: Context) -> None:
    """The scale and bias of GroupNormalization: one per group before opset 21, one per channel since."""
    channels = context.dims(node)[1]
    for index, what in ((1, "scale"), (2, "bias")):
        value = context.constant(node, index, what)
        name = context.names.unique(f"{node.name or node.op_type}/{what}")
        each = np.repeat(value, channels // value.size)
        node.input[index] = add_constant(context.scope.graph, name, each)


def _no_axis(node: onnx.NodeProto, context: Context) -> None:
    raise CannotLower(node, "the axis of DFT became an input in opset 20")


_RAISED: dict[str, tuple[tuple[int, Callable[[Any, Context], None]], ...]] = {
    "GridSample": ((20, _new_modes),),
    "GroupNormalization": ((21, _widen),),
    "DFT": ((20, _no_axis),),
}
"""The operators whose meaning changed since opset 18, and in which opset."""


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """By ONNX's own converter, which forgets the module keys: they are put back by node name."""
    from onnx import version_converter

    try:
        made = version_converter.convert_version(model, _CONVERTED)
    except (RuntimeError, ValueError) as cause:
        raise CannotLower(model.graph.node[0], f"ONNX's converter says: {cause}") from cause
    known = {node.name: node for node in nodes(model.graph) if node.name}
    for node in nodes(made.graph):
        if node.name in known and not node.metadata_props:
            node.metadata_props.extend(known[node.name].metadata_props)
    return made
