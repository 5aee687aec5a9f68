"""One class per clip: cross entropy to train with, macro-F1 to judge by, so that a rare class counts in full.

Sokolova, Lapalme: A systematic analysis of performance measures for classification tasks, Information
Processing and Management 45, 2009: F1 of every class, and their plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.runtime.errors import MissingPackageError
from edgekit.spec import Sample
from edgekit.tasks import _classes
from edgekit.tasks._classes import loss, scores

__all__ = ["DECODER", "METRIC", "collate", "loss", "metric", "scores"]

METRIC = "macro_f1"
DECODER = "argmax"
FRAMES = 4
"""The rank of an array (time, channels, height, width): a clip; single frames have one axis less."""


def collate(samples: Sequence[Sample]) -> tuple[tuple[np.ndarray, ...], list[Any]]:
    """Stack samples, clips cut to the shortest of them: (batch, time, ...) each, and their labels."""
    if all(sample.inputs[0].ndim == FRAMES for sample in samples):
        shortest = min(len(sample.inputs[0]) for sample in samples)
        samples = [Sample((sample.inputs[0][:shortest],), sample.target) for sample in samples]
    return _classes.collate(samples)


def metric(answers: Sequence[Any], targets: Sequence[Any]) -> float:
    """The mean over the classes of F1, the harmonic mean of precision and recall, 0 to 1.

    A class that is neither answered nor a target does not count.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import f1_score
    except ImportError as cause:
        raise MissingPackageError(
            "macro-F1 needs scikit-learn, which is not installed", "pip install 'edgekit-deploy[train]'"
        ) from cause
    return float(f1_score(targets, answers, average="macro", zero_division=0))
