"""From one array file to checked inputs, states and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data._array_checks import BATCH, TARGETS, Column, check, in_feed, in_table, pair
from edgekit.data._array_files import map_npy, read_npz
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import TensorSpec

Targets = np.ndarray | Sequence[Any] | None


@dataclass(frozen=True, kw_only=True)
class Content:
    """What one file holds; `sources` are the arrays' own names, `targets` None when there are none."""

    inputs: tuple[Column, ...]
    states: tuple[Column, ...]
    sources: tuple[str, ...]
    targets: Targets
    count: int


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a file becomes checked columns; `listed` are targets that stand in a list beside the files."""

    inputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    feeds: bool
    listed: Mapping[Path, Any] | None = None

    def read(self, path: Path) -> Content:
        """The content of one file.

        Raises:
            BadFileError: it cannot be read, or something in it does not fit.
        """
        arrays = self._arrays(path)
        found, targets = parted(arrays, [spec.name for spec in (*self.inputs, *self.states)], path)
        states = [spec.name for spec in self.states]
        inputs = self.inputs or guessed({name: found[name] for name in found if name not in states})
        names = pair(list(found), [spec.name for spec in inputs], states, str(path))
        place = in_feed if self.feeds else in_table
        columns = {
            spec.name: place(spec, found[names[spec.name]], f"{path}: the array {names[spec.name]!r}")
            for spec in (*inputs, *self.states)
            if spec.name in names
        }
        count = check(list(columns.values()))
        return Content(
            inputs=tuple(columns[spec.name] for spec in inputs),
            states=tuple(columns[name] for name in states if name in columns),
            sources=tuple(names[spec.name] for spec in inputs),
            targets=self._targets(path, targets, count),
            count=count,
        )

    def _arrays(self, path: Path) -> dict[str, np.ndarray]:
        if path.suffix.lower() != ".npy":
            return read_npz(path)
        if len(self.inputs) > 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise BadFileError(
                f"{path} holds one array, and the network has the inputs {names}",
                "give an .npz with all of them",
            )
        return {self.inputs[0].name if self.inputs else "input": map_npy(path)}

    def _targets(self, path: Path, found: tuple[str, np.ndarray] | None, count: int) -> Targets:
        if self.listed is not None:
            if count != 1 or found is not None:
                what = f"{count} samples" if found is None else "targets of its own"
                raise BadFileError(
                    f"{path} holds {what}, and a list gives it one target", "put the targets into the files"
                )
            return [self.listed[path]] if path in self.listed else None
        if found is None:
            return None
        name, array = found
        if array.ndim and len(array) == count:
            return array
        if self.feeds and count == 1:
            return [array[()]]
        raise BadFileError(
            f"{path}: the array {name!r} has the shape {array.shape}, and there are {count} samples",
            "give one target per sample, along the first axis",
        )


def parted(
    arrays: dict[str, np.ndarray], names: Sequence[str], path: Path
) -> tuple[dict[str, np.ndarray], tuple[str, np.ndarray] | None]:
    """The arrays to feed, and the one of the targets.

    Raises:
        BadFileError: there are targets only, or targets twice.
    """
    targets = [name for name in arrays if name in TARGETS and name not in names]
    if len(targets) > 1:
        raise BadFileError(
            f"{path} holds targets twice: {targets[0]!r} and {targets[1]!r}", "leave one of them out"
        )
    feeding = {name: array for name, array in arrays.items() if name not in targets}
    if not feeding:
        raise BadFileError(f"{path} holds targets only", "put one array per input beside them")
    return feeding, (targets[0], arrays[targets[0]]) if targets else None


def guessed(arrays: Mapping[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    """An input per array: the first axis is the batch, of the others only the number is known."""
    return tuple(
        TensorSpec(
            name,
            (BATCH, *(f"{name}.{axis}" for axis in range(1, array.ndim)))[: array.ndim],
            "float32" if array.dtype == np.float64 else array.dtype.newbyteorder("=").name,
        )
        for name, array in arrays.items()
    )
