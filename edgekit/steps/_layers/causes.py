"""Why a node of an engine's graph differs: told by its structure, and measured where it matters.

Measured by running the node of the float graph alone with one thing replaced by what the engine has: its
inputs as they are quantized, its weights as they are quantized, or its inputs with the error they carry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.proof import Parity
from edgekit.steps._layers.activations import Array, Evaluator, Feeds, evaluator, typed
from edgekit.steps._layers.flow import Flow, subgraph
from edgekit.steps._layers.match import Pair
from edgekit.steps._layers.sight import about_cast, about_weight, quantizer_in, type_name
from edgekit.targets._plan.graph import bodies, reads, standard

if TYPE_CHECKING:
    import onnx

ACTIVATIONS = "activation quantization"
WEIGHTS = "weight quantization"
BOTH = "activation and weight quantization"
CAST = "cast"
AMPLIFICATION = "amplification"
"""The node makes the error of its inputs larger."""

_INTEGERS = {"int8", "uint8", "int4", "uint4", "int16", "uint16"}
_LESSER = 0.5
"""An error that is half as large, 6 dB, is not the cause."""
MOST = math.sqrt(0.5)
"""The share of an error that has half of its power."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The kind of a difference, and in words what is behind it."""

    kind: str
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair, the engine's nodes between its twin and the twins before it, and how much it differs."""

    pair: Pair
    section: Sequence[onnx.NodeProto]
    error: Parity


class Investigation:
    """Both graphs, and which tensor of one is which of the other."""

    def __init__(self, reference: Flow, engine: Flow, pairs: Iterable[Pair]) -> None:
        self.reference, self.engine = reference, engine
        self.twins = {name: name for name in reference.inputs}
        self.twins |= {pair.tensor: pair.twin for pair in pairs if pair.twin}
        self._border = set(self.twins.values())

    def case(self, pair: Pair, error: Parity) -> Case:
        """What belongs to one pair."""
        return Case(pair=pair, section=self.engine.section(pair.twin, self._border), error=error)

    def structure(self, case: Case) -> str:
        """The kind, as the graph shows it; empty where the engine does the same as the reference."""
        found = {mark for node in case.section for mark in self._marks(node)}
        if {ACTIVATIONS, WEIGHTS} <= found:
            return BOTH
        made = {name for node in case.section for name in node.output}
        return next(iter(found), CAST if made & self.engine.half.keys() else "")

    def _marks(self, node: onnx.NodeProto) -> set[str]:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return {ACTIVATIONS if node.output[0] in self.engine.live else WEIGHTS}
        if node.op_type == "DynamicQuantizeLinear":
            return {ACTIVATIONS}
        if any(inner.op_type == "DequantizeLinear" for body in bodies(node) for inner in body.node):
            return {ACTIVATIONS, WEIGHTS}
        integer = not standard(node) or "Integer" in node.op_type or node.op_type.startswith("QLinear")
        held = {type_name(self.engine, name) for name in node.input}
        return {ACTIVATIONS, WEIGHTS} if integer and held & _INTEGERS else set()

    def measure(self, case: Case, feeds: Iterable[Feeds]) -> Cause:
        """The cause of a difference that is worth the time."""
        kind = self.structure(case)
        try:
            trial = _Trial(self, case)
            for feed in feeds:
                trial.run(feed)
        except UnsupportedError:  # a node that does not run alone: the structure has to do
            return Cause(kind=kind)
        return trial.verdict(kind)


class _Trial:
    """One node of the float graph alone, with one thing replaced at a time."""

    def __init__(self, graphs: Investigation, case: Case) -> None:
        self.graphs, self.case = graphs, case
        reference, engine = graphs.reference, graphs.engine
        known = reference.makers.keys() | reference.initializers.keys() | set(reference.inputs)
        self.inputs = [name for name in dict.fromkeys(reads(case.pair.node)) if name in known]
        self.live = [name for name in self.inputs if name in reference.live]
        self.carried = {name: graphs.twins[name] for name in self.live if name in graphs.twins}
        self.weights, self.views = self._replaced()
        wanted = [name for name in (*self.inputs, case.pair.tensor) if name in reference.makers]
        theirs = [name for name in (*self.carried.values(), *self.weights.values()) if name in engine.makers]
        self._exact = reference.evaluator(list(dict.fromkeys(wanted)))
        self._found = engine.evaluator(list(dict.fromkeys(theirs)))
        self._alone: Evaluator | None = None
        self.alone = {kind: Parity() for kind in (ACTIVATIONS, WEIGHTS, AMPLIFICATION)}
        self.quantizers = {
            name: found
            for name, theirs in self.views.items()
            if (found := quantizer_in(engine, engine.section(theirs, {self.carried[name]}))) is not None
        }
        self._arrays: dict[str, tuple[Array, Array]] = {}
        self._peak = 0.0

    def _replaced(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the engine's node reads in place of the constants, and of the live inputs, of ours."""
        reference, engine = self.graphs.reference, self.graphs.engine
        weights, views = {}, {}
        for name, theirs in self._by_input():
            if name not in reference.live and theirs not in engine.live:
                weights[name] = theirs
            elif theirs != self.carried.get(name, theirs) and theirs in engine.live:
                views[name] = theirs
        return weights, views

    def _by_input(self) -> Iterator[tuple[str, str]]:
        node = self.case.pair.node
        alike = [other for other in self.case.section if other.op_type == node.op_type]
        if len(alike) == 1:
            both = zip(node.input, alike[0].input, strict=False)
            yield from ((ours, theirs) for ours, theirs in both if ours and theirs)

    def run(self, feed: Feeds) -> None:
        """Add one feed to what is known."""
        exact, found = {**feed, **self._exact(feed)}, {**feed, **self._found(feed)}
        given = {name: _value(self.graphs.reference, name, exact) for name in self.inputs}
        weights = {name: _value(self.graphs.engine, theirs, found) for name, theirs in self.weights.items()}
        views = {name: self._viewed(name, theirs, given[name]) for name, theirs in self.views.items()}
        carried = {name: found[theirs] for name, theirs in self.carried.items()}
        expected = exact[self.case.pair.tensor]
        for kind, replaced in ((ACTIVATIONS, views), (WEIGHTS, weights), (AMPLIFICATION, carried)):
            result = self._compute({**given, **replaced}) if replaced else expected
            self.alone[kind].add({"": expected}, {"": result})
        for name, quantizer in self.quantizers.items():
            quantizer.look(given[name])
        self._arrays = {name: (given[name], array) for name, array in weights.items()}
        self._peak = max(self._peak, float(np.abs(expected).max(initial=0.0)))

    def _viewed(self, name: str, theirs: str, exact: Array) -> Array:
        """An exact input through the Q/DQ pair that the engine has before its node."""
        runnable, border = self.graphs.engine.runnable, self.carried[name]
        chain = runnable.section(theirs, {border})
        model = subgraph(runnable, chain, [typed(border, exact)], [theirs])
        return evaluator(model, [theirs], runnable.path)({border: exact})[theirs]

    def _compute(self, inputs: Mapping[str, Array]) -> Array:
        name, reference = self.case.pair.tensor, self.graphs.reference.runnable
        if self._alone is None:
            nodes = reference.section(name, set(self.inputs))
            fed = [typed(key, value) for key, value in inputs.items()]
            self._alone = evaluator(subgraph(reference, nodes, fed, [name]), [name], reference.path)
        return self._alone(inputs)[name]

    def verdict(self, kind: str) -> Cause:
        """What the measurement says."""
        whole, carried = self.case.error.rel_l2, self.alone[AMPLIFICATION].rel_l2
        if not kind or (math.isfinite(whole) and carried >= MOST * whole):
            return Cause(kind=AMPLIFICATION, words="it makes the error of its inputs larger")
        if kind == CAST:
            half = self.graphs.engine.half
            made = (name for node in reversed(self.case.section) for name in node.output if name in half)
            return Cause(kind=CAST, words=about_cast(half[next(made)], self._peak))
        return self._quantized(kind)

    def _quantized(self, kind: str) -> Cause:
        inputs, weights = self.alone[ACTIVATIONS], self.alone[WEIGHTS]
        if kind == BOTH and weights.rel_l2 < _LESSER * inputs.rel_l2:
            kind = ACTIVATIONS
        elif kind == BOTH and inputs.rel_l2 < _LESSER * weights.rel_l2:
            kind = WEIGHTS
        said = []
        if kind != WEIGHTS:
            said += [f"its input {name} {quantizer.words()}" for name, quantizer in self.quantizers.items()]
        if kind != ACTIVATIONS:
            said += [self._about_weight(name) for name in self._arrays if self._differs(name)]
        if inputs.rel_l2 and weights.rel_l2:
            said.append(f"inputs alone leave {inputs.sqnr_db:.1f} dB, weights alone {weights.sqnr_db:.1f} dB")
        return Cause(kind=kind, words="; ".join(said))

    def _differs(self, name: str) -> bool:
        exact, found = self._arrays[name]
        return exact.shape == found.shape and not np.array_equal(exact, found)

    def _about_weight(self, name: str) -> str:
        engine = self.graphs.engine
        maker = engine.makers.get(self.weights[name])
        dequantizer = maker if maker is not None and maker.op_type == "DequantizeLinear" else None
        return about_weight(engine, dequantizer, name, *self._arrays[name])


def _value(flow: Flow, name: str, known: Mapping[str, Array]) -> Array:
    found = known[name] if name in known else flow.constant(name)
    if found is None:
        raise UnsupportedError(f"the value of {name} is unknown")
    half = found.dtype.name in ("float16", "bfloat16")
    return found.astype(np.float32) if half else found
