from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.decode import decode
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels

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
