"""The same graph in an older version of ONNX's operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._lowering import drop_unused
from edgekit.targets._plan.context import CannotLower, Context, Ranks
from edgekit.targets._plan.expand import expand
from edgekit.targets._plan.graph import (
    Names,
    Scope,
    add_constant,
    bodies,
    changed_copy,
    drop_settings,
    graphs,
    input_of,
    opset_of,
    replace_nodes,
    set_opset,
    set_setting,
    setting,
    standard,
)
from edgekit.targets._plan.types import Types, schema_of

if TYPE_CHECKING:
    import onnx

IR_VERSIONS = {17: 8}
"""The file format that ONNX brought out together with an opset."""


def lowered(
    model: onnx.ModelProto, opset: int, expanded: Collection[str] = (), mark: str = ""
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy in an opset no newer than `opset`, with the operators of `expanded` written out.

    Node names and module keys stay. Returns sentences that say what was changed.

    Raises:
        CannotLower: a node has no form there.
    """
    made = changed_copy(model)
    source = opset_of(made)
    steps = _Down(made, min(opset, source), set(expanded), mark)
    steps.graph(made.graph, None, None)
    said = [f"{kind} written out: {count}" for kind, count in sorted(steps.written.items())]
    if source > opset:
        set_opset(made, opset)
        made.ir_version = min(made.ir_version, IR_VERSIONS.get(opset, made.ir_version))
        said.insert(0, f"opset {source} -> {opset}")
    for graph in graphs(made.graph):
        drop_unused(graph)
    return made, said


class _Down:
    """Goes through the graphs of a model, node by node, to an older opset."""

    def __init__(self, model: onnx.ModelProto, opset: int, expanded: set[str], mark: str) -> None:
        self.opset, self.expanded, self.mark = opset, expanded, mark
        self.source = opset_of(model)
        self.names, self.ranks = Names(model), Ranks(model)
        self.written: Counter[str] = Counter()

    def graph(self, graph: onnx.GraphProto, outer: Scope | None, above: Types | None) -> None:
        """Change one graph and its bodies in place."""
        scope = Scope(graph, outer)
        types = Types(graph, self.source, above)
        context = Context(scope, types, self.names, self.ranks, self.opset)
        changed: list[onnx.NodeProto] = []
        for node in graph.node:
            for body in bodies(node):
                self.graph(body, scope, types)
            changed += self._node(node, context)
        replace_nodes(graph, changed)

    def _node(self, node: onnx.NodeProto, context: Context) -> list[onnx.NodeProto]:
        if not standard(node):
            return [node]
        if node.op_type in self.expanded or schema_of(node.op_type, self.opset, node.domain) is None:
            return self._expand(node, context)
        if node.op_type in _ADAPTERS and self.source > self.opset:
            _ADAPTERS[node.op_type](node, context)
        self._check(node)
        return [node]

    def _expand(self, node: onnx.NodeProto, context: Context) -> list[onnx.NodeProto]:
        made = expand(node, context, self.mark)
        self.written[node.op_type] += 1
        inside = self._among(made, context)
        return [after for inner in made for after in self._node(inner, inside)]

    def _among(self, made: list[onnx.NodeProto], context: Context) -> Context:
        """The context with what the written-out nodes made in it."""
        probe = type(context.scope.graph)()
        probe.node.extend(made)
        scope = Scope(probe, context.scope)
        scope.graph = context.scope.graph
        types = Types(probe, self.source, context.types)
        return Context(scope, types, self.names, self.ranks, self.opset)

    def _check(self, node: onnx.NodeProto) -> None:
        """Refuse a node that says something which the older operator does not know."""
        old = schema_of(node.op_type, self.opset, node.domain)
        new = schema_of(node.op_type, self.source, node.domain)
        if old is None or new is None or old.since_version == new.since_version:
            return
        for name in [attribute.name for attribute in node.attribute]:
            if name in old.attributes:
                continue
            if not _is_default(setting(node, name), new, name):
                raise CannotLower(node, f"opset {self.opset} has no {name} in {node.op_type}")
            drop_settings(node, name)
        if any(node.input[old.max_input :]):
            raise CannotLower(node, f"{node.op_type} of opset {self.opset} takes {old.max_input} inputs")


def _is_default(value: Any, schema: Any, name: str) -> bool:
    from onnx import helper

    default = schema.attributes[name].default_value if name in schema.attributes else None
    if default is None or not default.name:
        return False
    told = helper.get_attribute_value(default)
    return bool((told.decode() if isinstance(told, bytes) else told) == value)


def _reduce(node: onnx.NodeProto, context: Context) -> None:
    if not input_of(node, 1):
        if setting(node, "noop_with_empty_axes", 0):
            _become(node, "Identity")
    else:
        axes = [int(axis) for axis in context.constant(node, 1, "the axes").ravel()]
        if not axes and setting(node, "noop_with_empty_axes", 0):
            _become(node, "Identity")
            return
        if axes:
            set_setting(node, "axes", axes)
    del node.input[1:]
    drop_settings(node, "noop_with_empty_axes")


def _become(node: onnx.NodeProto, kind: str) -> None:
    node.op_type = kind
    del node.attribute[:]
    del node.input[1:]


def _split(node: onnx.NodeProto, context: Context) -> None:
    count = setting(node, "num_outputs")
    drop_settings(node, "num_outputs")
    if count is None or input_of(node, 1):
        return
    size = context.dims(node)[setting(node, "axis", 0)]
    if size < 0:
        raise CannotLower(node, "the size that is split is dynamic, and the parts are not said")
    part = -(-size // count)
    parts = [min(part, size - part * index) for index in range(count)]
    name = context.names.unique(f"{node.name or node.op_type}/split")
    del node.input[1:]
    node.input.append(add_constant(context.scope.graph, name, np.array(parts, np.int64)))


def _pad(node: onnx.NodeProto, context: Context) -> None:
    if not input_of(node, 3):
        return
    rank = len(context.dims(node))
    axes, pads = (context.constant(node, index, what) for index, what in ((3, "the axes"), (1, "the pads")))
    full = np.zeros(2 * rank, np.int64)
    for place, axis in enumerate(axes):
        full[int(axis) % rank] = pads[place]
        full[int(axis) % rank + rank] = pads[place + axes.size]
    name = context.names.unique(f"{node.name or node.op_type}/pads")
    node.input[1] = add_constant(context.scope.graph, name, full)
    del node.input[3:]


def _resize(node: onnx.NodeProto, context: Context) -> None:
    axes = setting(node, "axes")
    if axes is None:
        return
    rank = len(context.dims(node))
    if [axis % rank for axis in axes] == list(range(rank)):
        drop_settings(node, "axes")
        return
    if not input_of(node, 2):
        raise CannotLower(node, "this Resize gives the sizes of some axes only")
    scales = np.ones(rank, np.float32)
    scales[[axis % rank for axis in axes]] = context.constant(node, 2, "the scales")
    name = context.names.unique(f"{node.name or node.op_type}/scales")
    node.input[2] = add_constant(context.scope.graph, name, scales)
    drop_settings(node, "axes")


def _grid_sample(node: onnx.NodeProto, context: Context) -> None:
    old = {"linear": "bilinear", "cubic": "bicubic"}
    mode = setting(node, "mode", "linear")
    set_setting(node, "mode", old.get(mode, mode))


def _scatter(node: onnx.NodeProto, context: Context) -> None:
    reduction = setting(node, "reduction", "none")
    if reduction in ("max", "min"):
        raise CannotLower(node, f"opset 17 has no {reduction} in {node.op_type}")


_ADAPTERS: dict[str, Callable[[Any, Context], None]] = {
    **{
        f"Reduce{kind}": _reduce
        for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
}
