"""Does an array fit the input that it is for? Names, axes, sizes, type and values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.declare import told_input
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import TensorSpec

BATCH = "batch"
TARGETS = ("target", "targets", "label", "labels", "y")
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Column:
    """An array of many samples; `axis` is the one that they lie along, None for what they share."""

    spec: TensorSpec
    array: np.ndarray
    axis: int | None
    where: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(size for axis, size in enumerate(self.array.shape) if axis != self.axis)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return 1 if self.axis is None else self.array.shape[self.axis]

    def at(self, index: int) -> np.ndarray:
        """One sample in the input's type, without the batch axis; a view where nothing must change."""
        view = self.array if self.axis is None else np.moveaxis(self.array, self.axis, 0)[index]
        found = np.asarray(view, self.spec.dtype, order="C")
        return found if found.flags.writeable else found.copy()


def batch_axis(spec: TensorSpec) -> int | None:
    """Where an input or state has its batch: the dimension of that name, else a leading 1, else nowhere."""
    if BATCH in spec.shape:
        return spec.shape.index(BATCH)
    return 0 if spec.shape[:1] == (1,) else None


def pair(found: Sequence[str], inputs: Sequence[str], states: Sequence[str], where: str) -> dict[str, str]:
    """Which array is for which input or state: by name, or by order when no input's name is there.

    Raises:
        BadFileError: an input has no array, or an array no input.
    """
    strange = [name for name in found if name not in (*inputs, *states)]
    missing = [name for name in inputs if name not in found]
    named = {name: name for name in (*inputs, *states) if name in found}
    if not missing and not strange:
        return named
    if len(missing) == len(inputs):
        absent = [name for name in states if name not in found]
        if len(strange) == len(inputs):
            return {**dict(zip(inputs, strange, strict=True)), **named}
        if len(strange) == len(inputs) + len(absent):
            return {**dict(zip((*inputs, *absent), strange, strict=True)), **named}
    if missing:
        raise _missing(missing[0], strange, found, where)
    raise _strange(strange[0], inputs, states, where)


def _missing(name: str, strange: Sequence[str], found: Sequence[str], where: str) -> BadFileError:
    has = "it holds " + ", ".join(map(repr, found)) if found else "it holds none but the targets"
    meant = difflib.get_close_matches(name, strange, n=1)
    hint = (
        f"rename {meant[0]!r} to {name!r}" if meant else "give one array per input, by name or in their order"
    )
    return BadFileError(f"{where} holds no array for the input {name!r}: {has}", hint)


def _strange(name: str, inputs: Sequence[str], states: Sequence[str], where: str) -> BadFileError:
    return BadFileError(
        f"{where} holds the array {name!r}, and the network has no such input",
        near(name, (*inputs, *states, *TARGETS))
        or f"leave it out; the inputs are {', '.join((*inputs, *states))}, and targets are called 'target'",
    )


def near(name: str, known: Iterable[str]) -> str:
    """A hint with the name that was meant, if one is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {found[0]!r}?" if found else ""


def in_table(spec: TensorSpec, array: np.ndarray, where: str) -> Column:
    """An array whose first axis is the samples.

    Raises:
        BadFileError: it has too many or too few axes.
    """
    batch = batch_axis(spec)
    rank = len(spec.shape) - (batch is not None)
    if array.ndim == rank + 1:
        return Column(spec=spec, array=array, axis=0, where=where)
    if batch is None and array.ndim == rank:
        return Column(spec=spec, array=array, axis=None, where=where)
    if batch is not None and array.ndim == rank + 2 and array.shape[batch + 1] == 1:
        return Column(spec=spec, array=array.squeeze(batch + 1), axis=0, where=where)
    one = [dim for axis, dim in enumerate(spec.shape) if axis != batch]
    raise _wrong_rank(spec, array, where, f"give ({', '.join(map(str, ('samples', *one)))})")


def in_feed(spec: TensorSpec, array: np.ndarray, where: str) -> Column:
    """An array as the engine takes it.

    Raises:
        BadFileError: it has too many or too few axes.
    """
    if array.ndim != len(spec.shape):
        raise _wrong_rank(spec, array, where, "save it as the engine takes it, with its batch axis")
    return Column(spec=spec, array=array, axis=batch_axis(spec), where=where)


def _wrong_rank(spec: TensorSpec, array: np.ndarray, where: str, hint: str) -> BadFileError:
    return BadFileError(
        f"{where} has {array.ndim} axes, shape {array.shape}, and the input is {told_input(spec)}",
        hint,
    )


def check(columns: Sequence[Column]) -> int:
    """How many samples the arrays of one file hold, when all of them fit.

    Raises:
        BadFileError: sizes, number of samples, types or values are wrong; names array and sample.
    """
    count = _count(columns)
    sizes: dict[str, tuple[int, str]] = {}
    for column in columns:
        _check_sizes(column, sizes)
        _check_type(column)
        _check_values(column)
    return count


def _count(columns: Sequence[Column]) -> int:
    many = [column for column in columns if column.axis is not None]
    for column in many:
        if column.count == 0:
            raise BadFileError(f"{column.where} is empty: it has no samples", "put samples in it")
        if column.count != many[0].count:
            raise BadFileError(
                f"{column.where} has {column.count} samples, and that of {many[0].spec.name!r} has "
                f"{many[0].count}",
                "give every array as many, or say which axis is the batch: --input, --state",
            )
    return many[0].count if many else 1


def _check_sizes(column: Column, known: dict[str, tuple[int, str]]) -> None:
    """Hold the sizes against the input; `known` is what the other arrays say of each dimension."""
    spec, batch = column.spec, batch_axis(column.spec)
    dims = [dim for axis, dim in enumerate(spec.shape) if axis != batch]
    for dim, size in zip(dims, column.sizes, strict=True):
        wrong = _wrong_size(spec, dim, size)
        if not wrong and isinstance(dim, str):
            before, other = known.setdefault(dim, (size, spec.name))
            wrong = f"{dim} is {size}, and {before} in {other!r}" if size != before else ""
        if wrong:
            raise BadFileError(
                f"{column.where} has samples of shape {column.sizes}: {wrong}",
                f"the input is {told_input(spec)}: change the data, or the input with --input",
            )


def _wrong_size(spec: TensorSpec, dim: int | str, size: int) -> str:
    if isinstance(dim, int):
        return f"{size} must be {dim}" if size != dim else ""
    low, high = spec.ranges.get(dim, (1, max(size, 1)))
    return "" if low <= size <= high else f"{dim} is {size}, outside {low} to {high}"


def _check_type(column: Column) -> None:
    source = column.array.dtype
    if source.kind not in "fiub":
        raise BadFileError(
            f"{column.where} is of type {source}, which is no real number", "give real numbers"
        )
    wanted = np.dtype(column.spec.dtype)
    if source.kind == "f" and wanted.kind != "f":
        raise BadFileError(
            f"{column.where} is of type {source}, and the input {column.spec.name!r} takes {wanted}",
            f"round it yourself and save it with .astype({wanted.name!r})",
        )


def _check_values(column: Column) -> None:
    limits = limits_of(column.array.dtype, np.dtype(column.spec.dtype))
    for first, block in _blocks(column):
        if _fault(block, limits) is not None:
            rows = enumerate(block, first)
            index, fault = next((place, found) for place, row in rows if (found := _fault(row, limits)))
            sample = "" if column.axis is None else f" in sample {index}, counted from 0"
            cannot = "" if fault in ("NaN", "infinity") else f", which {column.spec.dtype} cannot hold,"
            raise BadFileError(
                f"{column.where} holds {fault}{cannot}{sample}".rstrip(","),
                "correct the sample, or leave it out",
            )


def _blocks(column: Column) -> Iterator[tuple[int, np.ndarray]]:
    """The samples in blocks that fit into memory, each with the number of its first."""
    rows = column.array[None] if column.axis is None else np.moveaxis(column.array, column.axis, 0)
    step = max(1, BLOCK_BYTES // max(rows[0].nbytes, 1))
    for first in range(0, len(rows), step):
        yield first, rows[first : first + step]


def limits_of(source: np.dtype, wanted: np.dtype) -> tuple[float, float] | None:
    """The values that survive the conversion; None: all of them."""
    if source.kind == "b" or source == wanted:
        return None
    if source.kind == "f":
        high = float(np.finfo(wanted).max)
        return None if high >= float(np.finfo(source).max) else (-high, high)
    if wanted.kind == "f":
        whole = 2 ** (np.finfo(wanted).nmant + 1)
        low, high = -whole, whole
    else:
        low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    own = np.iinfo(source)
    return None if low <= own.min and own.max <= high else (low, high)


def _fault(values: np.ndarray, limits: tuple[float, float] | None) -> str | None:
    """The first kind of value that must not be there, as text."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "NaN" if np.isnan(values).any() else "infinity"
    if limits is None or values.size == 0:
        return None
    low, high = limits
    return next((str(end) for end in (values.min(), values.max()) if not low <= end.item() <= high), None)


def converted(columns: Iterable[Column]) -> Mapping[str, str]:
    """By input, the type that an array has, where it is not the input's."""
    return {
        column.spec.name: str(column.array.dtype)
        for column in columns
        if column.array.dtype.name != np.dtype(column.spec.dtype).name
    }
