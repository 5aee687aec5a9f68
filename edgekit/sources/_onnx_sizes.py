"""Which sizes an ONNX file runs at, and how its outputs follow its inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.declare import DEFAULT_RANGE
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._onnx_declared import is_batch
from edgekit.sources._onnx_dims import Settled
from edgekit.sources._onnx_probe import (
    Array,
    CannotRunError,
    Pools,
    Program,
    TakesTooLongError,
    draw,
    pools,
    refuse_other_shape,
)
from edgekit.spec import Sample

if TYPE_CHECKING:
    import onnx

Sizes = Mapping[str, int]
Ran = tuple[Sizes, dict[str, Array]]
_SCALES = (1, 2, 4, 8, 16, 32, 64, 128)
_TIES = 24
_MODEST = 2**22
"""Elements: three channels of 1024 by 1024."""
_LABEL = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The inputs as they run, sizes that run, and the values that integer inputs may hold.

    `full` names the outputs that are not empty there.
    """

    specs: tuple[TensorSpec, ...]
    sizes: Sizes
    values: Pools
    full: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def at(self, program: Program, sizes: Sizes, seed: int = 0) -> Ran:
        """Run at other sizes; raises CannotRunError."""
        every = {**self.sizes, **sizes}
        return every, program.run(draw(self.specs, every, self.values, seed))


def first_trial(path: Path, program: Program, settled: Settled, samples: Sequence[Sample]) -> Trial:
    """The first sizes that the network runs at, small ones first; those that leave no output empty, if any.

    Dimensions whose names the file or edgekit chose are taken for one where the network runs only so.

    Raises:
        BadFileError: no size runs that the file and the samples allow.
        UsageError: none runs that the user allows.
        UnsupportedError: a run takes too long.
    """
    reasons: list[str] = []
    alone = (settled.specs, (), 1)
    for specs, ties, batch in (*((*tied, 2) for tied in _tied(settled)), alone):
        trials = [
            Trial(specs=specs, sizes=sizes, values=values, notes=ties)
            for sizes in _sizes(specs, batch)
            for values in pools(specs, samples)
        ]
        found = _first(path, program, trials, reasons)
        if found is not None:
            return found
    kind = UsageError if settled.asked else BadFileError
    raise kind(
        f"{path} runs at none of the sizes it declares: {reasons[0]}",
        "say the sizes it takes: --input NAME=TYPE[SIZES], ranges as width:32..1024",
    )


def _first(path: Path, program: Program, trials: Sequence[Trial], reasons: list[str]) -> Trial | None:
    partial = None
    for trial in trials:
        try:
            _, found = trial.at(program, {})
        except TakesTooLongError as error:
            raise UnsupportedError(
                f"{path}: {error}", "export it without loops over large counts, or with smaller sizes"
            ) from error
        except CannotRunError as error:
            reasons.append(str(error))
            continue
        full = frozenset(name for name, array in found.items() if array.size)
        if len(full) == len(found):
            return replace(trial, full=full)
        partial = partial or replace(trial, full=full)
    return partial


def _tied(settled: Settled) -> Iterator[tuple[tuple[TensorSpec, ...], tuple[str, ...]]]:
    """The inputs as they are, then with some dimensions taken for others; each with what to say of it."""
    ranges = {dim: span for spec in settled.specs for dim, span in spec.ranges.items()}
    yield settled.specs, ()
    for group in islice(_ties(settled, list(ranges)), _TIES):
        specs = tuple(_renamed(spec, dict(group), ranges) for spec in settled.specs)
        yield specs, tuple(f"'{later}' is taken for '{earlier}': it runs only so" for later, earlier in group)


def _ties(settled: Settled, dims: Sequence[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    """One pair; then, as states need it, all dimensions of the other inputs for one; then several pairs."""
    free = [dim for dim in dims if dim not in settled.said]
    pairs = [(later, earlier) for later in free for earlier in dims[: dims.index(later)]]
    pairs.sort(key=lambda pair: any(is_batch(dim) for dim in pair))
    yield from ((pair,) for pair in pairs)
    first = settled.specs[0].dynamic
    others = [dim for dim in free if dim not in first]
    yield from (tuple((other, target) for other in others) for target in first if len(others) > 1)
    groups = (group for count in range(2, len(dims)) for group in combinations(pairs, count))
    yield from (group for group in groups if len({later for later, _ in group}) == len(group))


def _renamed(spec: TensorSpec, names: Mapping[str, str], ranges: Mapping[str, tuple[int, int]]) -> TensorSpec:
    def final(dim: str) -> str:
        return final(names[dim]) if dim in names else dim

    shape = tuple(final(dim) if isinstance(dim, str) else dim for dim in spec.shape)
    return replace(spec, shape=shape, ranges={dim: ranges[dim] for dim in shape if isinstance(dim, str)})


def _sizes(specs: Sequence[TensorSpec], batch: int) -> list[dict[str, int]]:
    """Multiples of growing powers of two, no two dimensions alike if possible."""
    ranges = {dim: span for spec in specs for dim, span in spec.ranges.items()}
    found: list[dict[str, int]] = []
    for scale in _SCALES:
        sizes = {
            dim: max(low, min(high, batch if is_batch(dim) else scale * place))
            for place, (dim, (low, high)) in enumerate(ranges.items(), 2)
        }
        if sizes not in found:
            found.append(sizes)
    return found


def narrow(path: Path, program: Program, trial: Trial, free: frozenset[str]) -> Trial:
    """Default ranges cut to what runs; a dimension that runs at one size only is fixed there.

    Raises:
        UsageError: a dimension takes some sizes between two that it takes, and not others.
    """
    dims = [dim for dim in dict.fromkeys(dim for spec in trial.specs for dim in spec.dynamic) if dim in free]
    for dim in sorted(dims, key=lambda dim: not is_batch(dim)):
        low, high = _span(path, program, trial, dim)
        trial = _with_range(trial, dim, low, high)
    return trial


def _span(path: Path, program: Program, trial: Trial, dim: str) -> tuple[int, int]:
    low, high = next(spec.ranges[dim] for spec in trial.specs if dim in spec.ranges)
    size = trial.sizes[dim]
    least = {name: span[0] for spec in trial.specs for name, span in spec.ranges.items() if is_batch(name)}

    def runs(other: int) -> bool:
        return _reason(program, trial, {**least, dim: other}) == ""

    smallest = next((other for other in _between(low, size) if other == size or runs(other)), size)
    if is_batch(dim):  # a large batch costs memory and says nothing new
        return smallest, high if runs(size + 1) else size
    high = max(size, min(high, _affordable(trial.specs, dim)))
    largest = next((other for other in _down(high, size) if other == size or runs(other)), size)
    middle = (smallest + largest) // 3 | 1
    if smallest < middle < largest and (reason := _reason(program, trial, {**least, dim: middle})):
        raise UsageError(
            f"{path} runs at {smallest} and at {largest} for the dimension '{dim}', and not at {middle}: "
            f"{reason}",
            "fix that dimension with --input, or give a range in which every size runs",
        )
    return smallest, largest


def _affordable(specs: Sequence[TensorSpec], dim: str) -> int:
    """The largest size at which an input of one sample, all its other lengths as large, is still modest."""
    size = DEFAULT_RANGE[1]
    for spec in specs:
        others = {name: span[0] if is_batch(name) else size for name, span in spec.ranges.items()}
        while dim in spec.ranges and size > 1 and math.prod(spec.at(others)) > _MODEST:
            size //= 2
            others = {name: min(size, length) for name, length in others.items()}
    return size


def _between(low: int, size: int) -> list[int]:
    return [*(step for step in (low * 2**power for power in range(11)) if step < size), size]


def _down(high: int, size: int) -> list[int]:
    return [*(step for step in (high // 2**power for power in range(11)) if step > size), size]


def _reason(program: Program, trial: Trial, sizes: Sizes) -> str:
    """Why it does not run there; empty when it does."""
    try:
        _, found = trial.at(program, sizes)
    except CannotRunError as error:
        return str(error) or "no reason given"
    empty = [name for name in trial.full if not found[name].size]
    return f"the output '{empty[0]}' is empty" if empty else ""


def _with_range(trial: Trial, dim: str, low: int, high: int) -> Trial:
    before = next(spec.ranges[dim] for spec in trial.specs if dim in spec.ranges)
    if low == high:
        note = f"'{dim}' runs at {low} only: it is fixed there"
        specs = tuple(_fixed(spec, dim, low) for spec in trial.specs)
        sizes = {name: size for name, size in trial.sizes.items() if name != dim}
        return replace(trial, specs=specs, sizes=sizes, notes=(*trial.notes, note))
    found = " (what runs)" if (low, high) != before else ""
    note = f"nobody gave '{dim}' a range: {low} to {high} is taken{found}, --input gives another"
    specs = tuple(
        replace(spec, ranges={**spec.ranges, dim: (low, high)}) if dim in spec.ranges else spec
        for spec in trial.specs
    )
    return replace(trial, specs=specs, notes=(*trial.notes, note))


def _fixed(spec: TensorSpec, dim: str, size: int) -> TensorSpec:
    shape = tuple(size if have == dim else have for have in spec.shape)
    return replace(
        spec, shape=shape, ranges={name: span for name, span in spec.ranges.items() if name != dim}
    )


def outputs_of(
    path: Path, program: Program, trial: Trial, declared: Sequence[onnx.ValueInfoProto]
) -> list[TensorSpec]:
    """The outputs: an axis that follows a dynamic dimension has its name, any other that changes its own.

    Raises:
        BadFileError: a declared size is not the one that it has.
        UsageError: a dynamic dimension runs at one size only.
        UnsupportedError: the number of an output's dimensions changes.
    """
    ranges = {dim: span for spec in trial.specs for dim, span in spec.ranges.items()}
    same = [trial.at(program, {}), trial.at(program, {}, seed=1)]
    moved = {dim: _elsewhere(path, program, trial, dim, span) for dim, span in ranges.items()}
    runs = _Runs(same, moved)
    for value in declared:
        _refuse_changing_rank(path, value.name, runs.every)
        for _, found in runs.every:
            refuse_other_shape(path, value, found[value.name].shape)
    labels = _Labels(runs.every, set(ranges))
    return [_output(value, runs, labels, ranges) for value in declared]


@dataclass(frozen=True)
class _Runs:
    """Runs at the same sizes, and at other sizes of one dimension each."""

    same: Sequence[Ran]
    moved: Mapping[str, Sequence[Ran]]

    @property
    def every(self) -> list[Ran]:
        return [*self.same, *(ran for group in self.moved.values() for ran in group)]


def _refuse_changing_rank(path: Path, name: str, runs: Sequence[Ran]) -> None:
    shapes = [found[name].shape for _, found in runs]
    for shape in shapes:
        if len(shape) != len(shapes[0]):
            raise UnsupportedError(
                f"{path}: the output '{name}' has shape {shapes[0]}, and {shape} for other inputs",
                "export it with outputs of one number of dimensions: squeeze named axes only",
            )


def _elsewhere(path: Path, program: Program, trial: Trial, dim: str, span: tuple[int, int]) -> list[Ran]:
    """Runs at other sizes of one dimension: twice as large, and the ends of its range."""
    size, (low, high) = trial.sizes[dim], span
    wanted = {min(2 * size, high), min(size + 1, high), low, *(() if is_batch(dim) else (high,))} - {size}
    found, reason = [], ""
    for other in sorted(wanted):
        try:
            found.append(trial.at(program, {dim: other}))
        except CannotRunError as error:
            reason = reason or str(error)
    if found or low == high:
        return found
    raise UsageError(
        f"{path} does not run at other sizes of '{dim}' than {size}: {reason}",
        f"write {size} in its place in --input, or give a range in which every size runs",
    )


def _output(
    value: onnx.ValueInfoProto, runs: _Runs, labels: _Labels, ranges: Mapping[str, tuple[int, int]]
) -> TensorSpec:
    array = runs.same[0][1][value.name]
    shape = tuple(_dimension(value, axis, runs, labels) for axis in range(array.ndim))
    spans = {dim: ranges[dim] for dim in shape if isinstance(dim, str) and dim in ranges}
    return TensorSpec(value.name, shape, str(array.dtype), spans)


def _dimension(value: onnx.ValueInfoProto, axis: int, runs: _Runs, labels: _Labels) -> int | str:
    def size(ran: Ran) -> int:
        return int(ran[1][value.name].shape[axis])

    usual = size(runs.same[0])
    if all(size(ran) == usual for ran in runs.every):
        return usual
    moved = [dim for dim, group in runs.moved.items() if any(size(ran) != usual for ran in group)]
    if len(moved) == 1 and all(size(ran) == ran[0][moved[0]] for ran in runs.every):
        return moved[0]
    return labels.of(value, axis)


class _Labels:
    """Names of output axes that follow no input axis: the file's where it holds, else `<output>.<axis>`."""

    def __init__(self, runs: Sequence[Ran], taken: set[str]) -> None:
        self._runs = runs
        self._taken = taken
        self._sizes: dict[str, list[int]] = {}

    def of(self, value: onnx.ValueInfoProto, axis: int) -> str:
        dims = value.type.tensor_type.shape.dim
        label = dims[axis].dim_param if axis < len(dims) else ""
        sizes = [ran[1][value.name].shape[axis] for ran in self._runs]
        holds = _LABEL.fullmatch(label) and label not in self._taken
        if holds and self._sizes.setdefault(label, sizes) == sizes:
            return label
        return f"{value.name}.{axis}"
