"""A recipe becomes a network with its weights, and the samples it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, registry
from edgekit import recipe as recipes
from edgekit.data._array_checks import batch_axis
from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import (
    Detection,
    Labels,
    Preprocess,
    State,
    TensorSpec,
    Words,
    sha256_of,
    with_states,
)
from edgekit.spec import DataPlugin, Dataset, ModelPlugin, Recipe, Sample, TaskPlugin

if TYPE_CHECKING:
    import numpy as np
    import torch

    from edgekit.tasks._own import OwnTask

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Network:
    """The reference: a PyTorch module in eval mode and everything that is said of it.

    `module` is None for a bare ONNX file: `graph` is then its path, and ONNX Runtime in float32 the
    reference. A user's own network may come without preprocessing, labels and metric; `notes` say
    what was inferred.
    """

    module: torch.nn.Module | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[State, ...]
    preprocess: Preprocess | None
    labels: Labels | None
    task: TaskPlugin | OwnTask | None
    weights_sha256: str
    graph: Path | None = None
    detection: Detection | None = None
    words: Words | None = None
    notes: tuple[str, ...] = ()


def load(recipe: Recipe) -> Network:
    """Build the recipe's architecture and put its weights in.

    Raises:
        UsageError: the recipe has no weights yet, or has a limit for an output that is not there.
        BadFileError: the weights are missing, truncated, a pickle, of another architecture, or not finite.
        MissingPackageError: torch is not installed.
    """
    network = _load(recipe)
    names = [*(spec.name for spec in network.outputs), *(state.output for state in network.states)]
    if strange := [name for name in recipe.limits.outputs if name not in names]:
        raise UsageError(
            f"there is a limit for the output {strange[0]!r}, which {recipe.name} does not have",
            f"its outputs: {', '.join(names)}",
        )
    return network


def _load(recipe: Recipe) -> Network:
    from edgekit.steps.train import load_weights

    if recipe.own is not None:
        from edgekit.steps import own

        return own.load(recipe, recipe.own)
    registry.require(("torch", "safetensors"))
    weights = weights_file(recipe)
    module = build(recipe)
    load_weights(module, weights)
    return describe(recipe, module.eval(), sha256_of(weights))


def weights_file(recipe: Recipe) -> Path:
    """The file that the recipe's weights are in."""
    if recipe.weights is None:
        raise UsageError(
            f"the recipe {recipe.name} has no weights yet",
            f"train them with `edgekit train {recipe.name}`, or give --weights FILE.safetensors",
        )
    if not recipe.weights.is_file():
        raise BadFileError(
            f"the weights {recipe.weights} do not exist",
            f"train them with `edgekit train {recipe.name}`, or give --weights FILE.safetensors",
        )
    return recipe.weights


def build(recipe: Recipe) -> torch.nn.Module:
    """The architecture of a recipe with fresh weights."""
    plugin = registry.load("model", recipe.model.name)
    module: torch.nn.Module = plugin.build(recipes.options_of(plugin, recipe.model))
    return module


def describe(recipe: Recipe, module: torch.nn.Module, weights_sha256: str) -> Network:
    """Put beside a module what its recipe says of it."""
    model = registry.load("model", recipe.model.name)
    options = recipes.options_of(model, recipe.model)
    data = registry.load("data", recipe.data.name)
    data_options = recipes.options_of(data, recipe.data)
    task = registry.load("task", recipe.task.name)
    labels = labels_of(task, data, data_options)
    outputs, detection = model.outputs(options), detection_of(model, options)
    classes = _classes(outputs, labels, detection)
    if classes != len(labels.values):
        raise UsageError(
            f"{recipe.model.name} tells {classes} classes apart, {recipe.data.name} has {len(labels.values)}",
            f"set model.options.classes to {len(labels.values)}",
        )
    states = model.states(options) if recipe.export.states and hasattr(model, "states") else ()
    if recipe.export.states and not states:
        raise UsageError(f"{recipe.model.name} has no hidden states", "leave export.states out")
    return Network(
        module=module,
        inputs=model.inputs(options),
        outputs=outputs,
        states=states,
        preprocess=data.preprocess(data_options),
        labels=labels,
        task=task,
        weights_sha256=weights_sha256,
        detection=detection,
        words=words_of(data, data_options, model_options=options),
    )


def labels_of(task: TaskPlugin, data: DataPlugin, options: Any) -> Labels:
    """The data's labels, read by the task's decoder."""
    return replace(data.labels(options), decoder=task.DECODER)


def detection_of(model: ModelPlugin, options: Any) -> Detection | None:
    """How a detector's outputs become boxes; None for another network."""
    return model.detection(options) if hasattr(model, "detection") else None


def words_of(data: DataPlugin, options: Any, model_options: Any) -> Words | None:
    """How a text becomes ids; None where the input is no text.

    Raises:
        UsageError: the network was made for another number of ids.
    """
    words: Words | None = data.words(options, cache.folder()) if hasattr(data, "words") else None
    known = getattr(model_options, "tokens", 0)
    if words is not None and known < words.ids:
        raise UsageError(
            f"the data's texts have {words.ids} different ids, and the network knows {known}",
            f"set model.options.tokens to {words.ids}",
        )
    return words


def _classes(outputs: Sequence[TensorSpec], labels: Labels, detection: Detection | None) -> int | str:
    """How many classes the outputs tell apart."""
    if labels.decoder == "binary":
        return 2 if outputs[0].shape[-1] == 1 else outputs[0].shape[-1]
    if detection is None:
        return outputs[0].shape[-1]
    scores = next(spec for spec in outputs if spec.name == (detection.scores or detection.boxes))
    return scores.shape[-2 if detection.layout == "columns" else -1]


def samples(recipe: Recipe, split: str, network: Network) -> Dataset:
    """One split of the recipe's data; `--data` and `--calibration` folders take a split's place."""
    if recipe.own is not None:
        from edgekit.steps import own

        return own.samples(recipe, recipe.own, split, network)
    plugin = registry.load("data", recipe.data.name)
    options = recipes.options_of(plugin, recipe.data)
    if split in recipe.folders:
        return _read(plugin, recipe.folders[split], options, network)
    found: Dataset = plugin.load(split, options, cache.folder())
    return found


def _read(plugin: DataPlugin, place: Path, options: Any, network: Network) -> Dataset:
    """A user's own data, by the data set's own reader, or else labelled texts or images."""
    from edgekit.data._folder import load_folder
    from edgekit.data._texts import load_texts

    if hasattr(plugin, "read"):
        own: Dataset = plugin.read(place, options)
        return own
    if network.words is not None and network.labels is not None:
        return load_texts(place, network.words, network.labels)
    if network.preprocess is None or network.labels is None:
        raise UsageError(f"{place}: this data set cannot be read from a folder", "leave --data out")
    return load_folder(place, network.preprocess, network.labels)


def feeds_of(network: Network, *group: Sample) -> dict[str, np.ndarray]:
    """A batch of samples of equal shape: the arrays under their inputs' names, and the hidden states."""
    import numpy as np

    feed = stacked(network.inputs, group)
    hidden = with_states(network.inputs, (), network.states)[0][len(network.inputs) :]
    sizes = sizes_of(network.inputs, feed)
    for spec, state in zip(hidden, network.states, strict=True):
        axis = batch_axis(spec)
        one = {dim: 1 if dim == "batch" else sizes.get(dim, 1) for dim in spec.dynamic}
        begin = np.full(spec.at(one), state.init, spec.dtype)
        values = [_batched(sample.states.get(spec.name), axis, begin) for sample in group]
        feed[spec.name] = values[0] if axis is None else np.concatenate(values, axis)
    return feed


def _batched(value: np.ndarray | None, axis: int | None, begin: np.ndarray) -> np.ndarray:
    """The given state with a batch axis; without one the initial state."""
    import numpy as np

    if value is None:
        return begin
    return value if axis is None else np.expand_dims(value, axis)


def sizes_of(inputs: Sequence[TensorSpec], feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes that a feed gives to the dynamic dimensions."""
    return {
        dim: size
        for spec in inputs
        for dim, size in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }


def stacked(inputs: Sequence[TensorSpec], group: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The inputs alone of such a batch; one without a batch axis is taken as it is."""
    import numpy as np

    return {
        spec.name: group[0].inputs[place]
        if batch_axis(spec) is None
        else np.stack([sample.inputs[place] for sample in group], batch_axis(spec) or 0)
        for place, spec in enumerate(inputs)
    }
