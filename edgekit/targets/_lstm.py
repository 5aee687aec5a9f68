"""LSTM layers with int8 weights in the two forms that engines run in int8. All work in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._lowering import MODULE_KEY, STANDARD_DOMAINS, Wires
from edgekit.targets._lstm_scales import LEVELS, Layer, Scales, common_scales
from edgekit.targets._recurrent import (
    MICROSOFT,
    Array,
    Codes,
    R,
    W,
    add,
    codes_of,
    fold,
    import_microsoft,
    input_of,
    note,
    recurrent,
    replace,
    rewire,
    setting,
    tidy,
)

if TYPE_CHECKING:
    import onnx

INPUT_RANGE, HIDDEN_RANGE = "edgekit.input_range", "edgekit.hidden_range"
_LENGTHS, _INITIAL_H, _PEEPHOLES = 4, 5, 7
_USUAL = ("Sigmoid", "Tanh", "Tanh")


def dynamic_lstm(model: onnx.ModelProto) -> list[str]:
    """LSTM to com.microsoft's DynamicQuantizeLSTM with the very same int8 weights.

    X and h are quantized while it runs, each with the range that it has then. Returns a record for the
    manifest.
    """
    wires, changed = Wires(model.graph), []
    for node in recurrent(model.graph, ("LSTM",)):
        w, r = (codes_of(node.input[index], wires) for index in (W, R))
        if w is None or r is None or setting(node, "layout", 0):
            continue
        _give_codes(node, model.graph, w, r)
        changed.append(node.name)
    if not changed:
        return []
    import_microsoft(model)
    tidy(model.graph)
    return [f"{', '.join(changed)}: LSTM -> DynamicQuantizeLSTM with the same int8 weights"]


def _give_codes(node: onnx.NodeProto, graph: onnx.GraphProto, w: Codes, r: Codes) -> None:
    """Weights as (directions, inputs, gates * hidden); their scales and zero points behind all inputs."""
    inputs = [*node.input, *[""] * (_PEEPHOLES + 1 - len(node.input))]
    for index, codes in ((W, w), (R, r)):
        name, shape = f"{node.name}.{'WR'[index - 1]}", (len(codes.values), codes.scale.size)
        inputs[index] = add(graph, f"{name}.int8", codes.values.transpose(0, 2, 1))
        inputs.append(add(graph, f"{name}.scale", np.broadcast_to(codes.scale, shape)))
        inputs.append(add(graph, f"{name}.zero", np.zeros(shape, np.int8)))
    rewire(node, inputs)
    node.op_type, node.domain = "DynamicQuantizeLSTM", MICROSOFT
    kept = [attribute for attribute in node.attribute if attribute.name != "layout"]  # it has none
    del node.attribute[:]
    node.attribute.extend(kept)


def static_or_float(model: onnx.ModelProto) -> list[str]:
    """What OpenVINO runs in int8 gets that form, other recurrent layers float weights, in place.

    Returns records for the manifest.
    """
    changed = static_lstm(model)
    what = "int8 X and h of one scale, int8 weights of another, the same for layers of the same shape"
    told = [f"{', '.join(changed)}: {what}"] if changed else []
    return told + fold(model, "OpenVINO computes these layers in float", spared=changed)


def static_lstm(model: onnx.ModelProto) -> list[str]:
    """LSTM between quantized X and h, with int8 weights: the form that OpenVINO runs in int8.

    `_lstm_scales.py` says why the scales are what they are. An initial h that is left out is written as
    zeros, because it must be quantized too. Returns the names of the layers.
    """
    graph, wires = model.graph, Wires(model.graph)
    layers = {node.name: layer for node in graph.node if (layer := _static_layer(node, wires)) is not None}
    if not layers:
        return []
    scales = _shared_scales(layers)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in layers:
            nodes += _quantized(node, graph, layers[node.name], *scales[node.name])
        nodes.append(node)
    replace(graph, nodes)
    tidy(graph)
    return list(layers)


def _static_layer(node: onnx.NodeProto, wires: Wires) -> Layer | None:
    """A layer that OpenVINO has an int8 kernel for; None for any other."""
    if node.op_type != "LSTM" or node.domain not in STANDARD_DOMAINS or not note(node, INPUT_RANGE):
        return None
    odd = [input_of(node, index) for index in (_LENGTHS, _PEEPHOLES)]
    asked = [setting(node, name, 0) for name in ("clip", "layout", "input_forget")]
    activations = tuple(text.decode() for text in setting(node, "activations", ()))
    if any(odd) or any(asked) or activations not in ((), _USUAL, _USUAL * 2):
        return None
    w, r = (codes_of(node.input[index], wires) for index in (W, R))
    if w is None or r is None:
        return None
    largest, hidden = (float(note(node, key) or 0) or 1.0 for key in (INPUT_RANGE, HIDDEN_RANGE))
    return Layer(w.restored, r.restored, largest, hidden)


def _shared_scales(layers: Mapping[str, Layer]) -> dict[str, tuple[float, Scales]]:
    """For each layer its factor and the scales that it has in common with those of its shape."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, layer in layers.items():
        groups[layer.w.shape[1:]].append(name)
    found = {}
    for names in groups.values():
        scales = common_scales([layers[name] for name in names])
        found.update({name: (factor, scales) for name, factor in zip(names, scales.factors, strict=True)})
    return found


def _quantized(
    node: onnx.NodeProto, graph: onnx.GraphProto, layer: Layer, factor: float, scales: Scales
) -> list[onnx.NodeProto]:
    """Rewires the layer; gives the nodes that must stand before it."""
    write = _Writer(node, graph)
    inputs = [*node.input, *[""] * (_INITIAL_H + 1 - len(node.input))]
    start = inputs[_INITIAL_H] or write.zeros(inputs[0], len(layer.r), layer.r.shape[2])
    inputs[0] = write.pair("X", inputs[0], scales.values / factor, scales.values)
    inputs[W] = write.weight("W", layer.w / factor, scales.weights)
    inputs[R] = write.weight("R", layer.r, scales.weights)
    inputs[_INITIAL_H] = write.pair("h", start, scales.values, scales.values)
    rewire(node, inputs)
    return write.nodes


class _Writer:
    """Writes what must stand before one layer."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        self._node, self._graph = node, graph
        self.nodes: list[onnx.NodeProto] = []

    def pair(self, name: str, tensor: str, step: float, scale: float) -> str:
        """A tensor quantized in steps of `step`, each of which then counts as `scale`."""
        zero = self._constant(f"{name}.zero", 0, np.int8)
        steps, scales = self._constant(f"{name}.step", step), self._constant(f"{name}.scale", scale)
        codes = self._add("QuantizeLinear", [tensor, steps, zero], f"{name}.int8")
        return self._add("DequantizeLinear", [codes, scales, zero], f"{name}.restored")

    def weight(self, name: str, value: Array, scale: Array) -> str:
        """A constant behind DequantizeLinear."""
        codes = np.clip(np.round(value / scale[:, None]), -LEVELS, LEVELS)
        inputs = [
            self._constant(f"{name}.int8", codes, np.int8),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero", np.zeros(scale.shape), np.int8),
        ]
        return self._add("DequantizeLinear", inputs, f"{name}.restored", axis=1)

    def zeros(self, x: str, directions: int, hidden: int) -> str:
        """An initial h for as many samples as X has: X is (steps, batch, inputs)."""
        sizes = [self._constant("one", [1], np.int64), self._constant("two", [2], np.int64)]
        batch = self._add("Slice", [self._add("Shape", [x], "X.shape"), *sizes], "batch")
        ends = [self._constant(name, [size], np.int64) for name, size in (("d", directions), ("n", hidden))]
        shape = self._add("Concat", [ends[0], batch, ends[1]], "h.shape", axis=0)
        return self._add("Expand", [self._constant("h.start", np.zeros((1, 1, 1))), shape], "h.zeros")

    def _add(self, kind: str, inputs: list[str], name: str, **settings: Any) -> str:
        from onnx import helper

        result = f"{self._node.name}.{name}"
        made = helper.make_node(kind, inputs, [result], f"{result}/{kind}", **settings)
        made.metadata_props.extend(one for one in self._node.metadata_props if one.key == MODULE_KEY)
        self.nodes.append(made)
        return result

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        return add(self._graph, f"{self._node.name}.{name}", np.asarray(value, dtype))
