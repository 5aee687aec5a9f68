from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.runtime.detection import Found
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Labels
from edgekit.spec import Objects
from edgekit.tasks import detect

LABELS = Labels(("cat", "dog"), "boxes")
LEFT, RIGHT = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]


def seen(*boxes: list[float], classes: list[int] | None = None, ignored: list[bool] | None = None) -> Objects:
    count = len(boxes)
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes or [0] * count, np.int64),
        np.array(ignored or [False] * count, bool),
    )


def found(*boxes: list[float], scores: list[float] | None = None, classes: list[int] | None = None) -> Found:
    objects = seen(*boxes, classes=classes)
    return Found(objects.boxes, np.array(scores or [0.9] * len(boxes), np.float32), objects.classes)


# Overlaps.


def test_iou_by_hand() -> None:
    one, other = torch.tensor([[LEFT]]), torch.tensor([[[5.0, 0.0, 15.0, 10.0], RIGHT, LEFT]])
    assert detect.pairwise_iou(one, other)[0, 0].tolist() == pytest.approx([50 / 150, 0, 1])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (LEFT, 1.0),
        ([5.0, 0.0, 15.0, 10.0], 50 / 150),  # the hull is all covered
        (RIGHT, -(300 - 200) / 300),
        ([10.0, 10.0, 20.0, 20.0], -(400 - 200) / 400),
    ],
)
def test_giou_by_hand(other: list[float], expected: float) -> None:
    assert detect.giou(torch.tensor([LEFT]), torch.tensor([other])).item() == pytest.approx(expected)


# Who answers for what: four cells of stride 8 in a row.

CELLS = torch.tensor([[4.0, 4, 8], [12, 4, 8], [20, 4, 8], [92, 4, 8]])


def assign(boxes: list[list[float]], logits: list[list[float]], *targets: Objects) -> tuple[Any, Any]:
    wanted = detect.padded(targets, torch.device("cpu"))
    given = torch.tensor([boxes]), torch.tensor([logits])
    chosen, quality = detect.assigned(*given, CELLS, *wanted)
    return chosen[0].tolist(), quality[0].tolist()


def test_only_cells_near_the_centre_may_answer() -> None:
    near = detect.nearby(CELLS, torch.tensor([[[0.0, 0, 8, 8], [90, 0, 94, 8]]]))
    assert near[0].tolist() == [[True, True, True, False], [False, False, False, True]]


def test_an_object_gets_as_many_cells_as_its_overlaps_sum_up_to() -> None:
    # IoUs 1, 1, 0.5 sum up to 2.5: the two cheapest; the fourth cell is too far away.
    boxes = [LEFT, LEFT, [0.0, 0, 10, 5], LEFT]
    chosen, quality = assign(boxes, [[0.0, 0.0]] * 4, seen(LEFT))
    assert chosen == [0, 0, -1, -1]
    assert quality[:2] == pytest.approx([1, 1])


def test_the_score_decides_between_equal_boxes() -> None:
    half = [0.0, 0, 10, 5]
    chosen, _ = assign([half, half, half, half], [[0.0, 9.0], [3.0, 0.0], [0.0, 0.0], [9.0, 0.0]], seen(LEFT))
    assert chosen == [-1, 0, -1, -1]


def test_a_cell_that_two_objects_want_goes_to_the_cheaper_one() -> None:
    other = [0.0, 0, 10, 8]
    boxes = [LEFT, [50.0, 0, 51, 1], [60.0, 0, 61, 1], LEFT]
    chosen, _ = assign(boxes, [[0.0, 0.0]] * 4, seen(other, LEFT))
    assert chosen[0] == 1


def test_what_is_not_there_or_ignored_is_nobodys() -> None:
    boxes, logits = [LEFT] * 4, [[0.0, 0.0]] * 4
    assert assign(boxes, logits, seen())[0] == [-1] * 4
    assert assign(boxes, logits, seen(LEFT, ignored=[True]))[0] == [-1] * 4


# The loss.


def outputs(boxes: list[list[float]], logits: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor([boxes], requires_grad=True), torch.tensor([logits], requires_grad=True), CELLS]


def test_the_loss_by_hand() -> None:
    half = [0.0, 0, 10, 5]
    given = outputs([half, [50.0, 0, 51, 1], [60.0, 0, 61, 1], LEFT], [[0.0, 0.0]] * 4)
    # Eight scores of 1/2 cost ln 2 each, whatever they should be; one box of IoU and GIoU 1/2.
    expected = 8 * math.log(2) + detect.BOX_WEIGHT * 0.5
    assert detect.loss(given, [seen(LEFT)], LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_least_where_all_is_right() -> None:
    right = outputs([LEFT, [50.0, 0, 51, 1], [60.0, 0, 61, 1], LEFT], [[12.0, -12.0], *[[-12.0, -12.0]] * 3])
    assert detect.loss(right, [seen(LEFT)], LABELS).item() < 1e-3
    wrong = outputs([LEFT, [50.0, 0, 51, 1], [60.0, 0, 61, 1], LEFT], [[-12.0, 12.0], *[[-12.0, -12.0]] * 3])
    assert detect.loss(wrong, [seen(LEFT)], LABELS).item() > 10


def test_an_empty_image_teaches_the_scores_alone() -> None:
    given = outputs([LEFT] * 4, [[0.0, 0.0]] * 4)
    made = detect.loss(given, [seen()], LABELS)
    made.backward()  # type: ignore[no-untyped-call]
    assert made.item() == pytest.approx(8 * math.log(2), rel=1e-5)
    assert given[1].grad is not None
    assert (given[1].grad > 0).all()


# The metric.


def test_map50_by_hand() -> None:
    targets = [seen(LEFT, RIGHT, classes=[0, 1]), seen(LEFT)]
    perfect = [found(LEFT, RIGHT, classes=[0, 1]), found(LEFT)]
    assert detect.metric(perfect, targets) == pytest.approx(1)
    # One of the two cats is missed: precision 1 up to recall 1/2, that is 51 of COCO's 101 points.
    half = [found(LEFT, RIGHT, classes=[0, 1]), found()]
    assert detect.metric(half, targets) == pytest.approx((51 / 101 + 1) / 2)
    # A better-scored box beside the only dog halves its precision.
    beside = [found(LEFT, LEFT, RIGHT, classes=[0, 1, 1], scores=[0.9, 0.95, 0.5]), found(LEFT)]
    assert detect.metric(beside, targets) == pytest.approx((1 + 0.5) / 2)


def test_a_class_that_is_nowhere_to_be_seen_does_not_count() -> None:
    assert detect.metric([found(LEFT, RIGHT, classes=[0, 1])], [seen(LEFT)]) == pytest.approx(1)


def test_nothing_found_is_nothing_and_nothing_to_find_is_an_error() -> None:
    assert detect.metric([found()], [seen(LEFT)]) == 0
    with pytest.raises(UsageError, match="no object"):
        detect.metric([found(LEFT)], [seen()])


def test_what_is_ignored_is_neither_missed_nor_wrong() -> None:
    targets = [seen(LEFT, RIGHT, ignored=[False, True])]
    assert detect.metric([found(LEFT)], targets) == pytest.approx(1)
    assert detect.metric([found(LEFT, RIGHT, scores=[0.5, 0.9])], targets) == pytest.approx(1)
    assert detect.f1(found(LEFT, RIGHT), targets[0]) == 1


def test_the_metric_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    detect.metric([found(LEFT)], [seen(LEFT)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (found(LEFT), seen(LEFT), 1.0),
        (found(), seen(), 1.0),
        (found(), seen(LEFT), 0.0),
        (found(LEFT), seen(), 0.0),
        (found(LEFT, LEFT), seen(LEFT), 2 / 3),  # the second box on the same object is wrong
        (found(LEFT, classes=[1]), seen(LEFT), 0.0),
        (found(LEFT), seen(LEFT, RIGHT), 2 / 3),
    ],
)
def test_f1_of_an_image_by_hand(answer: Found, target: Objects, expected: float) -> None:
    assert detect.scores([answer], [target]).tolist() == pytest.approx([expected])
