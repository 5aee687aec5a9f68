"""How an ONNX graph hangs together, and parts of it that run alone.

What happens inside the bodies of Scan, Loop and If is left out: the node that holds them is one node.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.errors import BadFileError
from edgekit.steps._half import half_tensors, widened
from edgekit.steps._layers.activations import Array, Evaluator, evaluator
from edgekit.targets._lowering import read
from edgekit.targets._plan.graph import constant_of, reads, replace_nodes

if TYPE_CHECKING:
    import onnx


class Flow:
    """The top level of a graph: its nodes in order, who makes and reads each tensor, and how deep.

    `live` are the tensors that depend on the inputs; everything else is constant.
    """

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.model, self.path = model, path
        graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in graph.output]
        _sort(graph, path)
        self.nodes = list(graph.node)
        self.makers: dict[str, onnx.NodeProto] = {}
        self.depth: dict[str, int] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.live = set(self.inputs)
        for depth, node in enumerate(self.nodes):
            self._add(node, depth)

    def _add(self, node: onnx.NodeProto, depth: int) -> None:
        names = set(reads(node))
        made = [name for name in node.output if name]
        for name in names:
            self.readers[name].append(node)
        for name in made:
            self.makers[name], self.depth[name] = node, depth
        if not self.live.isdisjoint(names):
            self.live.update(made)

    @cached_property
    def half(self) -> dict[str, str]:
        """The tensors in half precision, and which."""
        return half_tensors(self.model)

    @cached_property
    def runnable(self) -> Flow:
        """The same graph as a CPU runs it honestly."""
        return Flow(widened(self.model), self.path) if self.half else self

    def section(self, tensor: str, border: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes that make `tensor` from tensors of `border` and from constants, in order."""
        found: dict[int, onnx.NodeProto] = {}
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if (
                name in self.depth
                and self.depth[name] not in found
                and (name == tensor or name not in border)
            ):
                found[self.depth[name]] = self.makers[name]
                waiting += reads(self.makers[name])
        return [found[depth] for depth in sorted(found)]

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or a Constant node."""
        from onnx import numpy_helper

        tensor = self.initializers.get(name)
        if tensor is None and name in self.makers:
            tensor = constant_of(self.makers[name])
        return None if tensor is None else numpy_helper.to_array(tensor)

    def evaluator(self, tensors: Sequence[str]) -> Evaluator:
        """Values of `tensors`, which nodes make, from values of the inputs."""
        if not tensors:
            return lambda feeds: {}
        runnable = self.runnable
        needed = _needed(runnable, tensors)
        inputs = [value for value in runnable.model.graph.input if value.name in set(self.inputs)]
        return evaluator(subgraph(runnable, needed, inputs, tensors), tensors, self.path)


def open_flow(path: Path) -> Flow:
    """The graph in a file.

    Raises:
        BadFileError: it is missing or no ONNX model.
    """
    return Flow(read(path), path)


def subgraph(
    flow: Flow,
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[str],
) -> onnx.ModelProto:
    """A model of some of the nodes; ONNX Runtime finds out the types of the outputs by itself."""
    from onnx import ModelProto, ValueInfoProto

    made = ModelProto(ir_version=flow.model.ir_version)
    made.opset_import.extend(flow.model.opset_import)
    made.functions.extend(flow.model.functions)
    made.graph.name = "main"
    made.graph.node.extend(nodes)
    made.graph.input.extend(inputs)
    fed = {value.name for value in made.graph.input}
    used = {name for node in made.graph.node for name in reads(node)} - fed
    made.graph.initializer.extend(flow.initializers[name] for name in sorted(used & set(flow.initializers)))
    made.graph.sparse_initializer.extend(flow.model.graph.sparse_initializer)
    made.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return made


def _needed(flow: Flow, tensors: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the tensors depend on, in order."""
    depths: set[int] = set()
    waiting = list(tensors)
    while waiting:
        name = waiting.pop()
        if name in flow.depth and flow.depth[name] not in depths:
            depths.add(flow.depth[name])
            waiting += reads(flow.makers[name])
    return [flow.nodes[depth] for depth in sorted(depths)]


def _sort(graph: onnx.GraphProto, path: Path) -> None:
    """Makers before readers, otherwise in the order that was. In place."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    missing = [{makers[name] for name in reads(node) if name in makers} for node in graph.node]
    followers: dict[int, list[int]] = defaultdict(list)
    for place, before in enumerate(missing):
        for one in before:
            followers[one].append(place)
    ready = [place for place, before in enumerate(missing) if not before]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for place in followers[order[-1]]:
            missing[place].discard(order[-1])
            if not missing[place]:
                heapq.heappush(ready, place)
    if len(order) < len(graph.node):
        raise BadFileError(f"the nodes of {path.name} wait for each other in a circle", "export it again")
    replace_nodes(graph, [graph.node[place] for place in order])
