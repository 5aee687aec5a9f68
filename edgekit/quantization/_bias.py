"""Rounding a weight shifts the mean of each channel that it gives: a bias takes the shift back.

Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, arXiv 1906.04721,
section 4.2, in closed form with the means of real samples: b - E[(Wq - W) x].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import Layer, Wiring, attribute, floats

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's input that its weight sums over."""
    return 1 if node.op_type in ("Conv", "ConvTranspose") else -1


def bias_place(wiring: Wiring, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
    """The node, and the place among its inputs, that holds a layer's bias, or that a bias may take.

    That of a MatMul is in the Add that alone reads it; None where there is no such constant.
    """
    if node.op_type != "MatMul":
        given = node.input[2] if len(node.input) > 2 else ""
        return (node, 2) if not given or given in wiring.constants else None
    readers = wiring.readers.get(node.output[0], [])
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in wiring.outputs:
        return None
    other = 1 - list(readers[0].input).index(node.output[0])
    return (readers[0], other) if readers[0].input[other] in wiring.constants else None


def corrected_bias(wiring: Wiring, layer: Layer, error: Array, mean: Array) -> Array | None:
    """The bias without the mean shift; None where there is no place for one.

    `error` is Wq - W, `mean` the mean of each input channel.
    """
    place = bias_place(wiring, layer.node)
    if place is None:
        return None
    shift = _shift(layer.node, error, mean)
    node, index = place
    given = floats(wiring.constants[node.input[index]]) if _has(node, index) else np.zeros(1, np.float32)
    scale = _factor(node, "beta") if node.op_type == "Gemm" else 1.0
    if not scale or given.size not in (1, *given.shape[-1:]) or given.size not in (1, shift.size):
        return None
    bias: Array = (given.reshape(-1) - shift / scale).astype(np.float32)
    return bias.reshape(*given.shape[:-1], -1)


def _has(node: onnx.NodeProto, index: int) -> bool:
    return len(node.input) > index and bool(node.input[index])


def _shift(node: onnx.NodeProto, error: Array, mean: Array) -> Array:
    """The mean of each output channel that `error` alone gives; padding is taken for more of the same."""
    if node.op_type == "Gemm":
        turned = error if attribute(node, "transB", 0) else error.T
        return _factor(node, "alpha") * (turned @ mean)
    if node.op_type == "MatMul":
        return mean @ error
    shift: Array = _convolution_shift(node, error, mean.reshape(attribute(node, "group", 1), -1))
    return shift


def _convolution_shift(node: onnx.NodeProto, error: Array, means: Array) -> Array:
    """`means` are those of the input channels [groups, channels]."""
    taps = error.sum(axis=tuple(range(2, error.ndim)), dtype=np.float64)
    taps = taps.reshape(len(means), -1, taps.shape[1])
    if node.op_type == "Conv":
        rule = "goi,gi->go"
    else:
        rule, taps = "gio,gi->go", taps / math.prod(_strides(node))
    shift: Array = np.einsum(rule, taps, means).reshape(-1)
    return shift


def _strides(node: onnx.NodeProto) -> list[int]:
    return next((list(each.ints) for each in node.attribute if each.name == "strides"), [1])


def _factor(node: onnx.NodeProto, name: str) -> float:
    return next((each.f for each in node.attribute if each.name == name), 1.0)
