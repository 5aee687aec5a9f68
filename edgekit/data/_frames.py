"""Tables of numbers out of a pickle of pandas frames, without pandas and without running what it names.

A pickle is a program: it may name any function and call it. Here a name is either one of those that a
frame of numbers needs, and then stands for what is defined below, or it is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

import numpy as np

from edgekit.runtime.errors import BadFileError

HINT = "do not use this file: what it names could be run by another reader"


@dataclass(frozen=True)
class Frame:
    """A table: the names of its columns, and one array for each, all of one length."""

    columns: tuple[str, ...]
    values: Mapping[str, np.ndarray]


class _Told:
    """Keeps what a pickled object says of itself: stands for a frame, and for the blocks it is made of."""

    def __init__(self) -> None:
        self.told: Any = None

    def __setstate__(self, told: Any) -> None:
        self.told = told


def _made(kind: Any, *_: Any) -> _Told:
    if kind is not _Told:
        raise pickle.UnpicklingError("it makes an object that is no frame")
    return _Told()


def _array(*_: Any) -> np.ndarray:
    """An empty array, which its own `__setstate__` fills."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(name: str, align: int, copied: int) -> np.dtype:
    return np.dtype(name, bool(align), bool(copied))


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes in {encoding}")
    return text.encode("latin1")


def _index(_: Any, told: Mapping[str, Any]) -> Any:
    """The names along an axis; None for the numbers of rows."""
    return told.get("data")


def _nothing() -> None:
    """Stands for a class that is only named."""


KNOWN: Mapping[tuple[str, str], Any] = {
    ("builtins", "object"): _nothing,
    ("builtins", "slice"): slice,
    ("copyreg", "_reconstructor"): _made,
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _nothing,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("pandas.core.frame", "DataFrame"): _Told,
    ("pandas.core.indexes.base", "Index"): _nothing,
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.indexes.range", "RangeIndex"): _nothing,
    ("pandas.core.internals.managers", "BlockManager"): _Told,
}
RENAMED = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "copy_reg": "copyreg",
    "__builtin__": "builtins",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get((RENAMED.get(module, module), name))
        if known is None:
            raise BadFileError(f"the pickle names {module}.{name}, which no table of numbers needs", HINT)
        return known


def read_frames(stream: BufferedIOBase, where: str) -> dict[Any, list[Frame]]:
    """Lists of frames by key, as `pickle.dump` has written them from pandas 0.25 or 1.0.

    Args:
        where: the file's name for messages.

    Raises:
        BadFileError: the stream names something else than a frame's parts, is cut short, or is not
            a mapping from keys to lists of frames.
    """
    try:
        told = _Unpickler(stream).load()
        return {key: [_frame(item) for item in items] for key, items in told.items()}
    except BadFileError as error:
        raise BadFileError(f"{where}: {error.message}", error.hint) from error
    except Exception as cause:  # a pickle that is cut short or strange raises anything
        raise BadFileError(f"{where} holds no pandas frames: {cause}", "fetch it again") from cause


def _frame(item: _Told) -> Frame:
    (columns, *_), blocks, places, *_ = item.told["_data"].told
    found = {
        name: row for block, names in zip(blocks, places, strict=True) for name, row in _rows(block, names)
    }
    return Frame(tuple(columns), found)


def _rows(block: np.ndarray, names: Sequence[str]) -> zip[tuple[str, np.ndarray]]:
    """A block holds one row for each of its columns."""
    return zip(names, block, strict=True)
