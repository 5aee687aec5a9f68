"""The metric of a set, its interval, and the drop between two runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.manifest import Detection
from edgekit.steps import _metric
from edgekit.tasks import classify, detect


class Recall:
    """A metric that is no mean of scores: the mean recall of the classes."""

    METRIC = "mean_recall"
    DECODER = "argmax"
    collate = staticmethod(classify.collate)
    loss = staticmethod(classify.loss)
    scores = staticmethod(classify.scores)

    @staticmethod
    def metric(answers: Sequence[Any], targets: Sequence[Any]) -> float:
        right = [
            np.mean([a == t for a, t in zip(answers, targets, strict=True) if t == name])
            for name in sorted(set(targets))
        ]
        return float(np.mean(right))


def drawn(rng: np.random.Generator, right: float, count: int = 400) -> tuple[list[str], list[str]]:
    targets = ["a" if rng.random() < 0.8 else "b" for _ in range(count)]
    return [t if rng.random() < right else "ab".replace(t, "") for t in targets], targets


def test_without_a_metric_it_is_the_mean_of_the_scores() -> None:
    assert _metric.value(classify, ["a", "b", "a", "a"], ["a", "b", "b", "a"]) == 0.75


def test_a_metric_of_the_set_is_taken() -> None:
    assert _metric.value(Recall, ["a", "a", "a", "b"], ["a", "a", "b", "b"]) == 0.75


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = _metric.interval_of(np.array([1.0] * 81 + [0.0] * 182))  # an example of Newcombe, 1998
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("task", [classify, Recall])
def test_intervals_hold_what_they_say(task: Any) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(120):
        low, high = _metric.interval(task, *drawn(rng, 0.9))
        inside += low <= 0.9 <= high
    assert inside >= 105


@pytest.mark.parametrize("task", [classify, Recall])
def test_a_drop_is_seen_and_none_is_not(task: Any) -> None:
    rng = np.random.default_rng(1)
    before, targets = drawn(rng, 0.95)
    worse = [answer if rng.random() < 0.9 else "ab".replace(answer, "") for answer in before]
    found, low, high = _metric.drop(task, before, worse, targets)
    assert 0.03 < found < 0.2
    assert 0 < low < found < high
    same, low, high = _metric.drop(task, before, before, targets)
    assert same == 0.0
    assert low <= 0.0 <= high


def test_a_metric_of_few_samples_says_nothing_of_others() -> None:
    low, high = _metric.interval(Recall, ["a"], ["a"])
    assert (low, high) == (-np.inf, np.inf)


def test_boxes_too_weak_to_be_shown_are_judged_where_the_task_wants_them() -> None:
    shown = Detection(boxes="boxes", scores="scores", score=0.25, iou=0.5)
    low = _metric.judged(detect, shown)
    assert low == Detection(boxes="boxes", scores="scores", score=detect.LEAST_SCORE, iou=0.5)
    assert _metric.judged(detect, low) == low
    assert _metric.judged(classify, shown) is shown
    assert _metric.judged(detect, None) is None
