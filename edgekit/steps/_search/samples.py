"""Samples to calibrate on, samples to judge a plan by, and samples to prove it on: never the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.spec import Dataset, Recipe, Sample
from edgekit.steps.load import Network, samples

if TYPE_CHECKING:
    import numpy as np

MOST = 512
"""Samples that a plan is judged by, at most."""
LABELLED, UNLABELLED = 3, 4
"""One in so many samples of a user's own is held back for the search."""


class Subset:
    """Some samples of a data set, in the order given."""

    def __init__(self, data: Dataset, indices: Sequence[int]) -> None:
        self._data, self._indices = data, [int(index) for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> Sample:
        return self._data[self._indices[index]]

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """`learning` calibrates, `judging` decides between plans, `proving` is what the report is made on."""

    learning: Dataset
    judging: Dataset
    proving: Dataset
    notes: tuple[str, ...] = ()


def split(recipe: Recipe, network: Network) -> Splits:
    """The samples of a recipe's network, parted by its seed."""
    learning, proving = samples(recipe, "calibration", network), samples(recipe, "test", network)
    if recipe.own is None:
        judging = samples(recipe, "validation", network)
        some = _shuffled(len(judging), recipe.seed)[:MOST]
        return Splits(learning=learning, judging=Subset(judging, sorted(some)), proving=proving)
    if network.task is not None and "test" in recipe.folders:
        some, rest = _parted(len(proving), LABELLED, recipe.seed)
        note = f"the plan was chosen on {len(some)} samples of --data, and is proved on the other {len(rest)}"
        if rest:
            return Splits(
                learning=learning,
                judging=Subset(proving, some),
                proving=Subset(proving, rest),
                notes=(note,),
            )
    some, rest = _parted(len(learning), UNLABELLED, recipe.seed)
    if not rest:
        said = "there is one calibration sample: the plan is chosen on the sample that it was calibrated on"
        return Splits(learning=learning, judging=learning, proving=proving, notes=(said,))
    return Splits(learning=Subset(learning, rest), judging=Subset(learning, some), proving=proving)


def _parted(count: int, one_in: int, seed: int) -> tuple[list[int], list[int]]:
    """One in `one_in` indices, at least one and at most MOST, and the others, both in order."""
    order = _shuffled(count, seed)
    share = min(max(count // one_in, 1), MOST)
    return sorted(order[:share]), sorted(order[share:])


def _shuffled(count: int, seed: int) -> list[int]:
    import numpy as np

    order: np.ndarray = np.random.default_rng(seed).permutation(count)
    return [int(index) for index in order]
