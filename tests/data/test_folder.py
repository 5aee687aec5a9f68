from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.data._folder import load_folder
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels, Preprocess

DIGITS = Labels(("0", "1"))
SQUARE = Preprocess(height=4, width=4)


def test_a_class_folder_gives_the_label_as_it_is_decoded(tmp_path: Path) -> None:
    for name in ("1", "0"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.zeros((5, 5), np.uint8))
    data = load_folder(tmp_path, SQUARE, DIGITS)
    assert [data[index].target for index in range(2)] == ["0", "1"]
    assert data[0].inputs[0].shape == (1, 4, 4)


def test_listed_lines_are_read_without_regard_to_case(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 5), np.uint8))
    (tmp_path / "labels.tsv").write_text("a.npy\tAb\n")
    letters = Labels(("", "a", "b"), decoder="ctc")
    assert load_folder(tmp_path, SQUARE, letters)[0].target == "ab"
    (tmp_path / "labels.tsv").write_text("a.npy\tAx\n")
    with pytest.raises(BadFileError, match="'x'"):
        load_folder(tmp_path, SQUARE, letters)
