"""Files with NonMaxSuppression: where the graph ends before it, and where it is left alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.exporting import adopt_onnx
from edgekit.runtime.manifest import Detection
from edgekit.sources import graph as source
from edgekit.sources._onnx_boxes import before_suppression
from edgekit.spec import Found, Own

NODES = """
  prob = Sigmoid(raw)
  corners = Add(x, one)
  chosen = NonMaxSuppression{attributes}(corners, prob, most, iou, score)
  index = Slice(chosen, two, three, unit)
  rows = Squeeze(index, unit)
"""
PICK = "picked = Gather<axis = 1>(corners, rows)"
THRESHOLDS = {
    "most": np.array([7]), "iou": np.array([0.4], np.float32), "score": np.array([0.3], np.float32),
    "one": np.array([1], np.float32), "unit": np.array([1]), "two": np.array([2]), "three": np.array([3]),
}  # fmt: skip


def detector(
    end: str = PICK,
    attributes: str = "",
    outputs: str = "int64[n,3] chosen, float[batch,n,4] picked",
    producer: str = "",
    inputs: str = "float[batch,8,4] x, float[batch,2,8] raw",
    **constants: np.ndarray,
) -> onnx.ModelProto:
    body = NODES.format(attributes=attributes)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> main ({inputs}) => ({outputs}) {{ {body} {end} }}'
    )
    model.producer_name = producer
    for name, value in {**THRESHOLDS, **constants}.items():
        if not any(one.name == name for one in model.graph.input):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def outputs_of(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def test_the_graph_ends_before_it_and_the_thresholds_are_data() -> None:
    model = detector()
    cut, ending = before_suppression(model)
    assert outputs_of(cut) == ["boxes", "scores"]
    assert not any(node.op_type in ("NonMaxSuppression", "Gather") for node in cut.graph.node)
    assert ending.detection == Detection(
        "boxes", "scores", format="yxyx", layout="nms", score=0.3, iou=0.4, most=0, most_per_class=7,
        multi_label=True,
    )  # fmt: skip
    assert "done outside the engine" in ending.note
    assert outputs_of(model) == ["chosen", "picked"]


@pytest.mark.parametrize(
    ("attributes", "producer", "form"),
    [("<center_point_box = 1>", "pytorch", "cxcywh"), ("", "pytorch", "xyxy"), ("", "tf2onnx", "yxyx")],
)
def test_the_format_of_the_boxes(attributes: str, producer: str, form: str) -> None:
    _, ending = before_suppression(detector(attributes=attributes, producer=producer))
    assert ending.detection is not None
    assert ending.detection.format == form


def test_other_outputs_stay_and_names_that_are_taken_are_left() -> None:
    end = "picked = Gather<axis = 1>(corners, rows) scores = Identity(raw)"
    model = detector(end, outputs="float[batch,2,8] scores, float[batch,n,4] picked, float[batch,2,8] prob")
    cut, ending = before_suppression(model)
    assert outputs_of(cut) == ["scores", "prob", "boxes"]
    assert ending.detection is not None
    assert (ending.detection.boxes, ending.detection.scores) == ("boxes", "prob")


def test_scores_may_be_chosen_before_they_were_turned() -> None:
    end = """turned = Transpose<perm = [0, 2, 1]>(prob) picked = Gather<axis = 1>(turned, rows)"""
    assert before_suppression(detector(end, outputs="float[batch,n,2] picked"))[1].detection is not None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (detector("free = Gather<axis = 1>(corners, rows) picked = Mul(free, one)"), "Mul .* computes"),
        (detector("picked = Gather<axis = 1>(x, rows)"), "read from 'x'"),
        (detector(most=np.array([0])), "hands out no box"),
        (
            detector(inputs="float[batch,8,4] x, float[batch,2,8] raw, float[1] iou"),
            "a threshold of it is no constant",
        ),
        (
            detector(f"{PICK} again = NonMaxSuppression(corners, prob, most)"),
            "there are 2 of them",
        ),
    ],
)
def test_one_that_is_not_at_the_end_is_left_alone_and_the_reason_said(
    model: onnx.ModelProto, reason: str
) -> None:
    cut, ending = before_suppression(model)
    assert cut is model
    assert ending.detection is None
    assert re.search(reason, ending.note)


def test_a_constant_node_is_a_constant_too() -> None:
    model = detector()
    del model.graph.initializer[[one.name for one in model.graph.initializer].index("iou")]
    value = numpy_helper.from_array(np.array(0.25, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["bare"], value=value),
        helper.make_node("Unsqueeze", ["bare", "nought"], ["iou"]),
        *model.graph.node,
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "nought"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _, ending = before_suppression(model)
    assert ending.detection is not None
    assert ending.detection.iou == 0.25


def loaded(model: onnx.ModelProto, folder: Path) -> Found:
    onnx.save(model, folder / "net.onnx")
    return source.load(Own(source="net.onnx", folder=folder), None, ())


def test_the_network_that_is_found_and_adopted_is_the_one_without_it(tmp_path: Path) -> None:
    found = loaded(detector(), tmp_path)
    assert [(spec.name, spec.shape) for spec in found.outputs] == [
        ("boxes", ("batch", 8, 4)), ("scores", ("batch", 2, 8)),
    ]  # fmt: skip
    made = adopt_onnx(found, tmp_path / "model.onnx")
    assert outputs_of(onnx.load(made.path)) == ["boxes", "scores"]


@pytest.mark.parametrize(("start", "shares"), [(100.0, False), (-1.0, True)])
def test_the_unit_of_the_boxes_is_seen_where_the_file_runs(
    tmp_path: Path, start: float, shares: bool
) -> None:
    model = detector(one=np.array([start], np.float32), inputs="float[batch,8,4] free, float[batch,2,8] raw")
    model.graph.node.insert(0, helper.make_node("Sigmoid", ["free"], ["x"]))
    found = loaded(model, tmp_path)
    assert found.detection is not None
    assert found.detection.normalized is shares
    assert any(("shares of the input" if shares else "pixels of the input") in note for note in found.notes)


def test_a_file_without_it_is_handed_back(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["batch", 3])], [value("y", TensorProto.FLOAT, ["batch", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    cut, ending = before_suppression(model)
    assert cut is model
    assert (ending.note, ending.detection) == ("", None)
