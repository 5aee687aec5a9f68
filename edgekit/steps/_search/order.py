"""Which layers go back to float first, and how few of them do. Plain functions over names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Keeps = Callable[[Sequence[str]], bool]
"""Whether the budget holds with these layers in float."""


def worst_first(errors: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """The layers, most error for the least work first.

    The errors of layers that are quantized alone add up nearly as independent noise does, in squares;
    so the square of a layer's error over the multiplications it costs in float is what its retreat gains.
    """
    return sorted(errors, key=lambda layer: (-(errors[layer] ** 2) / max(costs.get(layer, 0.0), 1.0), layer))


def fewest(order: Sequence[str], keeps: Keeps) -> int | None:
    """The least count of layers, from the front of `order`, that must be float; None if all are too few.

    Halves the interval, as more layers in float do not make the error larger but for its noise.
    """
    if keeps(order[:0]):
        return 0
    low, high = 0, len(order)
    if not keeps(order[:high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(order[:middle]) else (middle, high)
    return high


def taken_back(floats: Sequence[str], costs: Mapping[str, float], keeps: Keeps) -> list[str]:
    """The layers of `floats` that must stay float: the others, dearest first, are quantized after all."""
    kept = list(floats)
    for layer in sorted(floats, key=lambda layer: (-costs.get(layer, 0.0), layer)):
        rest = [one for one in kept if one != layer]
        if keeps(rest):
            kept = rest
    return kept


def narrowed(start: int, most: int, keeps: Callable[[int], bool]) -> int | None:
    """The least count from `start` to `most` that keeps the budget; None if `most` does not.

    Steps double until one keeps it, then the interval is halved: each trial is an engine that is built.
    """
    low, high, step = start - 1, start, 1
    while not keeps(high):
        if high >= most:
            return None
        low, high, step = high, min(high + step, most), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
