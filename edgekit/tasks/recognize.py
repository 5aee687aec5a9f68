"""A line of symbols per input: CTC to train with, whole lines read exactly to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample

if TYPE_CHECKING:
    import torch

METRIC = "word_accuracy"
DECODER = "ctc"


def collate(samples: Sequence[Sample]) -> tuple[tuple[np.ndarray, ...], list[Any]]:
    """Stack images, each padded to the widest by repeating its last column: (batch, c, h, width)."""
    widest = max(sample.inputs[0].shape[-1] for sample in samples)
    images = np.stack([_padded(sample.inputs[0], widest) for sample in samples])
    return (images,), [sample.target for sample in samples]


def _padded(image: np.ndarray, width: int) -> np.ndarray:
    return np.pad(image, ((0, 0), (0, 0), (0, width - image.shape[-1])), mode="edge")


def loss(outputs: Sequence[torch.Tensor], targets: list[Any], labels: Labels) -> torch.Tensor:
    """Connectionist temporal classification (Graves et al., ICML 2006), mean over the batch.

    A target longer than its steps allow counts as zero.

    Args:
        outputs: logits (batch, steps, classes) first; class 0 is the blank.
        targets: texts over the symbols of `labels.values`.
    """
    import torch

    symbols = {symbol: index for index, symbol in enumerate(labels.values)}
    logits = outputs[0].float()
    batch, steps = logits.shape[:2]
    flat = torch.tensor([symbols[symbol] for target in targets for symbol in target], device=logits.device)
    return torch.nn.functional.ctc_loss(
        logits.log_softmax(2).transpose(0, 1),
        flat,
        torch.full((batch,), steps),
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )


def scores(answers: Sequence[Any], targets: Sequence[Any]) -> np.ndarray:
    """1.0 where the whole line is right, else 0.0: (samples,) float64."""
    return np.array([answer == target for answer, target in zip(answers, targets, strict=True)], np.float64)
