from __future__ import annotations

import sys

import numpy as np
import pytest

from edgekit.runtime.errors import MissingPackageError
from edgekit.spec import Sample
from edgekit.tasks import motion


def test_macro_f1_is_the_mean_over_the_classes() -> None:
    targets = ["left"] * 8 + ["right", "up"]
    answers = ["left"] * 8 + ["left", "up"]
    expected = (2 * 8 / (2 * 8 + 1) + 0 + 1) / 3  # left: one answer too many; right: never; up: always
    assert motion.metric(answers, targets) == pytest.approx(expected)
    assert motion.metric(targets, targets) == 1


def test_clips_of_a_batch_are_cut_to_the_shortest() -> None:
    clips = [np.arange(length, dtype=np.float32).reshape(-1, 1, 1, 1) for length in (5, 3)]
    (inputs,), targets = motion.collate(
        [Sample((clip,), name) for clip, name in zip(clips, "ab", strict=True)]
    )
    assert inputs.shape == (2, 3, 1, 1, 1)
    np.testing.assert_array_equal(inputs[0].ravel(), [0, 1, 2])
    assert targets == ["a", "b"]


def test_frames_are_stacked_as_they_are() -> None:
    (inputs,), _ = motion.collate([Sample((np.zeros((1, 4, 4), np.float32),), "a")] * 2)
    assert inputs.shape == (2, 1, 4, 4)


def test_without_scikit_learn_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingPackageError) as caught:
        motion.metric(["left"], ["left"])
    assert "edgekit-deploy[train]" in caught.value.hint
