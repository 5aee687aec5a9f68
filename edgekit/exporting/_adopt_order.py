"""Which nodes of a graph are needed, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekit.sources._onnx_walk import bodies

if TYPE_CHECKING:
    import onnx


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads from around it, from inside its sub-graphs too."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        own |= {name for inner in body.node for name in inner.output}
        yield from (name for inner in body.node for name in reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)


def living(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in the order that was."""
    makers = _makers(nodes)
    waiting, found = list(outputs), set()
    while waiting:
        place = makers.get(waiting.pop())
        if place is not None and place not in found:
            found.add(place)
            waiting.extend(reads(nodes[place]))
    return [node for place, node in enumerate(nodes) if place in found]


def in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Makers before readers, otherwise in the order that was. The nodes must form no circle."""
    makers = _makers(nodes)
    needs = [[makers[name] for name in reads(node) if name in makers] for node in nodes]
    placed: dict[int, None] = {}
    waiting = list(reversed(range(len(nodes))))
    while waiting:
        missing = [place for place in needs[waiting[-1]] if place not in placed]
        if missing:
            waiting.extend(reversed(missing))
        else:
            placed.setdefault(waiting.pop())
    return [nodes[place] for place in placed]


def _makers(nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    return {name: place for place, node in enumerate(nodes) for name in node.output if name}
