"""A sequence of measurements out of a file: a CSV with one row a step, or an .npy of the same shape."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import BadFileError, UsageError
from .manifest import TensorSpec

SUFFIXES = (".csv", ".npy")
AXES = 3


def sequence_input(inputs: Sequence[TensorSpec]) -> Optional[TensorSpec]:
    """The input that a sequence is for, float32 (batch, time, features); None where there is none."""
    spec = inputs[0]
    fits = spec.dtype == "float32" and len(spec.shape) == AXES and isinstance(spec.shape[2], int)
    return spec if fits and spec.shape[0] in ("batch", 1) else None


def fed_sequence(source: Union[str, Path, np.ndarray], inputs: Sequence[TensorSpec]) -> np.ndarray:
    """What the first input is fed for one sequence, a file or an array (time, features): a batch of one.

    Raises:
        BadFileError: the file is no such sequence; names the line.
        UsageError: the network takes no sequences.
    """
    spec = sequence_input(inputs)
    if spec is None:
        raise UsageError("this bundle says nothing of images", "use infer() with named arrays")
    features = int(spec.shape[2])
    if isinstance(source, np.ndarray):
        return _checked(source, features, "the sequence")[None]
    return read_sequence(Path(source), features)[None]


def read_sequence(path: Path, features: int) -> np.ndarray:
    """The sequence in a `.csv` or `.npy`: (time, features) float32.

    Columns are taken in their order; a first row of names is left out.

    Raises:
        BadFileError: the file is missing or no such sequence; names the line.
    """
    if not path.is_file():
        raise BadFileError("{} does not exist".format(path), "give a .csv with one row a step, or an .npy")
    if path.suffix.lower() == ".npy":
        return _checked(_loaded(path), features, str(path))
    found = list(rows(path))
    if found and not any(is_number(cell) for cell in found[0][1]):
        del found[0]
    steps = [numbers(path, line, cells, features) for line, cells in found]
    if not steps:
        raise BadFileError("{} holds no row of numbers".format(path), "write one row a step")
    return np.array(steps, np.float32)


def rows(path: Path) -> Iterator[Tuple[int, List[str]]]:
    """Line and cells of each row of a CSV that is not blank.

    Raises:
        BadFileError: the file is no CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except (UnicodeDecodeError, csv.Error) as cause:
        raise BadFileError(
            "{} is no CSV: {}".format(path, cause), "write numbers with commas between them, in UTF-8"
        ) from cause
    except OSError as cause:
        raise BadFileError("{} cannot be read: {}".format(path, cause.strerror)) from cause


def numbers(path: Path, line: int, cells: Sequence[str], features: int) -> List[float]:
    """One row as numbers.

    Raises:
        BadFileError: another number of columns, or a cell that is no finite number.
    """
    if len(cells) != features:
        raise BadFileError(
            "{}, line {}: {} columns, and the network takes {}".format(path, line, len(cells), features),
            "write one row a step, {} numbers with commas between them".format(features),
        )
    for column, cell in enumerate(cells, 1):
        if not is_number(cell):
            raise BadFileError(
                "{}, line {}, column {}: {!r} is not a finite number".format(path, line, column, cell),
                "correct it, or leave the sequence out",
            )
    return [float(cell) for cell in cells]


def is_number(cell: str) -> bool:
    """Whether a cell is a finite number, within what float32 holds."""
    try:
        return bool(abs(float(cell)) <= float(np.finfo(np.float32).max))
    except ValueError:
        return False


def _loaded(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(str(path), allow_pickle=False))
    except (OSError, ValueError, EOFError) as cause:
        raise BadFileError("{} is no .npy: {}".format(path, cause), "write it with numpy.save") from cause


def _checked(array: np.ndarray, features: int, where: str) -> np.ndarray:
    """An array as (time, features) float32, all of it finite."""
    if array.ndim != AXES - 1 or array.shape[1] != features or not len(array):
        raise BadFileError(
            "{} has shape {}, and the network takes (time, {})".format(where, array.shape, features),
            "give one row a step",
        )
    if array.dtype.kind not in "fiu":
        raise BadFileError("{} is of type {}, not of numbers".format(where, array.dtype), "give float32")
    found = np.asarray(array, np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise BadFileError("{}: step {} is not finite".format(where, bad[0]), "leave the sequence out")
    return found
