"""Are two runners the same, and how fast is one? Plain functions over arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .decode import decode
from .errors import BadFileError
from .manifest import BOXES, Labels

GOLDEN = "golden.npz"
"""The file of a bundle that holds real inputs and what PyTorch made of them."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One measured value and the limit it must keep; `limit` None is a measurement without a gate."""

    name: str
    value: float
    limit: Optional[float] = None
    unit: str = ""
    at_least: bool = False
    """The limit is a lower bound."""

    @property
    def passed(self) -> bool:
        """Whether the limit holds. NaN never passes."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def told(self) -> Dict[str, Any]:
        """As it stands in `report.json`."""
        return {
            "name": self.name,
            "value": self.value if math.isfinite(self.value) else None,
            "limit": self.limit,
            "unit": self.unit,
            "bound": "min" if self.at_least else "max",
            "passed": self.passed,
        }


class Parity:
    """The difference between a reference and a target, summed over any number of calls.

    Relative L2 is ||target - reference|| / ||reference||; SQNR is the same in decibels,
    10 log10(||reference||^2 / ||target - reference||^2). Outputs of integers and truth values are
    counted instead: the share of their values that are equal.
    """

    def __init__(self, labels: Optional[Labels] = None) -> None:
        self.max_abs = 0.0
        self.same = 0
        self.answers = 0
        self._labels = None if labels is not None and labels.decoder == BOXES else labels
        self._sums: Dict[str, List[float]] = {}
        self._counts: Dict[str, List[int]] = {}

    def add(self, reference: Feeds, target: Feeds) -> None:
        """Compare the outputs of one call; the first output is the one that is decoded."""
        for position, (name, expected) in enumerate(reference.items()):
            self._add_array(name, expected, target[name])
            if position == 0 and self._labels is not None:
                self._add_answers(decode(expected, self._labels), decode(target[name], self._labels))

    def _add_array(self, name: str, expected: np.ndarray, found: np.ndarray) -> None:
        if expected.dtype.kind in "iub":
            counts = self._counts.setdefault(name, [0, 0])
            if expected.shape == found.shape:
                counts[0] += int((expected == found).sum()) if expected.size else 1
            counts[1] += max(expected.size, 1)
            return
        sums = self._sums.setdefault(name, [0.0, 0.0])
        if expected.shape != found.shape or not np.isfinite(found).all():
            self.max_abs = sums[0] = math.inf
            return
        difference = found.astype(np.float64) - expected.astype(np.float64)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))
        sums[0] += float((difference**2).sum())
        sums[1] += float((expected.astype(np.float64) ** 2).sum())

    def _add_answers(self, expected: Sequence[Any], found: Sequence[Any]) -> None:
        self.answers += len(expected)
        self.same += sum(one == other for one, other in zip(expected, found))

    @property
    def rel_l2(self) -> float:
        """Relative L2 error over all outputs of floats; infinite for another shape, NaN or infinity."""
        return self._over(self._sums)

    def _over(self, names: Iterable[str]) -> float:
        """The relative L2 error of some outputs together."""
        sums = [self._sums[name] for name in names]
        return _relative(sum(noise for noise, _ in sums), sum(signal for _, signal in sums))

    @property
    def by_output(self) -> Dict[str, float]:
        """The relative L2 error of each output by itself: a small one hides behind a large one otherwise."""
        return {name: _relative(*sums) for name, sums in self._sums.items()}

    @property
    def equal_by_output(self) -> Dict[str, float]:
        """The share of equal values of each output of integers or truth values."""
        return {name: same / total for name, (same, total) in self._counts.items()}

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; infinite when there is no difference."""
        error = self.rel_l2
        return -20 * math.log10(error) if error else math.inf

    @property
    def agreement(self) -> float:
        """Share of decoded answers that are equal."""
        return self.same / self.answers if self.answers else math.nan

    def checks(
        self, limits: Mapping[str, float], prefix: str = "parity", answers: bool = True
    ) -> List[Check]:
        """The checks, `prefix.rel_l2` and so on, against `limits`.

        Keys of `limits`: `rel_l2` and `agreement`, and `rel_l2.NAME` for an output with a limit of
        its own, which `rel_l2` then leaves out; of integers that is the share that may differ.
        `answers` False measures the decoded answers without a gate.
        """
        found = [*self._errors(limits, prefix), *self._equalities(limits, prefix)]
        if self.answers:
            limit = limits.get("agreement") if answers else None
            found.append(Check(prefix + ".agreement", self.agreement, limit, "", at_least=True))
        return found

    def _errors(self, limits: Mapping[str, float], prefix: str) -> List[Check]:
        if not self._sums:
            return []
        own = {name: limits["rel_l2." + name] for name in self._sums if "rel_l2." + name in limits}
        common = [name for name in self._sums if name not in own]
        limit = limits.get("rel_l2")
        found = [
            Check(prefix + ".rel_l2", self._over(common or self._sums), limit if common else None),
            Check(prefix + ".max_abs", self.max_abs),
            Check(prefix + ".sqnr", self.sqnr_db, None, "dB", at_least=True),
        ]
        if own or len(self._sums) > 1:
            for name, error in self.by_output.items():
                found.append(Check("{}.rel_l2.{}".format(prefix, name), error, own.get(name, limit)))
        return found

    def _equalities(self, limits: Mapping[str, float], prefix: str) -> List[Check]:
        found = []
        for name, share in self.equal_by_output.items():
            own = limits.get("rel_l2." + name)
            limit = limits.get("agreement") if own is None else 1.0 - own
            found.append(Check("{}.agreement.{}".format(prefix, name), share, limit, "", at_least=True))
        return found


def _relative(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return math.sqrt(noise / signal) if signal else math.inf


def paired_drop(reference: np.ndarray, target: np.ndarray) -> Tuple[float, float, float]:
    """How much worse the target scores on the same samples, with the 95% interval of that drop.

    `reference` and `target` are one score per sample, shape (N,). For right-or-wrong scores the
    interval is that of Agresti and Min (2005, Statistics in Medicine 24), which adds half a sample
    to each cell of the paired table and so stays honest when no answer differs; for other scores it
    is the normal interval of the mean of the differences.
    """
    differences = reference.astype(np.float64) - target.astype(np.float64)
    drop = float(differences.mean())
    count = len(differences)
    if set(np.unique(np.concatenate([reference, target])).tolist()) <= {0.0, 1.0}:
        worse, better = float((differences > 0).sum()) + 0.5, float((differences < 0).sum()) + 0.5
        total = count + 2.0
        centre = (worse - better) / total
        half = 1.96 * math.sqrt(max(worse + better - (worse - better) ** 2 / total, 0.0)) / total
    else:
        centre = drop
        half = 1.96 * float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return drop, centre - half, centre + half


def summary(milliseconds: Sequence[float], batch: int = 1) -> Dict[str, float]:
    """p50, p90 and p99 in ms, and samples per second at that mean."""
    times = np.asarray(milliseconds, np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    throughput = batch * 1000.0 / float(times.mean())
    return {
        "p50_ms": round(p50, 4),
        "p90_ms": round(p90, 4),
        "p99_ms": round(p99, 4),
        "throughput": round(throughput, 2),
        "calls": len(times),
    }


def save_pairs(path: Path, inputs: Sequence[Feeds], outputs: Sequence[Feeds] = ()) -> None:
    """Keep feeds, and what the reference made of them, in one `.npz`."""
    arrays = {}
    for kind, group in (("input", inputs), ("output", outputs)):
        for index, named in enumerate(group):
            arrays.update({"{}/{:04d}/{}".format(kind, index, name): array for name, array in named.items()})
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_pairs(path: Path) -> Tuple[List[Dict[str, np.ndarray]], List[Dict[str, np.ndarray]]]:
    """The feeds and the reference's outputs of `save_pairs`.

    Raises:
        BadFileError: the file is missing, cut short or something else.
    """
    groups: Dict[str, Dict[int, Dict[str, np.ndarray]]] = {"input": {}, "output": {}}
    try:
        with np.load(str(path), allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, index, name = key.split("/", 2)
                groups[kind].setdefault(int(index), {})[name] = arrays[key]
    except Exception as error:  # NumPy raises whatever zipfile, zlib and struct raise
        raise BadFileError(
            "{} holds no recorded inputs and outputs: {}".format(path, error), "compile the bundle again"
        ) from error
    return [groups["input"][i] for i in sorted(groups["input"])], [
        groups["output"][i] for i in sorted(groups["output"])
    ]
