"""Boxes and classes of the objects in an image: a loss for anchor-free detectors, and mAP to judge by.

Which cells answer for an object is decided anew at every step, by what the network says (SimOTA of
YOLOX: Ge, Liu, Wang, Li, Sun, arXiv 2107.08430): of the cells near the object's centre (FCOS: Tian,
Shen, Chen, He, arXiv 1904.01355) the few whose boxes and scores fit it best. Boxes are trained by GIoU
(Rezatofighi et al., arXiv 1902.09630), scores by binary cross entropy against the IoU of the box, so that
of several boxes the best one scores best (Li et al.: Generalized Focal Loss, arXiv 2006.04388).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.detection import Found
from edgekit.runtime.errors import MissingPackageError, UsageError
from edgekit.runtime.manifest import Labels
from edgekit.spec import Objects, Sample

if TYPE_CHECKING:
    import torch

METRIC = "map50"
DECODER = "boxes"
LEAST_SCORE = 0.01
"""mAP weighs boxes by their scores, so it is given those too that nobody would be shown."""
IOU = 0.5
"""From here on a box is one of the object that it lies on."""
RADIUS = 2.5
"""Cells whose centre is no more strides than this from an object's centre may answer for it."""
MOST_CELLS = 10
BOX_WEIGHT = 2.0
IOU_COST = 3.0
FAR = 1e5


def collate(samples: Sequence[Sample]) -> tuple[tuple[np.ndarray, ...], list[Any]]:
    """Stack samples of equal shape, input by input: (batch, ...) each, and their `Objects`."""
    inputs = zip(*(sample.inputs for sample in samples), strict=True)
    return tuple(np.stack(arrays) for arrays in inputs), [sample.target for sample in samples]


def loss(outputs: Sequence[torch.Tensor], targets: list[Any], labels: Labels) -> torch.Tensor:
    """Cross entropy of the scores and GIoU of the boxes, each per object.

    Args:
        outputs: boxes (batch, N, 4) as corners, logits (batch, N, classes) and cells (N, 3): centre x,
            centre y and stride of each, all in pixels of the input.
        targets: `Objects` of each image; those to be ignored are left out.
    """
    import torch
    from torch.nn import functional

    boxes, scores, cells = outputs[0].float(), outputs[1].float(), outputs[2].float()
    wanted, classes, there = padded(targets, boxes.device)
    chosen, quality = assigned(boxes.detach(), scores.detach(), cells, wanted, classes, there)
    image, cell = torch.nonzero(chosen >= 0, as_tuple=True)
    object_of = chosen[image, cell]
    soft = torch.zeros_like(scores)
    soft[image, cell, classes[image, object_of]] = quality[image, cell]
    count = max(len(image), 1)
    class_loss = functional.binary_cross_entropy_with_logits(scores, soft, reduction="sum") / count
    overlap = giou(boxes[image, cell], wanted[image, object_of])
    return class_loss + BOX_WEIGHT * (1 - overlap).sum() / count


def padded(
    targets: Sequence[Objects], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes (batch, M, 4) and classes (batch, M) of all images, and which of the M there are (batch, M)."""
    import torch

    kept = [~one.ignored for one in targets]
    most = max((int(keep.sum()) for keep in kept), default=0)
    boxes = np.zeros((len(targets), most, 4), np.float32)
    classes = np.zeros((len(targets), most), np.int64)
    there = np.zeros((len(targets), most), bool)
    for row, (one, keep) in enumerate(zip(targets, kept, strict=True)):
        count = int(keep.sum())
        boxes[row, :count], classes[row, :count], there[row, :count] = (
            one.boxes[keep],
            one.classes[keep],
            True,
        )
    made = [torch.from_numpy(array).to(device) for array in (boxes, classes, there)]
    return made[0], made[1], made[2]


def assigned(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    cells: torch.Tensor,
    wanted: torch.Tensor,
    classes: torch.Tensor,
    there: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The object that each cell answers for, and the IoU of its box with it: (batch, N) each.

    An object gets as many cells as the IoUs of its MOST_CELLS best boxes sum up to, one at least: those
    of least cost near its centre. A cell that several objects want is the cheapest one's; -1 is
    nobody's. `wanted`, `classes` and `there` are those of `padded`.
    """
    import torch
    from torch.nn import functional

    if not wanted.shape[1]:
        nobody = torch.full(boxes.shape[:2], -1, dtype=torch.long, device=boxes.device)
        return nobody, torch.zeros_like(boxes[..., 0])
    near = nearby(cells, wanted) & there[..., None]
    overlap = pairwise_iou(wanted, boxes) * near
    logits = scores.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, scores.shape[1]))
    cost = functional.softplus(-logits) - IOU_COST * torch.log(overlap + 1e-8) + FAR * ~near
    most = min(MOST_CELLS, overlap.shape[2])
    count = overlap.topk(most, 2).values.sum(2).long().clamp(min=1)
    rank = cost.argsort(dim=2, stable=True).argsort(dim=2)
    taken = (rank < count[..., None]) & near
    cheapest = torch.where(taken, cost, torch.inf).min(1)
    chosen = torch.where(torch.isfinite(cheapest.values), cheapest.indices, -1)
    return chosen, overlap.gather(1, chosen.clamp(min=0)[:, None])[:, 0]


def nearby(cells: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Whether a cell's centre lies within RADIUS strides of each object's: (batch, M, N)."""
    centres = (wanted[..., :2] + wanted[..., 2:]) / 2
    distance = (cells[:, :2] - centres[..., None, :]).abs().amax(-1)
    return distance <= RADIUS * cells[:, 2]


def pairwise_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU of every box of (batch, M, 4) with every one of (batch, N, 4): (batch, M, N)."""
    shared, union, _ = areas(first[:, :, None], second[:, None])
    return shared / union.clamp(min=1e-8)


def giou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU less the share of the hull that neither box covers, -1 to 1: (k, 4) twice -> (k,)."""
    shared, union, hull = areas(first, second)
    return shared / union.clamp(min=1e-8) - (hull - union) / hull.clamp(min=1e-8)


def areas(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Areas of intersection, union and common hull of boxes as corners (..., 4), broadcast."""
    import torch

    def area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = area(low, high)
    union = area(first[..., :2], first[..., 2:]) + area(second[..., :2], second[..., 2:]) - shared
    hull = area(
        torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    )
    return shared, union, hull


def metric(answers: Sequence[Found], targets: Sequence[Objects]) -> float:
    """Mean over the classes of the average precision at IoU 0.5, as COCO counts it (pycocotools).

    Raises:
        UsageError: there is no object to find.
        MissingPackageError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as cause:
        raise MissingPackageError(
            "the package 'pycocotools' is not installed", "pip install 'edgekit-deploy[train]'"
        ) from cause
    if all(target.ignored.all() for target in targets):
        raise UsageError("the data shows no object, so that there is no mAP", "give images with boxes")
    rows = np.concatenate([_rows(number, found) for number, found in enumerate(answers, 1)])
    if not len(rows):
        return 0.0
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _truth(targets)
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.params.iouThrs = np.array([IOU])
        judge.params.areaRng, judge.params.areaRngLbl = [[0, np.inf]], ["all"]
        judge.params.maxDets = [max(len(found.scores) for found in answers)]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    return float(precision[precision >= 0].mean())


def _truth(targets: Sequence[Objects]) -> dict[str, Any]:
    """The objects as COCO's tables, everything counted from 1."""
    every = [(number, *one) for number, target in enumerate(targets, 1) for one in _each(target)]
    annotations = [
        {"id": place, "image_id": number, "category_id": kind + 1, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": int(ignored)}
        for place, (number, box, kind, ignored) in enumerate(every, 1)
    ]
    kinds = sorted({kind + 1 for _, _, kind, _ in every})
    return {
        "images": [{"id": number} for number in range(1, len(targets) + 1)],
        "annotations": annotations,
        "categories": [{"id": kind} for kind in kinds],
    }


def _each(target: Objects) -> Iterable[tuple[list[float], int, bool]]:
    """Corner and size, class, and whether to ignore it, of each object."""
    sized = np.concatenate([target.boxes[:, :2], target.boxes[:, 2:] - target.boxes[:, :2]], 1)
    return zip(sized.tolist(), target.classes.tolist(), target.ignored.tolist(), strict=True)


def _rows(number: int, found: Found) -> np.ndarray:
    """What was found in one image, as pycocotools reads it: image, x, y, width, height, score, class."""
    rows = np.empty((len(found.scores), 7))
    rows[:, 0], rows[:, 1:3], rows[:, 3:5] = (
        number,
        found.boxes[:, :2],
        found.boxes[:, 2:] - found.boxes[:, :2],
    )
    rows[:, 5], rows[:, 6] = found.scores, found.classes + 1
    return rows


def scores(answers: Sequence[Found], targets: Sequence[Objects]) -> np.ndarray:
    """F1 of each image at IoU 0.5, 1.0 where there is nothing to find and nothing found: (samples,)."""
    return np.array([f1(*pair) for pair in zip(answers, targets, strict=True)], np.float64)


def f1(found: Found, target: Objects) -> float:
    """Twice the matched boxes over those found and those to be found, for one image.

    The best boxes choose first, each the object of its class that it lies on best. What lies on an object
    that is to be ignored does not count.
    """
    free = ~target.ignored
    wanted, right, counted = int(free.sum()), 0, 0
    overlap = _overlap(found.boxes, target.boxes) * (found.classes[:, None] == target.classes)
    for row in overlap[np.argsort(-found.scores, kind="stable")]:
        open_to_it = np.where(free, row, 0.0)
        if open_to_it.size and open_to_it.max() >= IOU:
            free[open_to_it.argmax()] = False
            right, counted = right + 1, counted + 1
        elif not (row[target.ignored] >= IOU).any():
            counted += 1
    return 2 * right / (wanted + counted) if wanted + counted else 1.0


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of every box (n, 4) with every box (k, 4): (n, k)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    union = area[0][:, None] + area[1][None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))
