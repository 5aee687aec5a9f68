"""From a histogram of magnitudes to the one that the largest int8 code stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CALIBRATORS = ("minmax", "percentile", "mse", "entropy")
BINS = 4096
LEVELS = 127
_KL_BINS = 2048
_KL_LEVELS = 128
_KL_STEP = 16


def threshold(counts: Array, top: float, largest: float, method: str, percentile: float) -> float:
    """The magnitude to clip at. `counts` cover 0..`top`; `largest` was the largest seen.

    `minmax` takes `largest`; `percentile` what so many percent stay below; `mse` what gives the least
    squared error of rounding and clipping (Nagel et al., A White Paper on Neural Network Quantization,
    arXiv 2106.08295, section 3.1.2); `entropy` what gives the least Kullback-Leibler divergence between
    the distributions before and after (Migacz, 8-bit Inference with TensorRT, GTC 2017).
    """
    choices: dict[str, Callable[[Array], float]] = {
        "percentile": lambda known: _by_percentile(known, percentile),
        "mse": _by_error,
        "entropy": _by_entropy,
    }
    if method not in choices or not largest:
        return largest
    return min(top * choices[method](counts), largest)


def _by_percentile(counts: Array, percentile: float) -> float:
    share = np.cumsum(counts) / counts.sum()
    return float(np.searchsorted(share, percentile / 100) + 1) / BINS


def _by_error(counts: Array) -> float:
    centres = (np.arange(BINS) + 0.5) / BINS
    end = (int(np.flatnonzero(counts)[-1]) + 1) / BINS
    shares = np.linspace(0.15, 1.0, 86) * end
    errors = [float(counts @ (centres - _rounded(centres, share)) ** 2) for share in shares]
    return float(shares[int(np.argmin(errors))])


def _rounded(values: Array, top: float) -> Array:
    step = top / LEVELS
    rounded: Array = np.minimum(np.round(values / step), LEVELS) * step
    return rounded


def _by_entropy(counts: Array) -> float:
    """Values next to zero are left out: after a ReLU they would drown all others."""
    histogram = counts.reshape(_KL_BINS, -1).sum(1).astype(np.float64)
    histogram[0] = histogram[1]
    ends = range(_KL_LEVELS, _KL_BINS + 1, _KL_STEP)
    divergences = [_divergence(histogram, end) for end in ends]
    return ends[int(np.argmin(divergences))] / _KL_BINS


def _divergence(histogram: Array, end: int) -> float:
    """KL(P || Q): P is the histogram clipped at `end`, Q the same in `_KL_LEVELS` levels."""
    clipped = histogram[:end].copy()
    filled = clipped > 0
    starts = np.arange(_KL_LEVELS) * end // _KL_LEVELS
    sums, members = np.add.reduceat(clipped, starts), np.add.reduceat(filled.astype(float), starts)
    widths = np.diff(np.append(starts, end))
    quantized = np.repeat(sums / np.maximum(members, 1), widths) * filled
    clipped[-1] += histogram[end:].sum()
    if not quantized.sum() or not clipped.sum():
        return np.inf
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    smallest = 1e-9
    return float((p * np.log(np.maximum(p, smallest) / np.maximum(q, smallest))).sum())
