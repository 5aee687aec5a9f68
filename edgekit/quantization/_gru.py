"""A GRU written out as a Scan around int8 matrix products.

No engine has an int8 kernel for the GRU that PyTorch defines (Cho et al., Learning Phrase Representations
using RNN Encoder-Decoder, arXiv 1406.1078, with the reset gate behind the product: ONNX's
`linear_before_reset=1`). Written out, its products are ordinary ones. The product with the inputs is taken
for all steps at once, before the loop. The loop costs more than int8 saves where the layer is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._qdq import LEVELS, Codes, add_constant, quantized_weight

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
_BACKWARD = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
_STEP = """
    h{d}_codes = QuantizeLinear(h{d}, h_scale, h_zero)
    h{d}_restored = DequantizeLinear(h{d}_codes, h_scale, h_zero)
    r{d}_restored = DequantizeLinear<axis=1>(r{d}, r{d}_scale, r{d}_zero)
    h{d}_product = MatMul(h{d}_restored, r{d}_restored)
    h{d}_gates = Add(h{d}_product, r{d}_bias)
    xz{d}, xr{d}, xn{d} = Split<axis=-1>(x{d}, thirds)
    hz{d}, hr{d}, hn{d} = Split<axis=-1>(h{d}_gates, thirds)
    z{d}_sum = Add(xz{d}, hz{d})
    z{d} = Sigmoid(z{d}_sum)
    r{d}_sum = Add(xr{d}, hr{d})
    reset{d} = Sigmoid(r{d}_sum)
    n{d}_reset = Mul(reset{d}, hn{d})
    n{d}_sum = Add(xn{d}, n{d}_reset)
    n{d} = Tanh(n{d}_sum)
    change{d} = Sub(h{d}, n{d})
    kept{d} = Mul(z{d}, change{d})
    next{d} = Add(n{d}, kept{d})
    y{d} = Identity(next{d})
"""
"""One step of one direction: z keeps, reset opens the old state to n, the new one."""


def can_be_written_out(node: onnx.NodeProto) -> bool:
    """Whether this is PyTorch's GRU: the usual activations, no clipping, no lengths, steps first."""
    settings = _settings(node)
    usual = settings.get("activations", [b"Sigmoid", b"Tanh"]) in ([b"Sigmoid", b"Tanh"] * n for n in (1, 2))
    odd = settings.get("layout", 0) or settings.get("clip", 0) or _input(node, 4)
    return bool(settings.get("linear_before_reset", 0)) and usual and not odd


def write_out(
    graph: onnx.GraphProto, node: onnx.NodeProto, w: Array, r: Array, bias: Array, largest: float, levels: int
) -> None:
    """Turns the GRU into a Scan of the same name, in place, with more nodes before and behind it.

    `w` (directions, 3 * hidden, inputs), `r` and `bias` (directions, 6 * hidden) are as in ONNX;
    `largest` is the largest |X|, `levels` the largest code of a weight. h is quantized in steps of 1/127:
    it stays within -1..1.
    """
    write = _Writer(graph, node, levels)
    hidden, sides = r.shape[2], range(len(w))
    gates = write.products(w, bias[:, : 3 * hidden], largest)
    starts = write.starts(hidden, len(w))
    loop = write.loop(r, bias[:, 3 * hidden :], [*starts, *gates])
    lasts, steps = ([f"{node.name}/{part}{side}" for side in sides] for part in ("last", "steps"))
    behind = [
        *write.stacked(steps, node.output[0], axis=1),
        *write.stacked(lasts, node.output[1] if len(node.output) > 1 else "", axis=0),
    ]
    place = list(graph.node).index(node)
    node.CopyFrom(loop)
    for made in reversed(behind):
        graph.node.insert(place + 1, made)
    for made in reversed(write.before):
        graph.node.insert(place, made)


class _Writer:
    """Writes the nodes for one layer; all their names begin with the layer's."""

    def __init__(self, graph: onnx.GraphProto, node: onnx.NodeProto, levels: int) -> None:
        self._graph, self._node, self._levels = graph, node, levels
        self.before: list[onnx.NodeProto] = []

    def products(self, w: Array, bias: Array, largest: float) -> list[str]:
        """For each direction what the inputs of all steps add to the gates."""
        scales = [self._constant("X.scale", (largest or 1) / LEVELS, np.float32)]
        scales.append(self._constant("X.zero", 0, np.int8))
        codes = self._add("QuantizeLinear", [self._node.input[0], *scales], "X.int8")
        x = self._add("DequantizeLinear", [codes, *scales], "X.restored")
        made = []
        for side in range(len(w)):
            weight = self._weight(f"W{side}", quantized_weight(w[side].T, 1, self._levels))
            product = self._add("MatMul", [x, weight], f"X{side}.product")
            part = self._constant(f"W{side}.bias", bias[side], np.float32)
            made.append(self._add("Add", [product, part], f"X{side}.gates"))
        return made

    def starts(self, hidden: int, sides: int) -> list[str]:
        """The initial h of each direction, (batch, hidden): given, or zeros."""
        given = _input(self._node, 5)
        if given:
            places = [self._constant(f"side{side}", side) for side in range(sides)]
            return [
                self._add("Gather", [given, place], f"start{side}", axis=0)
                for side, place in enumerate(places)
            ]
        shape = self._add("Shape", [self._node.input[0]], "X.shape")
        bounds = [self._constant("one", [1]), self._constant("two", [2])]
        batch = self._add("Slice", [shape, *bounds], "batch")
        size = self._add("Concat", [batch, self._constant("hidden", [hidden])], "h.shape", axis=0)
        zero = self._constant("zero", np.zeros((1, 1)), np.float32)
        return [self._add("Expand", [zero, size], "start")] * sides

    def loop(self, r: Array, bias: Array, inputs: Sequence[str]) -> onnx.NodeProto:
        """The Scan over the steps; its outputs are `last` and `steps` of each direction."""
        name, sides = self._node.name, range(len(r))
        backward = _BACKWARD[_settings(self._node).get("direction", b"forward").decode()]
        outputs = [f"{name}/{part}{side}" for part in ("last", "steps") for side in sides]
        return self._node_of(
            "Scan",
            inputs,
            outputs,
            name,
            body=self._body(r, bias),
            num_scan_inputs=len(sides),
            scan_input_directions=backward,
            scan_output_directions=backward,
        )

    def _body(self, r: Array, bias: Array) -> onnx.GraphProto:
        from onnx import numpy_helper, parser

        sides, hidden = range(len(r)), r.shape[2]
        body = parser.parse_graph(_step_text(len(r), hidden))
        values: dict[str, Any] = {
            "h_scale": np.float32(1 / LEVELS),
            "h_zero": np.int8(0),
            "thirds": np.array([hidden] * 3),
        }
        for side in sides:
            codes, scale = quantized_weight(r[side].T, 1, self._levels)
            values |= {f"r{side}": codes, f"r{side}_scale": scale, f"r{side}_bias": bias[side]}
            values[f"r{side}_zero"] = np.zeros(scale.shape, np.int8)
        body.initializer.extend(
            numpy_helper.from_array(np.array(value, order="C"), name) for name, value in values.items()
        )
        self._prefix(body)
        return body

    def _prefix(self, body: onnx.GraphProto) -> None:
        for value in (*body.input, *body.output, *body.initializer):
            value.name = f"{self._node.name}/step/{value.name}"
        for node in body.node:
            node.input[:] = [f"{self._node.name}/step/{name}" for name in node.input]
            node.output[:] = [f"{self._node.name}/step/{name}" for name in node.output]
            node.name = f"{node.output[0]}/{node.op_type}"
            node.metadata_props.extend(self._node.metadata_props)

    def stacked(self, parts: Sequence[str], result: str, axis: int) -> list[onnx.NodeProto]:
        """The directions side by side along a new axis; nothing where nobody reads the result."""
        if not result:
            return []
        place = self._constant(f"axis{axis}", [axis])
        names = [f"{part}.side" for part in parts] if len(parts) > 1 else [result]
        made = [
            self._node_of("Unsqueeze", [part, place], [name], f"{part}/Unsqueeze")
            for part, name in zip(parts, names, strict=True)
        ]
        if len(parts) > 1:
            made.append(self._node_of("Concat", names, [result], f"{parts[0]}/Concat", axis=axis))
        return made

    def _weight(self, name: str, codes: Codes) -> str:
        inputs = [
            self._constant(f"{name}.int8", codes[0], np.int8),
            self._constant(f"{name}.scale", codes[1], np.float32),
            self._constant(f"{name}.zero", np.zeros(codes[1].shape), np.int8),
        ]
        return self._add("DequantizeLinear", inputs, f"{name}.restored", axis=1)

    def _constant(self, name: str, value: Any, dtype: type = np.int64) -> str:
        add_constant(self._graph, f"{self._node.name}/{name}", np.array(value, dtype, order="C"))
        return f"{self._node.name}/{name}"

    def _add(self, kind: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        result = f"{self._node.name}/{name}"
        self.before.append(self._node_of(kind, inputs, [result], f"{result}/{kind}", **settings))
        return result

    def _node_of(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **settings: Any
    ) -> onnx.NodeProto:
        from onnx import helper

        made = helper.make_node(kind, inputs, outputs, name, **settings)
        made.metadata_props.extend(self._node.metadata_props)
        return made


def _step_text(sides: int, hidden: int) -> str:
    """The body in ONNX's text form: the states of all directions, then their inputs; both come out."""

    def listed(*kinds: tuple[str, int]) -> str:
        return ", ".join(f"float[batch,{size}] {kind}{d}" for kind, size in kinds for d in range(sides))

    taken, given = listed(("h", hidden), ("x", 3 * hidden)), listed(("next", hidden), ("y", hidden))
    return f"step ({taken}) => ({given}) {{ {''.join(_STEP.format(d=d) for d in range(sides))} }}"


def _settings(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""
