"""NonMaxSuppression at the end of a detector: TensorRT parses it, then fails to build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.spec import Problem
from edgekit.targets._plan.graph import bodies, reads, replace_nodes, words
from edgekit.targets._plan.report import cure

if TYPE_CHECKING:
    import onnx

RULE = "nms"
_LAYERS = words("Conv ConvTranspose MatMul Gemm Einsum LSTM GRU RNN Attention RoiAlign MaxPool Resize")
"""Behind these there is more network to run: the suppression is inside, not at the end."""
_BOXES, _SCORES = 0, 1


def at_the_end(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether only bookkeeping follows a NonMaxSuppression of the main graph."""
    behind = [graph.node[index] for index in _behind(_place(node, graph), graph)]
    return not any(one.op_type in _LAYERS or any(True for _ in bodies(one)) for one in behind)


def cut_detections(model: onnx.ModelProto, original: onnx.ModelProto) -> list[Problem]:
    """Let the graph end before each NonMaxSuppression: it hands out boxes and scores. In place.

    The other outputs stay, those computed from the suppression are gone. `original` is the model in
    whose names shapes can be inferred.
    """
    graph = model.graph
    ends = [node for node in graph.node if node.op_type == "NonMaxSuppression" and at_the_end(node, graph)]
    if not ends:
        return []
    gone = {index for node in ends for index in (_place(node, graph), *_behind(_place(node, graph), graph))}
    lost = {name for index in gone for name in graph.node[index].output}
    handed = list(dict.fromkeys(node.input[part] for node in ends for part in (_BOXES, _SCORES)))
    told = [_said(node) for node in ends]
    _hand_out(model, [name for name in handed if name not in lost], lost, original)
    replace_nodes(graph, [node for index, node in enumerate(graph.node) if index not in gone])
    _prune(graph)
    return told


def _said(node: onnx.NodeProto) -> Problem:
    reason = "TensorRT parses NonMaxSuppression, then fails to build it"
    done = (
        f"the graph ends before it and hands out the boxes {node.input[_BOXES]!r} and the scores "
        f"{node.input[_SCORES]!r}: suppress behind the engine"
    )
    return cure(node, RULE, reason, done)


def _place(node: onnx.NodeProto, graph: onnx.GraphProto) -> int:
    return next(index for index, one in enumerate(graph.node) if one.output[0] == node.output[0])


def _behind(place: int, graph: onnx.GraphProto) -> list[int]:
    """The nodes that read what this one makes, directly or not."""
    made, found = set(graph.node[place].output), []
    for index in range(place + 1, len(graph.node)):
        if made & set(reads(graph.node[index])):
            made |= set(graph.node[index].output)
            found.append(index)
    return found


def _hand_out(model: onnx.ModelProto, names: list[str], lost: set[str], original: onnx.ModelProto) -> None:
    from onnx import TensorProto, helper, shape_inference

    kept = [value for value in model.graph.output if value.name not in lost]
    inferred = shape_inference.infer_shapes(original).graph
    known = {value.name: value for value in (*inferred.value_info, *inferred.input)}
    for name in names:
        if name not in {value.name for value in kept}:
            kept.append(known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _prune(graph: onnx.GraphProto) -> None:
    """Remove the nodes that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(reads(node))
            kept.append(node)
    replace_nodes(graph, reversed(kept))
