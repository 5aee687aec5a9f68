"""Arrays out of `.npz` and `.npy` files, checked before they are read; a pickle is never run."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from edgekit.runtime.errors import BadFileError

UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, zlib and NumPy raise for a file that is cut short, encrypted or something else."""
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an `.npz` by name, in the order they were written.

    Raises:
        BadFileError: the file is missing, cut short or no `.npz`, holds nothing, or an array is of
            Python objects.
    """
    with _reading(path, "write it with numpy.savez"), zipfile.ZipFile(path) as archive:
        found = {_name(path, info): _member(path, archive, info) for info in archive.infolist()}
    if not found:
        raise BadFileError(f"{path} is empty: it holds no array", "write it with numpy.savez")
    return found


def map_npy(path: Path) -> np.ndarray:
    """The array of an `.npy`, left on the disk until it is looked at.

    Raises:
        BadFileError: the file is missing, cut short or no `.npy`, or the array is of Python objects.
    """
    with _reading(path, "write it with numpy.save"):
        with path.open("rb") as stream:
            shape, dtype = _header(stream)
        _refuse_objects(dtype, str(path))
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


@contextmanager
def _reading(path: Path, hint: str) -> Iterator[None]:
    if not path.is_file():
        raise BadFileError(f"{path} does not exist", "give an .npz, an .npy or a folder of .npz files")
    if path.stat().st_size == 0:
        raise BadFileError(f"{path} is an empty file", hint)
    try:
        yield
    except MemoryError as error:
        raise BadFileError(
            f"{path} does not fit into memory", "split it: a folder of .npz files is read file by file"
        ) from error
    except UNREADABLE as error:
        suffix = path.suffix.lower() or "array file"
        reason = str(error).strip().partition("\n")[0]
        raise BadFileError(f"{path} is no readable {suffix}: {reason}", hint) from error


def _name(path: Path, info: zipfile.ZipInfo) -> str:
    name, dot, suffix = info.filename.rpartition(".")
    if not (dot and suffix == "npy"):
        raise BadFileError(f"{path} holds {info.filename!r}, which is no array", "write it with numpy.savez")
    return name


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    where = f"{path}: the array {_name(path, info)!r}"
    with archive.open(info) as stream:
        shape, dtype = _header(stream)
        _refuse_objects(dtype, where)
        if stream.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise BadFileError(
                f"{where} is not as long as its shape {shape} says", "write it with numpy.savez"
            )
    with archive.open(info) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"an array of format {version}")
    shape, _, dtype = HEADERS[version](stream)
    return shape, dtype


def _refuse_objects(dtype: np.dtype, where: str) -> None:
    if dtype.hasobject:
        raise BadFileError(
            f"{where} is of Python objects, which only a pickle can hold",
            "samples of different sizes go into a folder of .npz files, one each",
        )
