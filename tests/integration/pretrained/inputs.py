"""Real inputs for real networks: text lines, crops of a photograph, sentences, chords. All deterministic."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Feed = dict[str, np.ndarray]

KHMER = (
    "ភាសាខ្មែរ",
    "កម្ពុជា",
    "ភ្នំពេញ",
    "សួស្តី",
    "អក្សរ",
    "សាលារៀន",
    "ទឹកដី",
    "ប្រាសាទ",
    "អង្គរវត្ត",
    "ឆ្នាំថ្មី",
    "២០២៤",
    "ព្រះរាជា",
)
SUBJECTS = ("The old bridge", "A small dog", "My neighbour", "The new engine", "Our teacher", "The river")
ENDS = (
    "crosses the valley.",
    "was seen near the station late last night, although nobody had expected it there.",
    "costs less than it did a year ago",
    "needs to be repaired before winter, says the council",
    "sleeps.",
    "makes people happy: it is quiet, quick and never late",
)
CHORDS = ((57, 60, 64), (48, 52, 55), (50, 53, 57, 60), (43, 47, 50, 53), (69,), (40, 64))


def text_lines(package: Path, count: int) -> Iterator[Feed]:
    """Lines of Khmer as `khmer-ocr-ocm` renders them, 48 high and as wide as the text."""
    fonts = sorted((package / "assets/fonts").rglob("Khmer*.ttf"))
    random = np.random.default_rng(0)
    for index in range(count):
        words = random.choice(KHMER, size=1 + index % 4)
        line = _line(" ".join(map(str, words)), fonts[index % len(fonts)])
        yield {"x": (np.asarray(line, np.float32)[None, None] / 255 - 0.5) / 0.5}


def _line(text: str, font: Path, padding: int = 12) -> Image.Image:
    drawn = ImageFont.truetype(str(font), 32)
    text = unicodedata.normalize("NFC", text)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (8, 8))).textbbox((0, 0), text, font=drawn)
    image = Image.new("L", (int(right - left) + 2 * padding, int(bottom - top) + 2 * padding), 255)
    ImageDraw.Draw(image).text((padding, padding), text, font=drawn, fill=0)
    width = max(round(image.width * 48 / image.height), 32)
    return image.resize((min(width, 640), 48), Image.Resampling.BILINEAR)


def crops(photograph: Path, count: int) -> Iterator[Feed]:
    """Parts of a photograph at 224 x 224, normalised as for ImageNet."""
    random = np.random.default_rng(1)
    with Image.open(photograph) as opened:
        image = opened.convert("RGB")
    for index in range(count):
        side = int(random.integers(120, min(image.size)))
        left, top = (int(random.integers(0, length - side)) for length in image.size)
        part = image.crop((left, top, left + side, top + side)).resize((224, 224))
        pixels = np.asarray(part, np.float32)[:, :: -1 if index % 2 else 1] / 255
        normal = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        yield {"x": normal.astype(np.float32).transpose(2, 0, 1)[None]}


def sentences(vocabulary: Path, count: int) -> Iterator[Feed]:
    """English sentences in WordPiece; every sentence is a feed of its own length."""
    known = {
        word: index for index, word in enumerate(vocabulary.read_text(encoding="utf-8").split("\n")) if word
    }
    texts = [f"{subject} {end}" for subject in SUBJECTS for end in ENDS]
    for index in range(count):
        ids = _word_pieces(texts[index * 7 % len(texts)].lower(), known)
        yield {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
        }


def _word_pieces(text: str, known: dict[str, int]) -> list[int]:
    """Longest match first, as BERT's own tokenizer does it."""
    pieces = [known["[CLS]"]]
    for word in "".join(letter if letter.isalnum() else f" {letter} " for letter in text).split():
        start = 0
        while start < len(word):
            ends = range(len(word), start, -1)
            marked = [("##" if start else "") + word[start:end] for end in ends]
            piece = next(piece for piece in marked if piece in known)
            pieces.append(known[piece])
            start += len(piece.removeprefix("##"))
    return [*pieces, known["[SEP]"]]


def music(name: str, count: int, length: int = 43844, rate: int = 22050) -> Iterator[Feed]:
    """Two seconds of notes that are plucked one after another, with overtones and a little noise."""
    random = np.random.default_rng(2)
    for index in range(count):
        sound = 0.002 * random.standard_normal(length)
        for place, pitch in enumerate(CHORDS[index % len(CHORDS)]):
            shift = int(random.integers(-3, 4))
            sound += _note(pitch + shift, place * 6000 + int(random.integers(0, 3000)), length, rate)
        yield {name: (0.8 * sound / np.abs(sound).max()).astype(np.float32)[None, :, None]}


def _note(pitch: int, start: int, length: int, rate: int) -> np.ndarray:
    time = np.arange(length - start) / rate
    base = 440 * 2 ** ((pitch - 69) / 12)
    tones = [np.sin(2 * np.pi * base * k * time) * np.exp(-(1 + k) * time) / k for k in range(1, 7)]
    return np.concatenate([np.zeros(start), np.sum(tones, axis=0)])


def write(feeds: Iterator[Feed] | Sequence[Feed], folder: Path) -> Path:
    """One `.npz` file for each feed."""
    folder.mkdir(parents=True)
    for index, feed in enumerate(feeds):
        np.savez(folder / f"{index:03d}.npz", **feed)  # type: ignore[arg-type]
    return folder
