from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.decode import answers, decode
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Detection, Labels

LETTERS = Labels(("", "a", "b", " "), decoder="ctc")


def paths(*rows: list[int]) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[np.array(rows)]


def test_ctc_merges_repeats_and_drops_blanks() -> None:
    outputs = paths([1, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0], [2, 3, 0, 3, 1, 0])
    assert decode(outputs, LETTERS) == ["aab", "", "b  a"]


def test_argmax_names_the_class() -> None:
    assert decode(np.array([[0.1, 0.9], [2.0, -1.0]]), Labels(("cat", "dog"))) == ["dog", "cat"]


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 5)])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadFileError, match="do not fit 4 labels"):
        decode(np.zeros(shape), LETTERS)


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(BadFileError, match="beam"):
        decode(np.zeros((1, 1)), Labels(("a",), decoder="beam"))


def test_binary_takes_the_second_label_above_one_half() -> None:
    labels = Labels(("resting", "moving"), decoder="binary")
    assert decode(np.array([[-0.1], [0.1], [3.0]]), labels) == ["resting", "moving", "moving"]
    with pytest.raises(BadFileError, match="do not tell 2 labels apart"):
        decode(np.zeros((2, 2)), labels)


def test_answers_are_of_the_first_output_or_boxes() -> None:
    outputs = {"logits": np.array([[0.0, 1.0]]), "hn": np.zeros((1, 1, 2))}
    assert answers(outputs, Labels(("cat", "dog"))) == ["dog"]
    boxes = {"boxes": np.array([[[0, 0, 0.5, 0.5]]]), "scores": np.array([[[0.1, 0.9]]])}
    detection = Detection(boxes="boxes", scores="scores", normalized=True)
    (found,) = answers(boxes, Labels(("cat", "dog"), decoder="boxes"), detection, (20, 10))
    np.testing.assert_array_equal(found.boxes, [[0, 0, 5, 10]])
    assert found.classes.tolist() == [1]
