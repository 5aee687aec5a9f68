"""Writes operators that an older parser lacks in terms of those that it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgekit.targets._plan.context import CannotLower, Context
from edgekit.targets._plan.graph import bodies, reads
from edgekit.targets._plan.types import schema_of
from edgekit.targets._plan.written import NORMALIZATIONS, WRITTEN

if TYPE_CHECKING:
    import onnx


def expand(node: onnx.NodeProto, context: Context, mark: str = "") -> list[onnx.NodeProto]:
    """Nodes that compute the same; those with a mark in their names are the delicate ones.

    Raises:
        CannotLower: there is no such form.
    """
    written = WRITTEN.get(node.op_type)
    if written is None:
        return _by_function(node, context)
    writer = context.writer(node, mark if node.op_type in NORMALIZATIONS else "")
    written(node, context, writer)
    return writer.nodes


def can_expand(kind: str) -> bool:
    """Whether there is a form for this operator: ours, or the function that ONNX defines it by."""
    if kind in WRITTEN:
        return True
    from onnx import defs

    schema: Any = schema_of(kind, defs.onnx_opset_version())
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def _by_function(node: onnx.NodeProto, context: Context) -> list[onnx.NodeProto]:
    """The node as the function that ONNX defines it by, inlined, with names of its own."""
    from onnx import inliner

    if not can_expand(node.op_type):
        raise CannotLower(node, f"{node.op_type} has no form in older operators")
    single = _alone(node, context)
    inlined = inliner.inline_selected_functions(
        single, [(node.domain, node.op_type)], inline_schema_functions=True
    )
    if any(inner.op_type == node.op_type for inner in inlined.graph.node):
        raise CannotLower(node, f"the function of {node.op_type} cannot be written out here")
    return _renamed(node, list(inlined.graph.node), context)


def _alone(node: onnx.NodeProto, context: Context) -> onnx.ModelProto:
    """A model of this one node."""
    from onnx import helper

    known, rank = context.types.of, context.ranks.dims

    def value(name: str) -> onnx.ValueInfoProto:
        dims = rank(name)
        sizes = None if dims is None else [None if dim < 0 else dim for dim in dims]
        return helper.make_tensor_value_info(name, known(name), sizes)

    entries = [value(name) for name in dict.fromkeys(reads(node))]
    results = [value(name) for name in node.output if name]
    graph = helper.make_graph([_explicit(node, context.types.opset)], "one", entries, results)
    opset = helper.make_opsetid("", context.types.opset)
    return helper.make_model(graph, opset_imports=[opset])


def _explicit(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """The node with every default written out: the inliner leaves those out of the function's body."""
    made = type(node)()
    made.CopyFrom(node)
    schema = schema_of(node.op_type, opset, node.domain)
    said = {attribute.name for attribute in node.attribute}
    for name, one in schema.attributes.items() if schema else ():
        if name not in said and one.default_value.name:
            made.attribute.append(one.default_value)
    return made


def _renamed(node: onnx.NodeProto, made: list[onnx.NodeProto], context: Context) -> list[onnx.NodeProto]:
    _rename_all(made, {name: name for name in (*node.input, *node.output)}, node, context)
    return made


def _rename_all(
    made: Iterable[onnx.NodeProto], known: dict[str, str], origin: onnx.NodeProto, context: Context
) -> None:
    """Name nodes and what they make after their origin; `known` says how other tensors are called."""
    for inner in made:
        inner.name = context.names.unique(f"{origin.name or origin.op_type}/{inner.op_type}")
        del inner.metadata_props[:]
        inner.metadata_props.extend(origin.metadata_props)
        for index, name in enumerate(inner.input):
            inner.input[index] = known.get(name, name)
        for body in bodies(inner):
            inside = dict(known)
            for value in (*body.input, *body.initializer):
                inside[value.name] = context.names.unique(f"{inner.name}/{value.name}")
                value.name = inside[value.name]
            _rename_all(body.node, inside, origin, context)
            for value in body.output:
                value.name = inside.get(value.name, value.name)
        for index, name in enumerate(inner.output):
            if name and name not in known:
                known[name] = context.names.unique(f"{inner.name}_output_{index}")
            inner.output[index] = known.get(name, name)
