"""Which tensor of an engine's graph is which of the float graph, and what error a node is fed with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.steps._layers.flow import Flow
from edgekit.targets._lowering import module_of
from edgekit.targets._plan.graph import reads

if TYPE_CHECKING:
    import onnx

_PASS_ON = ("QuantizeLinear", "DequantizeLinear", "Cast")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A tensor of the float graph with the node that makes it, and its twin in the engine's graph.

    `twin` is empty where the engine has none; `read` are the forms in which the readers of the twin
    get it: behind a Q/DQ pair.
    """

    node: onnx.NodeProto
    tensor: str
    depth: int
    twin: str = ""
    read: tuple[str, ...] = ()


def pairs(reference: Flow, engine: Flow) -> list[Pair]:
    """Every tensor that a node of the float graph makes from the inputs, in the order of the network."""
    twins = _by_name(reference, engine)
    twins |= _by_place(reference, engine, twins)
    return [
        Pair(
            node=node,
            tensor=name,
            depth=depth,
            twin=twins.get(name, ""),
            read=tuple(_read_forms(engine, twins[name])) if name in twins else (),
        )
        for depth, node in enumerate(reference.nodes)
        for name in node.output
        if name in reference.live
    ]


def incoming(flow: Flow, known: Mapping[str, float]) -> dict[str, float]:
    """The worst SQNR, in dB, of what the maker of each tensor reads; infinite where all of it is exact.

    `known` is the SQNR of tensors that were compared; through the others, integers among them, the
    error of what they are made from is handed on.
    """
    at: dict[str, float] = {}
    found: dict[str, float] = {}
    for node in flow.nodes:
        worst = min((at[name] for name in reads(node) if name in at), default=math.inf)
        for name in node.output:
            found[name] = worst
            here = known.get(name, math.nan)
            at[name] = worst if math.isnan(here) else here
    return found


def _by_name(reference: Flow, engine: Flow) -> dict[str, str]:
    shared = reference.makers.keys() & engine.makers.keys() & reference.live & engine.live
    return {name: name for name in shared}


def _by_place(reference: Flow, engine: Flow, known: Mapping[str, str]) -> dict[str, str]:
    """Twins of another name: the same operators of the same module, in the same order, none too many."""
    ours = _by_kind(reference, known)
    theirs = _by_kind(engine, set(known.values()))
    found: dict[str, str] = {}
    for kind, nodes in ours.items():
        others = theirs.get(kind, [])
        if len(others) != len(nodes):
            continue
        for node, other in zip(nodes, others, strict=True):
            for name, twin in zip(node.output, other.output, strict=False):
                if name and twin:
                    found[name] = _with_bias(engine, node, other, twin)
    return found


def _by_kind(flow: Flow, known: Iterable[str]) -> dict[tuple[str, str], list[onnx.NodeProto]]:
    """The live nodes none of whose results has a twin, by module and operator."""
    taken = set(known)
    found: dict[tuple[str, str], list[onnx.NodeProto]] = defaultdict(list)
    for node in flow.nodes:
        made = {name for name in node.output if name}
        if made & flow.live and not made & taken and node.op_type not in _PASS_ON:
            found[module_of(node), node.op_type].append(node)
    return found


def _with_bias(engine: Flow, node: onnx.NodeProto, other: onnx.NodeProto, twin: str) -> str:
    """The result of the addition that follows where the bias was taken out of the node."""
    readers = engine.readers.get(twin, [])
    apart = len(other.input) < len(node.input) and len(readers) == 1 and readers[0].op_type == "Add"
    return str(readers[0].output[0]) if apart else twin


def _read_forms(engine: Flow, tensor: str) -> Iterable[str]:
    """What comes out of each Q/DQ pair behind a tensor."""
    waiting = [node for node in engine.readers.get(tensor, []) if node.op_type == "QuantizeLinear"]
    while waiting:
        node = waiting.pop(0)
        if node.op_type == "DequantizeLinear":
            yield str(node.output[0])
        else:
            behind = engine.readers.get(node.output[0], [])
            waiting += [one for one in behind if one.op_type in _PASS_ON]
