"""Writes QuantizeLinear/DequantizeLinear nodes into a graph: int8, every zero point 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Codes = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
LEVELS = 127
"""The largest code."""
REDUCED = 63
"""The largest code of a weight where two products of unsigned activations must fit into 16 bits."""
_ZERO = "edgekit.int8_zero"


def insert(
    graph: onnx.GraphProto,
    readers: Mapping[str, Iterable[onnx.NodeProto]],
    largest: Mapping[str, float],
) -> dict[str, onnx.NodeProto]:
    """Puts Q/DQ pairs between tensors and their `readers`, in place; gives each tensor's QuantizeLinear.

    `largest` is the magnitude that code 127 stands for. Every zero point is 0.
    """
    made = {}
    for tensor, nodes in readers.items():
        restored = f"{tensor}/dequantized"
        for node in nodes:
            replace_input(node, tensor, restored)
        graph.node.extend(pair(graph, tensor, restored, largest[tensor]))
        made[tensor] = graph.node[-2]
    return made


def pair(
    graph: onnx.GraphProto, tensor: str, restored: str, top: float, label: str = ""
) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear from `tensor` to `restored`; their constants go into `graph`.

    That is to be made tidy at the end: the zero point is there more than once. `label` is what the names
    begin with where a tensor has more than one pair.
    """
    from onnx import helper

    label = label or tensor
    scale, codes = f"{label}/scale", f"{label}/int8"
    append_constant(graph, _ZERO, np.zeros((), np.int8))
    append_constant(graph, scale, np.array((top or 1.0) / LEVELS, np.float32))
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [codes], f"{label}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [codes, scale, _ZERO], [restored], f"{label}/DequantizeLinear"),
    ]


def stored_weight(graph: onnx.GraphProto, name: str, axis: int | None, codes: Codes) -> onnx.NodeProto:
    """The DequantizeLinear node that gives the weight `name` back; its constants go into `graph`.

    Layers that share a weight share the node too: its name and its output are the same.
    """
    from onnx import helper

    suffix = "" if axis is None else f".axis{axis}"
    names = [f"{name}/{part}{suffix}" for part in ("int8", "scale", "zero")]
    if all(tensor.name != names[0] for tensor in graph.initializer):
        for label, array in zip(names, (*codes, np.zeros(codes[1].shape, np.int8)), strict=True):
            append_constant(graph, label, array)
    restored = f"{name}/dequantized{suffix}"
    settings: dict[str, Any] = {} if axis is None else {"axis": axis}
    return helper.make_node("DequantizeLinear", names, [restored], f"{restored}/DequantizeLinear", **settings)


def note(node: onnx.NodeProto, key: str, value: float) -> None:
    """A number in the metadata of a node that has none of this key."""
    node.metadata_props.add(key=key, value=repr(float(value)))


def replace_input(node: onnx.NodeProto, before: str, after: str) -> None:
    """Wherever the node reads `before` it reads `after`."""
    node.input[:] = [after if name == before else name for name in node.input]


def set_input(node: onnx.NodeProto, index: int, name: str) -> None:
    """The input at `index`, which the node may not have had."""
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = name


def add_constant(graph: onnx.GraphProto, name: str, array: np.ndarray[Any, Any]) -> None:
    """An initializer, unless the graph has one of this name."""
    from onnx import numpy_helper

    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(array, name))


def append_constant(graph: onnx.GraphProto, name: str, array: np.ndarray[Any, Any]) -> None:
    """An initializer of a name that another one of the same value may have: `tidy` leaves one of them."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(array, name))


def tidy(graph: onnx.GraphProto) -> None:
    """Makers before readers, no constant twice or unread, no type that may no longer hold. In place."""
    _sort(graph)
    _drop_superfluous(graph)
    del graph.value_info[:]


def quantized_weight(weight: np.ndarray[Any, Any], axis: int | None, levels: int = LEVELS) -> Codes:
    """Codes -levels..levels and their scale, one per channel of `axis`; a channel of zeros gets scale 1."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    top = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(top > 0, top / levels, 1.0).astype(np.float32)
    codes = np.clip(np.round(weight / scale), -levels, levels).astype(np.int8)
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


def _drop_superfluous(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    kept = {tensor.name: tensor for tensor in graph.initializer if tensor.name in read}
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
