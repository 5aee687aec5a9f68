"""Where an error comes from that a node only makes larger.

One channel may outweigh all others, so that the error of the others is not seen in the tensor's SQNR
until a later layer reads them. So one layer before the node at a time is run as the engine has it, on
exact inputs, and the float graph goes on from its result to the node.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.proof import Parity
from edgekit.steps._layers.activations import Array, Evaluator, Feeds, evaluator, typed
from edgekit.steps._layers.causes import AMPLIFICATION, MOST, Case, Investigation
from edgekit.steps._layers.flow import subgraph
from edgekit.steps._layers.match import Pair

TRIED = 12
"""Layers looked at, the nearest first."""


def origin(graphs: Investigation, case: Case, pairs: Sequence[Pair], feeds: Sequence[Feeds]) -> Pair | None:
    """The layer that alone brings most of the error; None where many do."""
    best, largest = None, MOST * case.error.rel_l2
    for pair in _before(graphs, case.pair, pairs):
        try:
            share = _brought(graphs, pair, case.pair.tensor, feeds)
        except UnsupportedError:  # a part that does not run alone is not judged
            continue
        if share >= largest:
            best, largest = pair, share
    return best


def _before(graphs: Investigation, pair: Pair, pairs: Sequence[Pair]) -> list[Pair]:
    """The layers that lead to a node and that the engine has in another form."""
    leading = {name for node in graphs.reference.section(pair.tensor, ()) for name in node.output}
    found = [
        one
        for one in reversed(pairs)
        if one.twin and one.depth < pair.depth and one.tensor in leading
        if graphs.structure(graphs.case(one, Parity())) not in ("", AMPLIFICATION)
    ]
    return found[:TRIED]


def _brought(graphs: Investigation, pair: Pair, tensor: str, feeds: Sequence[Feeds]) -> float:
    """Relative L2 at `tensor` when this layer alone is the engine's."""
    border = {twin: name for name, twin in graphs.twins.items()}
    section = graphs.engine.runnable.section(pair.twin, border.keys())
    read = {name for node in section for name in node.input if name in border and name != pair.twin}
    wanted = dict.fromkeys([*(border[name] for name in read), tensor])
    exact = graphs.reference.evaluator([name for name in wanted if name in graphs.reference.makers])
    found = Parity()
    layer: Evaluator | None = None
    rest: Evaluator | None = None
    for feed in feeds:
        known = {**feed, **exact(feed)}
        given = {name: known[border[name]] for name in read}
        layer = layer or _layer(graphs, pair, given)
        made = {**feed, pair.tensor: layer(given)[pair.twin]}
        rest = rest or _rest(graphs, pair, tensor, made)
        found.add({"": known[tensor]}, {"": rest(made)[tensor]})
    return found.rel_l2


def _layer(graphs: Investigation, pair: Pair, given: dict[str, Array]) -> Evaluator:
    runnable = graphs.engine.runnable
    section = runnable.section(pair.twin, graphs.twins.values())
    inputs = [typed(name, array) for name, array in given.items()]
    return evaluator(subgraph(runnable, section, inputs, [pair.twin]), [pair.twin], runnable.path)


def _rest(graphs: Investigation, pair: Pair, tensor: str, made: dict[str, Array]) -> Evaluator:
    runnable = graphs.reference.runnable
    section = runnable.section(tensor, {pair.tensor})
    inputs = [typed(name, array) for name, array in made.items()]
    return evaluator(subgraph(runnable, section, inputs, [tensor]), [tensor], runnable.path)
