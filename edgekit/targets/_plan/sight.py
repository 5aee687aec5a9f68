"""What the rules look at: one node, and what is known of the place where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._plan.context import Ranks
from edgekit.targets._plan.graph import RECURRENT, Scope, bodies, input_of, opset_of, reads, setting, words
from edgekit.targets._plan.types import Types, number, type_name

if TYPE_CHECKING:
    import onnx

_PASSES = words("Transpose Reshape Squeeze Unsqueeze Flatten Identity MaxPool Slice Relu")


class Sight:
    """A node in its graph, asked about by the predicates of the rules."""

    def __init__(
        self, model: onnx.ModelProto, precision: str, node: Any, scope: Scope, types: Types, ranks: Ranks
    ) -> None:
        self.model, self.precision, self.node = model, precision, node
        self.scope, self.types, self.ranks = scope, types, ranks

    def says(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return setting(self.node, name, default)

    def dims(self, index: int = 0) -> list[int] | None:
        """The sizes of an input, -1 where dynamic."""
        return self.ranks.dims(input_of(self.node, index))

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """The value of an input."""
        return self.scope.constant(input_of(self.node, index))

    def type_of(self, name: str) -> str:
        """The element type of a tensor; empty where it is not known."""
        known = self.types.of(name) if name else 0
        return type_name(known) if known else ""

    def read(self, output: int) -> bool:
        """Whether the node has this output and somebody reads it."""
        name = self.node.output[output] if output < len(self.node.output) else ""
        return bool(name) and (bool(self.scope.readers[name]) or self.scope.is_output(name))

    def dequantized(self, index: int) -> bool:
        """Whether an input comes from a DequantizeLinear, over what only moves numbers."""
        maker = self.scope.maker(input_of(self.node, index))
        while maker is not None and maker.op_type in _PASSES:
            maker = self.scope.maker(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear"

    def dynamic(self) -> bool:
        """Whether any input of the network has a dynamic size."""
        values = self.model.graph.input
        return any(not dim.dim_value for one in values for dim in one.type.tensor_type.shape.dim)

    def recurrent(self) -> bool:
        """Whether the node is an LSTM, GRU or RNN."""
        return self.node is not None and self.node.op_type in RECURRENT

    def carried(self) -> Iterator[tuple[list[int], list[int]]]:
        """The sizes of each tensor that a Loop carries, before and after one round; where they are known."""
        body = next(bodies(self.node))
        before = [self.dims(index) for index in range(2, len(self.node.input))]
        after = self._after_a_round(body, before)
        for old, new in zip(before, after, strict=False):
            if old is not None and new is not None:
                yield old, new

    def _after_a_round(self, body: onnx.GraphProto, before: list[list[int] | None]) -> list[list[int] | None]:
        from onnx import helper

        model = helper.make_model(_alone(body, before, self), opset_imports=list(self.model.opset_import))
        inferred = Ranks(model)
        return [inferred.dims(value.name) for value in body.output[1 : 1 + len(before)]]


def _alone(body: onnx.GraphProto, before: list[list[int] | None], sight: Sight) -> onnx.GraphProto:
    """The body as a graph of its own, fed with tensors of these sizes."""
    from onnx import helper

    made = type(body)()
    made.CopyFrom(body)
    for value, dims in zip(made.input[2:], before, strict=False):
        kind = value.type.tensor_type.elem_type or number("float")
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, _sizes(dims)))
    for value in made.output:
        value.type.tensor_type.ClearField("shape")
    own = {name for node in body.node for name in node.output}
    own |= {value.name for value in (*body.input, *body.initializer)}
    for name in dict.fromkeys(name for node in body.node for name in reads(node) if name not in own):
        kind = sight.types.of(name) or number("float")
        made.input.append(helper.make_tensor_value_info(name, kind, _sizes(sight.ranks.dims(name))))
    return made


def _sizes(dims: list[int] | None) -> list[int | None] | None:
    return None if dims is None else [None if dim < 0 else dim for dim in dims]


def sights(model: onnx.ModelProto, precision: str) -> Iterator[Sight]:
    """The model itself (its `node` is None), then every node of its graphs."""
    ranks = Ranks(model)
    scope, types = Scope(model.graph), Types(model.graph, opset_of(model))
    yield Sight(model, precision, None, scope, types, ranks)
    yield from _inside(model, precision, scope, types, ranks)


def _inside(
    model: onnx.ModelProto, precision: str, scope: Scope, types: Types, ranks: Ranks
) -> Iterator[Sight]:
    for node in scope.graph.node:
        yield Sight(model, precision, node, scope, types, ranks)
        for body, inner in zip(bodies(node), types.inside(node), strict=True):
            yield from _inside(model, precision, Scope(body, scope), inner, ranks)
