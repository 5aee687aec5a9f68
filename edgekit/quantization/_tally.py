"""What one tensor was like on all samples so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from edgekit.quantization._thresholds import BINS

Array = np.ndarray[Any, Any]
_COUNTED = 2**16


class Tally:
    """What one tensor was like so far: bounds, a histogram of magnitudes, and its channels.

    The histogram covers 0..`top` in `BINS` equal parts; `top` doubles whenever a larger value comes, so
    that one pass is enough. Of a large tensor it counts every n-th value, others in every sample.
    """

    def __init__(self, axes: Iterable[int] = ()) -> None:
        self.low, self.high = np.inf, -np.inf
        self.top = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self.means: dict[int, Array] = {axis: np.zeros(()) for axis in axes}
        """By axis: the mean of each channel."""
        self.peaks: dict[int, Array] = {axis: np.zeros(()) for axis in axes}
        """By axis: the largest magnitude of each channel."""
        self._elements = 0

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return float(max(abs(self.low), abs(self.high)))

    @property
    def is_constant(self) -> bool:
        """Whether every value of every sample was the same."""
        return bool(self.low == self.high)

    def add(self, values: Array, sample: int) -> bool:
        """Count one sample in; False, and nothing is counted, if a value is NaN or infinite."""
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        stride = max(1, values.size // _COUNTED) | 1
        self._count(np.abs(values.reshape(-1)[sample % stride :: stride]), max(-low, high))
        for axis in self.means:
            self._add_channels(values, axis)
        self._elements += values.size
        return True

    def _count(self, magnitudes: Array, largest: float) -> None:
        self.top = self.top or largest
        while self.top < largest:
            self.top *= 2
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
        if self.top:
            places = np.minimum(magnitudes * np.float32(BINS / self.top), BINS - 1).astype(np.int32)
        else:
            places = np.zeros(magnitudes.size, np.int32)
        self.counts += np.bincount(places, minlength=BINS)

    def _add_channels(self, values: Array, axis: int) -> None:
        others = tuple(index for index in range(values.ndim) if index != axis % values.ndim)
        share = values.size / (self._elements + values.size)
        mean = values.mean(others, dtype=np.float64)
        self.means[axis] = self.means[axis] + share * (mean - self.means[axis])
        self.peaks[axis] = np.maximum(self.peaks[axis], np.abs(values).max(others))
