"""Renders a line of text as a camera or a scanner might see it.

The steps are those of MJSynth (Jaderberg, Simonyan, Vedaldi, Zisserman: Synthetic Data and Artificial
Neural Networks for Natural Scene Text Recognition, arXiv 1406.2227) and SynthText (Gupta, Vedaldi,
Zisserman, arXiv 1604.06315): font and stroke, projective distortion, grey levels and shadow,
background, blur, resolution, noise, JPEG.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

MIN_CONTRAST = 50.0
SIGNAL_TO_NOISE = 6.0


def render(text: str, face: Path, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Draw `text` with the font file `face`.

    Args:
        strength: 0 for a clean print (size, margins and grey levels still vary), 1 for all distortions.

    Returns:
        Grey uint8 (height, width), the text filling it but for a margin.
    """
    mask = _warped(_drawn(text, face, rng, strength), rng, strength)
    ink, paper = _grey_levels(rng)
    image = _composed(mask, ink, paper, rng, strength)
    return _degraded(image, abs(ink - paper), rng, strength)


@lru_cache(maxsize=1024)
def _font(face: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(face), size, layout_engine=ImageFont.Layout.BASIC)


def _drawn(text: str, face: Path, rng: np.random.Generator, strength: float) -> Image.Image:
    """The ink of the text, cropped to it: grey, 255 where there is ink."""
    size = int(rng.integers(22, 45))
    font = _font(face, size)
    stroke = 1 if size > 28 and rng.random() < 0.08 * strength else 0
    tracking = float(rng.uniform(-0.01, 0.12)) * size if rng.random() < 0.25 * strength else 0.0
    length = font.getlength(text) + max(tracking, 0.0) * len(text)
    image = Image.new("L", (int(length) + 2 * size, 2 * size))
    draw = ImageDraw.Draw(image)
    if not tracking:
        draw.text((size, size // 2), text, 255, font=font, stroke_width=stroke)
    else:
        left = float(size)
        for letter in text:
            draw.text((left, size // 2), letter, 255, font=font, stroke_width=stroke)
            left += font.getlength(letter) + tracking
    return image.crop(image.getbbox())


def _warped(ink: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Widen or narrow, rotate, shear and tilt the ink, and add margins."""
    width, height = ink.size
    low, high = np.array([0.06, 0.04, 0.06, 0.04]), np.array([0.5, 0.3, 0.5, 0.3])
    left, top, right, bottom = rng.uniform(low, high) * max(height, 12)
    source = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    corners = source * [np.exp(np.clip(rng.normal(0.0, 0.12), -0.3, 0.3) * strength), 1.0]
    if rng.random() < 0.6 * strength:
        angle = np.deg2rad(np.clip(rng.normal(0.0, 2.0), -5.0, 5.0)) * min(1.0, 5.0 * height / width)
        shear = np.clip(rng.normal(0.0, 0.1), -0.25, 0.25)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = corners @ np.array([[1.0, 0.0], [shear, 1.0]]) @ turn.T
        corners = corners + rng.normal(0.0, 0.03, (4, 2)) * height
    corners -= corners.min(axis=0) - np.array([left, top])
    extent = corners.max(axis=0) + np.array([right, bottom])
    size = (max(8, int(np.ceil(extent[0]))), max(8, int(np.ceil(extent[1]))))
    return ink.transform(
        size, Image.Transform.PERSPECTIVE, _homography(corners, source), Image.Resampling.BILINEAR
    )


def _homography(start: np.ndarray, end: np.ndarray) -> tuple[float, ...]:
    """The eight numbers of the projective map that takes four points to four others."""
    rows, right = [], []
    for (x, y), (u, v) in zip(start, end, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(right)))


def _composed(
    mask: Image.Image, ink: float, paper: float, rng: np.random.Generator, strength: float
) -> np.ndarray:
    alpha = np.asarray(mask, np.float32) / 255
    canvas = paper + _background(alpha.shape, rng, strength, abs(ink - paper))
    if rng.random() < 0.1 * strength:
        shadow = np.roll(alpha, tuple(rng.integers(1, 3, 2)), axis=(0, 1)) * rng.uniform(0.2, 0.5)
        canvas += shadow * (rng.uniform(0, 255) - canvas)
    return np.asarray(canvas + alpha * (ink - canvas), np.float32)


def _grey_levels(rng: np.random.Generator) -> tuple[float, float]:
    """Ink and paper: dark on light two times of three, never closer than the eye can tell."""
    contrast = rng.uniform(MIN_CONTRAST, 255.0)
    darker = rng.uniform(0.0, 255.0 - contrast)
    pair = (darker, darker + contrast)
    return pair if rng.random() < 2 / 3 else pair[::-1]


def _background(
    shape: tuple[int, ...], rng: np.random.Generator, strength: float, contrast: float
) -> np.ndarray:
    """What is added to the paper's grey: nothing, a gradient, blotches, or ruled lines."""
    height, width = shape
    canvas = np.zeros(shape, np.float32)
    depth = 0.3 * contrast * strength
    kind = rng.random()
    if kind < 0.25:
        across, down = rng.uniform(-depth, depth, 2)
        canvas += np.linspace(-across, across, width)[None, :] + np.linspace(-down, down, height)[:, None]
    elif kind < 0.45:
        blotches = rng.uniform(-depth, depth, (rng.integers(2, 6), rng.integers(3, 14))).astype(np.float32)
        canvas += np.asarray(Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC))
    elif kind < 0.5:
        row = int(rng.integers(0, height))
        canvas[row : row + int(rng.integers(1, 3))] += rng.uniform(-depth, depth) * 1.5
    return canvas


def _degraded(image: np.ndarray, contrast: float, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Blur, lose resolution, add noise (never so much that the text drowns), compress."""
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if rng.random() < 0.4 * strength:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.045 * picture.height))))
    if rng.random() < 0.4 * strength:
        height = int(rng.integers(18, 33))
        scale = min(1.0, height / picture.height)
        size = (max(4, round(picture.width * scale)), max(4, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5 * strength:
        deviation = rng.uniform(1.0, min(12.0, contrast / SIGNAL_TO_NOISE))
        noise = rng.standard_normal((picture.height, picture.width), np.float32) * deviation
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:
        picture = _recompressed(picture, int(rng.integers(30, 95)))
    return np.asarray(picture)


def _recompressed(picture: Image.Image, quality: int) -> Image.Image:
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=quality)
    return Image.open(packed)
