"""What half precision costs: which operators stay in float32, and what happens to the constants."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from edgekit.targets._plan.graph import words

LOW = {"fp16": "float16", "bf16": "bfloat16"}
LARGEST = 65504.0
"""The largest finite fp16."""
SMALLEST_NORMAL = 2.0**-14
"""Below it fp16 loses bits."""
SMALLEST = 2.0**-24
"""The smallest fp16 above 0."""
NEGLIGIBLE = 2.0**-11
"""What fp16 rounds away beside 1."""

DELICATE = words(
    # Sums over many elements: the partial sum leaves the range or loses the small terms.
    "LayerNormalization InstanceNormalization GroupNormalization RMSNormalization LpNormalization "
    "MeanVarianceNormalization LRN ReduceMean ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceProd "
    "ReduceLogSum ReduceLogSumExp GlobalLpPool LpPool CumSum CumProd "
    # Results beyond 65504 for moderate inputs, or arguments whose rounding is amplified.
    "Pow Exp Log LogSoftmax Softplus Mish Sinh Cosh Tan Sin Cos "
    # Coordinates: fp16 has 11 bits, fewer than the columns of a wide image.
    "GridSample RoiAlign Range NonMaxSuppression AffineGrid DeformConv "
    # Signals, and what TensorRT does not take in half precision.
    "DFT STFT MelWeightMatrix HannWindow HammingWindow BlackmanWindow Det Multinomial "
    "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceMap SplitToSequence "
    "ConcatFromSequence Optional OptionalGetElement OptionalHasElement"
)
"""Stays in float32. Softmax, Erf, Gelu, Sigmoid and Tanh do not: their results are bounded. Nor do
convolutions, products and average pools, which the kernels accumulate in more bits."""

FOLLOWS = words(
    "Add Sub Mul Div Sqrt Neg Abs Max Min Clip Reciprocal Floor Ceil Round Mod Identity Reshape Squeeze "
    "Unsqueeze Transpose Concat Slice Gather Expand"
)
"""Stays in float32 where all that it reads comes from what stays: no cast in the middle of a variance."""

TYPELESS = words("Cast Shape Size IsNaN IsInf")
"""Takes its input in whatever type it has: the result is of another."""


class Notes:
    """What has to be said about a cast, gathered while it is made."""

    def __init__(self, low: str) -> None:
        self.low = low
        self.kept: Counter[str] = Counter()
        self.clamped: list[str] = []
        self.flushed: list[str] = []
        self.coarse: list[str] = []

    def sentences(self) -> list[str]:
        said = [f"float32 -> {self.low}; inputs and outputs stay float32"]
        if self.kept:
            kept = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kept.items()))
            said.append(f"kept in float32: {kept}")
        for names, what in (
            (self.clamped, f"values beyond {LARGEST:.0f} clamped in"),
            (self.flushed, f"values too small for {self.low} became 0 in"),
            (self.coarse, f"scales too small for {self.low}, so their Q/DQ stay float32:"),
        ):
            if names:
                said.append(f"{what} {', '.join(sorted(set(names)))}")
        return said

    def lowered(self, name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A constant in the low type; what it loses is noted."""
        import ml_dtypes

        if self.low == "bfloat16":
            return array.astype(ml_dtypes.bfloat16)
        finite = np.isfinite(array)
        if (finite & (np.abs(array) > LARGEST)).any():
            self.clamped.append(name)
            array = np.where(finite, np.clip(array, -LARGEST, LARGEST), array)
        made = array.astype(np.float16)
        if _lost(array, made):
            self.flushed.append(name)
        return made


def _lost(array: np.ndarray[Any, Any], made: np.ndarray[Any, Any]) -> bool:
    """Whether what became 0 was not small beside the largest value of the tensor."""
    gone = np.abs(array[(made == 0) & (array != 0)])
    return bool(gone.size) and bool(gone.max() > NEGLIGIBLE * np.abs(array).max())
