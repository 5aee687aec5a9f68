"""Is a plan good enough? The reference's answers are computed once, then anything is held against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.runtime.proof import Check, Parity
from edgekit.runtime.session import Session
from edgekit.spec import Dataset, Progress, Recipe, silent
from edgekit.steps import _metric
from edgekit.steps.load import Network, feeds_of
from edgekit.steps.prove import answers_of, batches, grid, largest_batch, limits_of

if TYPE_CHECKING:
    import numpy as np

Feeds = Mapping[str, "np.ndarray"]
Infer = Callable[[Feeds], Mapping[str, "np.ndarray"]]

SIZES = 12
"""Combinations of sizes that a plan is judged at, of those in the report's grid."""
MARGIN = 0.95
"""What of a limit a plan may use up on the samples it is chosen by: other samples differ a little."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far something is from the reference, and whether that is within the limits."""

    rel_l2: float
    checks: tuple[Check, ...]
    drop: float | None = None

    @property
    def keeps(self) -> bool:
        """Whether every limit holds, with room to spare."""
        return all(map(_within, self.checks))

    @property
    def miss(self) -> float:
        """The largest share of a limit that is used up; above 1 a limit is broken."""
        return max((_used(check) for check in self.checks if check.limit is not None), default=0.0)


NOTHING = Verdict(rel_l2=float("inf"), checks=(Check("parity.rel_l2", float("inf"), 0.0),))
"""The verdict on what could not be built."""


def _within(check: Check) -> bool:
    if check.limit is None or check.at_least:
        return check.passed
    return check.value <= MARGIN * check.limit


def _used(check: Check) -> float:
    limit = check.limit or 0.0
    if check.at_least:
        return (1 - check.value) / max(1 - limit, 1e-9)
    return check.value / max(limit, 1e-9)


class Judge:
    """Holds runners against the reference on samples that nothing was calibrated on.

    Feeds and the reference's outputs are kept: a search asks for them again and again.
    """

    def __init__(
        self, network: Network, recipe: Recipe, data: Dataset, reference: Session, progress: Progress = silent
    ) -> None:
        self._network, self._recipe = network, recipe
        self._pairs: list[tuple[Feeds, Feeds, int]] = []
        self._answers: list[Any] = []
        self._targets: list[Any] = []
        self.count = len(data)
        for group in batches(data, largest_batch(reference.manifest)):
            feed = feeds_of(network, *group)
            expected = reference.infer(feed)
            self._pairs.append((feed, expected, len(group)))
            self._targets += [sample.target for sample in group]
            if network.task is not None:
                self._answers += answers_of(network, expected, len(group))
            progress("the reference on samples held back", len(self._targets), len(data))
        sizes = list(grid(network, data, reference.manifest))
        some = sizes[:: max(len(sizes) // SIZES, 1)]
        self._grid: list[tuple[Feeds, Feeds]] = [(feed, reference.infer(feed)) for feed in some]

    @property
    def judged(self) -> bool:
        """Whether there is a metric and something to measure it by."""
        return self._network.task is not None and self._targets[0] is not None

    def __call__(self, infer: Infer, precision: str = "int8") -> Verdict:
        """What `infer` comes to on all samples, against the limits of its precision."""
        limits = limits_of(replace(self._recipe, precision=precision))
        difference = Parity(self._network.labels)
        found: list[Any] = []
        for feed, expected, count in self._pairs:
            outputs = infer(feed)
            difference.add(expected, outputs)
            if self.judged:
                found += answers_of(self._network, outputs, count)
        checks = [*difference.checks(limits), *self._other_sizes(infer, limits)]
        if not self.judged:
            return Verdict(rel_l2=difference.rel_l2, checks=tuple(checks))
        drop = self._lost(found)
        return Verdict(
            rel_l2=difference.rel_l2,
            checks=(*checks, Check("accuracy.drop", drop, self._recipe.limits.max_drop)),
            drop=drop,
        )

    def _other_sizes(self, infer: Infer, limits: Mapping[str, float]) -> list[Check]:
        """The report is held to its limits at sizes that no sample has, so a plan must be too."""
        found = Parity()
        for feed, expected in self._grid:
            found.add(expected, infer(feed))
        return found.checks(limits, "parity.grid", answers=False)

    def _lost(self, found: list[Any]) -> float:
        task = self._network.task
        if task is None:
            raise TypeError("a metric without a task")
        before, after = (_metric.value(task, said, self._targets) for said in (self._answers, found))
        return before - after
