"""Walking and changing ONNX graphs, the bodies of Loop, Scan and If included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._lowering import STANDARD_DOMAINS

if TYPE_CHECKING:
    import onnx

RECURRENT = ("LSTM", "GRU", "RNN")
_CONSTANT_KINDS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


class Scope:
    """One graph within its outer ones: who makes and who reads each tensor, and the constants.

    A node that holds a body counts as a reader of what the body takes from outside.
    """

    def __init__(self, graph: onnx.GraphProto, outer: Scope | None = None) -> None:
        self.graph, self.outer = graph, outer
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for name in set(reads(node)):
                self.readers[name].append(node)
            tensor = constant_of(node)
            if tensor is not None:
                self.tensors[node.output[0]] = tensor

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The constant of this name; None if there is none."""
        found: onnx.TensorProto | None = self.tensors.get(name)
        if found is not None:
            return found
        return self.outer.tensor(name) if self.outer and name not in self.makers else None

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """Its value as an array."""
        from onnx import numpy_helper

        tensor = self.tensor(name) if name else None
        return None if tensor is None else numpy_helper.to_array(tensor)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for an input or an initializer."""
        found: onnx.NodeProto | None = self.makers.get(name)
        if found is not None:
            return found
        return self.outer.maker(name) if self.outer else None

    def is_output(self, name: str) -> bool:
        """Whether the graph hands this tensor out."""
        return any(value.name == name for value in self.graph.output)


class Names:
    """Hands out names that the model does not have."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken: set[str] = set()
        for graph in graphs(model.graph):
            values = (*graph.input, *graph.output, *graph.initializer)
            self._taken.update(value.name for value in values)
            for node in graph.node:
                self._taken.update((node.name, *node.input, *node.output))

    def unique(self, wanted: str) -> str:
        """`wanted`, with a number behind it where it is taken."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


class Writer:
    """Writes nodes in place of one: they carry its name as prefix and its module."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto, names: Names, mark: str = "") -> None:
        self._node, self._graph, self._names = node, graph, names
        self._prefix = "/".join(part for part in (node.name or node.op_type, mark) if part)
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **settings: Any) -> str:
        """A node of one output, and its name."""
        from onnx import helper

        name = self._names.unique(f"{self._prefix}/{kind}")
        result = output or f"{name}_output"
        made = helper.make_node(kind, list(inputs), [result], name=name, **settings)
        made.metadata_props.extend(self._node.metadata_props)
        self.nodes.append(made)
        return result

    def constant(self, value: np.ndarray[Any, Any], name: str = "const") -> str:
        """An initializer, and its name."""
        return add_constant(self._graph, self._names.unique(f"{self._prefix}/{name}"), value)


def words(text: str) -> frozenset[str]:
    """The words of a text, such as names of operators."""
    return frozenset(text.split())


def add_constant(graph: onnx.GraphProto, name: str, value: np.ndarray[Any, Any]) -> str:
    """Put an initializer into the graph."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a Loop, Scan or If holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every body inside it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def scopes(graph: onnx.GraphProto, outer: Scope | None = None) -> Iterator[Scope]:
    """A graph and every body inside it, with what they can see. The inner ones come last."""
    scope = Scope(graph, outer)
    yield scope
    for node in graph.node:
        for body in bodies(node):
            yield from scopes(body, scope)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of the bodies included."""
    for each in graphs(graph):
        yield from each.node


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, from inside its bodies too."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        for inner in body.node:
            yield from reads(inner)
        yield from (value.name for value in body.output)


def standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of ONNX's own domain."""
    return node.domain in STANDARD_DOMAINS


def setting(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute: a number, text, list or tensor."""
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def drop_settings(node: onnx.NodeProto, *names: str) -> None:
    """Remove attributes."""
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def set_setting(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give an attribute another value."""
    from onnx import helper

    drop_settings(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds; None for other nodes, text and sparse tensors."""
    from onnx import TensorProto, numpy_helper

    if node.op_type != "Constant" or not node.attribute:
        return None
    kind, value = node.attribute[0].name, setting(node, node.attribute[0].name)
    if isinstance(value, TensorProto):
        return value
    dtype = _CONSTANT_KINDS.get(kind)
    return None if dtype is None else numpy_helper.from_array(np.array(value, dtype), node.output[0])


def input_of(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def rename_readers(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every node that reads `old` read `new`, inside bodies too."""
    for node in nodes(graph):
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
    for inner in list(graphs(graph))[1:]:
        for value in inner.output:
            if value.name == old:
                value.name = new


def replace_nodes(graph: onnx.GraphProto, changed: Iterable[onnx.NodeProto]) -> None:
    """Give the graph these nodes in place of its own."""
    kept = list(changed)
    del graph.node[:]
    graph.node.extend(kept)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model uses."""
    return next((one.version for one in model.opset_import if one.domain in STANDARD_DOMAINS), 1)


def set_opset(model: onnx.ModelProto, version: int) -> None:
    """Write another version of ONNX's own operators into the model."""
    for one in model.opset_import:
        if one.domain in STANDARD_DOMAINS:
            one.version = version


def changed_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that may be changed; the types noted for inner tensors are left out."""
    from onnx import ModelProto

    copy = ModelProto()
    copy.CopyFrom(model)
    for graph in graphs(copy.graph):
        del graph.value_info[:]
    return copy
