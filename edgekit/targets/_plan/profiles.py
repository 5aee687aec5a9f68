"""Optimization profiles: where TensorRT tunes an engine, and between which bounds it takes inputs.

One profile from the narrowest to the widest line makes an engine that is good at neither, so the
range of a dimension is cut into buckets that hold equally many of the samples seen.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from edgekit.runtime.plans.request import Profile
from edgekit.spec import Shapes

FREE_SIZES = (1, 1024)
BATCH = "batch"

Bounds = tuple[int, int, int]
"""Smallest, usual and largest size of one dimension."""


def profiles(
    shapes: Shapes, usual_batch: int, ranges: Mapping[str, tuple[int, int]], buckets: int
) -> tuple[dict[str, Profile], ...]:
    """One profile a bucket, the narrow ones first; none when no input has a dynamic dimension.

    Only one dimension beside the batch is cut: of several, no cut in one fits the others. `ranges`
    narrows what the inputs declare, and bounds what they leave open.
    """
    limits = limits_of(shapes, ranges)
    free = [dim for dim in limits if dim != BATCH]
    usual = {
        dim: _usual(dim, bounds, shapes.seen.get(dim, ()), usual_batch) for dim, bounds in limits.items()
    }
    if len(free) != 1:
        return (_profile(shapes, usual),) if limits else ()
    dim = free[0]
    cuts = _buckets(limits[dim], shapes.seen.get(dim, ()), buckets)
    return tuple(_profile(shapes, {**usual, dim: bucket}) for bucket in cuts)


def limits_of(shapes: Shapes, ranges: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Smallest and largest size of each dynamic dimension: what is declared, within `ranges`."""
    found = {}
    for spec in shapes.inputs:
        for dim in spec.dynamic:
            low, high = spec.ranges.get(dim, ranges.get(dim, FREE_SIZES))
            least, most = ranges.get(dim, (low, high))
            found[dim] = (max(low, least), min(high, most))
    return found


def _usual(dim: str, bounds: tuple[int, int], seen: Sequence[int], usual_batch: int) -> Bounds:
    low, high = bounds
    wanted = usual_batch if dim == BATCH else _median(seen) if seen else _middle(low, high)
    return low, min(max(wanted, low), high), high


def _buckets(bounds: tuple[int, int], seen: Sequence[int], count: int) -> list[Bounds]:
    """The range in at most `count` pieces that hold equally many of the sizes seen."""
    low, high = bounds
    known = sorted(size for size in seen if low <= size <= high)
    edges = sorted({known[len(known) * piece // count - 1] for piece in range(1, count)}) if known else []
    pieces = []
    start = low
    for edge in [*(edge for edge in edges if edge < high), high]:
        inside = known[bisect_left(known, start) : bisect_right(known, edge)]
        pieces.append((start, _median(inside) if inside else _middle(start, edge), edge))
        start = edge + 1
    return pieces


def _median(sizes: Sequence[int]) -> int:
    return sorted(sizes)[len(sizes) // 2]


def _middle(low: int, high: int) -> int:
    """The geometric mean: sizes are spread by their ratio, not by their difference."""
    return round(math.sqrt(low * high))


def _profile(shapes: Shapes, bounds: Mapping[str, Bounds]) -> dict[str, Profile]:
    def at(spec_place: int, place: int) -> tuple[int, ...]:
        return shapes.inputs[spec_place].at({dim: sizes[place] for dim, sizes in bounds.items()})

    return {
        spec.name: (at(number, 0), at(number, 1), at(number, 2))
        for number, spec in enumerate(shapes.inputs)
        if spec.dynamic
    }
