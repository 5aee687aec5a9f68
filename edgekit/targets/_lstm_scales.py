"""The scales that OpenVINO's int8 LSTM layers must have in common, chosen for the least error.

OpenVINO 2026.4.1 takes the scale of W for R too, that of X for h, and those of one gate for another; and
of layers of the same shape it keeps one kernel, with the scales of the first. None of that is said: the
answer is wrong. So all layers of a shape get one scale for X and h, and one for each hidden unit of all
their weights. X may first be multiplied by a factor, and W divided by it, which costs nothing: X is
rounded in other steps than those that its codes then stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
GATES, LEVELS = 4, 127
_RESULT = 8.0
"""What rounding h does to the result itself, in units of what it does by way of one gate."""
_HALVES = 2.0 ** (-np.arange(0, 8.5, 0.5))
_DOUBLES = 2.0 ** np.arange(0, 4.5, 0.5)
_ROUNDS = 2


@dataclass(frozen=True)
class Layer:
    """W (directions, 4 * hidden, inputs) and R in float, the largest |X| and the largest |h|."""

    w: Array
    r: Array
    largest: float
    hidden: float

    @cached_property
    def units(self) -> tuple[Array, Array]:
        """The largest weight of each hidden unit, over its gates: of W and of R."""
        return units(self.w), units(self.r)

    @cached_property
    def energies(self) -> tuple[float, float]:
        """The mean over the gates of the squared length of their weights: of W and of R."""
        w, r = (float(np.square(each).sum(2).mean()) for each in (self.w, self.r))
        return w, r


@dataclass(frozen=True)
class Scales:
    """`factors`: what the X of each layer is multiplied by; `values`: the scale of X and h; `weights`:
    the scale of each row of W and R, (4 * hidden,)."""

    factors: tuple[float, ...]
    values: float
    weights: Array


def units(weight: Array) -> Array:
    """The largest magnitude of each hidden unit, over directions, gates and inputs."""
    found: Array = np.abs(weight).max((0, 2)).reshape(GATES, -1).max(0)
    return found


def common_scales(layers: Sequence[Layer]) -> Scales:
    """One set of scales for layers of the same shape.

    The variance that rounding adds to the gates is modelled, with X and h at a third of their ranges, and
    minimised over half powers of two, layer by layer.
    """
    least = max(layer.hidden for layer in layers)
    tried = [(top, _factors(layers, top)) for top in map(float, least * _DOUBLES)]
    top, factors = min(tried, key=lambda one: _noise(layers, one[1], one[0]))
    tops = _tops(layers, factors)
    weights = np.tile(np.where(tops > 0, tops / LEVELS, 1), GATES).astype(np.float32)
    return Scales(tuple(factors), top / LEVELS, weights)


def _factors(layers: Sequence[Layer], top: float) -> list[float]:
    """For each layer the best factor with which its X stays within `top`."""
    factors = [top / layer.largest for layer in layers]
    for _ in range(_ROUNDS if len(layers) > 1 else 1):
        for place, layer in enumerate(layers):
            tried = [
                [*factors[:place], float(top / layer.largest * half), *factors[place + 1 :]]
                for half in _HALVES
            ]
            factors = min(tried, key=lambda one: _noise(layers, one, top))
    return factors


def _tops(layers: Sequence[Layer], factors: Sequence[float]) -> Array:
    """The largest weight of each hidden unit, over all layers."""
    found: Array = np.max(
        [
            np.maximum(layer.units[0] / factor, layer.units[1])
            for layer, factor in zip(layers, factors, strict=True)
        ],
        axis=0,
    )
    return found


def _noise(layers: Sequence[Layer], factors: Sequence[float], top: float) -> float:
    """What rounding weights and values adds to the gates, up to a constant."""
    of_weights = float(np.square(_tops(layers, factors)).mean())
    total = 0.0
    for layer, factor in zip(layers, factors, strict=True):
        of_w, of_r = layer.energies
        x, h = factor * layer.largest / 3, layer.hidden / 3
        total += of_weights * (x * x * layer.w.shape[2] + h * h * layer.r.shape[2])
        total += top * top * (of_w / (factor * factor) + of_r + _RESULT)
    return total
