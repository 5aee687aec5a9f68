"""A user's own texts with labels: a folder with one sub-folder per class, or a table in a file.

    reviews/positive/001.txt             the name of the sub-folder is the label
    reviews.tsv, reviews.csv             two columns, text and label; a first line `text`, `label` names them

The table is read as its suffix says: tabs (`.tsv`, nothing is quoted) or commas (`.csv`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels, Words
from edgekit.runtime.words import ids, read_text
from edgekit.spec import Sample

SUFFIXES = (".tsv", ".csv")
COLUMNS = ("text", "label")
FORMS = "give a folder with one sub-folder of .txt files per class, or a .tsv or .csv of text and label"

Row = tuple[int, list[str]]
"""The number of a line of a table, and its cells."""


@dataclass(frozen=True)
class Text:
    """A text and the name of its class."""

    text: str
    label: str


class TextDataset:
    """`Sample.inputs[0]` is the ids of a text, (time,) int64, `Sample.target` its label."""

    def __init__(self, texts: Sequence[Text], words: Words) -> None:
        self._texts, self._words = texts, words

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int, /) -> Sample:
        text = self._texts[index]
        return Sample((ids(text.text, self._words)[0],), text.label)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


def load_texts(place: Path, words: Words, labels: Labels) -> TextDataset:
    """The labelled texts of a folder or a table.

    Raises:
        BadFileError: it is missing, unreadable, empty or of another form, or a label is not one of
            `labels`; names the file and the line.
    """
    found = _by_class(place) if place.is_dir() else _table(place)
    if not found:
        raise BadFileError(f"{place} holds no labelled texts", FORMS)
    for text, where in found:
        if text.label not in labels.values:
            classes = ", ".join(labels.values)
            raise BadFileError(f"{where}: there is no class {text.label!r}", f"the network's are: {classes}")
        if not text.text.strip():
            raise BadFileError(f"{where}: the text is empty", "leave it out")
    return TextDataset([text for text, _ in found], words)


def _by_class(folder: Path) -> list[tuple[Text, str]]:
    return [(Text(read_text(path), path.parent.name), str(path)) for path in sorted(folder.glob("*/*.txt"))]


def _table(path: Path) -> list[tuple[Text, str]]:
    if not path.is_file():
        raise BadFileError(f"the data {path} does not exist", FORMS)
    if path.suffix.lower() not in SUFFIXES:
        raise BadFileError(f"{path} is no table of texts", FORMS)
    rows = list(_rows(path))
    text, label = _columns(rows[0][1]) if rows else (0, 1)
    if rows and _is_header(rows[0][1]):
        rows = rows[1:]
    return [(_cells(path, row, text, label), f"{path}, line {row[0]}") for row in rows]


def _rows(path: Path) -> Iterator[Row]:
    """The lines that are not blank; a quoted text may take several, the number is that of its last one."""
    tabs = path.suffix.lower() == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(
                stream,
                delimiter="\t" if tabs else ",",
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
                strict=not tabs,
            )
            for cells in _told(reader, path):
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except UnicodeDecodeError as cause:
        raise BadFileError(f"{path} is not UTF-8 text: {cause}", "save it as UTF-8") from cause
    except OSError as cause:
        raise BadFileError(f"{path} cannot be read: {cause.strerror}", FORMS) from cause


def _told(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """The rows of a reader, whose complaints get a place."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as cause:
            line = getattr(reader, "line_num", 0)
            raise BadFileError(f"{path}, line {line}: {cause}", 'write "" for a quote in a text') from cause


def _is_header(cells: Sequence[str]) -> bool:
    return set(COLUMNS) <= {cell.strip().lower() for cell in cells}


def _columns(cells: Sequence[str]) -> tuple[int, int]:
    """Where text and label stand: as the first line names them, else first and second."""
    if not _is_header(cells):
        return 0, 1
    names = [cell.strip().lower() for cell in cells]
    return names.index(COLUMNS[0]), names.index(COLUMNS[1])


def _cells(path: Path, row: Row, text: int, label: int) -> Text:
    number, cells = row
    if len(cells) <= max(text, label):
        raise BadFileError(
            f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) != 1)} where text and label are "
            "needed",
            "put a tab between them (.tsv), or a comma, and quotes around a text that has one (.csv)",
        )
    return Text(cells[text], cells[label].strip())
