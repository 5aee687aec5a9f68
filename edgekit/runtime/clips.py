"""From a clip to the network's input: a folder of frames, a moving picture, or an array."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import numpy as np

from .errors import BadFileError
from .manifest import Preprocess, TensorSpec
from .preprocess import flat, prepare, read_image, read_npy, with_pillow

CLIP_RANK = 5
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".npy")
CLIP_SUFFIXES = (".gif", ".png", ".apng", ".webp", ".npy")
MOST_FRAMES = 4096


def takes_clips(spec: TensorSpec) -> bool:
    """Whether an input is (batch, time, channels, height, width)."""
    return len(spec.shape) == CLIP_RANK and spec.shape[1] == "time"


def read_clip(path: Union[str, Path]) -> np.ndarray:
    """Read a clip as uint8, (time, height, width) if grey, else (time, height, width, 3) in RGB.

    A folder holds one image per frame, numbered in their names (`frame_001.png`); `.npy` holds such
    an array; GIF, animated PNG and WebP go through Pillow.

    Raises:
        BadFileError: missing, truncated or no clip; frames of unlike size, or without a number.
        MissingPackageError: Pillow is needed and not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _joined([read_image(frame) for frame in _numbered(path)], str(path))
    if not path.is_file():
        raise BadFileError("{}: no such clip".format(path), "give a folder of frames, a GIF or an .npy")
    if path.suffix.lower() == ".npy":
        return _checked(read_npy(path), str(path))
    return _joined(with_pillow(path, lambda picture: _moving(picture, path)), str(path))


def prepare_clip(clip: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Turn a clip into the input (1, time, channels, height, width), float32, frame by frame.

    Args:
        clip: uint8, (time, height, width) or (time, height, width, 1 or 3), colours in RGB order.
        preprocess: how one frame is prepared.

    Raises:
        BadFileError: the array is no such clip.
    """
    return np.stack([prepare(frame, preprocess)[0] for frame in _checked(clip, "clip")])[None]


def _numbered(folder: Path) -> List[Path]:
    """The frames of a folder in the order of their numbers."""
    frames: Dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in FRAME_SUFFIXES:
            continue
        number = re.search(r"(\d+)\D*$", path.stem)
        if number is None:
            raise BadFileError(
                "{}: a frame without a number in its name".format(path),
                "name the frames of a clip in their order: frame_001.png",
            )
        other = frames.setdefault(int(number.group(1)), path)
        if other != path:
            raise BadFileError(
                "{} and {} have the same number".format(other, path.name), "give each frame its own number"
            )
    if not frames:
        raise BadFileError(
            "{}: the folder holds no frames".format(folder),
            "a clip is a folder of numbered images, a GIF or an .npy",
        )
    return [frames[number] for number in sorted(frames)]


def _moving(picture: Any, path: Path) -> List[np.ndarray]:
    """Every frame of a moving picture, as it is shown."""
    count = getattr(picture, "n_frames", 1)
    if count == 1:
        raise BadFileError(
            "{}: one picture, not a clip".format(path), "put the frames of a clip into a folder of their own"
        )
    if count > MOST_FRAMES:
        raise BadFileError(
            "{}: a clip of {} frames".format(path, count), "cut it: {} at most".format(MOST_FRAMES)
        )
    frames = []
    for number in range(count):
        picture.seek(number)
        frames.append(np.asarray(flat(picture), np.uint8))
    return frames


def _joined(frames: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Frames of one size; grey ones become RGB beside coloured ones."""
    sizes = [frame.shape[:2] for frame in frames]
    for number, size in enumerate(sizes, 1):
        if size != sizes[0]:
            raise BadFileError(
                "{}: frame {} is {}x{}, the first one {}x{}".format(where, number, *size, *sizes[0]),
                "the frames of a clip are of one size",
            )
    size = sizes[0]
    if not any(frame.ndim == 3 and frame.shape[2] == 3 for frame in frames):
        return np.stack([frame.reshape(size) for frame in frames])
    return np.stack([np.broadcast_to(frame.reshape((*size, -1)), (*size, 3)) for frame in frames])


def _checked(clip: np.ndarray, where: str) -> np.ndarray:
    shaped = clip.ndim == 3 or (clip.ndim == 4 and clip.shape[3] in (1, 3))
    if not shaped or clip.dtype != np.uint8 or clip.size == 0:
        raise BadFileError(
            "{}: an array of {} and shape {} is no clip".format(where, clip.dtype, clip.shape),
            "give uint8 of shape (time, height, width) or (time, height, width, 3)",
        )
    return clip
