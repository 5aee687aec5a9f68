"""A user's own arrays and images: what is read, what is said of it, and what is refused and how."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data._arrays import ArrayDataset, ImageDataset, load_arrays, load_images, load_own, too_few
from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Preprocess, State, TensorSpec

IMAGE = TensorSpec("image", ("batch", 3, 8, "width"), "float32", {"batch": (1, 8), "width": (4, 32)})
TOKENS = TensorSpec("tokens", ("batch", "time"), "int64", {"batch": (1, 8), "time": (1, 16)})
MASK = TensorSpec("mask", ("batch", "time"), "bool", {"batch": (1, 8), "time": (1, 16)})
RATE = TensorSpec("rate", (), "int64")
THREE = (IMAGE, TOKENS, MASK)
HIDDEN = State("h", "hn", (2, "batch", 5))
SQUARE = Preprocess(height=8, width=8, channels=3)

rng = np.random.default_rng(0)


def images(count: int, width: int = 12) -> np.ndarray:
    return rng.standard_normal((count, 3, 8, width), np.float32)


def three(count: int = 4, time: int = 6, width: int = 12) -> dict[str, np.ndarray]:
    return {
        "image": images(count, width),
        "tokens": rng.integers(0, 100, (count, time)),
        "mask": rng.random((count, time)) > 0.5,
    }


def saved(path: Path, *arrays: np.ndarray, **named: Any) -> Path:
    np.savez(path, *arrays, **named)
    return path


def refused(place: Path, inputs: Any = (IMAGE,), states: Any = ()) -> BadFileError:
    with pytest.raises(BadFileError) as caught:
        load_arrays(place, inputs, states)
    assert str(place) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_three_inputs_by_name_come_in_the_networks_order(tmp_path: Path) -> None:
    arrays = three()
    place = saved(tmp_path / "x.npz", **dict(reversed(arrays.items())), target=np.array([3, 1, 4, 1]))
    data = load_arrays(place, THREE)
    assert len(data) == 4
    for index in range(4):
        sample = data[index]
        for name, found in zip(("image", "tokens", "mask"), sample.inputs, strict=True):
            np.testing.assert_array_equal(found, arrays[name][index])
        assert [array.dtype.name for array in sample.inputs] == ["float32", "int64", "bool"]
    assert [data[index].target for index in range(4)] == [3, 1, 4, 1]
    assert type(data[0].target) is int
    assert data.names == ("image", "tokens", "mask")
    assert data.labelled
    assert data.described.startswith("4 samples of image float32[3,8,12], tokens int64[6], mask bool[6] from")
    with pytest.raises(IndexError):
        data[4]


def test_arrays_without_the_inputs_names_count_by_order_and_say_so(tmp_path: Path) -> None:
    arrays = three()
    data = load_arrays(saved(tmp_path / "x.npz", *arrays.values()), THREE)
    np.testing.assert_array_equal(data[2].inputs[1], arrays["tokens"][2])
    assert data.names == ("arr_0", "arr_1", "arr_2")
    assert "by order, 'arr_1' is the input 'tokens'" in data.described
    assert not data.labelled
    assert data[0].target is None


@pytest.mark.parametrize("name", ["target", "targets", "label", "labels", "y"])
def test_targets_have_five_names(tmp_path: Path, name: str) -> None:
    data = load_arrays(saved(tmp_path / "x.npz", image=images(2), **{name: ["cat", "dog"]}), (IMAGE,))
    assert [data[0].target, data[1].target] == ["cat", "dog"]


def test_an_input_may_be_called_y(tmp_path: Path) -> None:
    inputs = (TensorSpec("x", ("batch", 2)), TensorSpec("y", ("batch", 2)))
    arrays = {"x": np.zeros((3, 2), np.float32), "y": np.ones((3, 2), np.float32)}
    data = load_arrays(saved(tmp_path / "x.npz", **arrays), inputs)
    assert not data.labelled
    assert data[0].inputs[1].tolist() == [1, 1]


def test_targets_may_be_arrays(tmp_path: Path) -> None:
    boxes = rng.random((2, 5, 4))
    data = load_arrays(saved(tmp_path / "x.npz", image=images(2), target=boxes), (IMAGE,))
    np.testing.assert_array_equal(data[1].target, boxes[1])


def test_an_npy_is_mapped_and_every_sample_is_writable(tmp_path: Path) -> None:
    array = images(3)
    np.save(tmp_path / "x.npy", array)
    data = load_arrays(tmp_path / "x.npy", (IMAGE,))
    np.testing.assert_array_equal(data[2].inputs[0], array[2])
    assert data[2].inputs[0].flags.writeable
    data[2].inputs[0][:] = 0
    np.testing.assert_array_equal(data[2].inputs[0], array[2])
    assert "holds one array" in refused(tmp_path / "x.npy", THREE).message


def test_without_inputs_every_array_is_one(tmp_path: Path) -> None:
    place = saved(tmp_path / "x.npz", a=np.zeros((3, 4)), b=np.zeros((3, 2), np.int32), y=np.arange(3))
    data = load_arrays(place)
    assert data.names == ("a", "b")
    assert [(array.shape, array.dtype.name) for array in data[0].inputs] == [
        ((4,), "float32"),
        ((2,), "int32"),
    ]
    assert [data[index].target for index in range(3)] == [0, 1, 2]


def test_the_rank_tells_whether_an_input_has_a_batch_axis(tmp_path: Path) -> None:
    none, one = TensorSpec("x", (7, 5)), TensorSpec("x", (1, 7, 5))
    many = saved(tmp_path / "many.npz", x=rng.random((3, 7, 5), np.float32))
    whole = saved(tmp_path / "whole.npz", x=rng.random((3, 1, 7, 5), np.float32))
    single = saved(tmp_path / "single.npz", x=rng.random((7, 5), np.float32))
    found = [load_arrays(many, (none,)), load_arrays(many, (one,)), load_arrays(whole, (one,))]
    assert [(len(data), data[0].inputs[0].shape) for data in found] == [(3, (7, 5))] * 3
    assert len(load_arrays(single, (none,))) == 1
    refused(single, (one,))


def test_an_input_without_a_batch_is_shared_or_one_per_sample(tmp_path: Path) -> None:
    shared = load_arrays(saved(tmp_path / "a.npz", image=images(3), rate=np.int64(16000)), (IMAGE, RATE))
    each = load_arrays(saved(tmp_path / "b.npz", image=images(3), rate=np.arange(3)), (IMAGE, RATE))
    assert [shared[index].inputs[1].item() for index in range(3)] == [16000] * 3
    assert [each[index].inputs[1].item() for index in range(3)] == [0, 1, 2]
    assert each[1].inputs[1].shape == ()


def test_a_folder_of_feeds_varies_in_width_and_in_batch(tmp_path: Path) -> None:
    feeds = [three(count, time, width) for count, time, width in ((1, 3, 8), (3, 16, 32), (2, 1, 4))]
    for number, feed in enumerate(feeds):
        saved(tmp_path / f"{number}.npz", **feed, target=np.arange(len(feed["mask"])) + 10 * number)
    (tmp_path / "._0.npz").write_bytes(b"left by another system")
    data = load_arrays(tmp_path, THREE)
    assert len(data) == 6
    assert [data[index].inputs[0].shape[-1] for index in range(6)] == [8, 32, 32, 32, 4, 4]
    np.testing.assert_array_equal(data[3].inputs[1], feeds[1]["tokens"][2])
    np.testing.assert_array_equal(data[0].inputs[0], feeds[0]["image"][0])
    assert [data[index].target for index in (5, 0, 2)] == [21, 0, 11]
    assert "6 samples of image float32[3,8,4..32], tokens int64[1..16], mask bool[1..16]" in data.described


def test_a_batch_axis_need_not_come_first(tmp_path: Path) -> None:
    frames = TensorSpec("frames", ("time", "batch", 2), "float32", {"time": (1, 9), "batch": (1, 8)})
    feed = rng.random((5, 3, 2), np.float32)
    (tmp_path / "feeds").mkdir()
    saved(tmp_path / "feeds" / "a.npz", frames=feed)
    table = saved(tmp_path / "table.npz", frames=feed.transpose(1, 0, 2))
    for data in (load_arrays(tmp_path / "feeds", (frames,)), load_arrays(table, (frames,))):
        assert len(data) == 3
        np.testing.assert_array_equal(data[1].inputs[0], feed[:, 1])


@pytest.mark.parametrize("name", ["targets.tsv", "labels.tsv"])
def test_targets_of_feeds_may_stand_in_a_list(tmp_path: Path, name: str) -> None:
    for file in ("a", "b"):
        saved(tmp_path / f"{file}.npz", image=images(1))
    for texts, values in (
        (("3", "12"), [3, 12]),
        (("1.50", "-2e3"), [1.5, -2000.0]),
        (("007", "12"), ["007", "12"]),
    ):
        (tmp_path / name).write_text(f"b.npz\t{texts[1]}\na.npz\t{texts[0]}\n")
        data = load_arrays(tmp_path, (IMAGE,))
        assert [data[0].target, data[1].target] == values
    (tmp_path / name).write_text("a.npz\tcat\nb.npz\t3\n")
    assert load_arrays(tmp_path, (IMAGE,))[1].target == "3"
    (tmp_path / name).write_text("a.npz\tcat\n")
    assert "no target" in refused(tmp_path).message
    (tmp_path / name).write_text("a.npz\tcat\nc.npz\tdog\n")
    assert f"{name}, line 2: the file 'c.npz' does not exist" in refused(tmp_path).message
    (tmp_path / name).write_text("a.npz\t1\nb.npz\t2\n")
    saved(tmp_path / "b.npz", image=images(2))
    assert "b.npz holds 2 samples" in refused(tmp_path).message


def test_states_may_be_absent_or_given(tmp_path: Path) -> None:
    hidden = rng.random((4, 2, 5), np.float32)
    absent = load_arrays(saved(tmp_path / "a.npz", image=images(4)), (IMAGE,), (HIDDEN,))
    given = load_arrays(saved(tmp_path / "b.npz", image=images(4), h=hidden), (IMAGE,), (HIDDEN,))
    assert absent[0].states == {}
    assert len(given[0].inputs) == 1
    assert given[3].states["h"].shape == (2, 5)
    np.testing.assert_array_equal(given[3].states["h"], hidden[3])
    assert "the state 'h' is given" in given.described
    (tmp_path / "feeds").mkdir()
    saved(tmp_path / "feeds" / "a.npz", image=images(3), h=hidden[:3].transpose(1, 0, 2))
    np.testing.assert_array_equal(
        load_arrays(tmp_path / "feeds", (IMAGE,), (HIDDEN,))[2].states["h"], hidden[2]
    )
    ordered = load_arrays(saved(tmp_path / "c.npz", images(4), hidden), (IMAGE,), (HIDDEN,))
    np.testing.assert_array_equal(ordered[1].states["h"], hidden[1])


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (np.float64, "float32"), (np.float32, "float16"), (np.float16, "float32"), (np.int64, "int32"),
        (np.int32, "int64"), (np.uint8, "float32"), (np.int64, "float32"), (bool, "int64"),
        (np.int64, "bool"), (np.uint8, "int8"), (">f4", "float32"),
    ],
)  # fmt: skip
def test_types_that_keep_their_values_are_converted(tmp_path: Path, dtype: Any, wanted: str) -> None:
    array = np.array([[0, 1], [1, 1]]).astype(dtype)
    spec = TensorSpec("x", ("batch", 2), wanted)
    data = load_arrays(saved(tmp_path / "x.npz", x=array), (spec,))
    assert data[0].inputs[0].dtype == np.dtype(wanted)
    assert data[0].inputs[0].dtype.isnative
    assert data[0].inputs[0].tolist() == [0, 1]
    changed = np.dtype(dtype).name != wanted
    assert data.described.count(f"{np.dtype(dtype).name} becomes {wanted} in 'x'") == changed


def test_a_conversion_of_many_files_is_said_once(tmp_path: Path) -> None:
    for number in range(3):
        saved(tmp_path / f"{number}.npz", image=images(1).astype(np.float64))
    assert load_arrays(tmp_path, (IMAGE,)).described.count("float64 becomes float32 in 'image'") == 1


@pytest.mark.parametrize(
    ("values", "wanted", "said"),
    [
        ([[0.0, 1.0]], "int64", "takes int64"),
        ([[0.0, 1.0]], "bool", "takes bool"),
        ([[1, 2], [3, 2**31]], "int32", "2147483648, which int32 cannot hold, in sample 1"),
        ([[1, 2], [3, -1]], "uint8", "-1, which uint8 cannot hold, in sample 1"),
        ([[1, 2**24 + 1]], "float32", "which float32 cannot hold, in sample 0"),
        ([[0, 2]], "bool", "2, which bool cannot hold, in sample 0"),
        ([[1.0, 1e39]], "float32", "1e+39, which float32 cannot hold, in sample 0"),
        ([[1.0, 70000.0]], "float16", "70000.0, which float16 cannot hold, in sample 0"),
        ([["a", "b"]], "float32", "no real number"),
        ([[1j, 2j]], "float32", "no real number"),
    ],
)
def test_types_that_lose_are_refused(tmp_path: Path, values: Any, wanted: str, said: str) -> None:
    place = saved(tmp_path / "x.npz", x=np.array(values))
    found = refused(place, (TensorSpec("x", ("batch", 2), wanted),))
    assert said in found.message
    assert "the array 'x'" in found.message
    if np.array(values).dtype.kind in "Uc":
        refused(place, ())


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (-np.inf, "infinity")])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_what_is_not_finite_is_named_with_its_sample(
    tmp_path: Path, value: float, said: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.data._array_checks.BLOCK_BYTES", 3 * 3 * 8 * 12 * 4)
    array = images(10)
    array[7, 1, 2, 3] = value
    place = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        saved(place, image=array)
    else:
        np.save(place, array)
    assert f"the array 'image' holds {said} in sample 7, counted from 0" in refused(place).message


def test_a_feed_that_is_not_finite_is_named_by_its_file(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", image=images(1))
    saved(tmp_path / "b.npz", image=np.full((2, 3, 8, 9), np.nan, np.float32))
    assert "b.npz: the array 'image' holds NaN in sample 0" in refused(tmp_path).message


@pytest.mark.parametrize(
    ("arrays", "said", "hint"),
    [
        ({"maks": (4, 6), "mask": None}, "no array for the input 'mask'", "rename 'maks' to 'mask'"),
        ({"mask": None}, "no array for the input 'mask'", "one array per input"),
        ({"mask": None, "tragets": (4,)}, "no array for the input 'mask'", "one array per input"),
        ({"tragets": (4,)}, "holds the array 'tragets', and the network has no", "did you mean 'target"),
        ({"zzz": (4,)}, "holds the array 'zzz', and", "the inputs are image, tokens, mask"),
        ({"image": (4, 3, 8)}, "has 3 axes", "(samples, 3, 8, width)"),
        ({"image": (4, 3, 9, 12)}, "9 must be 8", "image=float32[batch:1..8"),
        ({"image": (4, 3, 8, 33)}, "width is 33, outside 4 to 32", "--input"),
        ({"mask": (4, 0)}, "time is 0, outside 1 to 16", "--input"),
        ({"mask": (4, 7)}, "time is 7, and 6 in 'tokens'", "--input"),
        ({"tokens": (5, 6)}, "has 5 samples, and that of 'image' has 4", "batch"),
        ({"image": (0, 3, 8, 12)}, "is empty", "samples"),
        ({"image": None, "tokens": None, "mask": None, "y": (4,)}, "holds targets only", "per input"),
        ({"y": (4,), "label": (4,)}, "holds targets twice", "leave"),
        ({"y": (5,)}, "'y' has the shape (5,), and there are 4 samples", "one target per sample"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, arrays: dict[str, tuple[int, ...] | None], said: str, hint: str
) -> None:
    """`arrays` are the shapes that differ from those of good data; None leaves one out."""
    kinds = {"image": "f4", "tokens": "i8", "mask": "?"}
    shapes = {"image": (4, 3, 8, 12), "tokens": (4, 6), "mask": (4, 6), **arrays}
    named = {
        name: np.zeros(shape, kinds.get(name, "i8")) for name, shape in shapes.items() if shape is not None
    }
    found = refused(saved(tmp_path / "x.npz", **named), THREE)
    assert said in found.message
    assert hint in found.hint


def test_a_feed_without_its_batch_axis_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", image=images(1)[0])
    assert "batch axis" in refused(tmp_path).hint


def test_feeds_must_agree(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", image=images(1), target=1)
    saved(tmp_path / "b.npz", image=images(1))
    assert "b.npz has no target" in refused(tmp_path).message
    saved(tmp_path / "b.npz", picture=images(1), y=1, mask=images(1))
    assert "b.npz holds no array for the input 'image'" in refused(tmp_path).message
    saved(tmp_path / "b.npz", image=images(1), mask=images(1), y=1)
    assert "b.npz holds the array 'mask'" in refused(tmp_path, ()).message


def test_what_is_no_file_of_arrays_is_refused(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.npz", image=images(4)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.npz").write_text("image: 1 2 3")
    (tmp_path / "nothing.npz").write_bytes(b"")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1]))
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    np.savez(tmp_path / "hollow.npz")
    np.save(tmp_path / "cut.npy", images(4))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "zip.npy").write_bytes(good)
    np.save(tmp_path / "none.npy", images(0))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    np.save(tmp_path / "header.npy", images(4))
    header = (tmp_path / "header.npy").read_bytes().replace(b"}", b" ")
    (tmp_path / "header.npy").write_bytes(header)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    said = {
        "absent.npz": "does not exist", "cut.npz": "no readable .npz", "text.npz": "no readable .npz",
        "nothing.npz": "empty file", "pickle.npz": "no readable .npz", "hollow.npz": "is empty",
        "cut.npy": "no readable .npy", "text.npy": "no readable .npy", "zip.npy": "no readable .npy",
        "header.npy": "no readable .npy", "none.npy": "is empty", "other.npz": "'notes.txt'",
        "flipped.npz": "no readable .npz",
        "photo.jpg": "neither an .npz nor an .npy",
    }  # fmt: skip
    for name, sentence in said.items():
        assert sentence in refused(tmp_path / name).message, name


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    lie = (tmp_path / "x.npy").read_bytes().replace(b"(2, 2), ", b"(9, 9), ")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", lie)
    assert "not as long as its shape (9, 9)" in refused(tmp_path / "x.npz", ()).message


def test_what_is_too_big_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_array(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", read_array)
    found = refused(saved(tmp_path / "x.npz", image=images(1)))
    assert "does not fit into memory" in found.message


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (str(self.path), "w")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)], object)
    (tmp_path / "feeds").mkdir()
    np.savez(tmp_path / "x.npz", image=trap)
    np.savez(tmp_path / "y.npz", image=images(1), target=trap)
    np.savez(tmp_path / "feeds" / "x.npz", image=trap)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("x.npz", "y.npz", "feeds", "x.npy"):
        assert "of Python objects" in refused(tmp_path / name).message
    refused(tmp_path / "raw.npz")
    assert not sprung.exists()
    np.load(tmp_path / "x.npz", allow_pickle=True)["image"]
    assert sprung.exists(), "the trap itself must work"


def picture(path: Path, size: tuple[int, int] = (9, 7), value: int = 128) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.full((*size, 3), value, np.uint8))


def test_images_in_sub_folders_have_the_index_of_their_class(tmp_path: Path) -> None:
    for number, name in enumerate(("dog", "cat", "ant")):
        picture(tmp_path / name / "0.npy", (5 + number, 9 - number))
    data = load_images(tmp_path, SQUARE)
    assert [data[index].target for index in range(3)] == [0, 1, 2]
    assert [data[index].inputs[0].shape for index in range(3)] == [(3, 8, 8)] * 3
    assert data.labelled
    assert "3 images" in data.described
    assert "ant = 0, cat = 1, dog = 2" in data.described
    named = load_images(tmp_path, SQUARE, ["dog", "cow", "cat", "ant"])
    assert [named[index].target for index in range(3)] == [3, 2, 0]
    with pytest.raises(BadFileError, match="there is no class 'cat'") as caught:
        load_images(tmp_path, SQUARE, ["ant", "cats"])
    assert "did you mean 'cats'?" in caught.value.hint


def test_images_in_a_list_have_what_it_says(tmp_path: Path) -> None:
    picture(tmp_path / "a.npy")
    picture(tmp_path / "b.npy")
    (tmp_path / "labels.tsv").write_text("b.npy\tcat\na.npy\tdog\n")
    assert [load_images(tmp_path, SQUARE)[index].target for index in range(2)] == ["cat", "dog"]
    assert load_images(tmp_path, SQUARE, ["dog", "cat"])[0].target == 1
    (tmp_path / "labels.tsv").write_text("b.npy\t10\na.npy\t9\n")
    assert [load_images(tmp_path, SQUARE)[index].target for index in range(2)] == [10, 9]


def test_flat_images_have_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "b.npy", value=255)
    picture(tmp_path / "a.npy", value=0)
    data = load_images(tmp_path, SQUARE)
    assert not data.labelled
    assert data[0].target is None
    assert [float(data[index].inputs[0].mean()) for index in range(2)] == [0.0, 1.0]


def test_own_data_is_what_it_looks_like(tmp_path: Path) -> None:
    spec = TensorSpec("image", ("batch", 3, 8, 8))
    picture(tmp_path / "pictures" / "a.npy")
    assert isinstance(load_own(tmp_path / "pictures", (spec,), (), SQUARE), ImageDataset)
    assert isinstance(load_own(tmp_path / "pictures", (), (), SQUARE), ImageDataset)
    saved(tmp_path / "pictures" / "x.npz", image=images(1, 8))
    assert isinstance(load_own(tmp_path / "pictures", (spec,), (), SQUARE), ArrayDataset)
    assert isinstance(load_own(tmp_path / "pictures" / "x.npz", (spec,), (), SQUARE), ArrayDataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFileError, match=r"neither \.npz files nor images"):
        load_own(tmp_path / "empty", (spec,), (), SQUARE)
    with pytest.raises(BadFileError, match="does not exist"):
        load_own(tmp_path / "absent", (spec,), (), SQUARE)


def test_images_need_to_know_how_they_become_the_input(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.npy")
    with pytest.raises(UsageError, match="nothing says how an image becomes the input") as caught:
        load_own(tmp_path, (IMAGE,))
    assert "--preprocess" in caught.value.hint
    for inputs, said in (
        ((TensorSpec("image", ("batch", 3, 9, 8)),), r"float32\[1,3,8,8\] of each, and the input is image="),
        ((TensorSpec("image", ("batch", 8, 8, 3)),), "the input is image="),
        ((TensorSpec("image", ("batch", 3, 8, 8), "uint8"),), "uint8"),
        ((TensorSpec("image", ("batch", 3, 8, 8)), MASK), "also takes mask"),
    ):
        with pytest.raises(BadFileError, match=said):
            load_own(tmp_path, inputs, (), SQUARE)


def test_too_few_or_too_dull_for_calibration(tmp_path: Path) -> None:
    def data(array: np.ndarray) -> ArrayDataset:
        return load_arrays(saved(tmp_path / "x.npz", x=array))

    varied = rng.random((20, 4))
    assert too_few(data(varied)) == ""
    assert "only 15 calibration samples" in too_few(data(varied[:15]))
    assert "only 1 calibration sample:" in too_few(data(varied[:1]))
    assert "all 20 calibration samples are equal" in too_few(data(np.repeat(varied[:1], 20, axis=0)))
    assert "one constant" in too_few(data(np.repeat(varied[:, :1], 4, axis=1)))
    assert too_few(data(np.arange(20.0))) == ""


def test_the_samples_with_the_smallest_and_largest_sizes_are_known(tmp_path: Path) -> None:
    for index, width in enumerate((12, 9, 30, 11)):
        saved(tmp_path / f"{index}.npz", image=images(2, width))
    data = load_arrays(tmp_path, (IMAGE,))
    assert [data[place].inputs[0].shape[-1] for place in data.extremes[-2:]] == [9, 30]
    assert set(data.extremes) == {0, 2, 4}
