"""From an image file to the network's input, with NumPy alone."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, Callable, Tuple, TypeVar, Union

import numpy as np

from .errors import BadFileError, MissingPackageError
from .manifest import Preprocess

T = TypeVar("T")
BROKEN = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error)
"""What Pillow raises for a file that is no picture or ends too early."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601-7, section 2.5.1."""


def read_image(path: Union[str, Path]) -> np.ndarray:
    """Read an image as uint8, (height, width) if grey, else (height, width, 3) in RGB.

    `.npy` holds such an array; any other format goes through Pillow. Transparent pixels are laid
    on white, and the camera's orientation is applied.

    Raises:
        BadFileError: missing, truncated or no image.
        MissingPackageError: Pillow is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFileError(f"{path}: no such image file", "check the path; it must name one image")
    image = read_npy(path) if path.suffix.lower() == ".npy" else with_pillow(path, _upright)
    return _checked(image, str(path))


def prepare(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Turn an image into the input (1, channels, height, width), float32.

    Args:
        image: uint8, (height, width) or (height, width, 1 or 3), colours in RGB order.
        preprocess: size, fit, channel order, mean and standard deviation.

    Raises:
        BadFileError: the array is no such image.
    """
    pixels = _channels(_checked(image, "image"), preprocess)
    if preprocess.width:
        fitted = (
            _letterbox(pixels, preprocess) if preprocess.fit == "letterbox" else _stretch(pixels, preprocess)
        )
    else:
        fitted = _line(pixels, preprocess)
    mean = np.asarray(preprocess.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(preprocess.std, np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray((fitted / np.float32(255) - mean) / std, np.float32)[None]


def to_image(boxes: np.ndarray, preprocess: Preprocess, height: int, width: int) -> np.ndarray:
    """Boxes in pixels of the network's input, in pixels of the image that `prepare` was given.

    Args:
        boxes: corners x1, y1, x2, y2, (..., 4); what lies outside the image is cut off.
        height, width: of that image.
    """
    inner_height, inner_width, top, left = _placed(height, width, preprocess)
    offset = np.array([left, top] * 2, np.float32)
    scale = np.array([width / inner_width, height / inner_height] * 2, np.float32)
    return np.asarray(np.clip((boxes - offset) * scale, 0, [width, height] * 2), np.float32)


def to_input(boxes: np.ndarray, preprocess: Preprocess, height: int, width: int) -> np.ndarray:
    """Boxes in pixels of an image, in pixels of the input that `prepare` makes of it: `to_image` back.

    Args:
        boxes: corners x1, y1, x2, y2, (..., 4); what lies outside the image is cut off.
        height, width: of that image.
    """
    inner_height, inner_width, top, left = _placed(height, width, preprocess)
    scale = np.array([inner_width / width, inner_height / height] * 2, np.float32)
    offset = np.array([left, top] * 2, np.float32)
    return np.asarray(np.clip(boxes, 0, [width, height] * 2) * scale + offset, np.float32)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (channels, h, w) float32 with the antialiased linear (triangle) filter.

    When shrinking, the triangle is widened by the scale, so that every source pixel counts.
    """
    if pixels.shape[1:] == (height, width):
        return pixels
    rows = _resampled(pixels, 1, height)
    return _resampled(rows, 2, width)


def _resampled(pixels: np.ndarray, axis: int, size: int) -> np.ndarray:
    places, weights = _taps(pixels.shape[axis], size)
    shape = (-1, 1) if axis == 1 else (-1,)
    total = np.take(pixels, places[0], axis) * weights[0].reshape(shape)
    for place, weight in zip(places[1:], weights[1:]):
        total += np.take(pixels, place, axis) * weight.reshape(shape)
    return np.asarray(total, np.float32)


@lru_cache(maxsize=512)
def _taps(size: int, new_size: int) -> Tuple[np.ndarray, np.ndarray]:
    """The source pixels under the triangle of each new pixel, and their weights: (taps, new_size) each."""
    scale = size / new_size
    reach = max(scale, 1.0)
    centres = (np.arange(new_size) + 0.5) * scale - 0.5
    places = np.floor(centres - reach).astype(int) + np.arange(1, int(2 * reach) + 2)[:, None]
    weights = np.clip(1.0 - np.abs(places - centres) / reach, 0.0, None)
    weights *= (places >= 0) & (places < size)
    weights /= weights.sum(axis=0)
    return np.clip(places, 0, size - 1), np.asarray(weights, np.float32)


def _stretch(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    return resize(pixels, preprocess.height, preprocess.width)


def _letterbox(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    height, width, top, left = _placed(pixels.shape[1], pixels.shape[2], preprocess)
    canvas = np.full((pixels.shape[0], preprocess.height, preprocess.width), preprocess.fill, np.float32)
    canvas[:, top : top + height, left : left + width] = resize(pixels, height, width)
    return canvas


def _placed(height: int, width: int, preprocess: Preprocess) -> Tuple[int, int, int, int]:
    """Where an image lies in the input: its height and width there, and its top left corner."""
    if not preprocess.width:
        return preprocess.height, _line_widths(width * preprocess.height / height, preprocess)[0], 0, 0
    if preprocess.fit != "letterbox":
        return preprocess.height, preprocess.width, 0, 0
    scale = min(preprocess.height / height, preprocess.width / width)
    inner_height = min(preprocess.height, max(1, round(height * scale)))
    inner_width = min(preprocess.width, max(1, round(width * scale)))
    top, left = (preprocess.height - inner_height) // 2, (preprocess.width - inner_width) // 2
    return inner_height, inner_width, top, left


def _line(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    width, padded = _line_widths(pixels.shape[2] * preprocess.height / pixels.shape[1], preprocess)
    line = resize(pixels, preprocess.height, width)
    return np.pad(line, ((0, 0), (0, 0), (0, padded - width)), mode="edge")


def _line_widths(natural: float, preprocess: Preprocess) -> Tuple[int, int]:
    """The width the content gets, and the width after padding; a longer line is squeezed."""
    multiple = preprocess.width_multiple
    smallest, largest = preprocess.width_range
    ceiling = max(multiple, largest // multiple * multiple)
    width = min(max(1, round(natural)), ceiling)
    padded = -(-max(width, smallest) // multiple) * multiple
    return width, min(padded, ceiling)


def _channels(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    pixels = image.astype(np.float32)
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if preprocess.channels == 1:
        return (pixels @ np.asarray(LUMA, np.float32) if colour else pixels.reshape(pixels.shape[:2]))[None]
    planes = pixels if colour else np.repeat(pixels.reshape((*pixels.shape[:2], 1)), 3, axis=2)
    if preprocess.order == "BGR":
        planes = planes[:, :, ::-1]
    return planes.transpose(2, 0, 1)


def _checked(image: np.ndarray, where: str) -> np.ndarray:
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if not shaped or image.dtype != np.uint8 or image.size == 0:
        raise BadFileError(
            f"{where}: an array of {image.dtype} and shape {image.shape} is no image",
            "give uint8 of shape (height, width) or (height, width, 3)",
        )
    return image


def read_npy(path: Path) -> np.ndarray:
    """The one array of an `.npy`.

    Raises:
        BadFileError: it is none.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as cause:
        raise BadFileError(
            f"{path}: not a readable .npy array ({cause})", "write it with numpy.save"
        ) from cause
    if not isinstance(array, np.ndarray):
        raise BadFileError(f"{path}: an archive of arrays, not one array", "write it with numpy.save")
    return array


def with_pillow(path: Path, take: Callable[[Any], T]) -> T:
    """What `take` makes of a picture that Pillow has opened.

    Raises:
        BadFileError: no picture, or truncated.
        MissingPackageError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as cause:
        raise MissingPackageError(
            f"{path}: reading this image needs Pillow",
            "pip install pillow (or: apt install python3-pil), or give a .npy",
        ) from cause
    try:
        with Image.open(path) as image:
            return take(image)
    except (*BROKEN, Image.DecompressionBombError) as cause:
        raise BadFileError(
            f"{path}: no readable image ({cause})", "give a whole PNG, JPEG or .npy file"
        ) from cause


def _upright(image: Any) -> np.ndarray:
    from PIL import ImageOps

    return np.asarray(flat(ImageOps.exif_transpose(image)), np.uint8)


def flat(image: Any) -> Any:
    """Grey stays grey, everything else becomes RGB on white."""
    from PIL import Image

    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
