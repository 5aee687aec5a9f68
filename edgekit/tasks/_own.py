"""A user's own metric: `module:function`, called once per sample, or one of a few by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtime.decode import decode
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Labels, TensorSpec
from edgekit.tasks._own_function import (
    USER_FAULTS,
    blamed,
    defined,
    import_function,
    importable,
    refuse_signature,
    told,
)

BATCH = "batch"
EXAMPLE = "or write your own: --metric module:function, called as function(outputs, target)"

Answer = Mapping[str, np.ndarray]
Score = Callable[[int, Answer, Any], float]
"""The score of one sample: its number, its outputs by name without the batch axis, its target."""


@dataclass(frozen=True, kw_only=True)
class OwnTask:
    """A metric by name and how one sample is scored; more is always better."""

    METRIC: str
    score: Score

    def scores(self, answers: Sequence[Answer], targets: Sequence[Any]) -> np.ndarray:
        """The score of every sample: (samples,) float64.

        Raises:
            UsageError: a sample has no target or one that the metric cannot use, or the user's
                function raised or gave no number; names the sample.
        """
        pairs = enumerate(zip(answers, targets, strict=True))
        return np.array([self._one(index, *pair) for index, pair in pairs], np.float64)

    def _one(self, index: int, answer: Answer, target: Any) -> float:
        if target is None:
            raise UsageError(
                f"the metric {self.METRIC} has no target for sample {index}, counted from 0",
                "give --data with targets, or leave --metric out",
            )
        return self.score(index, answer, target)

    def split(
        self, outputs: Answer, samples: int, specs: Sequence[TensorSpec] = ()
    ) -> list[dict[str, np.ndarray]]:
        """Cut the outputs of a batch into those of each sample; what `specs` do not name is left out.

        The batch axis is the one called `batch` in the output's spec, else the first one if it is
        as long as there are samples; at one sample an output without such an axis is taken whole.

        Raises:
            UsageError: an output of a larger batch has no such axis.
        """
        known = {spec.name: spec for spec in specs}
        wanted = {name: array for name, array in outputs.items() if name in known or not known}
        rows = {name: _rows(name, array, samples, known.get(name)) for name, array in wanted.items()}
        return [{name: row[index] for name, row in rows.items()} for index in range(samples)]


def _rows(name: str, array: np.ndarray, samples: int, spec: TensorSpec | None) -> Sequence[np.ndarray]:
    axis = _batch_axis(array, samples, spec)
    if axis is not None:
        moved = np.moveaxis(array, axis, 0)
        return [moved[index, ...] for index in range(samples)]
    if samples == 1:
        return [array]
    raise UsageError(
        f"the output {name!r} of shape {array.shape} has no axis of {samples} samples",
        "use a batch of 1, or give the network an output with a batch axis",
    )


def _batch_axis(array: np.ndarray, samples: int, spec: TensorSpec | None) -> int | None:
    named = spec is not None and spec.shape and isinstance(spec.shape[0], str)
    if spec is not None and BATCH in spec.shape:
        axis = spec.shape.index(BATCH)
    elif array.ndim == 0 or (named and samples == 1):
        return None
    else:
        axis = 0
    return axis if axis < array.ndim and array.shape[axis] == samples else None


def own_task(metric: str, folder: Path, labels: Labels | None = None) -> OwnTask:
    """The metric that `--metric` names: one of WORDS, or `module:function` importable from `folder`.

    The function is called with the outputs of a sample by name, without the batch axis, and the
    sample's target; `labels` are needed for `word_accuracy` only.

    Raises:
        UsageError: there is no such metric, or the function cannot be imported or called so.
    """
    if ":" in metric:
        function = import_function(metric, folder)
        refuse_signature(function, metric, "outputs", "target")
        return OwnTask(METRIC=metric, score=partial(_called, function, metric, folder.resolve()))
    if metric == "word_accuracy":
        if labels is None:
            raise UsageError("word_accuracy reads text, and the network has no labels to read by", EXAMPLE)
        return OwnTask(METRIC=metric, score=partial(_read, labels))
    if metric not in WORDS:
        near = difflib.get_close_matches(metric, [*WORDS, "word_accuracy"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(WORDS)}, {EXAMPLE}"
        raise UsageError(f"there is no metric {metric!r}", hint)
    name, score = WORDS[metric]
    return OwnTask(METRIC=name, score=score)


def _called(
    function: Callable[..., Any], text: str, folder: Path, index: int, answer: Answer, target: Any
) -> float:
    """What the user's function says; it gets copies, so that it cannot change what is compared next."""
    own = target.copy() if isinstance(target, np.ndarray) else target
    try:
        with importable(folder):
            found = function({name: array.copy() for name, array in answer.items()}, own)
    except USER_FAULTS as error:
        raise UsageError(
            f"the metric {text} raised {told(error)} for sample {index}, at {blamed(error, folder)}",
            "correct it there; samples are counted from 0",
        ) from error
    return _number(found, f"the metric {text} of {defined(function)}", index, answer)


def _number(value: Any, where: str, index: int, answer: Answer) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError("a text is no number")
        score = float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{where} gave {_short(value)} for sample {index}, which is not a number",
            "return one number per sample, such as 1.0 for right and 0.0 for wrong",
        ) from error
    if not math.isfinite(score):
        bad = [
            name for name, array in answer.items() if array.dtype.kind == "f" and not np.isfinite(array).all()
        ]
        cause = f"the output {bad[0]!r} itself is not finite there" if bad else "return a finite number"
        raise UsageError(f"{where} gave {score} for sample {index}, counted from 0", cause)
    return score


def _short(value: Any) -> str:
    told = repr(value).replace("\n", " ")
    return told if len(told) <= 60 else f"{told[:57]}..."


def _first(answer: Answer) -> tuple[str, np.ndarray]:
    return next(iter(answer.items()))


def _class_scores(metric: str, index: int, answer: Answer, target: Any) -> tuple[np.ndarray, int]:
    """The first output as one row of class scores, and the target as one of its indices."""
    name, array = _first(answer)
    if array.size < 2 or array.size != max(array.shape, default=0):
        raise UsageError(
            f"{metric} needs one row of class scores per sample, and the first output {name!r} has the "
            f"shape {array.shape}",
            EXAMPLE,
        )
    whole = np.asarray(target)
    if whole.size != 1 or whole.dtype.kind not in "iu":
        raise UsageError(
            f"{metric} needs the index of a class, and the target of sample {index} is {_short(target)}",
            f"give integers from 0, {EXAMPLE}",
        )
    if not 0 <= whole.item() < array.size:
        raise UsageError(
            f"the target of sample {index} is {whole.item()}, and {name!r} has {array.size} classes",
            "give class indices from 0",
        )
    return array.ravel(), int(whole.item())


def _accuracy(index: int, answer: Answer, target: Any) -> float:
    row, expected = _class_scores("accuracy", index, answer, target)
    return float(not np.isnan(row).any() and row.argmax() == expected)


def _top5(index: int, answer: Answer, target: Any) -> float:
    row, expected = _class_scores("top5", index, answer, target)
    if row.size <= 5:
        raise UsageError(f"top5 is always right with {row.size} classes", "use accuracy")
    best = np.argsort(-row.astype(np.float64), kind="stable")[:5]
    return float(not np.isnan(row).any() and expected in best)


def _error(metric: str, power: int, index: int, answer: Answer, target: Any) -> float:
    """The negated mean of the absolute differences, each to the `power`."""
    name, array = _first(answer)
    wanted = np.asarray(target)
    if wanted.dtype.kind not in "fiub" or wanted.squeeze().shape != array.squeeze().shape:
        raise UsageError(
            f"{metric} needs targets like the first output: {name!r} has the shape {array.shape}, the target "
            f"of sample {index} is {_short(target)} of shape {wanted.shape}",
            EXAMPLE,
        )
    difference = array.squeeze().astype(np.float64) - wanted.squeeze().astype(np.float64)
    found = -float(np.mean(np.abs(difference) ** power))
    return _number(found, metric, index, answer)


def _read(labels: Labels, index: int, answer: Answer, target: Any) -> float:
    """Whether the decoded first output is the target's text."""
    return float(decode(_first(answer)[1][None], labels)[0] == str(target))


WORDS: dict[str, tuple[str, Score]] = {
    "accuracy": ("accuracy", _accuracy),
    "top5": ("top5", _top5),
    "mse": ("negative mse", partial(_error, "mse", 2)),
    "mae": ("negative mae", partial(_error, "mae", 1)),
}
"""What is reported, and how one sample is scored; errors are negated, so that more is better."""
