"""Quantized tensors in a form that TensorRT takes: int8 with zero point 0.

TensorRT reads uint8 codes with zero point 0 as int8 and only warns: codes above 127 clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.spec import Problem
from edgekit.targets._plan.graph import Names, Scope, add_constant, drop_settings, input_of, setting
from edgekit.targets._plan.report import cure
from edgekit.targets._plan.types import number

if TYPE_CHECKING:
    import onnx

RULE = "zero-point"
_LEVELS = 127
_UNSIGNED_LEVELS = 255
_MIDDLE = 128


def recode(scope: Scope, names: Names) -> list[Problem]:
    """Turn the quantized tensors of one graph into int8 with zero point 0, where that can be done.

    Weights keep their values where the shifted codes fit int8, else they are rounded to new steps.
    Activations with zero point 128 keep theirs; those with 0 get a scale of 255/127 times the old one,
    the same range in steps twice as large. Other zero points stay: the cure is another calibration.
    """
    told = []
    for node in list(scope.graph.node):
        if node.op_type == "QuantizeLinear":
            told += _activation(node, scope, names)
        if node.op_type == "DequantizeLinear":
            told += _weight(node, scope, names)
    return told


def _weight(node: onnx.NodeProto, scope: Scope, names: Names) -> list[Problem]:
    codes, scale = scope.constant(node.input[0]), scope.constant(node.input[1])
    if codes is None or scale is None or codes.dtype not in (np.uint8, np.int8):
        return []
    zero = scope.constant(node.input[2]) if input_of(node, 2) else np.zeros((), codes.dtype)
    if zero is None or setting(node, "block_size", 0) or (codes.dtype == np.int8 and not zero.any()):
        return []
    axis = setting(node, "axis", 1)
    shifted = codes.astype(np.int16) - _along(zero.astype(np.int16), axis, codes.ndim)
    fits = shifted.min(initial=0) >= -_MIDDLE and shifted.max(initial=0) < _MIDDLE
    made, scale = (shifted, scale) if fits else _rounded(shifted, scale, axis)
    base = node.input[0]
    node.input[0] = add_constant(scope.graph, names.unique(f"{base}/int8"), made.astype(np.int8))
    _give([node], scope.graph, names, base, scale)
    reason = f"the weight is {codes.dtype} with zero point {_listed(zero)}; TensorRT takes int8 with 0"
    return [cure(node, RULE, reason, f"int8 with zero point 0, {'the same values' if fits else 'rounded'}")]


def _rounded(
    shifted: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], axis: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes -127..127 and the scale that spans what each channel holds."""
    others = tuple(index for index in range(shifted.ndim) if scale.size == 1 or index != axis % shifted.ndim)
    top = np.abs(shifted).max(axis=others).astype(np.float32)
    factor = np.where(top > _LEVELS, top / _LEVELS, 1).astype(scale.dtype).reshape(scale.shape)
    return np.round(shifted / _along(factor, axis, shifted.ndim)), scale * factor


def _activation(node: onnx.NodeProto, scope: Scope, names: Names) -> list[Problem]:
    """The Q and all its DQs together."""
    readers = scope.readers[node.output[0]]
    zero, scale = _zero_point(node, scope), scope.constant(node.input[1])
    if zero is None or scale is None or zero.dtype != np.uint8 or not _private(node, readers, scope):
        return []
    if any(not _undoes(reader, scale, zero, scope) for reader in readers):
        return []
    if (zero == _MIDDLE).all():
        factor, said = np.float32(1), "int8 with zero point 0 and the same scale: the same numbers"
    elif not zero.any():
        factor = np.float32(_UNSIGNED_LEVELS / _LEVELS)
        said = "int8 with zero point 0 and the scale times 255/127: the same range, steps twice as large"
    else:
        return []
    _give([node, *readers], scope.graph, names, node.output[0], scale * factor)
    reason = f"the codes are uint8 with zero point {_listed(zero)}; TensorRT reads them as int8 and clips"
    return [cure(node, RULE, reason, said)]


def _private(node: onnx.NodeProto, readers: Sequence[onnx.NodeProto], scope: Scope) -> bool:
    """Whether the codes go into DequantizeLinear nodes of this graph and nowhere else."""
    inside = all(reader.op_type == "DequantizeLinear" for reader in readers)
    return bool(readers) and inside and not scope.is_output(node.output[0])


def _undoes(
    reader: onnx.NodeProto, scale: np.ndarray[Any, Any], zero: np.ndarray[Any, Any], scope: Scope
) -> bool:
    """Whether a DQ has the scale and the zero point of its Q."""
    own = scope.constant(reader.input[1])
    shift = scope.constant(reader.input[2]) if input_of(reader, 2) else np.zeros_like(zero)
    return own is not None and shift is not None and bool((own == scale).all() and (shift == zero).all())


def _zero_point(node: onnx.NodeProto, scope: Scope) -> np.ndarray[Any, Any] | None:
    """That of a Q; where it is left out, the codes are uint8 around 0 unless `output_dtype` says else."""
    if input_of(node, 2):
        return scope.constant(node.input[2])
    return np.zeros((), np.uint8) if setting(node, "output_dtype", 0) in (0, number("uint8")) else None


def _give(
    nodes: Sequence[onnx.NodeProto],
    graph: onnx.GraphProto,
    names: Names,
    base: str,
    scale: np.ndarray[Any, Any],
) -> None:
    """A scale of their own, and an int8 zero point 0."""
    scale_name = add_constant(graph, names.unique(f"{base}/int8_scale"), scale)
    zero_name = add_constant(graph, names.unique(f"{base}/int8_zero"), np.zeros(scale.shape, np.int8))
    for node in nodes:
        del node.input[1:]
        node.input.extend([scale_name, zero_name])
        drop_settings(node, "output_dtype")


def _along(value: np.ndarray[Any, Any], axis: int, rank: int) -> np.ndarray[Any, Any]:
    """One value per channel, shaped to meet a tensor of this rank."""
    if value.size == 1:
        return value.reshape(())
    shape = [1] * rank
    shape[axis % rank] = -1
    return value.reshape(shape)


def _listed(zero: np.ndarray[Any, Any]) -> str:
    values = [str(value) for value in np.unique(zero)]
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
