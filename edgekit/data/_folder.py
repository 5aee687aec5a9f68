"""A user's own folder of labelled images.

Two layouts are read: one sub-folder per class (`cat/001.png`), or images beside a `labels.tsv`
whose lines are `file<TAB>label`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.runtime.preprocess import prepare, read_image
from edgekit.spec import Sample

LABEL_FILE = "labels.tsv"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".npy")
CLIP = "clip"

Listed = list[tuple[Path, str, str]]
"""What is labelled, its label, and where that is said."""


class FolderDataset:
    """Labelled images, read and prepared when they are asked for."""

    def __init__(self, pairs: Sequence[tuple[Path, Any]], preprocess: Preprocess) -> None:
        self._pairs = pairs
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int, /) -> Sample:
        path, target = self._pairs[index]
        return Sample((prepare(read_image(path), self._preprocess)[0],), target)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


def load_folder(folder: Path, preprocess: Preprocess, labels: Labels) -> FolderDataset:
    """The labelled images of a folder.

    Raises:
        BadFileError: as `labelled`.
    """
    return FolderDataset(labelled(folder, labels), preprocess)


def labelled(
    folder: Path, labels: Labels, what: str = "image", classed: Callable[[Path], Listed] | None = None
) -> list[tuple[Path, str]]:
    """The images of a folder, or `what` else is in it, with their labels.

    Args:
        classed: finds what lies in the sub-folders, by default images.

    Raises:
        BadFileError: the folder is missing, unreadable or empty, or a label is not one of `labels`;
            names the file and the line.
    """
    try:
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise BadFileError(f"the data folder {folder} {found}", f"give a folder of labelled {what}s")
        listed = folder / LABEL_FILE
        pairs = read_listed(listed, what) if listed.is_file() else (classed or by_class)(folder)
    except OSError as error:
        raise BadFileError(f"the data folder {folder} cannot be read: {error.strerror}") from error
    if not pairs:
        raise BadFileError(
            f"the data folder {folder} holds no labelled {what}s",
            f"put one sub-folder per class in it, or a {LABEL_FILE} of lines `file<TAB>label`",
        )
    return [(path, _target(label, labels, where, what)) for path, label, where in pairs]


def by_class(folder: Path) -> Listed:
    """The images of every sub-folder: file, name of the sub-folder, and where that is said."""
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    return [(path, path.parent.name, str(path)) for path in files]


def read_listed(listed: Path, what: str = "image") -> Listed:
    """The lines `file<TAB>label` of a list: file, label, and where that is said. A `clip` may be a folder.

    Raises:
        BadFileError: a line is not of that form, or its file is missing or outside the folder.
    """
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadFileError(f"{listed} is not UTF-8 text: {error}") from error
    return [_pair(listed, number, line, what) for number, line in enumerate(lines, 1) if line.strip()]


def _pair(listed: Path, number: int, line: str, what: str) -> tuple[Path, str, str]:
    where = f"{listed}, line {number}"
    name, tab, label = line.partition("\t")
    path = listed.parent / name
    if not tab:
        raise BadFileError(f"{where}: {line!r} is not `file<TAB>label`", "put a tab between file and label")
    if name and listed.parent.resolve() not in path.resolve().parents:
        raise BadFileError(f"{where}: {name!r} leaves the folder", "list files of the folder only")
    if not name or not (path.is_file() or (what == CLIP and path.is_dir())):
        raise BadFileError(f"{where}: the {what} {name!r} does not exist", "correct the line")
    return path, label, where


def _target(label: str, labels: Labels, where: str, what: str) -> str:
    if labels.decoder == "ctc":
        known = set(labels.values)
        if strange := sorted(set(label.lower()) - known):
            raise BadFileError(
                f"{where}: the character {strange[0]!r} of {label!r} is not in the network's alphabet",
                f"leave the {what} out, or train a network with that character",
            )
        return label.lower()
    if label not in labels.values:
        raise BadFileError(
            f"{where}: there is no class {label!r}", "the network's classes are: " + ", ".join(labels.values)
        )
    return label
