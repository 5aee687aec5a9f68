"""Which layers can be int8, which of them are if nobody says otherwise, and how much each computes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.quantization._placement import (
    CONVOLUTIONS,
    LAYERS,
    MOVES,
    RECURRENT,
    Layer,
    Wiring,
    attribute,
    module_of,
)
from edgekit.quantization._recurrent import gru_candidates, lstm_candidates
from edgekit.quantization._scan import OWNERS, BodyLayer, body_layers
from edgekit.runtime.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import onnx

FLOATING = ("fp32", "fp16", "bf16")
_LARGE_MATRIX = 2**16
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layer that can be int8. `macs` are its multiplications for one sample; `default` says whether a
    plan that does not name it makes it int8, `repeated` whether it is in the body of a loop."""

    name: str
    module: str
    op_type: str
    macs: int
    default: bool
    repeated: bool = False


@dataclass(frozen=True)
class Possible:
    """The layers of a graph that can be int8, by kind, in the graph's order."""

    layers: tuple[Layer, ...]
    recurrent: tuple[onnx.NodeProto, ...]
    inner: tuple[BodyLayer, ...]
    """Those in the bodies of Scan and Loop."""

    def nodes(self) -> list[onnx.NodeProto]:
        """All of them."""
        return [*self.outer(), *(layer.node for layer in self.inner)]

    def outer(self) -> list[onnx.NodeProto]:
        """Those of the top level."""
        return [*(layer.node for layer in self.layers), *self.recurrent]

    def names(self, graph: onnx.GraphProto) -> list[str]:
        """Their names, in the order of the graph; what is in a body comes where the body is."""
        outer = {node.name for node in self.outer()}
        inner: dict[str, list[str]] = {}
        for layer in self.inner:
            inner.setdefault(layer.owner.name, []).append(layer.node.name)
        found = ([node.name] if node.name in outer else inner.get(node.name, []) for node in graph.node)
        return [name for names in found for name in names]

    def only(self, names: Collection[str]) -> Possible:
        """Those of these names."""
        return Possible(
            tuple(layer for layer in self.layers if layer.node.name in names),
            tuple(node for node in self.recurrent if node.name in names),
            tuple(layer for layer in self.inner if layer.node.name in names),
        )


def possible(wiring: Wiring) -> Possible:
    """Every layer of the graph that can be int8."""
    recurrent = (*lstm_candidates(wiring.graph), *gru_candidates(wiring.graph))
    return Possible(tuple(wiring.layers(LAYERS)), recurrent, tuple(body_layers(wiring.graph)))


def described(wiring: Wiring, op_types: Collection[str], shapes: Shapes) -> dict[str, Candidate]:
    """Every candidate by name, in the graph's order. `shapes` are those of tensors; unknown sizes are 1."""
    every = possible(wiring)
    default = default_names(wiring, every, {}, op_types)
    nodes = {node.name: node for node in every.nodes()}
    counts = {node.name: _macs(wiring, node, shapes) for node in every.outer()}
    repeated = {layer.node.name for layer in every.inner}
    counts |= {layer.node.name: _inner_macs(layer, shapes) for layer in every.inner}
    return {
        name: Candidate(
            name=name,
            module=module_of(nodes[name]),
            op_type=nodes[name].op_type,
            macs=counts[name],
            default=name in default,
            repeated=name in repeated,
        )
        for name in every.names(wiring.graph)
    }


def planned(wiring: Wiring, plan: Mapping[str, str], op_types: Collection[str]) -> Possible:
    """The layers that become int8: those the plan says, and of the rest those that gain by it.

    Raises:
        UsageError: the plan names an unknown layer or precision.
        UnsupportedError: there is nothing to make int8, or the plan asks it of a layer that cannot be.
    """
    every = possible(wiring)
    _refuse_bad_plan(wiring, every, plan)
    names = {node.name for node in every.nodes()}
    forced = {name for name, precision in plan.items() if precision == "int8"}
    for name in sorted(forced - names):
        raise UnsupportedError(f"'{name}' cannot be int8: it has no constant weight")
    chosen = forced | default_names(wiring, every, plan, op_types)
    if not chosen:
        raise UnsupportedError("no layer of this graph can become int8", "use --precision fp32, fp16 or bf16")
    return every.only(chosen)


def default_names(
    wiring: Wiring, every: Possible, plan: Mapping[str, str], op_types: Collection[str]
) -> set[str]:
    """What becomes int8 of the layers that a plan does not name.

    What is repeated at every step, or adds to that, only where there is nothing else, because its error has
    to be measured first; a GRU never, because in int8 it is seldom faster.
    """
    apart = [layer for layer in every.layers if not _feeds_a_loop(wiring, layer)]
    free = [layer for layer in apart if layer.node.name not in plan]
    free = [layer for layer in free if layer.node.op_type in op_types]
    gaining = [layer for layer in free if not _costs_more_than_it_saves(wiring, layer)]
    if apart or "int8" in plan.values():
        return {layer.node.name for layer in (gaining if "int8" in plan.values() else gaining or free)}
    steps = [node.name for node in every.recurrent if node.op_type == "LSTM"]
    steps += [layer.node.name for layer in every.inner]
    return set(steps) - set(plan)


def _costs_more_than_it_saves(wiring: Wiring, layer: Layer) -> bool:
    """A small matrix behind a float recurrent layer: int8 there adds a conversion and half of the error.

    Measured on a text recognizer (256 x 38 behind two LSTM layers): relative L2 0.54% with it, 0.27%
    without, at the same latency in OpenVINO and ONNX Runtime.
    """
    source = wiring.producers.get(wiring.origin(layer.node.input[0]))
    weights = math.prod(wiring.constants[layer.node.input[1]].dims)
    return source is not None and source.op_type in RECURRENT and weights < _LARGE_MATRIX


def _feeds_a_loop(wiring: Wiring, layer: Layer) -> bool:
    """A convolution whose result a Scan or Loop reads: where an engine gives the result in int8, as ONNX
    Runtime does, its rounding enters the state at every step.

    Measured on a ConvLSTM's input convolution in ONNX Runtime: the last hidden state 15% off with it, 0.7%
    without.
    """
    waiting = [layer.node.output[0]] if layer.node.op_type in CONVOLUTIONS else []
    while waiting:
        readers = wiring.readers.get(waiting.pop(), [])
        if any(node.op_type in OWNERS for node in readers):
            return True
        waiting += [node.output[0] for node in readers if node.op_type in MOVES]
    return False


def _refuse_bad_plan(wiring: Wiring, every: Possible, plan: Mapping[str, str]) -> None:
    names = [node.name for node in (*wiring.graph.node, *(layer.node for layer in every.inner))]
    for name, precision in plan.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"the plan names an unknown layer '{name}'", f"did you mean '{close[0]}'?" if close else ""
            )
        if precision not in ("int8", *FLOATING):
            raise UsageError(
                f"the plan gives '{name}' the unknown precision '{precision}'", "int8, fp16, bf16 or fp32"
            )


def _macs(wiring: Wiring, node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiplications: how often each weight is used."""
    sizes = tuple(wiring.constants[node.input[1]].dims)
    read, given = (_product(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
    if node.op_type == "Conv":
        return given * _product(sizes[1:])
    if node.op_type == "ConvTranspose":
        return read * _product(sizes[1:])
    if node.op_type in RECURRENT:
        steps = read // _product(sizes[-1:])
        return steps * (_product(sizes) + _product(wiring.constants[node.input[2]].dims))
    return given * _product([sizes[attribute(node, "transB", 0)]])


def _inner_macs(layer: BodyLayer, shapes: Shapes) -> int:
    """The same for a layer in a body; the first size of its tensors is the number of steps."""
    read, given = (_product(shapes.get(name, ())) for name in (layer.reads, layer.gives))
    sizes: tuple[int, ...] = layer.weight.shape
    if layer.node.op_type == "Conv":
        return given * _product(sizes[1:])
    if layer.node.op_type == "ConvTranspose":
        return read * _product(sizes[1:])
    return max(read // sizes[attribute(layer.node, "transB", 0)], 1) * _product(sizes)


def _product(sizes: Iterable[int]) -> int:
    found: int = math.prod(sizes)
    return found


def inferred_shapes(graph: onnx.ModelProto, tensors: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes as far as the graph tells them; a size that it leaves open is 1."""
    from onnx import shape_inference

    wanted = set(tensors)
    known = shape_inference.infer_shapes(graph).graph
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in (*known.input, *known.value_info, *known.output)
        if value.name in wanted
    }
