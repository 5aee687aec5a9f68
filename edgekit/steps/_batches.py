"""Samples in batches, made in background processes, and a network's score on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.decode import answers
from edgekit.runtime.manifest import Detection, Labels, TensorSpec
from edgekit.spec import Dataset, Sample, TaskPlugin

if TYPE_CHECKING:
    import torch

POOL = 16
"""Batches that are sorted by size together, so that lines of similar width share a batch."""
BATCH_OF_EQUALS = 64

Batch = tuple[tuple[np.ndarray, ...], list[Any]]
Collate = Callable[[Sequence[Sample]], Batch]


def batches(
    dataset: Dataset, collate: Collate, *, batch: int, steps: range, seed: int, workers: int = 0
) -> Iterator[Batch]:
    """The batches of the given steps; the same ones whatever the number of workers and the first step."""
    whole = steps.start // POOL * POOL
    stream = _Stream(dataset, seed, whole * batch, steps.stop * batch)
    pools = _loader(stream, batch * POOL, _Pooled(collate, batch), workers)
    yield from islice(_mixed(pools, seed, whole), steps.start - whole, None)


def _mixed(pools: Iterable[list[Batch]], seed: int, first: int) -> Iterator[Batch]:
    """The batches of pools, the first of which begins at the step `first`."""
    for number, pool in enumerate(pools):
        order = np.random.default_rng((seed, first + number * POOL)).permutation(len(pool))
        yield from (pool[index] for index in order)


def gather(dataset: Dataset, workers: int = 0) -> list[Sample]:
    """All samples of a split, in order."""
    stream = _Stream(dataset, None, 0, len(dataset))
    return [sample for part in _loader(stream, BATCH_OF_EQUALS, list, workers) for sample in part]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a network's outputs are read: what they are called, the labels, and for a detector its boxes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: Labels
    detection: Detection | None = None

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Any]:
        """One answer per sample."""
        named = {spec.name: array for spec, array in zip(self.outputs, outputs, strict=False)}
        return answers(named, self.labels, self.detection, size_of(self.inputs))


def size_of(inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Height and width of the first input where it is an image of fixed size, else zeros."""
    fixed = [dim for dim in inputs[0].shape[-2:] if isinstance(dim, int)]
    return (fixed[0], fixed[1]) if len(fixed) == 2 else (0, 0)


def evaluate(
    module: torch.nn.Module, samples: Sequence[Sample], task: TaskPlugin, reading: Reading
) -> list[Any]:
    """The network's answer to every sample, in order, computed in float32.

    Only samples of equal shape share a batch, so that nothing is padded that deployment does not pad.
    """
    import torch

    module.eval()
    device = next(module.parameters()).device
    found: list[Any] = [None] * len(samples)
    for indices in _equals(samples):
        inputs, _ = task.collate([samples[index] for index in indices])
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(array).to(device) for array in inputs))
        told = outputs if isinstance(outputs, tuple) else (outputs,)
        for index, answer in zip(indices, reading([one.float().cpu().numpy() for one in told]), strict=True):
            found[index] = answer
    return found


def _equals(samples: Sequence[Sample]) -> Iterator[list[int]]:
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[tuple(array.shape for array in sample.inputs)].append(index)
    for members in groups.values():
        for first in range(0, len(members), BATCH_OF_EQUALS):
            yield members[first : first + BATCH_OF_EQUALS]


class _Stream:
    """All epochs of a data set in one row, each epoch shuffled (not when `seed` is None)."""

    def __init__(self, dataset: Dataset, seed: int | None, first: int, last: int) -> None:
        self.dataset, self.seed, self.first, self.last = dataset, seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, position: int) -> Sample:
        epoch, index = divmod(self.first + position, len(self.dataset))
        if self.seed is None:
            return self.dataset[index]
        self.dataset.set_epoch(epoch)
        return self.dataset[int(_order(self.seed, epoch, len(self.dataset))[index])]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


class _Pooled:
    """Sort some batches' worth of samples by size and cut them into batches."""

    def __init__(self, collate: Collate, batch: int) -> None:
        self.collate, self.batch = collate, batch

    def __call__(self, samples: list[Sample]) -> list[Batch]:
        ordered = sorted(samples, key=lambda sample: sum(array.size for array in sample.inputs))
        return [
            self.collate(ordered[first : first + self.batch]) for first in range(0, len(ordered), self.batch)
        ]


def _loader(stream: _Stream, size: int, collate: Callable[[list[Sample]], Any], workers: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(stream, batch_size=size, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]
