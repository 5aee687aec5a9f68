from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.runtime.clips import prepare_clip, read_clip, takes_clips
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Preprocess, TensorSpec

CLIP = np.random.default_rng(0).integers(0, 256, (12, 6, 8), np.uint8)


def save_frames(folder: Path, clip: np.ndarray = CLIP, name: str = "frame_{}.png") -> Path:
    folder.mkdir()
    for number, frame in enumerate(clip, 1):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


def save_moving(path: Path, clip: np.ndarray = CLIP) -> Path:
    first, *others = (Image.fromarray(frame) for frame in clip)
    first.save(
        path, save_all=True, append_images=others, **({"lossless": True} if path.suffix == ".webp" else {})
    )
    return path


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = save_frames(tmp_path / "clip")  # frame_10 is the tenth, not the second
    (folder / "notes.txt").write_text("no frame")
    np.testing.assert_array_equal(read_clip(folder), CLIP)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_moving_pictures_are_read_whole(tmp_path: Path, suffix: str) -> None:
    found = read_clip(save_moving(tmp_path / f"clip{suffix}"))
    grey = found if found.ndim == 3 else found[..., 0]
    np.testing.assert_array_equal(grey, CLIP)


def test_arrays_are_clips_in_grey_or_in_colour(tmp_path: Path) -> None:
    colour = np.repeat(CLIP[..., None], 3, 3)
    for array in (CLIP, CLIP[..., None], colour):
        np.save(tmp_path / "clip.npy", array)
        np.testing.assert_array_equal(read_clip(tmp_path / "clip.npy"), array)


def test_grey_frames_beside_coloured_ones_become_coloured(tmp_path: Path) -> None:
    folder = save_frames(tmp_path / "clip", CLIP[:2])
    Image.fromarray(np.full((6, 8, 3), (255, 0, 0), np.uint8)).save(folder / "frame_3.png")
    found = read_clip(folder)
    assert found.shape == (3, 6, 8, 3)
    assert found[2, 0, 0].tolist() == [255, 0, 0]


def test_each_frame_is_prepared_as_an_image_is() -> None:
    made = prepare_clip(CLIP, Preprocess(height=6, width=8, mean=(0.5,), std=(0.5,)))
    assert made.shape == (1, 12, 1, 6, 8)
    np.testing.assert_allclose(made[0, :, 0], CLIP / 127.5 - 1, atol=1e-6)


def test_a_clip_has_a_time_axis() -> None:
    assert takes_clips(TensorSpec("clip", ("batch", "time", 1, 6, 8)))
    assert not takes_clips(TensorSpec("volume", ("batch", 1, "depth", 6, 8)))
    assert not takes_clips(TensorSpec("image", ("batch", 1, 6, 8)))


def missing(folder: Path) -> Path:
    return folder / "clip.gif"


def empty(folder: Path) -> Path:
    (folder / "clip").mkdir()
    return folder / "clip"


def unnumbered(folder: Path) -> Path:
    return save_frames(folder / "clip", CLIP[:1], "first.png")


def numbered_twice(folder: Path) -> Path:
    place = save_frames(folder / "clip", CLIP[:1])
    Image.fromarray(CLIP[0]).save(place / "frame_01.png")
    return place


def unequal(folder: Path) -> Path:
    place = save_frames(folder / "clip", CLIP[:2])
    Image.fromarray(CLIP[0, :4]).save(place / "frame_3.png")
    return place


def one_picture(folder: Path) -> Path:
    Image.fromarray(CLIP[0]).save(folder / "still.png")
    return folder / "still.png"


def truncated(folder: Path) -> Path:
    path = save_moving(folder / "cut.gif")
    path.write_bytes(path.read_bytes()[:200])
    return path


def of_floats(folder: Path) -> Path:
    np.save(folder / "clip.npy", CLIP.astype(np.float32))
    return folder / "clip.npy"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (missing, "no such clip"),
        (empty, "holds no frames"),
        (unnumbered, "first.png: a frame without a number"),
        (numbered_twice, "have the same number"),
        (unequal, "frame 3 is 4x8, the first one 6x8"),
        (one_picture, "one picture, not a clip"),
        (truncated, "cut.gif"),
        (of_floats, "float32 and shape .* is no clip"),
    ],
)
def test_what_is_no_clip_is_refused_with_its_place(made: object, said: str, tmp_path: Path) -> None:
    path = made(tmp_path)  # type: ignore[operator]
    with pytest.raises(BadFileError, match=said) as caught:
        read_clip(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_moving_picture_that_ends_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    path = save_moving(tmp_path / "cut.gif")
    whole = path.read_bytes()
    refused = []
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            assert read_clip(path).dtype == np.uint8
        except BadFileError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all("cut.gif" in said for said in refused)
