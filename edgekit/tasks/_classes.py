"""What every task of one class per input shares: batches, cross entropy, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample

if TYPE_CHECKING:
    import torch


def collate(samples: Sequence[Sample]) -> tuple[tuple[np.ndarray, ...], list[Any]]:
    """Stack samples, input by input: (batch, ...) each, and their labels; ids of texts are padded with 0."""
    inputs = zip(*(sample.inputs for sample in samples), strict=True)
    return tuple(np.stack(_even(arrays)) for arrays in inputs), [sample.target for sample in samples]


def _even(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Rows of ids, (time,) integers, all as long as the longest; anything else as it is."""
    if arrays[0].ndim != 1 or arrays[0].dtype.kind != "i":
        return arrays
    longest = max(len(array) for array in arrays)
    return [np.pad(array, (0, longest - len(array))) for array in arrays]


def loss(outputs: Sequence[torch.Tensor], targets: list[Any], labels: Labels) -> torch.Tensor:
    """Cross entropy, mean over the batch.

    Args:
        outputs: logits (batch, classes) first.
        targets: label strings of `labels.values`.
    """
    import torch

    classes = torch.tensor([labels.values.index(target) for target in targets], device=outputs[0].device)
    return torch.nn.functional.cross_entropy(outputs[0].float(), classes)


def scores(answers: Sequence[Any], targets: Sequence[Any]) -> np.ndarray:
    """1.0 where the answer is the label, else 0.0: (samples,) float64."""
    return np.array([answer == target for answer, target in zip(answers, targets, strict=True)], np.float64)
