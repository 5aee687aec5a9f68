"""One body of a Scan or Loop: its layers, the tensors around them, and how they become int8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._branches import branch, copy_of
from edgekit.quantization._placement import CONVOLUTIONS, LAYERS, Wiring, floats
from edgekit.quantization._qdq import LEVELS, add_constant, quantized_weight, replace_input

if TYPE_CHECKING:
    import onnx

AnyOn = Callable[[str, Sequence[str]], str]
"""Makes, under a name, a truth value of the graph around a body: whether any of some layers is on."""
_FUSED = ("Relu", "Clip")
_PER_RESULT = ("scan_output_axes", "scan_output_directions")


@dataclass(frozen=True)
class BodyLayer:
    """A layer with a constant weight in the body of `owner`; its name in a plan is that of `node`.

    `weight` is float32, its output channels on `axis`. `reads` and `gives` are the tensors to quantize
    before and behind it, called `OWNER/TENSOR`; `gives` is empty for a matrix product, which needs none.
    """

    owner: onnx.NodeProto
    node: onnx.NodeProto
    axis: int | None
    weight: np.ndarray[Any, Any]
    reads: str
    gives: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose ranges it needs."""
        return tuple(filter(None, (self.reads, self.gives)))


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers and Constant nodes of a graph, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


class Body(Wiring):
    """A body, which may read constants of the graph around it."""

    def __init__(
        self, owner: onnx.NodeProto, graph: onnx.GraphProto, around: Mapping[str, onnx.TensorProto]
    ) -> None:
        super().__init__(graph)
        self.owner = owner
        self._around = around

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        return {**self._around, **constants(self.graph)}

    def described(self) -> list[BodyLayer]:
        """The layers that can be int8."""
        return [
            BodyLayer(
                owner=self.owner,
                node=layer.node,
                axis=layer.axis,
                weight=floats(self.constants[layer.node.input[1]]),
                reads=self._called(self.origin(layer.node.input[0])),
                gives=self._called(self._rectified(layer.node.output[0]))
                if layer.node.op_type in CONVOLUTIONS
                else "",
            )
            for layer in self.layers(LAYERS)
        ]

    def exposed(self, tensors: Collection[str]) -> dict[str, str]:
        """Those of `tensors` that are of this body, as results of it; see `probe`."""
        wanted = dict.fromkeys(name for layer in self.described() for name in layer.tensors)
        return {name: self._expose(name) for name in wanted if name in tensors}

    def quantize(
        self, names: Collection[str], largest: Mapping[str, float], levels: int
    ) -> dict[str, onnx.NodeProto]:
        """Makes those of the layers that are in `names` int8, codes up to `levels`; the QuantizeLinear of
        each tensor."""
        chosen = [layer for layer in self.described() if layer.node.name in names]
        if not chosen:
            return {}
        given = {layer.gives for layer in chosen}
        entries = {name: self._all_readers(name) for name in given if name}
        for layer in chosen:
            if layer.reads not in given:
                entries.setdefault(layer.reads, []).append(self._entry(layer))
        before = {layer.node.output[0]: [self._stored_weight(layer, levels)] for layer in chosen}
        behind = {}
        for name, readers in entries.items():
            tensor, restored = self._local(name), f"{name}/dequantized"
            self._read(readers, tensor, restored)
            behind[tensor] = self._pair(name, tensor, restored, largest[name])
        for name in filter(None, given):
            self._rename_result(self._local(name))
        self._place(before, behind)
        made = {node.output[0]: node for node in self.graph.node if node.op_type == "QuantizeLinear"}
        return {name: made[f"{name}/int8"] for name in entries}

    def switch(self, any_on: AnyOn, largest: Mapping[str, float], levels: int) -> None:
        """Each layer becomes what `quantize` makes of it while its switch is on.

        What one layer gives and another reads goes through the same codes twice, which changes nothing.
        """
        layers = self.described()
        entries = {layer.node.name: self._entry(layer) for layer in layers}
        before = {layer.node.output[0]: self._switched_weight(layer, any_on, levels) for layer in layers}
        behind: dict[str, list[onnx.NodeProto]] = {}
        for tensor in dict.fromkeys(name for layer in layers for name in layer.tensors):
            places = behind.setdefault(self._local(tensor), [])
            source, restored = self._local(tensor), f"{tensor}/dequantized"
            givers = [layer.node.name for layer in layers if layer.gives == tensor]
            if givers:
                condition = any_on(f"{tensor}/given", givers)
                places.append(self._choice(tensor, source, restored, condition, largest[tensor]))
                self._read(self._all_readers(tensor), source, restored)
                self._rename_result(source)
                source = restored
            readers: dict[str, list[str]] = {}
            for layer in layers:
                if layer.reads == tensor:
                    readers.setdefault(entries[layer.node.name].name, []).append(layer.node.name)
            for entry, names in readers.items():
                read = f"{tensor}/read.{entry}"
                places.append(self._choice(read, source, read, any_on(read, names), largest[tensor]))
                self._read([entries[names[0]]], source, read)
        self._place(before, behind)

    def _choice(self, label: str, tensor: str, result: str, condition: str, top: float) -> onnx.NodeProto:
        """`result` is `tensor`, through codes if the condition holds."""
        from onnx import helper

        made = helper.make_node("Identity", [tensor], [result], f"{label}/If")
        branch(made, condition, self._pair(label, tensor, result, top))
        return made

    def _switched_weight(self, layer: BodyLayer, any_on: AnyOn, levels: int) -> list[onnx.NodeProto]:
        from onnx import helper

        codes, scale = quantized_weight(layer.weight, layer.axis, levels)
        sizes = [-1 if index == layer.axis else 1 for index in range(codes.ndim)]
        name, given = f"{layer.node.name}/weight", layer.node.input[1]
        add_constant(self.graph, f"{name}.rounded", codes * scale.reshape(sizes))
        layer.node.input[1] = f"{name}.switched"
        inputs = [any_on(name, [layer.node.name]), f"{name}.rounded", given]
        return [helper.make_node("Where", inputs, [layer.node.input[1]], f"{name}/Where")]

    def _called(self, tensor: str) -> str:
        return f"{self.owner.name}/{tensor}"

    def _local(self, name: str) -> str:
        return name[len(self.owner.name) + 1 :]

    def _rectified(self, tensor: str) -> str:
        """The result after the ReLU that alone reads it, which integer convolutions take in."""
        readers = self.readers.get(tensor, [])
        cut = len(readers) == 1 and readers[0].op_type in _FUSED and tensor not in self.outputs
        return str(readers[0].output[0]) if cut else tensor

    def _expose(self, name: str) -> str:
        from onnx import TensorProto, helper

        stacked, step = f"{name}/steps", f"{name}/step"
        self.graph.node.append(helper.make_node("Identity", [self._local(name)], [step], f"{name}/Identity"))
        self.graph.output.append(helper.make_tensor_value_info(step, TensorProto.FLOAT, None))
        self.owner.output.append(stacked)
        for attribute in self.owner.attribute:
            if attribute.name in _PER_RESULT:
                attribute.ints.append(0)
        return stacked

    def _all_readers(self, name: str) -> list[onnx.NodeProto]:
        return list(self.readers.get(self._local(name), []))

    def _entry(self, layer: BodyLayer) -> onnx.NodeProto:
        """The layer, or the first of the nodes that rearrange its input."""
        node = layer.node
        while node.input[0] != self._local(layer.reads):
            node = self.producers[node.input[0]]
        return node

    def _pair(self, label: str, tensor: str, restored: str, top: float) -> list[onnx.NodeProto]:
        """Q/DQ from a tensor to `restored`; `label` is what their names begin with."""
        from onnx import helper

        codes, scale, zero = f"{label}/int8", f"{label}/scale", f"{self.owner.name}/edgekit.int8_zero"
        add_constant(self.graph, scale, np.array((top or 1.0) / LEVELS, np.float32))
        add_constant(self.graph, zero, np.zeros((), np.int8))
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], f"{label}/QuantizeLinear"),
            helper.make_node(
                "DequantizeLinear", [codes, scale, zero], [restored], f"{label}/DequantizeLinear"
            ),
        ]

    def _read(self, readers: Iterable[onnx.NodeProto], before: str, after: str) -> None:
        for node in readers:
            replace_input(node, before, after)

    def _rename_result(self, tensor: str) -> None:
        """Where a convolution's result leaves the body it is the quantized one: QLinearConv has no other."""
        for value in self.graph.output:
            if value.name == tensor:
                value.name = f"{self._called(tensor)}/dequantized"

    def _stored_weight(self, layer: BodyLayer, levels: int) -> onnx.NodeProto:
        from onnx import helper

        name = f"{layer.node.name}/weight"
        codes, scale = quantized_weight(layer.weight, layer.axis, levels)
        parts = {"int8": codes, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
        for label, array in parts.items():
            add_constant(self.graph, f"{name}.{label}", array)
        settings: dict[str, Any] = {} if layer.axis is None else {"axis": layer.axis}
        layer.node.input[1] = f"{name}.dequantized"
        return helper.make_node(
            "DequantizeLinear",
            [f"{name}.{label}" for label in parts],
            [layer.node.input[1]],
            f"{name}/DequantizeLinear",
            **settings,
        )

    def _place(
        self, before: Mapping[str, list[onnx.NodeProto]], behind: Mapping[str, list[onnx.NodeProto]]
    ) -> None:
        """New nodes before or right behind the maker of a tensor; at the start if it comes from outside."""
        nodes = [node for tensor, pair in behind.items() if tensor not in self.producers for node in pair]
        for node in self.graph.node:
            nodes += [*before.get(node.output[0], ()), node]
            nodes += [each for tensor in node.output for each in behind.get(tensor, ())]
        kept = [copy_of(node) for node in nodes]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(kept)
