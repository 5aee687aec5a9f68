"""A recipe becomes a network with its weights, and the samples it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import cache, registry
from edgekit import recipe as recipes
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import Labels, Preprocess, State, TensorSpec, sha256_of
from edgekit.spec import Dataset, Recipe, Sample, TaskPlugin

if TYPE_CHECKING:
    import numpy as np
    import torch

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Network:
    """The reference: a PyTorch module in eval mode and everything that is said of it."""

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[State, ...]
    preprocess: Preprocess
    labels: Labels
    task: TaskPlugin
    weights_sha256: str


def load(recipe: Recipe) -> Network:
    """Build the recipe's architecture and put its weights in.

    Raises:
        UsageError: the recipe has no weights yet.
        BadFileError: the weights are missing, truncated, a pickle, of another architecture, or not finite.
        MissingPackageError: torch is not installed.
    """
    from edgekit.steps.train import load_weights

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
    labels = data.labels(data_options)
    outputs = model.outputs(options)
    if outputs[0].shape[-1] != len(labels.values):
        raise UsageError(
            f"{recipe.model.name} tells {outputs[0].shape[-1]} classes apart, {recipe.data.name} has "
            f"{len(labels.values)}",
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
        task=registry.load("task", recipe.task.name),
        weights_sha256=weights_sha256,
    )


def samples(recipe: Recipe, split: str) -> Dataset:
    """One split of the recipe's data; `--data` and `--calibration` folders take a split's place."""
    plugin = registry.load("data", recipe.data.name)
    options = recipes.options_of(plugin, recipe.data)
    if split in recipe.folders:
        from edgekit.data._folder import load_folder

        return load_folder(recipe.folders[split], plugin.preprocess(options), plugin.labels(options))
    found: Dataset = plugin.load(split, options, cache.folder())
    return found


def feeds_of(network: Network, sample: Sample) -> dict[str, np.ndarray]:
    """A batch of one: the arrays of a sample under their inputs' names, and the initial states."""
    arrays = zip(network.inputs, sample.inputs, strict=True)
    return {**{spec.name: array[None] for spec, array in arrays}, **initial_states(network.states)}


def initial_states(states: tuple[State, ...]) -> dict[str, np.ndarray]:
    """The hidden states before the first call, for a batch of one."""
    import numpy as np

    return {
        state.input: np.full(
            [1 if isinstance(dim, str) else dim for dim in state.shape], state.init, "float32"
        )
        for state in states
    }


def refuse_graph(path: Path) -> None:
    """Say what is wrong with an ONNX file, or that a bare one is not a MODEL yet.

    Raises:
        BadFileError: the file is missing or is no ONNX model.
        UnsupportedError: it is one.
    """
    if not path.is_file():
        raise BadFileError(f"{path} does not exist", "give the path of an ONNX file")
    registry.require(("onnx",))
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadFileError(f"{path} is not an ONNX model: {reason}", "export it again") from error
    raise UnsupportedError(
        f"{path} is a bare ONNX file: this version compiles recipes and built-in models",
        "write a recipe for its PyTorch network; `edgekit list recipes` shows examples",
    )
