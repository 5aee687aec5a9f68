"""A NonMaxSuppression at the end of an ONNX file: the graph ends before it, and the runtime does it.

No engine gains by it, TensorRT cannot build it, and what it chooses changes size with every image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.manifest import Detection
from edgekit.sources._onnx_walk import bodies, nodes_of

if TYPE_CHECKING:
    import onnx

NMS = "NonMaxSuppression"
_BOXES, _SCORES, _MOST, _IOU, _SCORE = range(5)
_CHOOSES = {
    "Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""What may follow at the end: nodes that choose and arrange values and compute none."""
_MOVES = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Nodes whose result holds the values of their first input."""
_SHARES = 2.0
"""Coordinates that nowhere exceed this are shares of the image: in pixels they span all of it."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the boxes are read that a graph hands out in place of what it chose; `note` is for the report.

    `detection` is None where the graph was left as it is.
    """

    detection: Detection | None = None
    note: str = ""

    def seen(self, outputs: Mapping[str, np.ndarray[Any, Any]]) -> Ending:
        """With the unit of the coordinates that a run gave."""
        if self.detection is None:
            return self
        boxes = outputs[self.detection.boxes]
        shares = bool(boxes.size) and float(np.abs(boxes).max()) <= _SHARES
        unit = "shares of the input" if shares else "pixels of the input"
        return replace(
            self,
            detection=replace(self.detection, normalized=shares),
            note=f"{self.note} in {unit}; {_OTHER}",
        )


_OTHER = "if they are otherwise, say it: --decode format=...,normalized=true|false"


class _StaysError(Exception):
    """Why a NonMaxSuppression is left where it is."""


def before_suppression(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Ending]:
    """The graph up to a NonMaxSuppression at its end, which hands out the boxes and scores that it takes.

    Other outputs stay. The same model gives the same graph; one without such an end is handed back as
    it is.
    """
    if not any(node.op_type == NMS for node in nodes_of(model.graph.node)):
        return model, Ending()
    try:
        return _cut(model)
    except _StaysError as reason:
        return model, Ending(note=f"{NMS} stays inside the graph: {reason}")


def _cut(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Ending]:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    flow = _Flow(graph)
    node = flow.suppression()
    detection = _read(node, flow, model.producer_name)
    end = flow.end(node)
    flow.refuse_other_values(node, end)
    lost = {name for index in end for name in graph.node[index].output}
    kept = [one for index, one in enumerate(graph.node) if index not in end]
    del graph.node[:]
    graph.node.extend(kept)
    outputs = [value for value in graph.output if value.name not in lost]
    del graph.output[:]
    graph.output.extend(outputs)
    boxes, scores = (_hand_out(graph, node.input[part], name) for part, name in _HANDED)
    return copy, Ending(
        detection=replace(detection, boxes=boxes, scores=scores), note=_note(node, detection, boxes, scores)
    )


_HANDED = ((_BOXES, "boxes"), (_SCORES, "scores"))


def _note(node: onnx.NodeProto, detection: Detection, boxes: str, scores: str) -> str:
    return (
        f"{NMS} ({node.name or node.output[0]}) is done outside the engine, with the file's thresholds: "
        f"score {detection.score:g}, iou {detection.iou:g}, at most {detection.most_per_class} of a class; "
        f"the engine hands out {boxes!r} and {scores!r}, the boxes being read as {detection.format}"
    )


def _read(node: onnx.NodeProto, flow: _Flow, producer: str) -> Detection:
    """The suppression as data; raises _StaysError where a threshold is no constant.

    ONNX has y1, x1, y2, x2 in its boxes. PyTorch's exporter passes on x1, y1, x2, y2.
    """
    centred = any(one.name == "center_point_box" and one.i for one in node.attribute)
    corners = "xyxy" if producer == "pytorch" else "yxyx"
    most = int(flow.number(node, _MOST))
    if most < 1:
        raise _StaysError("it hands out no box")
    try:
        return Detection(
            boxes="",
            format="cxcywh" if centred else corners,
            layout="nms",
            score=round(flow.number(node, _SCORE), 6),
            iou=round(flow.number(node, _IOU), 6),
            most=0,
            most_per_class=most,
            multi_label=True,
        )
    except ValueError as error:
        raise _StaysError(str(error)) from error


class _Flow:
    """Who makes and who reads what in the main graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}

    def suppression(self) -> onnx.NodeProto:
        """The only NonMaxSuppression; raises _StaysError where it is not to be taken out."""
        found = [node for node in nodes_of(self._graph.node) if node.op_type == NMS]
        if len(found) > 1:
            raise _StaysError(f"there are {len(found)} of them")
        if found[0].output[0] not in self._makers:
            raise _StaysError("it stands inside a loop or a branch")
        if any(found[0].input[part] not in self._makers for part in (_BOXES, _SCORES)):
            raise _StaysError("its boxes or scores are an input or a constant")
        return found[0]

    def number(self, node: onnx.NodeProto, part: int) -> float:
        """A threshold; 0 where there is none."""
        if len(node.input) <= part or not node.input[part]:
            return 0.0
        value = self._constant(node.input[part])
        if value is None or value.size != 1:
            raise _StaysError("a threshold of it is no constant")
        return float(value.reshape(()))

    def _constant(self, name: str) -> np.ndarray[Any, Any] | None:
        from onnx import numpy_helper

        name = self.root(name)
        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "Constant":
            return None
        (attribute,) = maker.attribute
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        numbers = {"value_float": attribute.f, "value_int": attribute.i}
        return np.asarray(numbers.get(attribute.name, [*attribute.floats, *attribute.ints]))

    def root(self, name: str) -> str:
        """The tensor that this one holds the values of."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in _MOVES:
            name = maker.input[0]
            maker = self._makers.get(name)
        return name

    def end(self, node: onnx.NodeProto) -> set[int]:
        """Places of the suppression and of all that follows; raises _StaysError where that computes."""
        made, found = set(node.output), set()
        for index, one in enumerate(self._graph.node):
            if one.output[0] == node.output[0]:
                found.add(index)
            elif made & set(_reads(one)):
                if one.op_type not in _CHOOSES:
                    raise _StaysError(f"{one.op_type} ({one.name or one.output[0]}) computes with its result")
                made |= set(one.output)
                found.add(index)
        return found

    def refuse_other_values(self, node: onnx.NodeProto, end: set[int]) -> None:
        """Raise _StaysError where the end chooses from other tensors than the boxes and scores."""
        made = {name for index in end for name in self._graph.node[index].output}
        known = {self.root(node.input[part]) for part in (_BOXES, _SCORES)}
        for index in end:
            for name in _reads(self._graph.node[index]):
                if name not in made and self.root(name) not in known and self._constant(name) is None:
                    raise _StaysError(f"what it chooses is read from {name!r}, not from its boxes and scores")


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, or that a body of it may read."""
    yield from (name for name in node.input if name)
    yield from (
        name for body in bodies(node) for inner in nodes_of(body.node) for name in inner.input if name
    )


def _hand_out(graph: onnx.GraphProto, name: str, wanted: str) -> str:
    """Make a tensor an output, under the name that is wanted where that is free; its name then."""
    from onnx import TensorProto, helper

    if name in {value.name for value in graph.output}:
        return name
    if _is_free(graph, wanted) and not _is_inside(graph, name):
        _rename(graph, name, wanted)
        name = wanted
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return name


def _is_free(graph: onnx.GraphProto, name: str) -> bool:
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    return name not in taken and all(name not in (*node.input, *node.output) for node in nodes_of(graph.node))


def _is_inside(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a body reads the tensor."""
    inner = (one for node in graph.node for body in bodies(node) for one in nodes_of(body.node))
    return any(name in node.input for node in inner)


def _rename(graph: onnx.GraphProto, name: str, wanted: str) -> None:
    for node in graph.node:
        for ends in (node.input, node.output):
            for place, one in enumerate(ends):
                if one == name:
                    ends[place] = wanted
    for value in graph.value_info:
        if value.name == name:
            value.name = wanted
