"""Boxes as YOLO has them: a text file for each image, a line `class x y width height` for each object.

The centre and size are shares of the image's. The folders are `images` and `labels`, with the same folders
in both, or the texts lie beside the images. Classes are numbers; `data.yaml` or `classes.txt` names them.
An image without a text shows nothing. A split alone is `val` or `val/images` where its folders are in it
and `data.yaml` is above, and `images/val` where its texts are in `labels/val`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.data._folder import SUFFIXES
from edgekit.data._marks import Corners, Mark, Marked, numbers, text_of
from edgekit.runtime.errors import BadFileError

YAMLS = ("data.yaml", "data.yml", "dataset.yaml")
NAMES = ("classes.txt", "obj.names", *YAMLS)
FORM = "a line `class x y width height`, the last four in shares of the image"
NAMES_FORM = "write `names: [cat, dog]`, or one name a line below `names:`, `- cat` or `0: cat`"


@dataclass(frozen=True)
class _Layout:
    """Where the images and the texts are, and the files that may name the classes, the likeliest first."""

    images: Path
    labels: Path
    names: Sequence[Path]


def takes(folder: Path) -> bool:
    """Whether a folder is laid out as YOLO's are."""
    layout = _layout(folder)
    return layout.labels != folder or any(_texts(folder))


def _layout(folder: Path) -> _Layout:
    split = Path(os.path.normpath(folder.absolute()))  # links stay as they were written
    if (folder / "labels").is_dir():
        named = [*_each(split, NAMES), *_each(split / "labels", NAMES), *_each(split.parent, YAMLS)]
        return _Layout(folder / "images", folder / "labels", named)
    for images in (place for place in (split, *split.parents) if place.name == "images"):
        labels = images.with_name("labels") / split.relative_to(images)
        if labels.is_dir() and any(_texts(labels)):
            root = images.parent
            named = [*_each(split, NAMES), *_each(root, NAMES), *_each(root / "labels", NAMES)]
            return _Layout(folder, labels, [*named, *_each(root.parent, YAMLS)])
    return _Layout(folder, folder, _each(folder, NAMES))


def _each(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names]


def read(folder: Path, size_of: Callable[[Path], tuple[int, int]]) -> list[Marked]:
    """Every image of a YOLO folder with its objects; `size_of` gives height and width of an image.

    Raises:
        BadFileError: a line is not of that form, or has no image; names file and line.
    """
    layout = _layout(folder)
    names, images, labels = _names(layout.names), layout.images, layout.labels
    texts = {path.relative_to(labels).with_suffix(""): path for path in _texts(labels)}
    pictures = {path.relative_to(images).with_suffix(""): path for path in _pictures(images)}
    for key, path in texts.items():
        if key not in pictures:
            raise BadFileError(f"{path}: there is no image for it", _where_an_image_belongs(images, key))
    return [_marked(path, texts.get(key), names, size_of) for key, path in pictures.items()]


def _where_an_image_belongs(images: Path, key: Path) -> str:
    """What to do for a text without one; a folder of several splits is the usual reason."""
    split = next((place.parent for place in key.parents if place.name == "labels"), None)
    if split is not None:
        return f"give the folder of one split, which holds images and labels: {images / split}"
    return f"put {key}.png or another image into {images}"


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.name not in NAMES)


def _marked(
    image: Path, text: Path | None, names: tuple[str, ...], size_of: Callable[[Path], tuple[int, int]]
) -> Marked:
    if text is None:
        return Marked(image=image, marks=())
    lines = [(number, line.split()) for number, line in enumerate(text_of(text).splitlines(), 1)]
    size = size_of(image)
    return Marked(
        image=image,
        marks=tuple(_mark(words, f"{text}, line {number}", names, size) for number, words in lines if words),
    )


def _mark(words: list[str], where: str, names: tuple[str, ...], size: tuple[int, int]) -> Mark:
    if len(words) != 5 or not re.fullmatch("[0-9]{1,9}", words[0]):
        raise BadFileError(f"{where}: {' '.join(words)[:60]!r} is not {FORM}", "correct the line")
    x, y, width, height = numbers(words[1:], where, FORM)
    if names and int(words[0]) >= len(names):
        raise BadFileError(f"{where}: there is no class {words[0]}", f"the classes are 0 to {len(names) - 1}")
    corners: Corners = (
        (x - width / 2) * size[1], (y - height / 2) * size[0],
        (x + width / 2) * size[1], (y + height / 2) * size[0],
    )  # fmt: skip
    label = names[int(words[0])] if names else int(words[0])
    return Mark(corners=corners, label=label, where=where)


def _names(places: Sequence[Path]) -> tuple[str, ...]:
    """The names of the classes by the first of these files that says any; empty if none does."""
    return next(filter(None, (_said_by(place) for place in places if place.is_file())), ())


def _said_by(path: Path) -> tuple[str, ...]:
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    return tuple(line.strip() for line in text_of(path).splitlines() if line.strip())


def _from_yaml(path: Path) -> tuple[str, ...]:
    """The list `names` of a YAML file, in one of the three forms in which it is written."""
    lines = text_of(path).splitlines()
    for number, line in enumerate(lines, 1):
        key, colon, rest = line.partition(":")
        if key.strip() == "names" and colon and not line[:1].isspace():
            inline = _bare(rest)
            where = f"{path}, line {number}"
            return _inline(inline, where) if inline else tuple(_block(lines, number, path))
    return ()


def _inline(text: str, where: str) -> tuple[str, ...]:
    if not (text.startswith("[") and text.endswith("]")):
        raise BadFileError(f"{where}: {text[:60]!r} is no list of names", NAMES_FORM)
    return tuple(_bare(item) for item in text[1:-1].split(",") if item.strip())


def _block(lines: list[str], first: int, path: Path) -> Iterator[str]:
    """The names below the line `names:`, the first of which is `lines[first]`."""
    count = 0
    for number, line in enumerate(lines[first:], first + 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = re.fullmatch(r"(?:-|([0-9]+):)\s+(.*)", text)
        if found is None and not line[:1].isspace():
            return
        if found is None or (found[1] is not None and int(found[1]) != count):
            raise BadFileError(
                f"{path}, line {number}: {text[:60]!r} is not the name of class {count}", NAMES_FORM
            )
        count += 1
        yield _bare(found[2])


def _bare(text: str) -> str:
    """A value without its comment and quotation marks."""
    text = text.strip()
    if text[:1] in ("'", '"') and text.find(text[0], 1) > 0:
        return text[1 : text.find(text[0], 1)]
    return text.partition(" #")[0].strip()
