"""int8 in the bodies of Scan and Loop: what a recurrent cell written by hand computes at every step.

A convolutional LSTM (Shi et al., Convolutional LSTM Network, arXiv 1506.04214) is one convolution in the
body of a Scan. Engines compute it on integers if all is in the body: Q/DQ before it, its int8 weights,
and Q/DQ behind its result, before the gates. Without the last, ONNX Runtime keeps it in float and
dequantizes the weights at every step, three times as slow as the float network.
Bodies inside of bodies stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from edgekit.quantization._body import AnyOn, Body, BodyLayer, constants
from edgekit.quantization._qdq import LEVELS, note, tidy

if TYPE_CHECKING:
    import onnx

__all__ = ["HIGH", "LOW", "OWNERS", "BodyLayer", "body_layers", "probe", "quantize_bodies", "switch_bodies"]

OWNERS = ("Scan", "Loop")
LOW, HIGH = "edgekit.low", "edgekit.high"


def body_layers(graph: onnx.GraphProto) -> list[BodyLayer]:
    """The layers in the bodies of Scan and Loop that can be int8, in the graph's order."""
    return [layer for body in _bodies(graph) for layer in body.described()]


def probe(graph: onnx.GraphProto, tensors: Collection[str]) -> dict[str, str]:
    """Makes the values that `tensors` of bodies have at every step results of Scan and Loop, in place.

    Returns for each of them the name of the outer tensor, of shape (steps, *its own). To be called on a
    copy: memory holds all steps of a sample, and the bodies get more results.
    """
    return {name: stacked for body in _bodies(graph) for name, stacked in body.exposed(tensors).items()}


def quantize_bodies(
    graph: onnx.GraphProto,
    names: Collection[str],
    largest: Mapping[str, float],
    bounds: Callable[[str], tuple[float, float]] | None = None,
    levels: int = LEVELS,
) -> None:
    """Makes the layers `names` of bodies int8, in place.

    For each of `BodyLayer.tensors` `largest` gives the magnitude that code 127 stands for, and `bounds` the
    range, which the QuantizeLinear keeps in its metadata. Every zero point is 0. What else reads the input
    of a layer, the next step included, still reads it in float.
    """
    for body in _bodies(graph):
        for name, node in body.quantize(names, largest, levels).items():
            for key, value in zip((LOW, HIGH), bounds(name) if bounds else (), strict=False):
                note(node, key, value)
    tidy(graph)


def switch_bodies(graph: onnx.GraphProto, any_on: AnyOn, largest: Mapping[str, float], levels: int) -> None:
    """Puts a switch at every layer of a body, in place."""
    for body in list(_bodies(graph)):
        body.switch(any_on, largest, levels)


def _bodies(graph: onnx.GraphProto) -> Iterator[Body]:
    around = constants(graph)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type in OWNERS and attribute.name == "body":
                yield Body(node, attribute.g, around)
