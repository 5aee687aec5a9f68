from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.runtime.answers import lines, told
from edgekit.runtime.detection import Box, Detection, decode_boxes, named, nms
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Preprocess
from edgekit.runtime.preprocess import prepare, to_image

SIZE = (100, 200)
RAW = np.array([[[20, 30, 60, 70], [22, 30, 62, 70], [100, 10, 140, 50]]], np.float32)
SCORES = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]], np.float32)


def decoded(**said: object) -> list[tuple[int, list[float]]]:
    """Class and corners of every box of `RAW`."""
    detection = Detection("boxes", **{"scores": "scores", **said})  # type: ignore[arg-type]
    (found,) = decode_boxes({"boxes": RAW, "scores": SCORES}, detection, SIZE)
    return [(int(index), corners.tolist()) for index, corners in zip(found.classes, found.boxes, strict=True)]


def test_the_best_of_overlapping_boxes_is_kept_best_first() -> None:
    assert decoded() == [(0, [20, 30, 60, 70]), (1, [100, 10, 140, 50])]


def test_boxes_that_overlap_no_more_than_iou_stay() -> None:
    overlap = 38 * 40 / (2 * 40 * 40 - 38 * 40)
    assert len(decoded(iou=overlap + 1e-6)) == 3
    assert len(decoded(iou=overlap - 1e-6)) == 2


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    assert len(decoded(score=0.75)) == 1
    (found,) = decode_boxes(
        {"boxes": RAW[:, :1], "scores": np.full((1, 1, 1), 0.5, np.float32)},
        Detection("boxes", "scores", score=0.5),
        SIZE,
    )
    assert len(found.scores) == 0


def test_each_class_is_suppressed_by_itself() -> None:
    both = decoded(multi_label=True, score=0.15)
    assert [index for index, _ in both] == [0, 1, 0, 1]
    assert both[3] == (1, [22, 30, 62, 70])


def test_no_more_than_most() -> None:
    assert decoded(most=1) == [(0, [20, 30, 60, 70])]
    assert len(decoded(multi_label=True, score=0.15, iou=1.0)) == 5
    assert [index for index, _ in decoded(multi_label=True, score=0.15, iou=1.0, most_per_class=1)] == [0, 1]


def test_background_is_no_class_but_keeps_its_number() -> None:
    assert decoded(background=0, score=0.15) == [(1, [100, 10, 140, 50]), (1, [22, 30, 62, 70])]


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("xyxy", [20, 30, 60, 70]),
        ("xyxy", [60, 70, 20, 30]),
        ("yxyx", [30, 20, 70, 60]),
        ("xywh", [20, 30, 40, 40]),
        ("cxcywh", [40, 50, 40, 40]),
    ],
)
@pytest.mark.parametrize("normalized", [False, True])
def test_formats(form: str, box: list[float], normalized: bool) -> None:
    sides = [100, 200, 100, 200] if form == "yxyx" else [200, 100, 200, 100]
    array = np.array([[box]], np.float32) / np.array(sides if normalized else [1], np.float32)
    detection = Detection("boxes", "scores", format=form, normalized=normalized)
    (found,) = decode_boxes({"boxes": array, "scores": np.ones((1, 1, 1), np.float32)}, detection, SIZE)
    np.testing.assert_allclose(found.boxes, [[20, 30, 60, 70]], rtol=1e-5)


def test_one_combined_output_in_columns() -> None:
    combined = np.concatenate([RAW, SCORES], -1).transpose(0, 2, 1)
    (found,) = decode_boxes({"output0": combined}, Detection("output0", layout="columns"), SIZE)
    assert found.classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


def test_objectness_multiplies_the_scores_wherever_it_is() -> None:
    seen = np.array([[[0.5], [1.0], [1.0]]], np.float32)
    combined = np.concatenate([RAW, seen, SCORES], -1)
    (one,) = decode_boxes({"out": combined}, Detection("out", objectness="out"), SIZE)
    apart = {"boxes": RAW, "scores": SCORES, "seen": seen[..., 0]}
    (other,) = decode_boxes(apart, Detection("boxes", "scores", "seen"), SIZE)
    for found in (one, other):
        assert found.scores.tolist() == pytest.approx([0.8, 0.7])
        np.testing.assert_array_equal(found.boxes, RAW[0, 1:])


def test_activations() -> None:
    raw = np.array([[[2.0, -800.0, 800.0]]], np.float32)
    outputs = {"boxes": RAW[:, :1], "scores": raw, "seen": np.zeros((1, 1), np.float32)}
    how = {"score": -1.0, "iou": 1.0, "multi_label": True}
    sigmoid = Detection("boxes", "scores", activation="sigmoid", **how)  # type: ignore[arg-type]
    (found,) = decode_boxes(outputs, sigmoid, SIZE)
    assert found.scores.tolist() == pytest.approx([1, 1 / (1 + np.exp(-2.0)), 0])
    assert found.classes.tolist() == [2, 0, 1]
    softmax = Detection("boxes", "scores", "seen", activation="softmax", **how)  # type: ignore[arg-type]
    (found,) = decode_boxes(outputs, softmax, SIZE)
    assert found.scores.tolist() == pytest.approx([0.5, 0, 0])


def test_every_image_of_a_batch_and_outputs_without_a_batch() -> None:
    outputs = {"boxes": np.repeat(RAW, 2, 0), "scores": np.stack([SCORES[0], 0 * SCORES[0]])}
    full, empty = decode_boxes(outputs, Detection("boxes", "scores"), SIZE)
    assert (len(full.scores), len(empty.scores)) == (2, 0)
    (alone,) = decode_boxes({"boxes": RAW[0], "scores": SCORES[0, :, 0]}, Detection("boxes", "scores"), SIZE)
    assert alone.classes.tolist() == [0, 0]


def test_what_is_not_a_number_is_no_box() -> None:
    boxes, scores = RAW.copy(), SCORES.copy()
    boxes[0, 0, 2] = np.inf
    scores[0, 1] = np.nan
    (found,) = decode_boxes({"boxes": boxes, "scores": scores}, Detection("boxes", "scores"), SIZE)
    assert found.classes.tolist() == [1]


def test_only_the_best_candidates_are_looked_at() -> None:
    (found,) = decode_boxes(
        {"boxes": RAW, "scores": SCORES}, Detection("boxes", "scores"), SIZE, candidates=2
    )
    assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"boxes": RAW}, "no output 'scores'"),
        ({"boxes": RAW, "scores": SCORES[:, :2]}, "do not fit together"),
        ({"boxes": RAW[..., :3], "scores": SCORES}, "do not fit together"),
        ({"boxes": RAW[None], "scores": SCORES}, "no list of boxes"),
    ],
)
def test_outputs_that_are_no_boxes_are_refused(outputs: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(BadFileError, match=said):
        decode_boxes(outputs, Detection("boxes", "scores"), SIZE)


@pytest.mark.parametrize(
    "wrong",
    [{"format": "xy"}, {"layout": "c"}, {"activation": "tanh"}, {"iou": 1.5}, {"most": -1},
     {"score": float("nan")}],
)  # fmt: skip
def test_a_detection_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Detection("boxes", **wrong)  # type: ignore[arg-type]


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: int, iou: float, score: float) -> np.ndarray:
    """What ONNX Runtime's own NonMaxSuppression chooses: rows of batch, class and box."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        main (float[b,n,4] boxes, float[b,c,n] scores, int64[1] most, float[1] iou, float[1] score)
          => (int64[k,3] chosen) { chosen = NonMaxSuppression(boxes, scores, most, iou, score) }"""
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        "boxes": boxes, "scores": scores, "most": np.array([most]), "iou": np.array([iou], np.float32),
        "score": np.array([score], np.float32),
    }  # fmt: skip
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("seed", range(8))
def test_the_same_boxes_as_onnx_runtime_chooses(seed: int) -> None:
    random = np.random.default_rng(seed)
    batch, number, classes = 2, 300, 3
    corners = random.uniform(0, 80, (batch, number, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 40, corners.shape)], -1).astype(np.float32)
    scores = random.uniform(0, 1, (batch, classes, number)).astype(np.float32)
    most, iou, score = int(random.integers(3, 50)), float(random.uniform(0, 0.8)), 0.3
    detection = Detection(
        "boxes", "scores", format="yxyx", layout="nms", score=score, iou=iou, most=0, most_per_class=most,
        multi_label=True,
    )  # fmt: skip
    found = decode_boxes({"boxes": boxes, "scores": scores}, detection, SIZE)
    mine = {
        (image, int(index), float(score), *map(float, box))
        for image, one in enumerate(found)
        for box, score, index in zip(one.boxes, one.scores, one.classes, strict=True)
    }
    theirs = {
        (
            int(image),
            int(index),
            float(scores[image, index, place]),
            *map(float, boxes[image, place][[1, 0, 3, 2]]),
        )
        for image, index, place in suppressed(boxes, scores, most, iou, score)
    }
    assert len(theirs) > 6
    assert mine == theirs


def test_of_equal_scores_the_first_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    assert nms(boxes, np.ones(2), np.zeros(2), 0.5).tolist() == [0]


def test_no_boxes_at_all() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(60, 200), (200, 60), (64, 96), (33, 17)])
def test_a_box_comes_back_to_where_it_was_in_the_image(fit: str, height: int, width: int) -> None:
    preprocess = Preprocess(height=64, width=96, fit=fit)
    image = np.zeros((height, width), np.uint8)
    top, bottom, left, right = height // 4, height * 3 // 4, width // 3, width * 2 // 3
    image[top:bottom, left:right] = 255
    lit = prepare(image, preprocess)[0, 0] > 0.5
    rows, columns = lit.any(1).nonzero()[0], lit.any(0).nonzero()[0]
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    back = to_image(box, preprocess, height, width)[0]
    pixel = max(height / 64, width / 96, 1)
    np.testing.assert_allclose(back, [left, top, right, bottom], atol=pixel)


def test_what_lies_beside_the_image_is_cut_off() -> None:
    preprocess = Preprocess(height=64, width=64, fit="letterbox")
    back = to_image(np.array([[-5.0, 0.0, 70.0, 20.0]]), preprocess, 32, 64)
    np.testing.assert_allclose(back, [[0, 0, 64, 4]])


def test_a_line_of_text_is_placed_by_its_own_width() -> None:
    preprocess = Preprocess(height=32, width_multiple=8)
    np.testing.assert_allclose(to_image(np.array([[0, 0, 50, 32.0]]), preprocess, 64, 100), [[0, 0, 100, 64]])


def test_boxes_are_told_with_the_names_of_their_classes() -> None:
    (found,) = decode_boxes({"boxes": RAW, "scores": SCORES}, Detection("boxes", "scores"), SIZE)
    boxes = named(found, ["cat"])
    assert [box.label for box in boxes] == ["cat", "1"]
    assert lines(boxes) == ["cat 0.900 20.0 30.0 60.0 70.0", "1 0.700 100.0 10.0 140.0 50.0"]
    assert json.loads(json.dumps(told(boxes)))[0] == {
        "label": "cat", "class": 0, "score": 0.9, "box": [20.0, 30.0, 60.0, 70.0],
    }  # fmt: skip
    assert isinstance(boxes[0], Box)


def test_a_row_of_scores_is_told_by_its_best() -> None:
    outputs = {"logits": np.array([[0.5, 3.0, -1.0, 2.0, 0.0, 1.0]], np.float32)}
    assert [row["index"] for row in told(outputs)["top"]] == [1, 3, 5, 0, 4]
    assert lines(outputs)[0] == "1 3"


def test_other_outputs_are_told_by_shape_and_range() -> None:
    outputs = {"map": np.array([[[0.0, 2.5]]], np.float32), "none": np.zeros((0, 3), np.float32)}
    assert lines(outputs) == ["map [1, 1, 2] 0 .. 2.5", "none [0, 3] ? .. ?"]
    assert told(outputs)["outputs"][1] == {"name": "none", "shape": [0, 3], "min": None, "max": None}


def test_a_detection_survives_json() -> None:
    detection = Detection("boxes", "scores", format="cxcywh", activation="sigmoid")
    assert Detection(**json.loads(json.dumps(asdict(detection)))) == detection
