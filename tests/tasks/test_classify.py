from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample
from edgekit.tasks import classify

LABELS = Labels(("cat", "dog"))


def test_collate_stacks_every_input() -> None:
    samples = [Sample((np.zeros((1, 2)), np.ones(3)), "cat"), Sample((np.ones((1, 2)), np.ones(3)), "dog")]
    (images, others), targets = classify.collate(samples)
    assert images.shape == (2, 1, 2)
    assert others.shape == (2, 3)
    assert targets == ["cat", "dog"]


def test_loss_is_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert classify.loss((logits,), ["dog", "cat"], LABELS).item() == pytest.approx(np.log(2))


def test_scores_are_one_per_sample() -> None:
    assert classify.scores(["cat", "dog"], ["cat", "cat"]).tolist() == [1.0, 0.0]
