"""From a detector's raw outputs to boxes: scores, thresholds and non-maximum suppression, with NumPy.

Anchors and strides are not decoded here: the network itself has to give boxes in the coordinates of
its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import BadFileError
from .manifest import Detection

CANDIDATES = 4096
"""Of so many boxes an image, those with the best scores, overlaps are looked at."""
_CORNERS = 4

__all__ = ["Box", "Detection", "Found", "decode_boxes", "named", "nms"]


@dataclass(frozen=True)
class Found:
    """The boxes of one image, the best first: corners x1, y1, x2, y2 (k, 4), scores (k,), classes (k,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def seen_at(self, boxes: np.ndarray) -> "Found":
        """The same with other corners; a box without area is none."""
        seen = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[0]
        return Found(boxes[seen], self.scores[seen], self.classes[seen])


@dataclass(frozen=True)
class Box:
    """One box with its class: x1, y1, x2, y2 in pixels of the image."""

    label: str
    index: int
    score: float
    corners: Tuple[float, float, float, float]

    def told(self) -> Dict[str, Any]:
        """As JSON has it."""
        corners = [round(value, 2) for value in self.corners]
        return {"label": self.label, "class": self.index, "score": round(self.score, 4), "box": corners}

    def line(self) -> str:
        """`label score x1 y1 x2 y2`."""
        corners = " ".join("{:.1f}".format(value) for value in self.corners)
        return "{} {:.3f} {}".format(self.label, self.score, corners)


def decode_boxes(
    outputs: Mapping[str, np.ndarray],
    detection: Detection,
    size: Tuple[int, int],
    candidates: int = CANDIDATES,
) -> List[Found]:
    """The boxes that a detector's outputs say, image by image, in pixels of the network's input.

    Args:
        outputs: the network's outputs by name, batch first; see `Detection` for their shapes.
        detection: which outputs they are and how they are read.
        size: height and width of the network's input, for coordinates that are shares of it.
        candidates: at most so many boxes of an image, the best, go into the suppression.

    Raises:
        BadFileError: an output is missing, or its shape does not fit.
    """
    boxes, scores = _raw(outputs, detection)
    unit = np.array([size[1], size[0]] * 2, np.float32) if detection.normalized else np.float32(1)
    corners = _corners(boxes, detection.format) * unit
    return [_image(*pair, detection, candidates) for pair in zip(corners, scores)]


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou: float,
    most: int = 0,
    most_per_class: int = 0,
) -> np.ndarray:
    """Greedy non-maximum suppression, each class by itself; the places of what is kept, best first.

    The best box that is left is kept, and every box of its class whose IoU with it is above `iou` is
    dropped, again and again: as ONNX's NonMaxSuppression does. Of equal scores the first is the
    better one. Time grows with boxes times kept boxes, memory with the boxes.

    Args:
        boxes: corners x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, (k, 4).
        scores: (k,).
        classes: (k,), whole numbers.
        iou: intersection over union, 0 to 1.
        most: stop at so many boxes (0: no limit); `most_per_class`: of each class.
    """
    waiting = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    counts: Dict[int, int] = {}
    kept: List[int] = []
    while waiting.size and not (most and len(kept) == most):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        same = classes[waiting] == classes[best]
        number = int(classes[best])
        counts[number] = counts.get(number, 0) + 1
        if counts[number] == most_per_class:
            waiting = waiting[~same]
        else:
            waiting = waiting[
                ~(same & (_iou(boxes[best], areas[best], boxes[waiting], areas[waiting]) > iou))
            ]
    return np.array(kept, np.int64)


def _iou(one: np.ndarray, area: np.ndarray, others: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with each of the others; 0 where a box has no area."""
    low = np.maximum(one[:2], others[:, :2])
    high = np.minimum(one[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = area + areas - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0))


def named(found: Found, labels: Optional[Sequence[str]] = None) -> List[Box]:
    """Each box with the name of its class; its number where there is no name."""

    def name(index: int) -> str:
        return labels[index] if labels is not None and index < len(labels) else str(index)

    return [
        Box(name(int(index)), int(index), float(score), tuple(float(value) for value in corners))  # type: ignore[arg-type]
        for corners, score, index in zip(found.boxes, found.scores, found.classes)
    ]


def _image(boxes: np.ndarray, scores: np.ndarray, detection: Detection, candidates: int) -> Found:
    """One image: boxes (N, 4), scores (N, classes)."""
    if 0 <= detection.background < scores.shape[1]:
        scores = scores.copy()
        scores[:, detection.background] = -np.inf
    places, classes = _above(scores, detection)
    usable = np.isfinite(boxes[places]).all(axis=1)
    places, classes = places[usable], classes[usable]
    worth = scores[places, classes]
    order = np.argsort(-worth, kind="stable")[:candidates]
    places, classes, worth = places[order], classes[order], worth[order]
    kept = nms(boxes[places], worth, classes, detection.iou, detection.most, detection.most_per_class)
    return Found(boxes[places[kept]], worth[kept], classes[kept])


def _above(scores: np.ndarray, detection: Detection) -> Tuple[np.ndarray, np.ndarray]:
    """Box and class of every score that counts."""
    if detection.multi_label:
        places, classes = np.nonzero(scores > detection.score)
        return places, classes
    best = scores.argmax(axis=1)
    places = np.nonzero(scores[np.arange(len(scores)), best] > detection.score)[0]
    return places, best[places]


def _corners(boxes: np.ndarray, form: str) -> np.ndarray:
    """Boxes (..., 4) of any format as x1, y1, x2, y2 in order."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if form == "cxcywh":
        first, second = first - second / 2, first + second / 2
    elif form == "xywh":
        second = first + second
    elif form == "yxyx":
        first, second = first[..., ::-1], second[..., ::-1]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _raw(outputs: Mapping[str, np.ndarray], detection: Detection) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (batch, N, 4) as they are, and finished scores (batch, N, classes)."""
    combined = not detection.scores
    whole = _rows(outputs, detection.boxes, detection.layout == "columns")
    boxes = whole[..., :_CORNERS]
    objectness = None
    if detection.objectness == detection.boxes:
        objectness, whole = whole[..., 4:5], whole[..., 1:]
    elif detection.objectness:
        objectness = _rows(outputs, detection.objectness, detection.layout != "rows", boxes.shape)
    if combined:
        scores = whole[..., _CORNERS:]
    else:
        scores = _rows(outputs, detection.scores, detection.layout != "rows", boxes.shape)
    _refuse_misfit(outputs, detection, boxes, scores, objectness)
    scores = _activated(scores, detection.activation)
    if objectness is not None:
        gate = "none" if detection.activation == "none" else "sigmoid"
        scores = scores * _activated(objectness, gate)
    return boxes, scores


def _rows(
    outputs: Mapping[str, np.ndarray], name: str, columns: bool, boxes: Tuple[int, ...] = ()
) -> np.ndarray:
    """An output as (batch, N, values) in float32; `boxes` is the shape of those it belongs to."""
    if name not in outputs:
        raise BadFileError(
            "there is no output {!r} to read boxes from".format(name),
            "outputs: " + ", ".join(sorted(outputs)),
        )
    array = np.asarray(outputs[name], np.float32)
    if boxes and array.shape == boxes[:2]:
        return array[..., None]
    if boxes and array.shape == boxes[1:2]:
        return array[None, :, None]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise BadFileError(
            "the output {!r} of shape {} is no list of boxes".format(name, outputs[name].shape),
            "boxes are (batch, N, 4): anchors and strides are for the network itself to decode",
        )
    return array.transpose(0, 2, 1) if columns else array


def _refuse_misfit(
    outputs: Mapping[str, np.ndarray],
    detection: Detection,
    boxes: np.ndarray,
    scores: np.ndarray,
    objectness: Optional[np.ndarray],
) -> None:
    parts = [scores] if objectness is None else [scores, objectness]
    fits = boxes.shape[2] == _CORNERS and scores.shape[2] > 0
    if fits and all(part.shape[:2] == boxes.shape[:2] for part in parts):
        return
    names = dict.fromkeys(name for name in (detection.boxes, detection.scores, detection.objectness) if name)
    shapes = ", ".join("{} {}".format(name, outputs[name].shape) for name in names)
    raise BadFileError(
        "the outputs do not fit together as boxes and scores in {}: {}".format(detection.layout, shapes),
        "rows: (batch, N, 4) and (batch, N, classes); columns: the last two axes the other way round",
    )


def _activated(scores: np.ndarray, activation: str) -> np.ndarray:
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)), np.float32)
    if activation == "softmax":
        raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)
    return scores
