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
from edgekit.quantization._candidates import Possible
from edgekit.quantization._placement import Layer, floats, wanted
from edgekit.quantization._qdq import (
    add_constant,
    append_constant,
    pair,
    reads,
    replace_input,
    set_input,
    tidy,
)
from edgekit.quantization._scan import BodyLayer, quantize_bodies
from edgekit.runtime.errors import UsageError

if TYPE_CHECKING:
    import onnx

SWITCHES = "edgekit.switches"
_HALF = "edgekit.half"
_OFF = "/switched.off"
_ON = "/switched.on"


@dataclass(frozen=True, kw_only=True)
class Switches:
    """The float graph with one more input, `edgekit.switches`: float32 [layers], above 0.5 is int8.

    `layers` gives the order. In int8 they compute what they do in the Q/DQ graph of the same plan; an
    LSTM also reads its input through static int8, which is what engines make of it. `unswitched` are
    candidates that stay float here: they share a loop.
    """

    graph: onnx.ModelProto = field(repr=False)
    layers: tuple[str, ...]
    unswitched: tuple[str, ...] = ()

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
    inner = {layer.node.name: layer for layer in _alone(model, every)}
    unswitched = {layer.node.name for layer in every.inner} - set(inner)
    names = tuple(name for name in every.names(graph) if name not in unswitched)
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
        _branch(layer.node, conditions[layer.node.name], _on_layer(graph, parts, layer, biases))
    for node in every.recurrent:
        _branch(node, conditions[node.name], _on_recurrent(graph, parts, node))
    for name, body in inner.items():
        _branch(body.owner, conditions[name], _on_body(parts, body))
    tidy(graph)
    return Switches(graph=model, layers=names, unswitched=tuple(sorted(unswitched)))


def _alone(model: onnx.ModelProto, every: Possible) -> list[BodyLayer]:
    """Layers that are the only one in their Scan, whose results are all floats: an If can hold them."""
    from onnx import TensorProto, shape_inference

    owners = [layer.owner.name for layer in every.inner]
    single = [layer for layer in every.inner if owners.count(layer.owner.name) == 1]
    known = shape_inference.infer_shapes(model).graph if single else model.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.output)}
    return [
        layer
        for layer in single
        if all(kinds.get(name) == TensorProto.FLOAT for name in layer.owner.output if name)
    ]


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
    _branch(node, condition, pair(graph, tensor, result, top))
    graph.node.append(node)


def _on_layer(
    graph: onnx.GraphProto, parts: Parts, layer: Layer, biases: Mapping[str, str]
) -> list[onnx.NodeProto]:
    node = _copy(layer.node)
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


def _on_body(parts: Parts, layer: BodyLayer) -> list[onnx.NodeProto]:
    from onnx import GraphProto

    known = parts.wiring.constants
    around = [known[name] for name in reads(layer.owner) if name in known]
    inner = GraphProto(node=[layer.owner], initializer=around)
    quantize_bodies(inner, [layer.node.name], parts.largest, levels=parts.levels)
    return list(inner.node)


def _branch(node: onnx.NodeProto, condition: str, on: Sequence[onnx.NodeProto]) -> None:
    """Turns `node`, in place, into an If between the nodes `on` and itself. Names of results stay."""
    from onnx import helper

    results = [name for name in node.output if name]
    branches = {"then_branch": _subgraph(on, results, _ON), "else_branch": _subgraph([node], results, _OFF)}
    made = helper.make_node("If", [condition], results, node.name, **branches)
    made.metadata_props.extend(node.metadata_props)
    node.CopyFrom(made)


def _subgraph(nodes: Sequence[onnx.NodeProto], results: Sequence[str], suffix: str) -> onnx.GraphProto:
    from onnx import TensorProto, helper

    inner = [_copy(node) for node in nodes]
    for node in inner:
        node.output[:] = [f"{name}{suffix}" if name in results else name for name in node.output]
    outputs = [helper.make_tensor_value_info(f"{name}{suffix}", TensorProto.FLOAT, None) for name in results]
    return helper.make_graph(inner, f"{nodes[-1].name}{suffix}", [], outputs)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(node)
    return made
