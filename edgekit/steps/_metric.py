"""A task's metric on many samples, and how far it would go on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.manifest import Detection
from edgekit.runtime.proof import paired_drop
from edgekit.spec import TaskPlugin

if TYPE_CHECKING:
    from edgekit.tasks._own import OwnTask

GROUPS = 20
STUDENT = 2.093
"""The 97.5% point of Student's t with GROUPS - 1 degrees of freedom."""
NORMAL = 1.96

Answers = Sequence[Any]


def judged(task: TaskPlugin | OwnTask | None, detection: Detection | None) -> Detection | None:
    """How boxes are read for the metric: those too that are too weak to be shown, if the task wants them."""
    least = getattr(task, "LEAST_SCORE", None)
    if detection is None or least is None:
        return detection
    return replace(detection, score=min(detection.score, least))


def value(task: TaskPlugin | OwnTask, answers: Answers, targets: Sequence[Any]) -> float:
    """The metric of the set: the task's own, or the mean of its scores."""
    whole = _whole(task)
    return whole(answers, targets) if whole else float(task.scores(answers, targets).mean())


def interval(task: TaskPlugin, answers: Answers, targets: Sequence[Any]) -> tuple[float, float]:
    """The 95% interval of the metric on samples like these.

    Of shares of right answers Wilson's (1927), of other means the normal one, of a set's metric the
    delete-a-group jackknife's.
    """
    whole = _whole(task)
    if whole:
        return _around(whole(answers, targets), _jackknife(lambda part: whole(*part), [answers, targets]))
    return interval_of(task.scores(answers, targets))


def interval_of(scores: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean of one score per sample, (samples,)."""
    count, mean = len(scores), float(scores.mean())
    if not set(np.unique(scores).tolist()) <= {0.0, 1.0}:
        return _around(mean, NORMAL * float(scores.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf)
    centre = (mean + NORMAL**2 / (2 * count)) / (1 + NORMAL**2 / count)
    spread = math.sqrt(mean * (1 - mean) / count + NORMAL**2 / (4 * count**2))
    return _around(centre, NORMAL * spread / (1 + NORMAL**2 / count))


def drop(
    task: TaskPlugin | OwnTask, before: Answers, after: Answers, targets: Sequence[Any]
) -> tuple[float, float, float]:
    """How much worse `after` is than `before` on the same samples, and the drop's 95% interval."""
    whole = _whole(task)
    if whole is None:
        return paired_drop(task.scores(before, targets), task.scores(after, targets))

    def lost(part: Sequence[Sequence[Any]]) -> float:
        return whole(part[0], part[2]) - whole(part[1], part[2])

    together = [before, after, targets]
    found = lost(together)
    return found, *_around(found, _jackknife(lost, together))


def _whole(task: TaskPlugin | OwnTask) -> Callable[[Answers, Sequence[Any]], float] | None:
    return getattr(task, "metric", None)


def _around(centre: float, half: float) -> tuple[float, float]:
    return centre - half, centre + half


def _jackknife(
    statistic: Callable[[Sequence[Sequence[Any]]], float], columns: Sequence[Sequence[Any]]
) -> float:
    """Half the width of the 95% interval, by leaving out every GROUPS-th sample in turn.

    Kott: The delete-a-group jackknife, Journal of Official Statistics 17, 2001.
    """
    if len(columns[0]) < GROUPS:
        return math.inf
    without = [
        statistic(
            [[item for place, item in enumerate(column) if place % GROUPS != group] for column in columns]
        )
        for group in range(GROUPS)
    ]
    variance = (GROUPS - 1) / GROUPS * float(((np.array(without) - np.mean(without)) ** 2).sum())
    return STUDENT * math.sqrt(variance)
