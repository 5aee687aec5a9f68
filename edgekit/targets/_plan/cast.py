"""Casts a float32 graph to fp16 or bf16 for strong typing, where the types in the graph are the precision.

Inputs and outputs keep float32, states too: a Cast stands at the border. What loses too much in half
precision stays in float32 with casts around it, as the tables below say. Unlike the converter that
comes with ONNX Runtime this one also makes bf16, leaves the nodes in a valid order, and keeps in float32
what is computed from sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._plan.graph import (
    Names,
    bodies,
    changed_copy,
    constant_of,
    input_of,
    opset_of,
    replace_nodes,
    set_setting,
    setting,
    standard,
)
from edgekit.targets._plan.halves import (
    DELICATE,
    FOLLOWS,
    LARGEST,
    LOW,
    SMALLEST,
    SMALLEST_NORMAL,
    TYPELESS,
    Notes,
)
from edgekit.targets._plan.types import Types, allowed_types, formal, number, schema_of

if TYPE_CHECKING:
    import onnx
    from onnx.defs import OpSchema

_STAYING_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def cast(model: onnx.ModelProto, precision: str) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of the float32 graph in `precision` (`fp16` or `bf16`), and what was done, as sentences.

    For bf16 the opset should be 22 or more: older ones allow no bf16 in convolutions and LSTMs, which
    then stay in float32. Q/DQ nodes follow from opset 19 on, where their scales may be half precision.
    """
    made = changed_copy(model)
    low = LOW[precision]
    notes = Notes(low)
    caster = _Caster(made.graph, Types(made.graph, opset_of(made)), Names(made), notes)
    caster.convert()
    return made, notes.sentences()


class _Caster:
    """Rewrites one graph; one for each body, which sees the outer ones."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        types: Types,
        names: Names,
        notes: Notes,
        outer: _Caster | None = None,
    ) -> None:
        self.graph, self.types, self.names, self.notes, self.outer = graph, types, names, notes, outer
        self.float, self.low = number("float"), number(notes.low)
        self.nodes: list[onnx.NodeProto] = []
        self.homes: dict[str, int] = {}
        """The type in which a float tensor is made."""
        self.made: dict[tuple[str, int], str] = {}
        """The name of each form of a float tensor that this graph has."""
        self.delicate: set[str] = set()
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def convert(self) -> None:
        """Rewrite the graph in place."""
        self._take_inputs()
        self._take_constants()
        boundary = {value.name for value in self.graph.output}
        for node in self.graph.node:
            if constant_of(node) is None or node.output[0] not in self.constants:
                self._convert(node, boundary)
        self._give_outputs()
        replace_nodes(self.graph, self.nodes)

    def _take_inputs(self) -> None:
        for value in self.graph.input:
            if self.types.of(value.name) != self.float:
                continue
            home = self.low if self.outer else self.float
            value.type.tensor_type.elem_type = home
            self._settle(value.name, home)

    def _take_constants(self) -> None:
        from onnx import numpy_helper

        entries = {value.name for value in self.graph.input}
        kept = []
        for tensor in self.graph.initializer:
            if tensor.data_type == self.float and tensor.name not in entries:
                self.constants[tensor.name] = numpy_helper.to_array(tensor)
            else:
                kept.append(tensor)
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        for node in self.graph.node:
            held = constant_of(node)
            if held is not None and held.data_type == self.float:
                self.constants[node.output[0]] = numpy_helper.to_array(held)

    def _settle(self, name: str, home: int, actual: str = "") -> None:
        self.homes[name] = home
        self.made[name, home] = actual or name

    def _convert(self, node: onnx.NodeProto, boundary: set[str]) -> None:
        made = type(node)()
        made.CopyFrom(node)
        inner = self.types.inside(node) if any(True for _ in bodies(node)) else []
        stays = not inner and self._stays(node)
        for body, types in zip(bodies(made), inner, strict=True):
            types.graph = body
            _Caster(body, types, self.names, self.notes, self).convert()
        for index, name in enumerate(node.input):
            made.input[index] = self._wanted(node, index, name, stays)
        if not stays:
            self._retype(made)
        self.nodes.append(made)
        for index, name in enumerate(node.output):
            if name and self.types.of(name) == self.float:
                self._place(made, index, self._output_type(node, index, stays), name in boundary)

    def _wanted(self, node: onnx.NodeProto, index: int, name: str, stays: bool) -> str:
        if node.op_type in TYPELESS and index == 0:
            return self._at(name, self._home(name))
        return self._at(name, self.float if stays or self._fixed_input(node, index) else self.low)

    def _fixed_input(self, node: onnx.NodeProto, index: int) -> bool:
        schema = schema_of(node.op_type, self.types.opset, node.domain)
        told = formal(schema.inputs, index) if schema else ""
        return index in _STAYING_INPUTS.get(node.op_type, ()) or told == "tensor(float)"

    def _output_type(self, node: onnx.NodeProto, index: int, stays: bool) -> int:
        schema = schema_of(node.op_type, self.types.opset, node.domain)
        fixed = schema is not None and formal(schema.outputs, index) == "tensor(float)"
        return self.float if stays or fixed else self.low

    def _place(self, made: onnx.NodeProto, index: int, home: int, at_boundary: bool) -> None:
        """Note where an output lives; one that the network hands out is brought back to float32."""
        name = made.output[index]
        actual = name
        if at_boundary and home == self.low and not self.outer:
            actual = made.output[index] = self.names.unique(f"{name}/{self.notes.low}")
        self._settle(name, home, actual)
        if actual != name:
            self._emit_cast(made, actual, name, self.float)
            self.made[name, self.float] = name

    def _give_outputs(self) -> None:
        """A body hands out the low form; the network itself float32."""
        for value in self.graph.output:
            if self.types.of(value.name) != self.float:
                continue
            wanted = self.low if self.outer else self.float
            value.name = self._at(value.name, wanted)
            value.type.tensor_type.elem_type = wanted

    def _home(self, name: str) -> int:
        if name in self.homes:
            return self.homes[name]
        if self.outer and name not in self.constants:
            return self.outer._home(name)
        return self.float

    def _at(self, name: str, wanted: int) -> str:
        """The name under which a tensor can be read in the type `wanted`; a Cast is written if need be."""
        if not name or self.types.of(name) != self.float:
            return name
        found = self._look_up(name, wanted)
        if found:
            return found
        owner = self._owner(name)
        if owner is not None:
            return owner._constant(name, wanted)
        source = self._look_up(name, self._home(name))
        result = self.names.unique(f"{name}/{'float32' if wanted == self.float else self.notes.low}")
        self._emit_cast(None, source, result, wanted)
        self.made[name, wanted] = result
        return result

    def _look_up(self, name: str, wanted: int) -> str:
        if (name, wanted) in self.made:
            return self.made[name, wanted]
        return self.outer._look_up(name, wanted) if self.outer and name not in self.homes else ""

    def _owner(self, name: str) -> _Caster | None:
        if name in self.constants:
            return self
        return self.outer._owner(name) if self.outer and name not in self.homes else None

    def _constant(self, name: str, wanted: int) -> str:
        from onnx import numpy_helper

        taken = any(known == name for known, _ in self.made)
        suffix = "float32" if wanted == self.float else self.notes.low
        label = self.names.unique(f"{name}/{suffix}") if taken else name
        array = self.constants[name]
        array = array if wanted == self.float else self.notes.lowered(name, array)
        self.graph.initializer.append(numpy_helper.from_array(array, label))
        self.made[name, wanted] = label
        return label

    def _emit_cast(self, node: onnx.NodeProto | None, source: str, result: str, to: int) -> None:
        from onnx import helper

        made = helper.make_node("Cast", [source], [result], name=self.names.unique(f"{result}/Cast"), to=to)
        if node is not None:
            made.metadata_props.extend(node.metadata_props)
        self.nodes.append(made)

    def _stays(self, node: onnx.NodeProto) -> bool:
        """Whether a node is computed in float32."""
        floats = [name for name in (*node.input, *node.output) if name and self.types.of(name) == self.float]
        if not floats:
            return False
        schema = schema_of(node.op_type, self.types.opset, node.domain)
        reason = self._reason(node, schema)
        if reason not in ("", "follows", "sizes"):
            self.notes.kept[node.op_type] += 1
        if reason and reason != "scale":
            self.delicate.update(node.output)
        return bool(reason)

    def _reason(self, node: onnx.NodeProto, schema: OpSchema | None) -> str:
        if schema is None or not standard(node) or node.op_type in DELICATE:
            return "delicate"
        if not self._allowed(node, schema):
            return "type"
        if node.op_type == "Cast" and self.types.of(node.input[0]) in map(number, _INTEGERS):
            return "sizes" if self.types.of(node.output[0]) == self.float else ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not self._scale_fits(node):
            return "scale"
        if node.op_type in FOLLOWS and self._follows(node):
            return "follows"
        return "vanishes" if any(self._vanishes(name) for name in node.input) else ""

    def _allowed(self, node: onnx.NodeProto, schema: OpSchema) -> bool:
        """Whether the operator's schema has the low type wherever the node has a float32 tensor."""
        for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for index, name in enumerate(names):
                kind = formal(parameters, index)
                if not name or kind == "tensor(float)" or self.types.of(name) != self.float:
                    continue
                if self.low not in allowed_types(schema, kind):
                    return False
        return True

    def _scale_fits(self, node: onnx.NodeProto) -> bool:
        owner = self._owner(input_of(node, 1))
        if owner is None or self.notes.low == "bfloat16":
            return True
        scale = owner.constants[node.input[1]]
        fits = bool(((scale >= SMALLEST_NORMAL) & (scale <= LARGEST)).all())
        if not fits:
            self.notes.coarse.append(node.input[1])
        return fits

    def _vanishes(self, name: str) -> bool:
        """Whether a constant such as an epsilon of 1e-12 would become 0."""
        owner = self._owner(name) if self.notes.low == "float16" else None
        if owner is None:
            return False
        array = owner.constants[name]
        return bool(array.any()) and float(np.abs(array).max()) <= SMALLEST / 2

    def _follows(self, node: onnx.NodeProto) -> bool:
        read = [
            name
            for name in node.input
            if name and self.types.of(name) == self.float and self._owner(name) is None
        ]
        return bool(read) and all(self._is_delicate(name) for name in read)

    def _is_delicate(self, name: str) -> bool:
        return name in self.delicate or (self.outer is not None and self.outer._is_delicate(name))

    def _retype(self, node: onnx.NodeProto) -> None:
        """Attributes that say float32 say the low type."""
        from onnx import numpy_helper

        for name in ("to", "dtype", "output_datatype", "output_dtype"):
            if setting(node, name) == self.float:
                set_setting(node, name, self.low)
        if node.op_type in ("RandomNormal", "RandomUniform") and setting(node, "dtype") is None:
            set_setting(node, "dtype", self.low)
        if node.op_type == "ConstantOfShape" and self.types.of(node.output[0]) == self.float:
            value = setting(node, "value")
            array = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
            set_setting(node, "value", numpy_helper.from_array(self.notes.lowered(node.name, array)))
