"""What a change to one node needs to know of the place where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._plan.graph import Names, Scope, Writer, graphs, input_of
from edgekit.targets._plan.types import Types

if TYPE_CHECKING:
    import onnx


class CannotLower(Exception):
    """One node has no form in the older operators; `reason` is a sentence about it."""

    def __init__(self, node: onnx.NodeProto, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


class Context:
    """What a change needs to know of the place where the node stands; `opset` is the one to write in."""

    def __init__(self, scope: Scope, types: Types, names: Names, ranks: Ranks, opset: int) -> None:
        self.scope, self.types, self.names, self.ranks, self.opset = scope, types, names, ranks, opset

    def writer(self, node: onnx.NodeProto, mark: str = "") -> Writer:
        """Nodes in place of `node`."""
        return Writer(node, self.scope.graph, self.names, mark)

    def constant(self, node: onnx.NodeProto, index: int, what: str) -> np.ndarray[Any, Any]:
        """The value of an input that must be a constant."""
        value = self.scope.constant(input_of(node, index))
        if value is None:
            raise CannotLower(node, f"{what} of this {node.op_type} are computed, not constant")
        return value

    def dims(self, node: onnx.NodeProto, index: int = 0) -> list[int]:
        """The sizes of an input, -1 where dynamic."""
        known = self.ranks.dims(input_of(node, index))
        if known is None:
            raise CannotLower(node, f"the rank of what this {node.op_type} reads is not known")
        return known


class Ranks:
    """The sizes of the tensors of a model by name, as shape inference finds them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._known: dict[str, list[int]] | None = None

    def dims(self, name: str) -> list[int] | None:
        """Sizes, -1 where dynamic; None where nothing is known."""
        if self._known is None:
            self._known = _inferred(self._model)
        return self._known.get(name)


def _inferred(model: onnx.ModelProto) -> dict[str, list[int]]:
    from onnx import shape_inference

    found: dict[str, list[int]] = {}
    for graph in graphs(shape_inference.infer_shapes(model, data_prop=True).graph):
        found |= {one.name: list(one.dims) for one in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
    return found
