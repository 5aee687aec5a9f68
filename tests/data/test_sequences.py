from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.data import _sequences, activity
from edgekit.runtime.errors import BadFileError

FORM = _sequences.Form(channels=("x", "y"), labels=("walk", "rest"))


def load(place: Path) -> list[tuple[np.ndarray, str]]:
    data = _sequences.load_sequences(place, FORM)
    return [(data[index].inputs[0], data[index].target) for index in range(len(data))]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "walk" / "a.csv", "x,y\n1,2\n3,4\n5,6\n")
    write(tmp_path / "rest" / "b.csv", "1,2\n")
    np.save(tmp_path / "rest" / "c.npy", np.ones((2, 2)))
    found = load(tmp_path)
    assert [(array.shape, label) for array, label in found] == [
        ((1, 2), "rest"),
        ((2, 2), "rest"),
        ((3, 2), "walk"),
    ]
    np.testing.assert_array_equal(found[2][0], np.array([[1, 2], [3, 4], [5, 6]], np.float32))


def test_a_folder_with_a_list(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "1,2\n3,4\n")
    write(tmp_path / "labels.tsv", "a.csv\twalk\n")
    assert load(tmp_path)[0][1] == "walk"


def test_one_long_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", "sequence,x,y,label\n7,1,2,walk\n8,0,0,rest\n\n7,3,4,walk\n")
    found = load(path)
    assert [label for _, label in found] == ["walk", "rest"]
    np.testing.assert_array_equal(found[0][0], [[1, 2], [3, 4]])


def test_the_columns_of_a_long_csv_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", "id,what," + ",".join(activity.SENSORS) + "\n1,sitting,1,2,3,4,5,6\n")
    data = activity.read(path, activity.Options(sequence="id", label="what"))
    assert data[0].target == "sitting"
    with pytest.raises(BadFileError, match="no column 'sequence'") as caught:
        activity.read(path, activity.Options())
    assert "data.options.sequence" in caught.value.hint


def test_an_npz_of_sequences_of_different_length(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(12.0).reshape(2, 3, 2), y=np.array([1, 0]), lengths=np.array([3, 1]))
    found = load(path)
    assert [(array.shape, label) for array, label in found] == [((3, 2), "rest"), ((1, 2), "walk")]
    np.savez(path, x=np.zeros((1, 3, 2)), y=np.array(["walk"]))
    assert load(path)[0][1] == "walk"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("walk/a.csv", "1,2\n3,four\n", r"a\.csv, line 2, column 2: 'four' is not a finite number"),
        ("walk/a.csv", "x,y\n1,2\n3,nan\n", r"line 3, column 2: 'nan' is not"),
        ("walk/a.csv", "1,2\n3\n", "line 2: 1 columns, and the network takes 2"),
        ("walk/a.csv", "1,2,3\n", "line 1: 3 columns"),
        ("walk/a.csv", "y,x\n1,2\n", "line 1: the columns are y, x"),
        ("walk/a.csv", "x,y\n", "holds no row of numbers"),
        ("run/a.csv", "1,2\n", "there is no class 'run'"),
        ("labels.tsv", "a.csv walk\n", r"labels\.tsv, line 1"),
        ("labels.tsv", "../a.csv\twalk\n", "line 1: .* leaves the folder"),
        ("notes.txt", "", "holds no labelled sequences"),
    ],
)
def test_a_fault_in_a_folder_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / name, text)
    with pytest.raises(BadFileError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no column 'sequence'"),
        ("sequence,x,y\n", "line 1: there is no column 'label'"),
        ("sequence,label,x\n", "line 1: 1 channels, and the network takes 2"),
        ("sequence,label,y,x\n", "line 1: the columns are y, x"),
        ("sequence,label,x,y\n1,walk,1\n", "line 2: 3 columns, and the header has 4"),
        ("sequence,label,x,y\n1,walk,1,2\n1,rest,1,2\n", "line 3: the sequence '1' was 'walk' so far"),
        ("sequence,label,x,y\n1,run,1,2\n", "line 2: there is no class 'run'"),
        ("sequence,label,x,y\n1,walk,1,inf\n", "line 2, column 2: 'inf'"),
        ("sequence,label,x,y\n", "holds no labelled sequences"),
    ],
)
def test_a_fault_in_a_long_csv_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=message):
        load(write(tmp_path / "all.csv", text))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 3, 2))}, "holds no array 'y'"),
        ({"x": np.zeros((1, 3, 5)), "y": np.zeros(1, int)}, r"x is float64 of shape \(1, 3, 5\)"),
        ({"x": np.full((1, 3, 2), np.nan), "y": np.zeros(1, int)}, r"x\[0\] has NaN"),
        ({"x": np.zeros((1, 3, 2)), "y": np.array([2])}, r"y\[0\] is 2"),
        ({"x": np.zeros((1, 3, 2)), "y": np.array(["run"])}, "no class 'run'"),
        ({"x": np.zeros((2, 3, 2)), "y": np.zeros(1, int)}, "y is int64"),
        ({"x": np.zeros((1, 3, 2)), "y": np.zeros(1, int), "lengths": np.array([4])}, r"lengths\[0\] is 4"),
    ],
)
def test_a_fault_in_an_npz_is_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(BadFileError, match=message):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["missing", "x.txt"])
def test_what_is_none_of_these_is_told(name: str, tmp_path: Path) -> None:
    write(tmp_path / "x.txt", "")
    with pytest.raises(BadFileError, match=name):
        load(tmp_path / name)
