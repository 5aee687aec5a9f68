"""Writes QuantizeLinear/DequantizeLinear nodes into a graph: int8, every zero point 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import Layer

if TYPE_CHECKING:
    import onnx

_LEVELS = 127
_ZERO = "edgekit.int8_zero"


def insert(
    graph: onnx.GraphProto,
    layers: Iterable[Layer],
    readers: Mapping[str, Iterable[onnx.NodeProto]],
    largest: Mapping[str, float],
) -> None:
    """Puts Q/DQ pairs between tensors and their `readers`, and int8 weights with DQ into `layers`. In place.

    `largest` is the magnitude that code 127 stands for. Every zero point is 0.
    """
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), _ZERO))
    for tensor, nodes in readers.items():
        restored = f"{tensor}/dequantized"
        for node in nodes:
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = restored
        _add_pair(graph, tensor, restored, largest[tensor])
    for layer in layers:
        _quantize_weight(graph, layer)
    _sort(graph)
    _drop_unread(graph)
    del graph.value_info[:]


def _add_pair(graph: onnx.GraphProto, tensor: str, restored: str, top: float) -> None:
    from onnx import helper, numpy_helper

    scale, codes = f"{tensor}/scale", f"{tensor}/int8"
    graph.initializer.append(numpy_helper.from_array(np.array((top or 1.0) / _LEVELS, np.float32), scale))
    for kind, source, result in (
        ("QuantizeLinear", tensor, codes),
        ("DequantizeLinear", codes, restored),
    ):
        graph.node.append(helper.make_node(kind, [source, scale, _ZERO], [result], f"{tensor}/{kind}"))


def _quantize_weight(graph: onnx.GraphProto, layer: Layer) -> None:
    from onnx import helper, numpy_helper

    name = layer.node.input[1]
    suffix = "" if layer.axis is None else f".axis{layer.axis}"
    restored = f"{name}/dequantized{suffix}"
    layer.node.input[1] = restored
    if any(restored in node.output for node in graph.node):
        return  # two layers share one weight
    weight = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == name))
    codes, scale = quantized_weight(weight, layer.axis)
    names = [f"{name}/int8{suffix}", f"{name}/scale{suffix}", f"{name}/zero{suffix}"]
    for array, label in zip((codes, scale, np.zeros(scale.shape, np.int8)), names, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, label))
    settings: dict[str, Any] = {} if layer.axis is None else {"axis": layer.axis}
    node = helper.make_node("DequantizeLinear", names, [restored], f"{restored}/DequantizeLinear", **settings)
    graph.node.append(node)


def quantized_weight(
    weight: np.ndarray[Any, Any], axis: int | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes -127..127 and their scale, one per channel of `axis`; a channel of zeros gets scale 1."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    top = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(top > 0, top / _LEVELS, 1.0).astype(np.float32)
    codes = np.clip(np.round(weight / scale), -_LEVELS, _LEVELS).astype(np.int8)
    return codes, scale.reshape(() if axis is None else -1)


def reads(node: onnx.NodeProto) -> Iterable[str]:
    """Every tensor that a node reads, from inside its sub-graphs too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)
        yield from (value.name for value in attribute.g.output)


def _sort(graph: onnx.GraphProto) -> None:
    """Makers before readers, otherwise in the order that was."""
    makers = {name: node for node in graph.node for name in node.output if name}
    placed: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    waiting = list(reversed(graph.node))
    while waiting:
        node = waiting.pop()
        if node.name in placed:
            continue
        missing = [makers[name] for name in reads(node) if name in makers and makers[name].name not in placed]
        if missing:
            waiting += [node, *reversed(missing)]
            continue
        placed.add(node.name)
        ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
