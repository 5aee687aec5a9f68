"""Every pair of tensors of two graphs, on all feeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.runtime.proof import Parity
from edgekit.spec import Progress
from edgekit.steps._layers.activations import Array, Feeds, Portions
from edgekit.steps._layers.causes import Investigation
from edgekit.steps._layers.match import Pair

_MASK, _SATURATED = -1e9, -3e4


class Compared:
    """The sums of a comparison."""

    def __init__(self) -> None:
        self.own: dict[str, Parity] = {}
        self.read: dict[str, dict[str, Parity]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.alone: dict[str, None] = {}

    def add(self, pair: Pair, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> None:
        """One pair on one feed. Integers and sequences are left out."""
        expected = ours[pair.tensor]
        if not isinstance(expected, np.ndarray) or not np.issubdtype(expected.dtype, np.floating):
            return
        self.shapes.setdefault(pair.tensor, expected.shape)
        if not pair.twin:
            self.alone[pair.node.name or pair.tensor] = None
            return
        _add(self.own.setdefault(pair.tensor, Parity()), expected, theirs[pair.twin])
        for name in pair.read:
            sums = self.read.setdefault(pair.tensor, {})
            _add(sums.setdefault(name, Parity()), expected, theirs[name])


def _add(parity: Parity, expected: Array, found: Array) -> None:
    """Without what stands for minus infinity in an attention mask: half precision ends much earlier."""
    if expected.shape == found.shape:
        masked = ~np.isfinite(expected) | ((expected <= _MASK) & (found <= _SATURATED))
        if masked.any():
            expected, found = expected[~masked], found[~masked]
    parity.add({"": expected}, {"": found})


def compare(
    graphs: Investigation, every: Sequence[Pair], feeds: Sequence[Feeds], progress: Progress
) -> Compared:
    """All pairs on all feeds, so many tensors at a time that they fit into memory."""
    found = Compared()
    portions = Portions(every)
    for part in portions:
        names = [name for pair in part for name in (pair.twin, *pair.read) if name]
        ours = graphs.reference.evaluator([pair.tensor for pair in part])
        theirs = graphs.engine.evaluator(list(dict.fromkeys(names)))
        for feed in feeds:
            exact, engine = ours(feed), theirs(feed)
            portions.took(exact, engine)
            for pair in part:
                found.add(pair, exact, engine)
        progress("comparing layers", portions.done, len(every))
    return found


def sqnr_of(parity: Parity) -> float:
    """NaN where the reference is 0 everywhere and the engine is not: there is no ratio."""
    without_signal = parity.rel_l2 == math.inf and math.isfinite(parity.max_abs)
    return math.nan if without_signal else parity.sqnr_db
