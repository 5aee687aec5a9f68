"""The element type of each tensor of an ONNX graph, from the operators' own schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from edgekit.targets._plan.graph import bodies, constant_of, setting

if TYPE_CHECKING:
    import onnx
    from onnx.defs import OpSchema

UNKNOWN = 0
_TYPE_SETTINGS = ("to", "dtype", "output_datatype", "output_dtype")
_AS_INPUT = {"EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
"""Without a `dtype` they make what they are given."""
_MADE = {
    "RandomNormal": "float",
    "RandomUniform": "float",
    "HannWindow": "float",
    "HammingWindow": "float",
    "BlackmanWindow": "float",
    "LayerNormalization": "float",
    "Multinomial": "int32",
    "QuantizeLinear": "uint8",
}
"""What an output is whose type stands nowhere: in no input and in no attribute."""


class Types:
    """Element types by tensor name, as numbers of `onnx.TensorProto`; 0 where nothing is known.

    `fed` are the types handed to the inputs of a body, in their order.
    """

    def __init__(
        self, graph: onnx.GraphProto, opset: int, outer: Types | None = None, fed: Iterable[int] = ()
    ) -> None:
        self.graph, self.opset, self.outer = graph, opset, outer
        self._known = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in graph.input:
            self._known.setdefault(value.name, value.type.tensor_type.elem_type)
        for value, handed in zip(graph.input, fed, strict=False):
            self._known[value.name] = self._known[value.name] or handed
        for node in graph.node:
            made = self._made_by(node)
            self._known |= {name: made.get(index, UNKNOWN) for index, name in enumerate(node.output) if name}

    def of(self, name: str) -> int:
        """The type of a tensor of this graph or of an outer one."""
        found: int | None = self._known.get(name)
        if found is not None:
            return found
        return self.outer.of(name) if self.outer else UNKNOWN

    def named(self) -> Mapping[str, int]:
        """Those of this graph alone."""
        return self._known

    def inside(self, node: onnx.NodeProto) -> list[Types]:
        """The types in the bodies of a node, in the order of `bodies`."""
        fed = [self.of(name) for name in node.input]
        if node.op_type == "Loop":
            fed = [number("int64"), number("bool"), *fed[2:]]
        return [Types(body, self.opset, self, fed) for body in bodies(node)]

    def _made_by(self, node: onnx.NodeProto) -> dict[int, int]:
        if node.op_type in ("If", "Loop", "Scan"):
            return self._by_body(node)
        tensor = constant_of(node)
        if tensor is not None:
            return {0: tensor.data_type}
        if node.op_type == "ConstantOfShape":
            value = setting(node, "value")
            return {0: value.data_type if value is not None else number("float")}
        schema = schema_of(node.op_type, self.opset, node.domain)
        return {} if schema is None else self._by_schema(node, schema)

    def _by_body(self, node: onnx.NodeProto) -> dict[int, int]:
        inside = self.inside(node)
        if not inside:
            return {}
        made = [inside[0].of(value.name) for value in inside[0].graph.output]
        return dict(enumerate(made[1:] if node.op_type == "Loop" else made))

    def _by_schema(self, node: onnx.NodeProto, schema: OpSchema) -> dict[int, int]:
        bound: dict[str, int] = {}
        for index, name in enumerate(node.input):
            if name and self.of(name):
                bound.setdefault(formal(schema.inputs, index), self.of(name))
        return {
            index: self._output(node, schema, formal(schema.outputs, index), bound)
            for index, name in enumerate(node.output)
            if name
        }

    def _output(self, node: onnx.NodeProto, schema: OpSchema, kind: str, bound: dict[str, int]) -> int:
        fixed = number(kind.removeprefix("tensor(").removesuffix(")"))
        if fixed or kind in bound:
            return fixed or bound[kind]
        asked = next((setting(node, name) for name in _TYPE_SETTINGS if setting(node, name)), UNKNOWN)
        if asked:
            return int(asked)
        if node.op_type in _AS_INPUT:
            return self.of(node.input[0])
        allowed = allowed_types(schema, kind)
        return allowed[0] if len(allowed) == 1 else number(_MADE.get(node.op_type, ""))


def formal(parameters: Any, index: int) -> str:
    """The type of an operator's parameter as its schema says it: `T`, or `tensor(int64)`."""
    if not parameters:
        return ""
    return str(parameters[min(index, len(parameters) - 1)].type_str)


def allowed_types(schema: OpSchema, kind: str) -> list[int]:
    """The tensor types that a parameter's type may stand for."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == kind:
            told = [text.removeprefix("tensor(").removesuffix(")") for text in constraint.allowed_type_strs]
            return [number(text) for text in told if number(text)]
    return [number(kind.removeprefix("tensor(").removesuffix(")"))]


@cache
def schema_of(kind: str, opset: int, domain: str = "") -> OpSchema | None:
    """What ONNX says of an operator in this version; None if it has no such operator."""
    from onnx import defs

    domain = "" if domain == "ai.onnx" else domain
    return defs.get_schema(kind, opset, domain) if defs.has(kind, opset, domain) else None


@cache
def number(name: str) -> int:
    """The number of an element type such as `float16`; 0 if there is none of that name."""
    from onnx import TensorProto

    return int(dict(TensorProto.DataType.items()).get(name.upper(), UNKNOWN))


@cache
def type_name(elem_type: int) -> str:
    """The name of an element type: `float`, `uint8`, ..."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(elem_type)).lower()
