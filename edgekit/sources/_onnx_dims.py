"""Sizes of an ONNX file's inputs: what the user says, else what samples show, else defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.declare import DEFAULT_RANGE, DEFAULT_RANGES, told_input
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._onnx_declared import Declared, Shape, batch_place, is_batch, is_length, renamed
from edgekit.spec import Sample

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Every input of the file in its order, states last.

    `free` dimensions have a default range, `said` are named by the user, and `asked` says whether the
    user said anything.
    """

    specs: tuple[TensorSpec, ...]
    free: frozenset[str]
    said: frozenset[str]
    asked: bool
    notes: tuple[str, ...]


def settle(
    declared: Sequence[Declared],
    said: Sequence[TensorSpec],
    samples: Sequence[Sample],
    states: Sequence[str],
) -> Settled:
    """Sizes and ranges from what the user says, else from samples, else defaults.

    Raises:
        UsageError: what is said contradicts the file, or an input has no shape anywhere.
        UnsupportedError: a dimension that the file fixes is wanted dynamic.
        BadFileError: a sample does not fit an input.
    """
    matched, notes = _matched(declared, said, states)
    declared, matched = _with_one_batch(declared, matched, notes)
    asked = _asked(declared, matched)
    shown = _shown(declared, samples, states)
    shapes = {one.name: _shape(one, matched.get(one.name), shown) for one in declared}
    known: dict[str, int | str] = dict(asked.sizes)
    told_of = {*asked.sizes, *asked.ranges}
    seen = {dim: span for dim, span in _spans(shapes, shown).items() if dim not in told_of}
    for dim, (low, high) in seen.items():
        if low == high and not is_batch(dim):
            known[dim] = low
            notes.append(f"'{dim}' is {low} in every sample: it is fixed there, --input gives it a range")
    specs = [_spec(one, shapes[one.name], known, {**seen, **asked.ranges}) for one in declared]
    dims = {dim: spec.ranges[dim] for spec in specs for dim in spec.dynamic}
    free = {
        dim
        for dim, span in dims.items()
        if dim not in seen and asked.ranges.get(dim, span) == default_range(dim)
    }
    return Settled(
        specs=tuple(sorted(specs, key=lambda spec: spec.name in states)),
        free=frozenset(free),
        said=frozenset(asked.ranges),
        asked=bool(said),
        notes=tuple(notes),
    )


def default_range(dim: str) -> Range:
    """The range of a dimension that nobody has given one."""
    return DEFAULT_RANGES["batch"] if is_batch(dim) else DEFAULT_RANGE


def _matched(
    declared: Sequence[Declared], said: Sequence[TensorSpec], states: Sequence[str]
) -> tuple[dict[str, TensorSpec], list[str]]:
    """What the user says of each input: by name, or in order where no name is the file's."""
    names = [one.name for one in declared]
    if not any(spec.name in names for spec in said):
        fed = [name for name in names if name not in states]
        target = next((group for group in (fed, names) if len(group) == len(said)), None)
        if said and target is not None:
            notes = [
                f"--input {spec.name} is the file's input '{name}', by its place"
                for spec, name in zip(said, target, strict=True)
            ]
            return dict(zip(target, said, strict=True)), notes
    for spec in said:
        if spec.name not in names:
            raise UsageError(f"--input: the file has no input '{spec.name}'", f"it has: {', '.join(names)}")
    return {spec.name: spec for spec in said}, []


def _with_one_batch(
    declared: Sequence[Declared], matched: dict[str, TensorSpec], notes: list[str]
) -> tuple[Sequence[Declared], dict[str, TensorSpec]]:
    """Where the user has another name for the file's batch: a length is no batch, any other is."""
    pairs = {
        (have, want)
        for one in declared
        if one.name in matched
        for have, want in zip(one.shape or (), matched[one.name].shape, strict=False)
    }
    names = [want for have, want in pairs if have == "batch" and isinstance(want, str)]
    if len(names) != 1 or "batch" in {want for _, want in pairs}:
        return declared, matched
    if is_length(names[0]):
        return [renamed(one, "batch", names[0]) for one in declared], matched
    notes.append(f"the dimension '{names[0]}' of --input is called 'batch'")
    return declared, {name: _renamed(spec, names[0], "batch") for name, spec in matched.items()}


def _renamed(spec: TensorSpec, old: str, new: str) -> TensorSpec:
    shape = tuple(new if dim == old else dim for dim in spec.shape)
    ranges = {new if dim == old else dim: span for dim, span in spec.ranges.items()}
    return replace(spec, shape=shape, ranges=ranges)


@dataclass(frozen=True)
class _Asked:
    """The file's dimension -> the size or the name the user gives it; and the ranges by those names."""

    sizes: Mapping[str, int | str]
    ranges: Mapping[str, Range]


def _asked(declared: Sequence[Declared], matched: Mapping[str, TensorSpec]) -> _Asked:
    sizes: dict[str, int | str] = {}
    ranges: dict[str, Range] = {}
    for one in declared:
        spec = matched.get(one.name)
        if spec is None:
            continue
        _refuse_other_kind(one, spec)
        ranges.update(spec.ranges)
        for axis, (have, want) in enumerate(zip(one.shape or (), spec.shape, strict=False)):
            wanted = _single(want, spec)
            if isinstance(have, int):
                _refuse_other_size(one, axis, have, wanted)
            elif sizes.setdefault(have, wanted) != wanted:
                raise UsageError(
                    f"the file has one dimension '{have}', --input gives it {sizes[have]} and {wanted}",
                    "give it the same name or size wherever it stands",
                )
    return _Asked(sizes, ranges)


def _single(want: int | str, spec: TensorSpec) -> int | str:
    """A range of one size is that size."""
    low, high = spec.ranges.get(want, (0, 1)) if isinstance(want, str) else (0, 1)
    return low if low == high else want


def _refuse_other_kind(one: Declared, spec: TensorSpec) -> None:
    if one.dtype != spec.dtype:
        raise UsageError(
            f"--input says that '{one.name}' is {spec.dtype}, in the file it is {one.dtype}",
            f"write {one.name}={one.dtype}[...]",
        )
    if one.shape is not None and len(one.shape) != len(spec.shape):
        raise UsageError(
            f"--input gives '{one.name}' {len(spec.shape)} dimensions, in the file it has {len(one.shape)}",
            f"the file's are {', '.join(map(str, one.shape))}",
        )


def _refuse_other_size(one: Declared, axis: int, have: int, want: int | str) -> None:
    if isinstance(want, str):
        raise UnsupportedError(
            f"the file fixes axis {axis} of '{one.name}' to {have}, so that '{want}' cannot be dynamic",
            f"write {have} there, or export the file again with that axis dynamic",
        )
    if want != have:
        raise UsageError(
            f"--input gives axis {axis} of '{one.name}' the size {want}, the file fixes it to {have}",
            f"write {have} there, or export the file again",
        )


def _shown(
    declared: Sequence[Declared], samples: Sequence[Sample], states: Sequence[str]
) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that the samples have at each input, without the batch axis."""
    fed = [one for one in declared if one.name not in states]
    for sample in samples:
        if len(sample.inputs) != len(fed):
            raise BadFileError(
                f"a sample holds {len(sample.inputs)} arrays, the network has {len(fed)} inputs",
                f"give one array for each of {', '.join(one.name for one in fed)}",
            )
    shown = {
        one.name: [tuple(sample.inputs[place].shape) for sample in samples]
        for place, one in enumerate(fed)
        if samples
    }
    for one in fed:
        _refuse_misfit(one, shown.get(one.name, []))
    return shown


def _refuse_misfit(one: Declared, shapes: Sequence[tuple[int, ...]]) -> None:
    wanted = _sample_shape(one.shape) if one.shape is not None else shapes[0] if shapes else ()
    for found in shapes:
        fits = len(wanted) == len(found) and all(
            have == want
            for want, have in zip(wanted, found, strict=True)
            if one.shape is not None and isinstance(want, int)
        )
        if not fits:
            axes = ", ".join(map(str, wanted))
            raise BadFileError(
                f"a sample of '{one.name}' has shape {found}, the network takes ({axes}) without the batch",
                "correct the calibration data",
            )


def _sample_shape(shape: Shape) -> Shape:
    """The shape of one sample: without the batch axis, where there is one."""
    place = batch_place(shape)
    return shape if place is None else (*shape[:place], *shape[place + 1 :])


def _shape(one: Declared, spec: TensorSpec | None, shown: Mapping[str, list[tuple[int, ...]]]) -> Shape:
    """The file's shape; where it has none, the user's, or one made of the samples."""
    if one.shape is not None:
        return one.shape
    if spec is not None:
        return tuple(_single(dim, spec) for dim in spec.shape)
    if shown.get(one.name):
        columns = zip(*shown[one.name], strict=True)
        rest = (
            sizes[0] if len(set(sizes)) == 1 else f"{one.name}.{axis}"
            for axis, sizes in enumerate(columns, 1)
        )
        return ("batch", *rest)
    raise UsageError(
        f"the file does not say the shape of its input '{one.name}'",
        f"give --input {one.name}={one.dtype}[batch:1..8,...], or --calibration with samples",
    )


def _spans(shapes: Mapping[str, Shape], shown: Mapping[str, list[tuple[int, ...]]]) -> dict[str, Range]:
    """The smallest and the largest size that the samples have of each dynamic dimension."""
    sizes: dict[str, list[int]] = {}
    for name, found in shown.items():
        for axis, dim in enumerate(_sample_shape(shapes[name])):
            if isinstance(dim, str):
                sizes.setdefault(dim, []).extend(shape[axis] for shape in found)
    return {dim: (min(seen), max(seen)) for dim, seen in sizes.items()}


def _spec(
    one: Declared, shape: Shape, known: Mapping[str, int | str], ranges: Mapping[str, Range]
) -> TensorSpec:
    dims = tuple(known.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)
    spans = {dim: ranges.get(dim) or default_range(dim) for dim in dims if isinstance(dim, str)}
    return TensorSpec(one.name, dims, one.dtype, spans)


def told(specs: Sequence[TensorSpec]) -> list[str]:
    """One note for each input."""
    return [f"input {told_input(spec)}" for spec in specs]
