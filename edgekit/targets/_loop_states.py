"""Initial states of Scan that OpenVINO loses when the length changes.

A state that starts as a constant of the batch's size, as `new_zeros` makes it, is ready long before the loop,
and OpenVINO 2026.4.1 lends its memory to others meanwhile: in bf16 a convolutional LSTM that was right for 8
and 9 frames gave infinities for 10. One that is made from what the loop reads is made just before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.targets._lowering import Wires
from edgekit.targets._overlooked import depends_on_data
from edgekit.targets._recurrent import setting

if TYPE_CHECKING:
    import onnx


def made_late(model: onnx.ModelProto) -> list[str]:
    """Add to such states, in place, a zero that is computed from the loop's input.

    Returns a record for the manifest.
    """
    loops = {place: node for place, node in enumerate(model.graph.node) if node.op_type == "Scan"}
    if not loops:
        return []
    wires, floats = Wires(model.graph), _floats(model)
    fed = {value.name for value in model.graph.input} - set(wires.constants)
    before: dict[int, list[onnx.NodeProto]] = {}
    count = 0
    for place, loop in loops.items():
        states = len(loop.input) - setting(loop, "num_scan_inputs", 0)
        early = [
            index
            for index, name in enumerate(loop.input[:states])
            if name not in wires.constants and not depends_on_data(name, wires, fed)
        ]
        if early and floats.issuperset(loop.input[index] for index in (*early, states)):
            before[place] = _late(model.graph, loop, early, loop.input[states])
            count += len(early)
    _insert(model.graph, before)
    return [f"{count} initial states of loops: a constant -> the same, made just before"] if count else []


def _floats(model: onnx.ModelProto) -> set[str]:
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    known = (*graph.input, *graph.value_info)
    return {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _late(
    graph: onnx.GraphProto, loop: onnx.NodeProto, early: list[int], source: str
) -> list[onnx.NodeProto]:
    """The nodes that make the states anew from one number of `source`, clipped to 0: the loop reads them."""
    from onnx import helper, numpy_helper

    name = f"{loop.input[early[0]]}/{loop.name}/zero"
    parts = {"flat": np.array([-1]), "first": np.array([0]), "limit": np.array(0, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(part, f"{name}.{key}") for key, part in parts.items())
    flat, first, limit = (f"{name}.{key}" for key in parts)
    made = [
        helper.make_node("Reshape", [source, flat], [f"{name}.all"], f"{name}.all"),
        helper.make_node("Gather", [f"{name}.all", first], [f"{name}.one"], f"{name}.one"),
        helper.make_node("Clip", [f"{name}.one", limit, limit], [name], name),
    ]
    for index in early:
        late = f"{name}.state.{index}"
        made.append(helper.make_node("Add", [loop.input[index], name], [late], late))
        loop.input[index] = late
    return made


def _insert(graph: onnx.GraphProto, before: dict[int, list[onnx.NodeProto]]) -> None:
    """New nodes before the one at each place."""
    from onnx import NodeProto

    nodes = [each for place, node in enumerate(graph.node) for each in (*before.get(place, ()), node)]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
