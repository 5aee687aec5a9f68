"""Operators that older parsers lack, in terms of those that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._plan.context import CannotLower, Context
from edgekit.targets._plan.graph import Writer, input_of, setting

if TYPE_CHECKING:
    import onnx

_AXES_ARE_INPUTS = 18


def _scalar(context: Context, writer: Writer, value: float) -> str:
    return writer.constant(np.array(value, np.float32))


def _layer_normalization(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    axes = _last_axes(node, context)
    outputs = [*node.output, "", ""]
    mean = _mean(context, writer, node.input[0], axes, outputs[1])
    centred = writer.add("Sub", [node.input[0], mean])
    square = writer.add("Mul", [centred, centred])
    variance = _mean(context, writer, square, axes)
    deviation = _deviation(node, context, writer, variance)
    if outputs[2]:
        writer.add("Reciprocal", [deviation], outputs[2])
    _scaled(node, writer, writer.add("Div", [centred, deviation]))


def _mean(context: Context, writer: Writer, name: str, axes: list[int], output: str = "") -> str:
    if context.opset < _AXES_ARE_INPUTS:
        return writer.add("ReduceMean", [name], output, axes=axes)
    return writer.add("ReduceMean", [name, writer.constant(np.array(axes, np.int64))], output)


def _rms_normalization(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    square = writer.add("Mul", [node.input[0], node.input[0]])
    mean = _mean(context, writer, square, _last_axes(node, context))
    deviation = _deviation(node, context, writer, mean)
    _scaled(node, writer, writer.add("Div", [node.input[0], deviation]))


def _deviation(node: onnx.NodeProto, context: Context, writer: Writer, variance: str) -> str:
    epsilon = _scalar(context, writer, setting(node, "epsilon", 1e-5))
    return writer.add("Sqrt", [writer.add("Add", [variance, epsilon])])


def _scaled(node: onnx.NodeProto, writer: Writer, normal: str) -> None:
    """Times the scale, plus the bias if there is one, into the node's own output."""
    scale, bias = input_of(node, 1), input_of(node, 2)
    if bias:
        writer.add("Add", [writer.add("Mul", [normal, scale]), bias], node.output[0])
    else:
        writer.add("Mul", [normal, scale], node.output[0])


def _last_axes(node: onnx.NodeProto, context: Context) -> list[int]:
    axis = setting(node, "axis", -1)
    if axis >= 0:
        axis -= len(context.dims(node))
    return list(range(axis, 0))


def _group_normalization(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    """As InstanceNormalization over the groups, which every TensorRT computes in float32."""
    groups = setting(node, "num_groups")
    scale, bias = (context.constant(node, index, "scale and bias") for index in (1, 2))
    channels = context.dims(node)[1]
    if channels < 0:
        raise CannotLower(node, "the number of channels is dynamic")
    grouped = writer.add("Reshape", [node.input[0], writer.constant(np.array([0, groups, -1]))])
    parts = [writer.constant(np.full(groups, value, np.float32)) for value in (1, 0)]
    epsilon = setting(node, "epsilon", 1e-5)
    normal = writer.add("InstanceNormalization", [grouped, *parts], epsilon=epsilon)
    flat = writer.add("Reshape", [normal, writer.constant(np.array([0, channels, -1]))])
    for kind, value in (("Mul", scale), ("Add", bias)):
        each = np.repeat(value, channels // value.size).reshape(1, channels, 1)
        flat = writer.add(kind, [flat, writer.constant(each)])
    writer.add("Reshape", [flat, writer.add("Shape", [node.input[0]])], node.output[0])


def _gelu(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    x = node.input[0]
    if setting(node, "approximate", "none") == "tanh":
        cube = writer.add("Mul", [writer.add("Mul", [x, x]), x])
        bent = writer.add("Add", [x, writer.add("Mul", [cube, _scalar(context, writer, 0.044715)])])
        scaled = writer.add("Mul", [bent, _scalar(context, writer, float(np.sqrt(2 / np.pi)))])
        share = writer.add("Tanh", [scaled])
    else:
        share = writer.add("Erf", [writer.add("Mul", [x, _scalar(context, writer, float(np.sqrt(0.5)))])])
    gate = writer.add("Add", [share, _scalar(context, writer, 1)])
    half = writer.add("Mul", [x, _scalar(context, writer, 0.5)])
    writer.add("Mul", [half, gate], node.output[0])


def _mish(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    gate = writer.add("Tanh", [writer.add("Softplus", [node.input[0]])])
    writer.add("Mul", [node.input[0], gate], node.output[0])


def _swish(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    alpha = _scalar(context, writer, setting(node, "alpha", 1.0))
    gate = writer.add("Sigmoid", [writer.add("Mul", [node.input[0], alpha])])
    writer.add("Mul", [node.input[0], gate], node.output[0])


def _cast_like(node: onnx.NodeProto, context: Context, writer: Writer) -> None:
    wanted = context.types.of(node.output[0])
    if not wanted:
        raise CannotLower(node, "the type that this CastLike makes is not known")
    writer.add("Cast", [node.input[0]], node.output[0], to=wanted)


WRITTEN: dict[str, Callable[[Any, Context, Writer], None]] = {
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "GroupNormalization": _group_normalization,
    "Gelu": _gelu,
    "Mish": _mish,
    "Swish": _swish,
    "CastLike": _cast_like,
}
NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
