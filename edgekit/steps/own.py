"""A user's own network and data, made to look like the built-in ones to every later step."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.data._arrays import batch_axis, too_few
from edgekit.data._arrays import load_own as load_data
from edgekit.recipe import OBJECT
from edgekit.runtime.errors import BadFileError, EdgekitError, UnsupportedError, UsageError
from edgekit.runtime.manifest import Labels, State, TensorSpec
from edgekit.sources import factory, graph, hub, program
from edgekit.spec import Dataset, Found, Own, Recipe, Sample
from edgekit.steps._answers import detection_of, labels_of
from edgekit.tasks._own import OwnTask, own_task

if TYPE_CHECKING:
    import torch

    from edgekit.steps.load import Network

FEW = 16
"""Samples that are looked at to infer what was not said."""

NO_DATA = "no data was given: parity is measured on random inputs, and accuracy is not measured"
NO_TEST = "no --data was given: parity is measured on the calibration samples, accuracy is not measured"
NO_METRIC = "no --metric was given: accuracy is not measured"


def takes(model: str) -> bool:
    """Whether MODEL is a user's own network: a factory, a program or a graph, or what is refused as one."""
    mine = any(source.takes(model) for source in (factory, program, graph, hub))
    return mine or program.refusal(model) is not None


def load(recipe: Recipe, own: Own) -> Network:
    """The network that `own` names, with its weights, and all that is known of it.

    Raises:
        UsageError: it cannot be imported, the inputs cannot be inferred, or what is said of its outputs
            is not so.
        BadFileError: a file is not what it claims, or the weights do not fit.
        UnsupportedError: the network cannot be taken.
    """
    from edgekit.steps.load import Network

    _refuse(own)
    seen = _any_data(recipe, own)
    found = _found(own, recipe.weights, [] if seen is None else _few(seen), getattr(seen, "names", ()))
    detection = detection_of(own, found)
    labels = labels_of(own, found, detection) or _labels(recipe, own)
    return Network(
        module=found.module,
        graph=found.graph,
        inputs=found.inputs,
        outputs=found.outputs,
        states=found.states,
        preprocess=own.preprocess,
        labels=labels,
        detection=detection,
        task=_task(own, labels),
        weights_sha256=found.sha256,
        notes=(*found.notes, *_told(seen), *_data_notes(recipe, own)),
    )


def _refuse(own: Own) -> None:
    if own.module is not None:
        return
    if own.source.startswith(OBJECT):
        raise UsageError(
            f"the network {own.source.removeprefix(OBJECT)} was handed over in Python and is not here",
            "prove the bundle by itself: python run.py check; or compile from module:function",
        )
    if refusal := program.refusal(own.source):
        raise refusal


def absence(recipe: Recipe, error: EdgekitError) -> EdgekitError | None:
    """Why the user's network could not be made again, when it failed with `error`; None: it could be.

    A file of data or weights that is gone, or weights that are others, says nothing of the network.
    """
    own = recipe.own
    if own is None or not isinstance(error, BadFileError):
        return error if own else None
    try:
        _refuse(own)
        if factory.takes(own.source):
            factory.make(own)
    except (UsageError, UnsupportedError) as cause:
        return cause
    is_file = graph.takes(own.source) or program.takes(own.source)
    return error if is_file and not Path(own.source).exists() else None


def _found(own: Own, weights: Path | None, few: Sequence[Sample], names: Sequence[str]) -> Found:
    if own.module is not None or factory.takes(own.source):
        module = factory.make(own) if own.module is None else copy.deepcopy(own.module)
        return factory.describe(own, _weighted(module, weights), few, names)
    if hub.takes(own.source):
        module = hub.make(own, pretrained=weights is None)
        return hub.describe(own, _weighted(module, weights), few, names)
    if program.takes(own.source):
        return program.load(own, weights, few)
    return graph.load(own, weights, _stateless(own, few, names))


def _stateless(own: Own, few: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """The samples without the states among their arrays: a graph says itself what those are."""
    states = {name for name, _ in own.states}
    kept = [place for place in range(len(names)) if names[place] not in states]
    if not states or not names:
        return list(few)
    return [Sample(tuple(sample.inputs[place] for place in kept), sample.target) for sample in few]


def _weighted(module: torch.nn.Module, weights: Path | None) -> torch.nn.Module:
    if weights is not None:
        from edgekit.steps._weights import load_weights

        load_weights(module, weights)
    return module


def samples(recipe: Recipe, own: Own, split: str, network: Network) -> Dataset:
    """One split of the user's data; without any, random inputs to compare engines on.

    Raises:
        UsageError: calibration samples are needed, and there are none.
        BadFileError: a file cannot be read, or does not fit the inputs.
    """
    place = recipe.folders.get(split)
    if place is None and split == "calibration":
        raise UsageError(
            "int8 needs samples to calibrate on, and none were given",
            "give --calibration: an .npz with one array per input, or a folder of .npz feeds or images",
        )
    place = place or recipe.folders.get("calibration")
    if place is None:
        return RandomSamples(network.inputs, recipe.seed)
    return load_data(place, network.inputs, network.states, own.preprocess)


def _any_data(recipe: Recipe, own: Own) -> Any:
    place = recipe.folders.get("calibration") or recipe.folders.get("test")
    return None if place is None else load_data(place, *_parted(own), own.preprocess)


def _parted(own: Own) -> tuple[tuple[TensorSpec, ...], tuple[State, ...]]:
    """The inputs that data must hold, and the declared states, which it may."""
    outputs = dict(own.states)
    specs = _said_or_declared(own)
    inputs = tuple(spec for spec in specs if spec.name not in outputs)
    hidden = tuple(State(spec.name, outputs[spec.name], spec.shape) for spec in specs if spec.name in outputs)
    return inputs, hidden


def _said_or_declared(own: Own) -> tuple[TensorSpec, ...]:
    """The inputs as the user says them; of an ONNX file that takes arrays, the others as it has them."""
    by_file = own.module is None and own.preprocess is None and graph.takes(own.source)
    return graph.data_inputs(own) if by_file else own.inputs


def _few(data: Dataset) -> list[Sample]:
    """Samples from the whole of the data, and those of the smallest and largest sizes."""
    step = max(len(data) // FEW, 1)
    places = [*range(0, len(data), step)[:FEW], *getattr(data, "extremes", ())]
    return [data[index] for index in sorted(set(places))]


def _told(data: Any) -> tuple[str, ...]:
    """What the data is, and what is odd about it."""
    return () if data is None else tuple(said for said in (data.described, too_few(data)) if said)


def _labels(recipe: Recipe, own: Own) -> Labels | None:
    """The classes of a folder of images, when the metric is about classes."""
    place = recipe.folders.get("test")
    classes: Sequence[str] = ()
    if place is not None and own.preprocess is not None and own.metric in ("accuracy", "top5"):
        classes = getattr(load_data(place, (), (), own.preprocess), "classes", ()) or ()
    return Labels(tuple(classes)) if classes else None


def _task(own: Own, labels: Labels | None) -> OwnTask | None:
    return own_task(own.metric, own.folder, labels) if own.metric else None


def _data_notes(recipe: Recipe, own: Own) -> tuple[str, ...]:
    if "test" in recipe.folders:
        return () if own.metric else (NO_METRIC,)
    return (NO_TEST,) if "calibration" in recipe.folders else (NO_DATA,)


class RandomSamples:
    """Seeded samples to compare engines on, nothing else: normal numbers; of integers, 0 and 1."""

    def __init__(self, inputs: Sequence[TensorSpec], seed: int, count: int = FEW) -> None:
        self._inputs, self._seed, self._count = inputs, seed, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return Sample(tuple(self._array(spec, index) for spec in self._inputs), None)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""

    def _array(self, spec: TensorSpec, index: int) -> Any:
        import numpy as np

        random = np.random.default_rng((self._seed, index, zlib.crc32(spec.name.encode())))
        shape = spec.at({dim: self._size(spec, dim, index) for dim in spec.dynamic})
        axis = batch_axis(spec)
        shape = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            return random.standard_normal(shape).astype(spec.dtype)
        numbers = random.integers(0, 2, shape).astype(spec.dtype)
        if numbers.ndim:
            numbers[..., :1] = 1  # a mask that hides everything makes NaN of attention
        return numbers

    def _size(self, spec: TensorSpec, dim: str, index: int) -> int:
        """Sizes from the smallest up to eight times that, within the range."""
        low, high = spec.ranges.get(dim, (1, FEW))
        high = min(high, 8 * max(low, 8))
        return low + (high - low) * index // max(self._count - 1, 1)
