"""A user's own folder of images, for a network whose first input is an image; labels if there are any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.data._array_checks import near
from edgekit.data._folder import LABEL_FILE, SUFFIXES, FolderDataset, by_class, read_listed
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Preprocess

INTEGER = r"-?(0|[1-9][0-9]*)"
NUMBER = INTEGER + r"(\.[0-9]+)?([eE][-+]?[0-9]+)?"

Labelled = Sequence[tuple[Path, str, str]]


class ImageDataset(FolderDataset):
    """Images, read and prepared when they are asked for.

    `Sample.inputs[0]` is (channels, height, width) float32; `Sample.target` is the index of the
    class, or the label of a list as `valued` reads it, or None where there are no labels.
    """

    names = ("image",)

    def __init__(
        self, pairs: Sequence[tuple[Path, Any]], preprocess: Preprocess, described: str, labelled: bool
    ) -> None:
        super().__init__(pairs, preprocess)
        self.described = described
        self.labelled = labelled


def load_images(place: Path, preprocess: Preprocess, classes: Sequence[str] | None = None) -> ImageDataset:
    """The images of a folder: with a `labels.tsv`, in one sub-folder per class, or flat and unlabelled.

    A class becomes its index in `classes`; without them, in the sorted names of the sub-folders.

    Raises:
        BadFileError: the folder is missing, unreadable or holds no images, a line of the list is
            wrong, or a label is none of `classes`.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise BadFileError(f"the data folder {place} {what}", "give a folder of images")
    try:
        return _load(place, preprocess, classes)
    except OSError as error:
        raise BadFileError(f"the data folder {place} cannot be read: {error.strerror}") from error


def _load(place: Path, preprocess: Preprocess, classes: Sequence[str] | None) -> ImageDataset:
    listed = place / LABEL_FILE
    if listed.is_file():
        found = read_listed(listed)
        if found:
            targets = _indices(found, classes) if classes else valued([label for _, label, _ in found])
            pairs = list(zip((path for path, _, _ in found), targets, strict=True))
            return ImageDataset(pairs, preprocess, f"{_images(found)} with labels from {listed}", True)
    flat = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    if found := by_class(place):
        known = classes or sorted({label for _, label, _ in found})
        pairs = list(zip((path for path, _, _ in found), _indices(found, known), strict=True))
        left = f"; {_images(flat)} beside the sub-folders left out" if flat else ""
        return ImageDataset(pairs, preprocess, f"{_images(found)} in {place}, {_told(known)}{left}", True)
    if not flat:
        raise BadFileError(
            f"the data folder {place} holds no images", f"put {', '.join(SUFFIXES[:3])} or other images in it"
        )
    pairs = [(path, None) for path in flat]
    return ImageDataset(pairs, preprocess, f"{_images(flat)} in {place}, without labels", False)


def _images(found: Sequence[Any]) -> str:
    return f"{len(found)} image{'s' if len(found) != 1 else ''}"


def _told(classes: Sequence[str]) -> str:
    """Which index stands for which class: the first ones and the last."""
    shown = [f"{name} = {index}" for index, name in enumerate(classes)]
    if len(shown) > 4:
        shown = [*shown[:2], "...", shown[-1]]
    return f"{len(classes)} classes by name: {', '.join(shown)}"


def _indices(found: Labelled, classes: Sequence[str]) -> list[int]:
    index = {name: place for place, name in enumerate(classes)}
    for _, label, where in found:
        if label not in index:
            raise BadFileError(
                f"{where}: there is no class {label!r}",
                near(label, classes) or f"the network's classes are: {', '.join(classes)}",
            )
    return [index[label] for _, label, _ in found]


def valued(texts: Sequence[str]) -> list[Any]:
    """Integers if every text is one, else numbers if every text is one, else texts; `007` is a text."""
    for read, pattern in ((int, INTEGER), (float, NUMBER)):
        if all(re.fullmatch(pattern, text) for text in texts):
            return [read(text) for text in texts]
    return list(texts)
