from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.runtime.errors import BadFileError, MissingPackageError
from edgekit.runtime.manifest import Preprocess
from edgekit.runtime.preprocess import prepare, read_image, resize

LINE = Preprocess(height=32, width_multiple=16, width_range=(32, 256), mean=(0.5,), std=(0.5,))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "new"), [((50, 250), (32, 160)), ((13, 40), (32, 99)), ((301, 77), (28, 29)), ((1, 1), (4, 3))]
)
def test_resize_equals_the_antialiased_linear_filter_of_pillow(
    shape: tuple[int, int], new: tuple[int, int]
) -> None:
    image = noise(*shape).astype(np.float32)
    theirs = Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize(image[None], *new)[0], np.asarray(theirs), atol=1e-3)


def test_a_line_keeps_its_aspect_and_repeats_its_last_column() -> None:
    line = prepare(noise(64, 180), LINE)
    assert line.shape == (1, 1, 32, 96)
    assert line.dtype == np.float32
    assert line.flags.c_contiguous
    np.testing.assert_array_equal(line[..., 90:], np.repeat(line[..., 89:90], 6, axis=3))


@pytest.mark.parametrize(("width", "expected"), [(1, 32), (33, 48), (5000, 256)])
def test_a_line_is_never_narrower_or_wider_than_the_range(width: int, expected: int) -> None:
    assert prepare(noise(32, width), LINE).shape[3] == expected


def test_values_are_scaled_then_normalised() -> None:
    white = np.full((32, 64), 255, np.uint8)
    np.testing.assert_allclose(prepare(white, LINE), 1.0)
    np.testing.assert_allclose(prepare(white * 0, LINE), -1.0)


def test_colour_becomes_grey_by_luma() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 1] = 255
    plain = Preprocess(height=32, width=32)
    np.testing.assert_allclose(prepare(image, plain), 0.587, atol=1e-6)


def test_channel_order_and_grey_to_colour() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255
    bgr = Preprocess(height=8, width=8, channels=3, order="BGR", mean=(0.0,) * 3, std=(1.0,) * 3)
    assert prepare(image, bgr)[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert prepare(image[..., 0], bgr)[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_letterbox_centres_the_image_on_the_fill() -> None:
    box = Preprocess(height=20, width=20, fit="letterbox", fill=51)
    boxed = prepare(np.full((10, 20), 255, np.uint8), box)[0, 0]
    np.testing.assert_allclose(boxed[5:15], 1.0)
    np.testing.assert_allclose(boxed[[0, 4, 15, 19]], 0.2)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4)), np.zeros((4,), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(BadFileError, match="is no image"):
        prepare(wrong, LINE)


def test_files_are_read_alike(tmp_path: Path) -> None:
    image = noise(9, 14, 3)
    np.save(tmp_path / "a.npy", image)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


def test_grey_stays_grey_and_transparent_is_white(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 6)).save(tmp_path / "grey.png")
    Image.new("RGBA", (6, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "grey.png").shape == (5, 6)
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_bad_files_are_named(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=noise(2, 2))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    for name in ("absent.png", "cut.png", "text.png", "text.npy", "object.npy", "many.npy"):
        with pytest.raises(BadFileError, match=name) as caught:
            read_image(tmp_path / name)
        assert caught.value.hint


def test_without_pillow_the_hint_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError) as caught:
        read_image(tmp_path / "a.png")
    assert "pip install pillow" in caught.value.hint
