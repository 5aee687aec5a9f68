"""What a search measures once: the ranges on calibration samples, and the reference's answers on others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit import recipe as recipes
from edgekit import registry
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Artifact, Build, Progress, Recipe
from edgekit.steps import describe
from edgekit.steps._calibration import feeds_from
from edgekit.steps._search.candidate import Form, recipe_for
from edgekit.steps._search.judge import Judge
from edgekit.steps._search.samples import split
from edgekit.steps._search.sensitivity import Switched
from edgekit.steps.compile import target_of
from edgekit.steps.load import Network
from edgekit.steps.prove import limits_of, reference_session

NOTHING = "no layer of this graph can become int8"
RECURRENT = ("LSTM", "GRU", "RNN")
BY_DEFAULT = "LSTM"
"""The recurrent layer that a search considers; GRU and RNN are int8 only where a plan says so."""


class Ground:
    """A network, its float graph, and all that plans for it are made and judged by.

    `layers` are those that a plan may quantize; without any, only floating precisions can be searched.
    """

    def __init__(
        self, network: Network, graph: Artifact, recipe: Recipe, scratch: Path, progress: Progress
    ) -> None:
        import onnx

        self.network, self.graph, self.scratch, self.progress = network, graph, scratch, progress
        self.recipe = replace(recipe, precision="int8")
        self.target, options = target_of(recipe.target, recipe.board, recipe.device, "int8")
        _refuse_without_int8(self.target, recipe)
        self.rests = _rests(self.target, options)
        self.device: str = options.device
        self.method = registry.load("method", recipe.quantization.name)
        registry.require(self.method.REQUIRES)
        self.splits = split(recipe, network)
        self.feeds = feeds_from(network, self.splits.learning, progress)
        self.model = onnx.load(graph.path)
        self.measured = self.method.measure(self.model, self.feeds, self.options())
        self.layers = self._layers()
        self.costs = {name: float(one.macs) for name, one in self.layers.items()}
        self.judge = self._judge()

    @property
    def limits(self) -> Mapping[str, float]:
        """The parity limits of int8."""
        return limits_of(self.recipe)

    def options(self, **others: Any) -> Any:
        """The method's options, with others laid over them."""
        form = Form(precision="int8", method=others)
        return recipes.options_of(self.method, recipe_for(self.recipe, form).quantization)

    def is_recurrent(self, layer: str) -> bool:
        """Whether a layer is an LSTM, GRU or RNN, or is in the body of a loop."""
        return self.layers[layer].op_type in RECURRENT or self.layers[layer].repeated

    def switched(self, method: Mapping[str, Any], seconds: float) -> Switched:
        """The network with a switch at each layer, which can be tried on in so many seconds."""
        made = self.method.switches(self.model, self._known(method), self.options(**method))
        found = Switched(made, {name: limit for name, limit in self.limits.items() if "rel_l2" in name})
        found.look_at(self.feeds, seconds)
        return found

    def quantized(self, plan: Mapping[str, str], method: Mapping[str, Any], path: Path) -> Artifact:
        """The int8 graph of a plan and of the method's options, written to `path`."""
        import onnx

        options = self.options(**method)
        onnx.save(self.method.quantize(self.model, self._known(method), plan, options), path)
        return replace(self.graph, path=path, sha256=sha256_of(path))

    @cached_property
    def smoothed(self) -> Any:
        """What is measured once outlying channels have been moved into weights; None where none are."""
        if self.measured.factors or not hasattr(self.method, "smoothed"):
            return None
        found = self.method.smoothed(self.model, self.feeds, self.measured)
        return found if found.factors else None

    def _known(self, method: Mapping[str, Any]) -> Any:
        """What was measured of the graph that the method's options begin with."""
        return self.smoothed if method.get("smooth") else self.measured

    def _layers(self) -> dict[str, Any]:
        """Every layer that may be int8: what gains by it, LSTMs, and what loops hold."""
        never = getattr(self.target, "FLOAT_LAYERS", ())
        found = {
            name: one
            for name, one in self.method.candidates(self.model, self.options(), self.measured).items()
            if (one.default or one.repeated or one.op_type == BY_DEFAULT) and one.op_type not in never
        }
        if not found and not (self.recipe.search and self.recipe.search.any_precision):
            raise UnsupportedError(NOTHING, "use --precision fp32, fp16 or bf16")
        return found

    def _judge(self) -> Judge:
        planned = Build(engine=None, settings={"device": self.device})
        manifest = describe.manifest(self.recipe, self.network, self.graph, planned, {}, self.scratch)
        with reference_session(self.network, manifest) as reference:
            return Judge(self.network, self.recipe, self.splits.judging, reference, self.progress)


def _rests(target: Any, options: Any) -> tuple[str, ...]:
    """What the float layers of an int8 engine may run in; the recipe's own choice stands alone."""
    if not hasattr(options, "rest"):
        return ("",)
    rests: tuple[str, ...] = target.rests(options) if hasattr(target, "rests") else (str(options.rest),)
    return rests


def _refuse_without_int8(target: Any, recipe: Recipe) -> None:
    if "int8" not in target.PRECISIONS:
        raise UnsupportedError(
            f"the target {recipe.target.name} does not run int8",
            f"one of {', '.join(target.PRECISIONS)}, or another target",
        )
