"""Outlying channels before a matrix product: what makes them large moves into the weights.

SmoothQuant (Xiao et al., arXiv 2211.10438, section 4): x W = (x f) (W / f), with a factor for each channel
of x between its range and that of its weights. One scale then suits all channels. Every factor is a power
of two, so that a float network computes the same to the last bit. The paper has one strength for a whole
network; here each tensor has the one that promises the least rounding error, and tensors that gain little
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import Wiring, attribute, floats
from edgekit.quantization._qdq import append_constant, reads, replace_input, tidy
from edgekit.quantization._tally import Tally

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Factors = Mapping[str, Array]
"""By tensor: what each of its channels, on the last axis, is multiplied by."""
STRENGTHS = np.linspace(0.3, 1.0, 15)
"""How much of a channel's range may go into the weights; 0.5 to 0.9 are usual."""
GAIN = 1.5
"""By so much the foretold error must fall: each smoothed tensor may cost a multiplication."""
_PRODUCTS = ("Gemm", "MatMul")
_LARGEST = 2.0**20
_PEAK_TO_RMS = 3.0


def smoothing(wiring: Wiring, tallies: Mapping[str, Tally]) -> dict[str, Array]:
    """The factors of the tensors whose products gain by them; `tallies` know the peaks of their channels."""
    found = {}
    for tensor, nodes in _products(wiring).items():
        weight = np.concatenate([_rows(wiring, node) for node in nodes], axis=1)
        factors = _best(tallies[tensor].peaks[-1].astype(np.float64), weight.astype(np.float64))
        if factors is not None:
            found[tensor] = factors
    return found


def smooth(graph: onnx.GraphProto, factors: Factors) -> None:
    """Moves the factors of each tensor into the weights of the products that read it, in place.

    What makes the tensor takes them in where nothing else reads it: a normalization, or a linear layer
    with or without a ReLU. Else a Mul stands before the products. They read `TENSOR/smoothed`.
    """
    for tensor, values in factors.items():
        wiring = Wiring(graph)
        nodes = _products(wiring)[tensor]
        if not _fold(wiring, tensor, nodes, values):
            graph.node.append(_multiplication(graph, tensor, nodes[0], values))
        for node in nodes:
            _scale(wiring, (node, 1, 1 - _column_axis(node)), 1 / values, tensor)
            replace_input(node, tensor, _smoothed(tensor))
    if factors:
        tidy(graph)


def _smoothed(tensor: str) -> str:
    return f"{tensor}/smoothed"


def _products(wiring: Wiring) -> dict[str, list[onnx.NodeProto]]:
    """The matrix products by the tensor that they read, but for those that read what a convolution gives:
    between integers of one scale a factor for each channel has no place."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for layer in wiring.layers(_PRODUCTS):
        if not wiring.is_convolved(layer.node.input[0]):
            found.setdefault(layer.node.input[0], []).append(layer.node)
    return found


def _column_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight's output channels."""
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def _rows(wiring: Wiring, node: onnx.NodeProto) -> Array:
    """The weight with a row for each channel of the input."""
    weight = floats(wiring.constants[node.input[1]])
    return weight if _column_axis(node) else weight.T


def _best(peaks: Array, weight: Array) -> Array | None:
    """The factors of the strength that promises the least error; None where even that gains little."""
    rows = np.abs(weight).max(axis=1)
    seen = (peaks > 0) & (rows > 0)
    if not seen.any():
        return None
    tried = [_factors(peaks, rows, seen, strength) for strength in STRENGTHS]
    errors = [_foretold(peaks, weight, factors) for factors in tried]
    least = int(np.argmin(errors))
    gains = _foretold(peaks, weight, np.ones_like(peaks)) > GAIN**2 * errors[least]
    return tried[least].astype(np.float32) if gains else None


def _factors(peaks: Array, rows: Array, seen: Array, strength: float) -> Array:
    """Powers of two near max|W|^(1 - strength) / max|x|^strength, their median 1; 1 for unseen channels."""
    exact = rows[seen] ** (1 - strength) / peaks[seen] ** strength
    factors = np.ones_like(peaks)
    factors[seen] = np.clip(2.0 ** np.round(np.log2(exact / np.median(exact))), 1 / _LARGEST, _LARGEST)
    return factors


def _foretold(peaks: Array, weight: Array, factors: Array) -> float:
    """The squared error of a product, in squared steps: rounding x, then rounding W one scale a column."""
    moved = np.abs(weight) / factors[:, None]
    of_inputs = (peaks * factors).max() ** 2 * (moved**2).sum()
    of_weights = (moved.max(axis=0) ** 2).sum() * ((peaks * factors / _PEAK_TO_RMS) ** 2).sum()
    return float(of_inputs + of_weights)


_Place = tuple["onnx.NodeProto", int, int]
"""A node, the place of a constant among its inputs, and the axis of that constant's channels."""


def _fold(wiring: Wiring, tensor: str, nodes: Sequence[onnx.NodeProto], values: Array) -> bool:
    """Whether the maker of `tensor` gives it multiplied now, as `TENSOR/smoothed`."""
    if not _read_by(wiring, tensor, nodes):
        return False
    maker = wiring.producers.get(tensor)
    places = _places(wiring, maker, values.size) if maker is not None else []
    for place in places:
        _scale(wiring, place, values, tensor)
    if maker is not None and places:
        maker.output[:] = [_smoothed(name) if name == tensor else name for name in maker.output]
    return bool(places)


def _read_by(wiring: Wiring, tensor: str, nodes: Iterable[onnx.NodeProto]) -> bool:
    """Whether these are all that reads a tensor; loops read what is around them too."""
    readers = {node.name for node in wiring.graph.node if tensor in reads(node)}
    return tensor not in wiring.outputs and readers == {node.name for node in nodes}


def _places(wiring: Wiring, maker: onnx.NodeProto, channels: int) -> list[_Place]:
    """The constants that multiply what a node gives, channel by channel; empty where there are none."""
    if maker.op_type == "LayerNormalization":
        found: list[_Place] = [(maker, index, 0) for index in range(1, len(maker.input))]
    elif maker.op_type == "Mul":
        found = [(maker, i, -1) for i, name in enumerate(maker.input) if name in wiring.constants]
    elif maker.op_type in _PRODUCTS:
        found = [(maker, 1, _column_axis(maker))] if wiring.is_layer(maker) else []
        found += [(maker, 2, -1)] if found and len(maker.input) > 2 else []
    else:
        return _places_before(wiring, maker, channels)
    return found if all(_one_each(wiring, place, channels) for place in found) else []


def _places_before(wiring: Wiring, maker: onnx.NodeProto, channels: int) -> list[_Place]:
    """The same for what a ReLU, or the addition of a constant, has before it."""
    constants = [index for index, name in enumerate(maker.input) if name in wiring.constants]
    if maker.op_type not in ("Relu", "Add") or len(constants) != len(maker.input) - 1:
        return []
    source = next(name for name in maker.input if name not in wiring.constants)
    before = wiring.producers.get(source)
    if before is None or before.op_type not in (*_PRODUCTS, "Add") or not _read_by(wiring, source, [maker]):
        return []
    own: list[_Place] = [(maker, index, -1) for index in constants]
    found = _places(wiring, before, channels)
    return [*found, *own] if found and all(_one_each(wiring, place, channels) for place in own) else []


def _one_each(wiring: Wiring, place: _Place, channels: int) -> bool:
    """Whether there is a float32 constant with one value, or one column, for each channel."""
    node, index, axis = place
    known = wiring.constants.get(node.input[index])
    if known is None or known.data_type != 1 or not known.dims or known.dims[axis] != channels:
        return False
    return (index == 1 and node.op_type in _PRODUCTS) or int(np.prod(known.dims)) == channels


def _scale(wiring: Wiring, place: _Place, values: Array, tensor: str) -> None:
    """Multiplies a constant along an axis; whoever shares it keeps the one that was."""
    node, index, axis = place
    name = f"{_smoothed(tensor)}.{node.input[index]}"
    constant = floats(wiring.constants[node.input[index]])
    sizes = [1] * constant.ndim
    sizes[axis] = values.size
    append_constant(wiring.graph, name, constant * values.reshape(sizes))
    node.input[index] = name


def _multiplication(
    graph: onnx.GraphProto, tensor: str, before: onnx.NodeProto, values: Array
) -> onnx.NodeProto:
    from onnx import helper

    name = _smoothed(tensor)
    append_constant(graph, f"{name}.factors", values)
    made = helper.make_node("Mul", [tensor, f"{name}.factors"], [name], f"{name}/Mul")
    made.metadata_props.extend(before.metadata_props)
    return made
