"""One float graph in which the int8 form of every layer can be switched on at run time.

How sensitive sixty layers are then costs sixty runs and not sixty sessions. The arithmetic is that of the
Q/DQ graph: a branch that is off costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._apply import Parts
from edgekit.quantization._bias import bias_place
from edgekit.quantization._branches import branch, copy_of
from edgekit.quantization._candidates import Possible
from edgekit.quantization._placement import Layer, floats, wanted
from edgekit.quantization._qdq import (
    add_constant,
    append_constant,
    pair,
    replace_input,
    set_input,
    tidy,
)
from edgekit.quantization._scan import switch_bodies
from edgekit.runtime.errors import UsageError

if TYPE_CHECKING:
    import onnx

SWITCHES = "edgekit.switches"
_HALF = "edgekit.half"


@dataclass(frozen=True, kw_only=True)
class Switches:
    """The float graph with one more input, `edgekit.switches`: float32 [layers], above 0.5 is int8.

    `layers` gives the order. In int8 they compute what they do in the Q/DQ graph of the same plan; an
    LSTM also reads its input through static int8, which is what engines make of it.
    """

    graph: onnx.ModelProto = field(repr=False)
    layers: tuple[str, ...]

    def values(self, on: Collection[str]) -> np.ndarray[Any, Any]:
        """The input that makes the layers `on` int8. Raises UsageError for one that has no switch."""
        unknown = sorted(set(on) - set(self.layers))
        if unknown:
            raise UsageError(f"the layer '{unknown[0]}' has no switch", f"one of {', '.join(self.layers)}")
        return np.array([name in on for name in self.layers], np.float32)


def switched(model: onnx.ModelProto, parts: Parts, every: Possible) -> Switches:
    """Puts a switch at each layer of `every`, in place."""
    from onnx import TensorProto, helper

    graph = model.graph
    names = tuple(every.names(graph))
    places = {name: place for place, name in enumerate(names)}
    tensors = wanted(parts.wiring, every.layers)
    readers = {tensor: parts.wiring.int8_readers(tensor) for tensor in tensors}
    graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.FLOAT, [len(names)]))
    append_constant(graph, _HALF, np.array(0.5, np.float32))
    conditions = {name: _condition(graph, name, [place]) for name, place in places.items()}
    biases = {layer.node.name: _bias(graph, parts, layer, conditions) for layer in every.layers}
    for tensor, layers in tensors.items():
        condition = _condition(graph, tensor, [places[layer.node.name] for layer in layers])
        _switch_tensor(graph, tensor, readers[tensor], condition, parts.largest[tensor])
    for layer in every.layers:
        branch(layer.node, conditions[layer.node.name], _on_layer(graph, parts, layer, biases))
    for node in every.recurrent:
        branch(node, conditions[node.name], _on_recurrent(graph, parts, node))

    def any_on(name: str, layers: Sequence[str]) -> str:
        return _condition(graph, name, [places[layer] for layer in layers])

    switch_bodies(graph, any_on, parts.largest, parts.levels)
    tidy(graph)
    return Switches(graph=model, layers=names)


def _condition(graph: onnx.GraphProto, name: str, places: Sequence[int]) -> str:
    """A truth value: whether any of the switches at `places` is on."""
    from onnx import helper

    result = f"{name}/switch"
    append_constant(graph, f"{result}.places", np.array(places, np.int64))
    graph.node.extend(
        [
            helper.make_node(
                "Gather", [SWITCHES, f"{result}.places"], [f"{result}.values"], f"{result}/Gather"
            ),
            helper.make_node(
                "ReduceMax", [f"{result}.values"], [f"{result}.top"], f"{result}/Max", keepdims=0
            ),
            helper.make_node("Greater", [f"{result}.top", _HALF], [result], f"{result}/Greater"),
        ]
    )
    return result


def _bias(graph: onnx.GraphProto, parts: Parts, layer: Layer, conditions: Mapping[str, str]) -> str:
    """The name of the corrected bias, if a layer has one; that of a MatMul is switched here."""
    from onnx import helper

    bias, place = parts.bias(layer), bias_place(parts.wiring, layer.node)
    if bias is None or place is None:
        return ""
    name = f"{layer.node.name}/bias.corrected"
    append_constant(graph, name, bias)
    node, index = place
    if node is not layer.node:
        result, condition = f"{name}/switched", conditions[layer.node.name]
        graph.node.append(
            helper.make_node("Where", [condition, name, node.input[index]], [result], f"{result}/Where")
        )
        node.input[index] = result
    return name


def _switch_tensor(
    graph: onnx.GraphProto, tensor: str, readers: Iterable[onnx.NodeProto], condition: str, top: float
) -> None:
    from onnx import helper

    result = f"{tensor}/switched"
    for reader in readers:
        replace_input(reader, tensor, result)
    node = helper.make_node("Identity", [tensor], [result], f"{result}/If")
    branch(node, condition, pair(graph, tensor, result, top))
    graph.node.append(node)


def _on_layer(
    graph: onnx.GraphProto, parts: Parts, layer: Layer, biases: Mapping[str, str]
) -> list[onnx.NodeProto]:
    node = copy_of(layer.node)
    name = f"{node.input[1]}/rounded.axis{layer.axis}"
    append_constant(graph, name, parts.rounded(layer))
    node.input[1] = name
    place = bias_place(parts.wiring, layer.node)
    if biases[node.name] and place is not None and place[0] is layer.node:
        set_input(node, place[1], biases[node.name])
    return [node]


def _on_recurrent(graph: onnx.GraphProto, parts: Parts, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """As in the Q/DQ graph, but that an LSTM, which is fed floats there, is fed static int8."""
    from onnx import GraphProto

    known = parts.wiring.constants
    inner = GraphProto(node=[node], initializer=[known[name] for name in node.input if name in known])
    largest = parts.quantize_recurrent(inner, inner.node[-1])
    for tensor in inner.initializer:
        add_constant(graph, tensor.name, floats(tensor))
    made = list(inner.node)
    if node.op_type != "LSTM":
        return made
    source, restored = made[-1].input[0], f"{node.name}/X/dequantized"
    made[-1].input[0] = restored
    return [*made[:-1], *pair(graph, source, restored, largest, f"{node.name}/X"), made[-1]]
