"""Turns chosen layers of a graph into int8, from parts that every plan has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._bias import bias_place, channel_axis, corrected_bias
from edgekit.quantization._calibration import Measured
from edgekit.quantization._candidates import Possible
from edgekit.quantization._placement import CONVOLUTIONS, Layer, Wiring, activations, floats
from edgekit.quantization._qdq import (
    Codes,
    append_constant,
    insert,
    note,
    quantized_weight,
    set_input,
    stored_weight,
    tidy,
)
from edgekit.quantization._recurrent import equalize, quantize_gru, quantize_lstm
from edgekit.quantization._scan import quantize_bodies

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
OUTPUT_RANGE = "edgekit.output_range"
"""On a convolution whose result stays float: its largest magnitude, after the activation function."""
RESULT_RANGE = "edgekit.result_range"
"""On a convolution before an activation function other than a ReLU: the largest magnitude between them."""
WRITTEN_OUT = "edgekit.written_out"
"""On a Scan: the operator that it stands for. The nodes around it have names that begin with its own."""
LOW, HIGH = "edgekit.low", "edgekit.high"
"""On a QuantizeLinear of an activation: the range that its codes are to cover, not made symmetric."""


@dataclass(frozen=True)
class Parts:
    """What the int8 form of a layer consists of. What takes time is kept in `measured`."""

    wiring: Wiring
    measured: Measured
    largest: dict[str, float]
    """By tensor: the magnitude that code 127 stands for."""
    bias_correction: bool
    equalization: bool
    levels: int
    """The largest code of a weight."""

    def bounds(self, tensor: str) -> tuple[float, float]:
        """The range of a tensor, clipped where its int8 is."""
        tally, top = self.measured.tallies[tensor], self.largest[tensor]
        return max(tally.low, -top), min(tally.high, top)

    def codes(self, layer: Layer) -> Codes:
        """The weight of a layer as int8 codes and their scale."""
        name = layer.node.input[1]
        key = ("codes", name, layer.axis, self.levels)
        if key not in self.measured.kept:
            weight = floats(self.wiring.constants[name])
            self.measured.kept[key] = quantized_weight(weight, layer.axis, self.levels)
        codes: Codes = self.measured.kept[key]
        return codes

    def rounded(self, layer: Layer) -> Array:
        """The weight of a layer as its codes give it back."""
        codes, scale = self.codes(layer)
        sizes = [-1 if index == layer.axis else 1 for index in range(codes.ndim)]
        weight: Array = codes * scale.reshape(sizes)
        return weight

    def bias(self, layer: Layer) -> Array | None:
        """The corrected bias of a layer; None where it stays as it is."""
        if not self.bias_correction:
            return None
        key = ("bias", layer.node.name, self.levels)
        if key not in self.measured.kept:
            error = self.rounded(layer) - floats(self.wiring.constants[layer.node.input[1]])
            mean = self.measured.tallies[layer.node.input[0]].means[channel_axis(layer.node)]
            self.measured.kept[key] = corrected_bias(self.wiring, layer, error, mean)
        bias: Array | None = self.measured.kept[key]
        return bias

    def quantize_recurrent(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> float:
        """Makes an LSTM or GRU of `graph` int8, in place; gives the range of what it reads then."""
        tally, steps = self.measured.tallies[node.input[0]], node.output[0]
        largest = tally.largest
        if self.equalization:
            equalize(graph, node, tally.peaks[-1].tolist())
            factors = floats(next(each for each in graph.initializer if each.name == factors_of(node)))
            largest = float((tally.peaks[-1] * factors).max())
        if node.op_type == "GRU":
            quantize_gru(graph, node, largest, self.levels)
            node.metadata_props.add(key=WRITTEN_OUT, value="GRU")
        else:
            hidden = self.measured.largest(steps) if steps else None
            quantize_lstm(graph, node, largest, hidden, self.levels)
        return largest


def written_out(graph: onnx.GraphProto) -> dict[str, str]:
    """The loops that stand for a layer, each with what the names of its own nodes begin with."""
    return {
        node.name: f"{node.name}/"
        for node in graph.node
        if any(entry.key == WRITTEN_OUT for entry in node.metadata_props)
    }


def factors_of(node: onnx.NodeProto) -> str:
    """Where `equalize` has put what it multiplies the features by."""
    return f"{node.name}/equalized.factors"


def apply(parts: Parts, chosen: Possible) -> None:
    """Makes the layers `chosen` int8, in place."""
    wiring = parts.wiring
    readers = activations(wiring, chosen.layers)
    for layer in chosen.layers:
        _note_ranges(parts, layer)
    for layer in chosen.layers:
        _correct(parts, layer)
    for node in chosen.recurrent:
        parts.quantize_recurrent(wiring.graph, node)
    for tensor, node in insert(wiring.graph, readers, parts.largest).items():
        low, high = parts.bounds(tensor)
        note(node, LOW, low)
        note(node, HIGH, high)
    weights = [_stored(parts, layer) for layer in chosen.layers]
    wiring.graph.node.extend({node.name: node for node in weights}.values())
    inner = [layer.node.name for layer in chosen.inner]
    quantize_bodies(wiring.graph, inner, parts.largest, parts.bounds, parts.levels)
    tidy(wiring.graph)


def _note_ranges(parts: Parts, layer: Layer) -> None:
    """What an engine needs whose integer convolution must give integers."""
    wiring, node = parts.wiring, layer.node
    if node.op_type not in CONVOLUTIONS:
        return
    result = wiring.activated(node.output[0])
    if not wiring.int8_readers(result):
        note(node, OUTPUT_RANGE, parts.measured.largest(result))
    if curve := wiring.curve(node):
        note(node, RESULT_RANGE, parts.measured.largest(curve))


def _correct(parts: Parts, layer: Layer) -> None:
    bias, place = parts.bias(layer), bias_place(parts.wiring, layer.node)
    if bias is None or place is None:
        return
    name = f"{layer.node.name}/bias.corrected"
    append_constant(parts.wiring.graph, name, bias)
    set_input(*place, name)


def _stored(parts: Parts, layer: Layer) -> onnx.NodeProto:
    """The node that gives the weight of a layer back from its codes; the layer reads it from there."""
    made = stored_weight(parts.wiring.graph, layer.node.input[1], layer.axis, parts.codes(layer))
    layer.node.input[1] = made.output[0]
    return made
