from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample
from edgekit.tasks import recognize

LABELS = Labels(("", "a", "b"), decoder="ctc")


def test_collate_pads_by_the_last_column() -> None:
    narrow, wide = np.arange(4.0).reshape(1, 2, 2), np.zeros((1, 2, 4))
    (images,), targets = recognize.collate([Sample((narrow,), "a"), Sample((wide,), "b")])
    assert images.shape == (2, 1, 2, 4)
    assert images[0, 0].tolist() == [[0, 1, 1, 1], [2, 3, 3, 3]]
    assert targets == ["a", "b"]


def test_loss_of_one_step_is_the_letters_own() -> None:
    logits = torch.zeros(1, 1, 3)
    assert recognize.loss((logits,), ["b"], LABELS).item() == pytest.approx(np.log(3))


def test_loss_falls_when_the_logits_spell_the_target() -> None:
    spelled = 9.0 * torch.eye(3)[[1, 0, 2]][None]
    assert recognize.loss((spelled,), ["ab"], LABELS) < recognize.loss((spelled,), ["ba"], LABELS)


def test_a_target_that_does_not_fit_counts_as_zero() -> None:
    assert recognize.loss((torch.zeros(1, 1, 3),), ["ab"], LABELS).item() == 0.0


def test_only_whole_lines_score() -> None:
    assert recognize.scores(["ab", "a"], ["ab", "ab"]).tolist() == [1.0, 0.0]
