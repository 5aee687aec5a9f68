"""One layer in the comparison of two graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

JUMP_DB = 6.0
"""A jump: the error's power relative to the signal's grows at least fourfold at one node, ..."""
GOOD_DB = 40.0
"""... counted from 40 dB where what comes in is better than that. Rounding to int8 costs so much
anywhere, and the first quantized layer of every network, whose input is exact, would be a jump."""
COLUMNS = ("depth", "module", "node", "op", "SQNR dB", "as read", "came in", "jump dB", "max abs", "cause")


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One tensor of the network, compared over all feeds.

    `rel_l2`, `sqnr_db` and `max_abs` as in `runtime/proof.py`; SQNR is infinite where nothing differs,
    minus infinite where the engine's graph gives NaN or infinity, and NaN where the reference is all 0.
    `read_sqnr_db` is what the next layers get, behind a Q/DQ pair; None without one. `came_in_db` is
    the worst SQNR of what the node reads before any Q/DQ pair, `jump_db` how much worse its result is.
    `culprit` is `activation quantization`, `weight quantization`, `activation and weight
    quantization`, `cast`, `amplification`, or empty where the engine's graph changes nothing.
    `export_rel_l2` is the float graph's own difference to PyTorch where the tensor leaves a module.
    """

    node: str
    op_type: str
    module: str
    tensor: str
    depth: int
    rel_l2: float
    sqnr_db: float
    max_abs: float
    came_in_db: float
    read_sqnr_db: float | None = None
    culprit: str = ""
    cause: str = ""
    export_rel_l2: float | None = None

    @property
    def jump_db(self) -> float:
        """How much of the SQNR is lost at this node."""
        same = self.came_in_db == self.sqnr_db or math.isnan(self.sqnr_db)
        return 0.0 if same else self.came_in_db - self.sqnr_db

    @property
    def jumps(self) -> bool:
        """Whether the error jumps here, by `JUMP_DB` and `GOOD_DB`."""
        return self.fall_db >= JUMP_DB

    @property
    def fall_db(self) -> float:
        """As `jump_db`, but counted from `GOOD_DB` where what comes in is better than that."""
        good = min(self.came_in_db, GOOD_DB)
        return 0.0 if good == self.sqnr_db or math.isnan(self.sqnr_db) else good - self.sqnr_db

    @property
    def place(self) -> str:
        """The module, or the node where the graph names none."""
        return self.module or self.node

    @property
    def where(self) -> str:
        """The module, the ONNX node and its operator."""
        return f"{self.place} (node {self.node}, {self.op_type})"

    @property
    def title(self) -> str:
        """One line about it."""
        read = "" if self.read_sqnr_db is None else f", as read {words(self.read_sqnr_db)}"
        cause = f": {self.culprit}" if self.culprit else ""
        return f"{self.node} ({self.op_type}): {words(self.sqnr_db)}{read}{cause}"

    def cells(self) -> tuple[str, ...]:
        """What stands under `COLUMNS`."""
        read = "" if self.read_sqnr_db is None else _db(self.read_sqnr_db)
        jump = f"{self.jump_db:.1f}" if math.isfinite(self.jump_db) else _db(self.jump_db)
        numbers = (_db(self.sqnr_db), read, _db(self.came_in_db), jump, f"{self.max_abs:.3g}")
        return (str(self.depth), self.module, self.node, self.op_type, *numbers, self.culprit)

    def told(self) -> dict[str, Any]:
        """Plain data: null for what is infinite or NaN; `rel_l2` tells exact (0) from broken (null)."""
        numbers = {
            name: _finite(getattr(self, name))
            for name in (
                "rel_l2",
                "sqnr_db",
                "max_abs",
                "came_in_db",
                "jump_db",
                "read_sqnr_db",
                "export_rel_l2",
            )
        }
        names = {name: getattr(self, name) for name in ("node", "op_type", "module", "tensor", "depth")}
        return {**names, **numbers, "jumps": self.jumps, "culprit": self.culprit, "cause": self.cause}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _db(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "broken")


def words(value: float) -> str:
    """An SQNR as it stands in a sentence."""
    if math.isfinite(value):
        return f"{value:.1f} dB"
    return "exact" if value > 0 else "infinite or NaN values"
