"""Recurrent layers in int8: pure changes of an ONNX graph, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._gru import can_be_written_out, write_out
from edgekit.quantization._qdq import LEVELS, add_constant, quantized_weight, stored_weight

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
INPUT_RANGE, HIDDEN_RANGE = "edgekit.input_range", "edgekit.hidden_range"
_GATES_AXIS = 1
"""W is (directions, gates * hidden, inputs), R is (directions, gates * hidden, hidden)."""
_BIAS = 3
_FACTOR = 2.0**20


def lstm_candidates(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The LSTM nodes of the top level whose W and R are float32 constants."""
    return _with_constants(graph, "LSTM", (1, 2))


def gru_candidates(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The GRU nodes of the top level that `quantize_gru` takes: those that PyTorch exports."""
    return [node for node in _with_constants(graph, "GRU", (1, 2, _BIAS)) if can_be_written_out(node)]


def quantize_lstm(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    input_range: float,
    hidden_range: float | None = None,
    levels: int = LEVELS,
) -> None:
    """W and R become int8 behind DequantizeLinear, one scale per row of the gates, for all directions.

    X, h and c stay float: each engine has its own way to make them smaller. What one needs for that goes
    into the node's metadata: `input_range` is the largest |X| on the calibration data, `hidden_range` the
    largest |h| there (None: 1, which is never exceeded).
    """
    for index in (1, 2):
        node.input[index] = _dequantized(graph, node, node.input[index], levels)
    _note(node, INPUT_RANGE, input_range)
    if hidden_range is not None:
        _note(node, HIDDEN_RANGE, hidden_range)


def quantize_gru(
    graph: onnx.GraphProto, node: onnx.NodeProto, input_range: float, levels: int = LEVELS
) -> None:
    """One of `gru_candidates` becomes a Scan with int8 products, of the same name and module.

    `input_range` is the largest |X| on the calibration data. Worth it for large layers only: see
    `benchmarks/recurrent.py`.
    """
    w, r = (_constant(graph, node.input[index]) for index in (1, 2))
    given = node.input[_BIAS] if len(node.input) > _BIAS else ""
    bias = _constant(graph, given) if given else np.zeros((len(w), 2 * w.shape[1]), np.float32)
    write_out(graph, node, w, r, bias, input_range, levels)


def equalize(graph: onnx.GraphProto, node: onnx.NodeProto, channel_ranges: Sequence[float]) -> None:
    """Bring the features of X to one range and take that back in W: exact, but for rounding.

    `channel_ranges` is the largest magnitude of each feature on the calibration data. The factors are
    powers of two, so that nothing is rounded; a feature that is never seen gets the factor 1. What X is
    multiplied by leaves it within 0.5 to 1, where one scale suits all features.
    """
    factors = _powers_of_two(np.asarray(channel_ranges, np.float64))
    weight = _constant(graph, node.input[1])
    names = [f"{node.name}/equalized.{part}" for part in ("factors", "W", "X")]
    add_constant(graph, names[0], factors)
    add_constant(graph, names[1], weight / factors)
    _insert_before(graph, node, _product(node, names))
    node.input[0], node.input[1] = names[2], names[1]


def _powers_of_two(ranges: Array) -> Array:
    known = np.where(ranges > 0, ranges, 1)
    exact = 2.0 ** -np.ceil(np.log2(known))
    return np.where(ranges > 0, np.clip(exact, 1 / _FACTOR, _FACTOR), 1).astype(np.float32)


def _product(node: onnx.NodeProto, names: Sequence[str]) -> onnx.NodeProto:
    from onnx import helper

    made = helper.make_node("Mul", [node.input[0], names[0]], [names[2]], f"{names[2]}/Mul")
    made.metadata_props.extend(node.metadata_props)
    return made


def _with_constants(graph: onnx.GraphProto, kind: str, places: Sequence[int]) -> list[onnx.NodeProto]:
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
    return [
        node
        for node in graph.node
        if node.op_type == kind
        and node.domain in ("", "ai.onnx")
        and all(node.input[place] in floats for place in places if place < len(node.input))
    ]


def _dequantized(graph: onnx.GraphProto, node: onnx.NodeProto, name: str, levels: int) -> str:
    """The name of the weight behind DequantizeLinear; layers that share a weight share that."""
    codes = quantized_weight(_constant(graph, name), _GATES_AXIS, levels)
    made = stored_weight(graph, name, _GATES_AXIS, codes)
    if not any(one.name == made.name for one in graph.node):
        _insert_before(graph, node, made)
    return str(made.output[0])


def _insert_before(graph: onnx.GraphProto, node: onnx.NodeProto, made: onnx.NodeProto) -> None:
    graph.node.insert(list(graph.node).index(node), made)


def _constant(graph: onnx.GraphProto, name: str) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == name))


def _note(node: onnx.NodeProto, key: str, value: float) -> None:
    entry = next((one for one in node.metadata_props if one.key == key), None) or node.metadata_props.add(
        key=key
    )
    entry.value = repr(float(value))
