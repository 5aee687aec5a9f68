"""One body of a Scan or Loop: its layers, the tensors around them, and how they become int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import CONVOLUTIONS, LAYERS, Wiring, floats
from edgekit.quantization._qdq import LEVELS, add_constant, quantized_weight

if TYPE_CHECKING:
    import onnx

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
        behind = {self._local(name): self._pair(name, largest[name], entries[name]) for name in entries}
        for name in filter(None, given):
            self._rename_result(self._local(name))
        self._place(before, behind)
        made = {node.output[0]: node for node in self.graph.node if node.op_type == "QuantizeLinear"}
        return {name: made[f"{name}/int8"] for name in entries}

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

    def _pair(self, name: str, top: float, readers: Collection[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Q/DQ between a tensor and its readers."""
        from onnx import helper

        tensor, codes, restored = self._local(name), f"{name}/int8", f"{name}/dequantized"
        scale, zero = f"{name}/scale", f"{self.owner.name}/edgekit.int8_zero"
        add_constant(self.graph, scale, np.array((top or 1.0) / LEVELS, np.float32))
        add_constant(self.graph, zero, np.zeros((), np.int8))
        for node in readers:
            node.input[:] = [restored if each == tensor else each for each in node.input]
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], f"{name}/QuantizeLinear"),
            helper.make_node(
                "DequantizeLinear", [codes, scale, zero], [restored], f"{name}/DequantizeLinear"
            ),
        ]

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
        kept = [_copy(node) for node in nodes]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(kept)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(node)
    return made
