from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.data import moving_digits
from edgekit.data.moving_digits import SIDE, Options
from edgekit.runtime.errors import BadFileError
from edgekit.spec import Dataset

CLIP = np.random.default_rng(0).integers(0, 256, (9, 20, 30), np.uint8)


def read(place: Path) -> Dataset:
    return moving_digits.read(place, Options())


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, CLIP)
    return path


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    save(tmp_path / "left" / "a.npy")
    for number, frame in enumerate(CLIP):
        save(tmp_path / "right" / "b" / f"{number}.npy")
        np.save(tmp_path / "right" / "b" / f"{number}.npy", frame)
    data = read(tmp_path)
    assert [data[index].target for index in range(len(data))] == ["left", "right"]
    assert data[0].inputs[0].shape == (9, 1, SIDE, SIDE)
    np.testing.assert_array_equal(data[0].inputs[0], data[1].inputs[0])


def test_a_list_of_clips(tmp_path: Path) -> None:
    save(tmp_path / "clips" / "a.npy")
    frames = tmp_path / "frames"
    frames.mkdir()
    np.save(frames / "1.npy", CLIP[0])
    (tmp_path / "labels.tsv").write_text("clips/a.npy\tgrowing\nframes\tstill\n")
    data = read(tmp_path)
    assert [data[index].target for index in range(len(data))] == ["growing", "still"]
    assert [len(data[index].inputs[0]) for index in range(len(data))] == [9, 1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.npy sideways", "line 2: .* is not `file<TAB>label`"),
        ("a.npy\tsideways", "line 2: there is no class 'sideways'"),
        ("b.npy\tleft", "line 2: the clip 'b.npy' does not exist"),
        ("../a.npy\tleft", "line 2: '../a.npy' leaves the folder"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    save(tmp_path / "a.npy")
    (tmp_path / "labels.tsv").write_text(f"a.npy\tleft\n{line}\n")
    with pytest.raises(BadFileError, match=said) as caught:
        read(tmp_path)
    assert "labels.tsv" in str(caught.value)


def test_other_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(BadFileError, match="holds no labelled clips"):
        read(tmp_path)
    (save(tmp_path / "left" / "a.npy")).write_bytes(b"no array")
    with pytest.raises(BadFileError, match=r"a\.npy"):
        read(tmp_path)[0]


def test_single_frames_are_read_as_images(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    np.save(tmp_path / "left" / "a.npy", CLIP[0])
    assert moving_digits.read(tmp_path, Options(form="frame"))[0].inputs[0].shape == (1, SIDE, SIDE)
