"""Recurrent layers whose weights are int8: what the lowerings of all engines have in common.

The canonical graph has W and R behind one DequantizeLinear each, and float X, h and c. No engine gains
by that form: ONNX Runtime and OpenVINO each want another one (`_lstm.py`), and everything else computes
faster with the weights folded back to float, which gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.targets._lowering import STANDARD_DOMAINS, Wires, drop_unused, reads

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
RECURRENT = ("LSTM", "GRU", "RNN")
Find = Callable[[str], "Array | None"]
"""The constant of a name, if it is one."""
Maker = Callable[[str], "onnx.NodeProto | None"]
"""The node that makes a tensor, if one does."""
W, R = 1, 2
MICROSOFT = "com.microsoft"
CONVERTERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Codes:
    """int8 weights of shape (directions, gates * hidden, inputs), and one scale per row of the gates."""

    values: Array
    scale: Array

    @property
    def restored(self) -> Array:
        """The weights in float32."""
        return self.values.astype(np.float32) * self.scale[:, None]


def recurrent(graph: onnx.GraphProto, kinds: Iterable[str] = RECURRENT) -> list[onnx.NodeProto]:
    """The layers of these kinds at the top level of the graph."""
    return [node for node in graph.node if node.op_type in kinds and node.domain in STANDARD_DOMAINS]


def fold(model: onnx.ModelProto, why: str, spared: Collection[str] = ()) -> list[str]:
    """Dequantized weights of recurrent layers become float constants of the same values, in place.

    The layers `spared` keep theirs. Returns records for the manifest: the layers, and `why`.
    """
    wires, graph = Wires(model.graph), model.graph
    free = [node for node in recurrent(graph) if node.name not in spared]
    folded = [node for node in free if fold_weights(node, graph, wires.constants.get, wires.makers.get)]
    tidy(graph)
    return [f"{named(folded)}: int8 weights -> float, the same values: {why}"] if folded else []


def in_float(model: onnx.ModelProto, kinds: Iterable[str], precision: str, engine: str) -> tuple[str, ...]:
    """A note for the report: the layers for which the engine has no int8 form, and what they run in."""
    found = recurrent(model.graph, kinds)
    listed = " or ".join(dict.fromkeys(node.op_type for node in found))
    return (f"{named(found)}: in {precision}, because {engine} has no int8 {listed}",) if found else ()


def fold_weights(node: onnx.NodeProto, graph: onnx.GraphProto, constant: Find, maker: Maker) -> bool:
    """Whether W or R was behind converters; the node then reads constants of `graph` instead."""
    changed = False
    for index in (W, R):
        name = node.input[index]
        value = value_of(name, constant, maker) if maker(name) is not None else None
        if value is not None and constant(name) is None:
            node.input[index] = add(graph, f"{name}.float", value)
            changed = True
    return changed


def value_of(name: str, constant: Find, maker: Maker) -> Array | None:
    """A constant, also one behind QuantizeLinear and DequantizeLinear; None for anything else."""
    value, node = constant(name), maker(name)
    if value is not None or node is None:
        return value
    if node.op_type not in CONVERTERS or node.domain not in STANDARD_DOMAINS:
        return None
    arrays = [value_of(each, constant, maker) for each in node.input]
    return None if any(each is None for each in arrays) else _evaluated(node, arrays)


def _evaluated(node: onnx.NodeProto, arrays: Sequence[Array | None]) -> Array:
    from onnx.reference import ReferenceEvaluator

    run: Any = ReferenceEvaluator(node).run
    result: Array = run(None, dict(zip(node.input, arrays, strict=True)))[0]
    return result


def codes_of(name: str, wires: Wires) -> Codes | None:
    """Weights in the canonical form: int8, every zero point 0, one scale per row of the gates; else None."""
    maker = wires.makers.get(name)
    if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in wires.constants:
        return None
    values, scale = wires.constants[maker.input[0]], wires.constants.get(maker.input[1])
    zero = wires.constants.get(input_of(maker, 2), np.zeros(()))
    if scale is None or values.dtype != np.int8 or values.ndim != 3 or zero.any():
        return None
    rows = values.shape[1]
    if scale.size != 1 and (setting(maker, "axis", 1) % 3 != 1 or scale.shape != (rows,)):
        return None
    return Codes(values, np.broadcast_to(scale.astype(np.float32).reshape(-1), (rows,)))


def tidy(graph: onnx.GraphProto) -> None:
    """Remove the converters and the constants that nothing reads any more; other nodes stay the objects
    that they are."""
    while dead := _unread_converters(graph):
        for node in dead:
            graph.node.remove(node)
    drop_unused(graph)


def _unread_converters(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    read = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    return [node for node in graph.node if node.op_type in CONVERTERS and not read.intersection(node.output)]


def replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph these nodes in place of its own."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def add(graph: onnx.GraphProto, name: str, value: Array) -> str:
    """The name of a constant, which is added unless the graph has it."""
    from onnx import numpy_helper

    if not any(tensor.name == name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    return name


def input_of(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def rewire(node: onnx.NodeProto, inputs: Iterable[str]) -> None:
    """Give the node these inputs in place of its own."""
    names = list(inputs)
    del node.input[:]
    node.input.extend(names)


def setting(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute."""
    from onnx import helper

    found = (one for one in node.attribute if one.name == name)
    return next((helper.get_attribute_value(one) for one in found), default)


def note(node: onnx.NodeProto, key: str) -> str:
    """An entry of the node's metadata; empty where there is none."""
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def named(nodes: Iterable[onnx.NodeProto]) -> str:
    """The nodes in words."""
    return ", ".join(node.name or node.op_type for node in nodes)


def import_microsoft(model: onnx.ModelProto) -> None:
    """Declare the domain of ONNX Runtime's own operators."""
    from onnx import helper

    if not any(one.domain == MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
