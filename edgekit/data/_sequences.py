"""A user's own labelled sequences, in the forms that people have them in.

folder     one sub-folder per class (`walking/001.csv`), or files beside a `labels.tsv` whose lines are
           `file<TAB>label`; a file is a CSV with one row a step, or an `.npy` (time, features)
x.csv      all sequences in one: a header, a column that says which sequence a row belongs to, one with its
           label, and the others the channels in their order
x.npz      `x` (n, time, features), `y` (n,) labels or their numbers, and `lengths` (n,) where they differ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data._array_files import read_npz
from edgekit.data._folder import LABEL_FILE, read_listed
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.sequence_file import SUFFIXES, numbers, read_sequence, rows
from edgekit.spec import Sample

KINDS = "give a folder with one sub-folder per class, a folder with a labels.tsv, one .csv or one .npz"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the sequences are to be: channels and labels, and the columns of one long CSV by name."""

    channels: tuple[str, ...]
    labels: tuple[str, ...]
    sequence: str = "sequence"
    label: str = "label"

    def target(self, label: str, where: str) -> str:
        """The label, if it is one.

        Raises:
            BadFileError: it is not.
        """
        if label not in self.labels:
            raise BadFileError(f"{where}: there is no class {label!r}", "classes: " + ", ".join(self.labels))
        return label


class SequenceDataset:
    """`Sample.inputs[0]` is (time, features) float32 of any length, `Sample.target` the label."""

    def __init__(self, samples: Sequence[tuple[np.ndarray, str]]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Sample:
        sequence, label = self._samples[index]
        return Sample((sequence,), label)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


def load_sequences(place: Path, form: Form) -> SequenceDataset:
    """The labelled sequences of a folder or a file, all of them checked.

    Raises:
        BadFileError: nothing is there, or something in it is wrong; names file and line.
    """
    if place.is_dir():
        found = _folder(place, form)
    elif not place.exists():
        raise BadFileError(f"{place} does not exist", KINDS)
    elif place.suffix.lower() == ".npz":
        found = _npz(place, form)
    elif place.suffix.lower() == ".csv":
        found = _long(place, form)
    else:
        raise BadFileError(f"{place} is neither a folder nor a .csv nor an .npz", KINDS)
    if not found:
        raise BadFileError(f"{place} holds no labelled sequences", KINDS)
    return SequenceDataset(found)


def _folder(place: Path, form: Form) -> list[tuple[np.ndarray, str]]:
    listed = place / LABEL_FILE
    try:
        told = read_listed(listed, "sequence") if listed.is_file() else _by_class(place)
    except OSError as cause:
        raise BadFileError(f"the data folder {place} cannot be read: {cause.strerror}") from cause
    labelled = [(path, form.target(label, where)) for path, label, where in told]
    return [(_one(path, form), label) for path, label in labelled]


def _by_class(place: Path) -> list[tuple[Path, str, str]]:
    """The files of every sub-folder: file, name of the sub-folder, and where that is said."""
    files = sorted(path for path in place.glob("*/*") if path.suffix.lower() in SUFFIXES)
    return [(path, path.parent.name, str(path)) for path in files]


def _one(path: Path, form: Form) -> np.ndarray:
    if path.suffix.lower() == ".csv":
        _refuse_other_order(path, form)
    return read_sequence(path, len(form.channels))


def _refuse_other_order(path: Path, form: Form) -> None:
    """A header with the channels' own names must have them in their order."""
    line, names = next(rows(path), (1, []))
    _refuse_shuffled([name.strip() for name in names], form, f"{path}, line {line}")


def _refuse_shuffled(names: Sequence[str], form: Form, where: str) -> None:
    if sorted(names) == sorted(form.channels) and tuple(names) != form.channels:
        raise BadFileError(
            f"{where}: the columns are {', '.join(names)}", f"write them as {', '.join(form.channels)}"
        )


def _long(path: Path, form: Form) -> list[tuple[np.ndarray, str]]:
    """One CSV of many sequences; rows of a sequence are its steps in the order of the file."""
    told = rows(path)
    _, header = next(told, (1, []))
    columns = _Columns.of(path, header, form)
    steps: dict[str, list[list[float]]] = {}
    labels: dict[str, str] = {}
    for line, cells in told:
        name, label, step = columns.parted(cells, line)
        before = labels.setdefault(name, form.target(label, f"{path}, line {line}"))
        if before != label:
            raise BadFileError(
                f"{path}, line {line}: the sequence {name!r} was {before!r} so far, and is {label!r} here",
                f"give each sequence its own value in the column {form.sequence!r}, and one label",
            )
        steps.setdefault(name, []).append(step)
    return [(np.array(values, np.float32), labels[name]) for name, values in steps.items()]


@dataclass(frozen=True)
class _Columns:
    """Where a row of the long CSV says what."""

    path: Path
    sequence: int
    label: int
    features: int

    @classmethod
    def of(cls, path: Path, header: Sequence[str], form: Form) -> _Columns:
        names = [name.strip() for name in header]
        for name, key in ((form.sequence, "sequence"), (form.label, "label")):
            if name not in names:
                raise BadFileError(
                    f"{path}, line 1: there is no column {name!r}",
                    f"columns: {', '.join(names)}; name the right one with --set data.options.{key}=NAME",
                )
        others = [name for name in names if name not in (form.sequence, form.label)]
        if len(others) != len(form.channels):
            raise BadFileError(
                f"{path}, line 1: {len(others)} channels, and the network takes {len(form.channels)}",
                f"the columns beside {form.sequence!r} and {form.label!r}: {', '.join(form.channels)}",
            )
        _refuse_shuffled(others, form, f"{path}, line 1")
        return cls(path, names.index(form.sequence), names.index(form.label), len(others))

    def parted(self, cells: Sequence[str], line: int) -> tuple[str, str, list[float]]:
        """A row's sequence, label and step."""
        if len(cells) != self.features + 2:
            raise BadFileError(
                f"{self.path}, line {line}: {len(cells)} columns, and the header has {self.features + 2}",
                "correct the row",
            )
        step = [cell for place, cell in enumerate(cells) if place not in (self.sequence, self.label)]
        values = numbers(self.path, line, step, self.features)
        return cells[self.sequence].strip(), cells[self.label].strip(), values


def _npz(path: Path, form: Form) -> list[tuple[np.ndarray, str]]:
    arrays = read_npz(path)
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise BadFileError(
            f"{path} holds no array {missing[0]!r}, but {', '.join(arrays)}",
            "x is (n, time, features), y the labels, lengths (n,) the steps of each",
        )
    x = arrays["x"]
    if x.ndim != 3 or x.shape[2] != len(form.channels) or x.dtype.kind not in "fiu":
        raise BadFileError(
            f"{path}: x is {x.dtype} of shape {x.shape}", f"give float32 (n, time, {len(form.channels)})"
        )
    lengths = _lengths(path, arrays, x)
    labels = _labels(path, arrays["y"], len(x), form)
    found = [np.asarray(row[:length], np.float32) for row, length in zip(x, lengths, strict=True)]
    for place, sequence in enumerate(found):
        if not np.isfinite(sequence).all():
            raise BadFileError(f"{path}: x[{place}] has NaN or infinity", "leave that sequence out")
    return list(zip(found, labels, strict=True))


def _lengths(path: Path, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The steps of each sequence: all of them where the file does not say."""
    lengths = arrays.get("lengths", np.full(len(x), x.shape[1]))
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu":
        raise BadFileError(
            f"{path}: lengths is {lengths.dtype} of shape {lengths.shape}", "one integer for each"
        )
    if len(bad := np.flatnonzero((lengths < 1) | (lengths > x.shape[1]))):
        raise BadFileError(f"{path}: lengths[{bad[0]}] is {lengths[bad[0]]}", f"1 to {x.shape[1]} fit")
    return lengths


def _labels(path: Path, y: np.ndarray, count: int, form: Form) -> list[str]:
    """Texts, or numbers of classes."""
    if y.shape != (count,) or y.dtype.kind not in "iuU":
        raise BadFileError(
            f"{path}: y is {y.dtype} of shape {y.shape}", "one label, or its number, for each of x"
        )
    if y.dtype.kind == "U":
        return [form.target(str(label), f"{path}: y[{place}]") for place, label in enumerate(y)]
    if len(bad := np.flatnonzero((y < 0) | (y >= len(form.labels)))):
        raise BadFileError(f"{path}: y[{bad[0]}] is {y[bad[0]]}", f"classes are 0 to {len(form.labels) - 1}")
    return [form.labels[number] for number in y]
