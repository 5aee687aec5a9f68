"""What rounding and cutting does to the values of the reference, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.steps._layers.activations import Array
from edgekit.steps._layers.flow import Flow
from edgekit.targets._plan.graph import input_of, setting

if TYPE_CHECKING:
    import onnx

HALF_RANGE = {"float16": 65504.0}


class Quantizer:
    """A QuantizeLinear node with one scale, and what its range does to the exact values."""

    def __init__(self, kind: str, scale: float, low: float, high: float) -> None:
        self.kind, self.scale, self.low, self.high = kind, scale, low, high
        self._count = self._cut = 0
        self._power = self._lost = 0.0
        self._bottom, self._top = math.inf, -math.inf

    def look(self, values: Array) -> None:
        """Take in the exact values of one feed."""
        exact = values.astype(np.float64)
        inside = exact.clip(self.low, self.high)
        self._count += exact.size
        self._cut += int((np.abs(exact - inside) > self.scale / 2).sum())
        self._power += float((exact**2).sum())
        self._lost += float(((exact - inside) ** 2).sum())
        self._bottom = min(self._bottom, float(exact.min(initial=math.inf)))
        self._top = max(self._top, float(exact.max(initial=-math.inf)))

    def words(self) -> str:
        """Whether values are cut off, or the steps are coarse."""
        said = f"is quantized to {self.kind} with a range of {self.low:.3g} to {self.high:.3g}"
        if self._lost > self._count * self.scale**2 / 12:  # more than rounding costs
            share = self._cut / max(self._count, 1)
            return (
                f"{said} but runs from {self._bottom:.3g} to {self._top:.3g}: "
                f"{share:.1%} of its values are cut off"
            )
        typical = math.sqrt(self._power / max(self._count, 1))
        return f"{said}, in steps of {self.scale:.3g}, and its RMS is {typical:.3g}"


def quantizer_in(engine: Flow, chain: Sequence[onnx.NodeProto]) -> Quantizer | None:
    """The first quantizer of activations in a chain of nodes; None if it has none with one scale."""
    node = next(
        (one for one in chain if one.op_type == "QuantizeLinear" and one.output[0] in engine.live), None
    )
    scale = engine.constant(node.input[1]) if node is not None else None
    if node is None or scale is None or scale.size != 1:
        return None
    zero = engine.constant(input_of(node, 2))
    kind = type_name(engine, input_of(node, 2)) or "uint8"
    low, high = _code_range(kind)
    step, start = float(scale.reshape(())), 0 if zero is None else int(zero.reshape(()))
    return Quantizer(kind, step, (low - start) * step, (high - start) * step)


def about_weight(
    engine: Flow, dequantizer: onnx.NodeProto | None, name: str, exact: Array, found: Array
) -> str:
    """How a weight is quantized; with one scale for all, how much of it that wipes out."""
    scale = None if dequantizer is None else engine.constant(input_of(dequantizer, 1))
    if dequantizer is None or scale is None:
        return f"its weight {name} is changed"
    kind = type_name(engine, dequantizer.input[0])
    if scale.size > 1:
        return f"its weight {name} is quantized to {kind} per channel"
    gone = float(((exact != 0) & (found == 0)).sum() / max(np.count_nonzero(exact), 1))
    return (
        f"its weight {name} is quantized to {kind} with one scale for all, in steps of "
        f"{float(scale.reshape(())):.3g}: {gone:.0%} of it becomes 0"
    )


def about_cast(kind: str, peak: float) -> str:
    """An overflow, or just the type."""
    limit = HALF_RANGE.get(kind, math.inf)
    if peak > limit:
        return f"it is computed in {kind}, which ends at {limit:.0f}, but its result reaches {peak:.3g}"
    return f"it is computed in {kind}"


def type_name(flow: Flow, name: str) -> str:
    """The element type of a constant; empty where the tensor is none."""
    from onnx import TensorProto

    tensor = flow.initializers.get(name)
    if tensor is None and name in flow.makers:
        held = setting(flow.makers[name], "value")
        tensor = held if isinstance(held, TensorProto) else None
    return "" if tensor is None else str(TensorProto.DataType.Name(tensor.data_type)).lower()


def _code_range(kind: str) -> tuple[int, int]:
    bits = int(kind.lstrip("uint"))
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
