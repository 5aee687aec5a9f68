from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample
from edgekit.tasks import decide

LABELS = Labels(("resting", "moving"), decoder="binary")


def test_collate_stacks_every_input() -> None:
    (stacked,), targets = decide.collate([Sample((np.ones((3, 2)),), "moving")] * 4)
    assert stacked.shape == (4, 3, 2)
    assert targets == ["moving"] * 4


def test_loss_is_binary_cross_entropy_of_the_second_label() -> None:
    logits = torch.tensor([[0.0], [2.0]])
    expected = (np.log(2) + np.log1p(np.exp(-2))) / 2
    assert decide.loss((logits,), ["resting", "moving"], LABELS).item() == pytest.approx(expected)
    assert decide.loss((logits,), ["moving", "resting"], LABELS).item() > expected


def test_scores_are_one_per_sample() -> None:
    assert decide.scores(["moving", "resting"], ["moving", "moving"]).tolist() == [1.0, 0.0]
