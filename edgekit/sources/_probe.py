"""What a network returns, found by running it at several sizes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgekit.declare import DEFAULT_RANGE, DEFAULT_RANGES
from edgekit.runtime.errors import EdgekitError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._adapter import Adapter
from edgekit.sources._words import blamed

Leaves = list[tuple[str, Tensor]]
Sizes = dict[str, int]
_STRIDE = 64
"""How far two sizes lie apart, so that a network which divides them shows it."""
_SAME = 1e-3


def ranges_of(inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, int]]:
    """Smallest and largest size of each dynamic dimension."""
    found: dict[str, tuple[int, int]] = {}
    for spec in inputs:
        for dim in spec.dynamic:
            default = found.get(dim, DEFAULT_RANGES.get(dim, DEFAULT_RANGE))
            found[dim] = spec.ranges.get(dim, default)
    return found


def base_sizes(inputs: Sequence[TensorSpec]) -> Sizes:
    """Small sizes, 1 only where nothing else is allowed."""
    return {
        dim: min(high, max(2, low) if dim == "batch" else max(2, low, (2 * low + 16) // 8 * 8))
        for dim, (low, high) in ranges_of(inputs).items()
    }


def _other(dim: str, size: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    other = min(high, size + (1 if dim == "batch" else _STRIDE))
    return other if other != size else low


def example(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> list[Tensor]:
    """Normal numbers, always the same; ones where the type is not floating: they are valid everywhere."""
    made = []
    for spec in inputs:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        shape = spec.at(sizes)
        if dtype.is_floating_point:
            random = torch.Generator().manual_seed(zlib.crc32(spec.name.encode()))
            made.append(torch.randn(shape, generator=random).to(dtype))
        else:
            made.append(torch.ones(shape, dtype=dtype))
    return made


def run(adapter: Adapter, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> Leaves:
    """What the network returns at `sizes`.

    Raises:
        UsageError: it fails there, with the line of the user's code and the shapes it was fed.
        UnsupportedError: it returns something else than tensors.
    """
    try:
        with torch.no_grad():
            return adapter.leaves(example(inputs, sizes))
    except EdgekitError:
        raise
    except Exception as error:
        fed = ", ".join(f"{spec.name} {spec.dtype}{list(spec.at(sizes))}" for spec in inputs)
        raise UsageError(
            f"{type(adapter.network).__name__} fails when fed {fed}: {blamed(error)}",
            "correct the sizes and types in --input, or the network",
        ) from error


def outputs_of(adapter: Adapter, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Names, shapes and types of everything the network returns, in its own order.

    An axis is a number, or the name of the input's dimension that it always equals, or else
    `OUTPUT.AXIS` where it changes in another way.

    Raises:
        UsageError: the network fails at sizes within the ranges.
        UnsupportedError: it is not a function of its inputs, or its outputs change in rank or number.
    """
    base = base_sizes(inputs)
    first = run(adapter, inputs, base)
    _refuse_random(adapter, first, run(adapter, inputs, base))
    changed: dict[str, tuple[int, Leaves]] = {}
    for dim, bounds in ranges_of(inputs).items():
        size = _other(dim, base[dim], bounds)
        if size != base[dim]:
            changed[dim] = (size, _run_other(adapter, inputs, base, dim, size))
            _refuse_other_form(adapter, first, changed[dim][1], dim, size)
    return tuple(
        TensorSpec(name, _shape(name, place, tensor, base, changed), _type(name, tensor))
        for place, (name, tensor) in enumerate(first)
    )


def _run_other(adapter: Adapter, inputs: Sequence[TensorSpec], base: Sizes, dim: str, size: int) -> Leaves:
    try:
        return run(adapter, inputs, {**base, dim: size})
    except UsageError as error:
        raise UsageError(
            f"{error.message}, though it takes {dim} {base[dim]}",
            f"give {dim!r} a range in which every size works, or one fixed size",
        ) from error


def _refuse_random(adapter: Adapter, first: Leaves, again: Leaves) -> None:
    for (name, one), (_, other) in zip(first, again, strict=True):
        if one.shape != other.shape or not torch.allclose(
            one.double(), other.double(), rtol=_SAME, atol=_SAME, equal_nan=True
        ):
            raise UnsupportedError(
                f"{type(adapter.network).__name__} gives another {name!r} for the same input",
                "F.dropout needs training=self.training; a state that the module keeps must become an "
                "input and an output (--state), and noise an input",
            )


def _refuse_other_form(adapter: Adapter, first: Leaves, other: Leaves, dim: str, size: int) -> None:
    before = [(name, tensor.dim()) for name, tensor in first]
    after = [(name, tensor.dim()) for name, tensor in other]
    if before != after:
        raise UnsupportedError(
            f"{type(adapter.network).__name__} returns {_form(before)}, but {_form(after)} at {dim} {size}",
            f"return the same tensors at every size, or fix {dim!r}",
        )


def _form(leaves: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} with {rank} dimensions" for name, rank in leaves)


def _shape(
    name: str, place: int, tensor: Tensor, base: Sizes, changed: Mapping[str, tuple[int, Leaves]]
) -> tuple[int | str, ...]:
    shape: list[int | str] = []
    for axis, size in enumerate(tensor.shape):
        others = {dim: leaves[place][1].shape[axis] for dim, (_, leaves) in changed.items()}
        moved = [dim for dim, other in others.items() if other != size]
        equal = len(moved) == 1 and (size, others[moved[0]]) == (base[moved[0]], changed[moved[0]][0])
        shape.append((moved[0] if equal else f"{name}.{axis}") if moved else int(size))
    return tuple(shape)


def _type(name: str, tensor: Tensor) -> str:
    if tensor.dtype is torch.bfloat16:
        raise UnsupportedError(
            f"the output {name!r} is bfloat16, which NumPy does not have", "return it with .float()"
        )
    return str(tensor.dtype).removeprefix("torch.")
