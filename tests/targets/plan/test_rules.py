"""Every rule has a graph that triggers it alone; TensorRT-RTX really refuses what is said to be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.targets._plan.cures import cured
from edgekit.targets._plan.rulebook import NEVER, RULES, TRIED, TRIED_AND_READ
from edgekit.targets._plan.rules import findings, supports
from edgekit.targets._plan.versions import VERSIONS, number
from tests.targets.plan.graphs import HAS_RTX, net, random, rtx_builds

needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
MODERN, RTX = "11.4", "rtx-1.7"
SCALE = np.float32(0.1)


@dataclass(frozen=True)
class Case:
    """A graph with one fault. `rtx` False: TensorRT-RTX takes it all the same, or was not asked."""

    rule: str
    make: Callable[[], onnx.ModelProto]
    node: str = "node_y"
    severity: str = "error"
    precision: str = "fp32"
    version: str = MODERN
    rtx: bool = True
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def case(
    rule: str, text: str, *, opset: int = 18, weights: dict[str, Any] | None = None, **more: Any
) -> Case:
    return Case(rule, lambda: net(text, opset, **(weights or {})), **more)


def recurrent(kind: str, setting: str, directions: int = 1, gates: int = 4) -> tuple[str, dict[str, Any]]:
    text = (
        f"(float[5,1,3] x) => (float[5,{directions},1,4] y) {{ y = {kind}<hidden_size=4{setting}>(x, W, R) }}"
    )
    return text, {"W": random(directions, gates * 4, 3), "R": random(directions, gates * 4, 4)}


def quantized(zero: Any, opset: int = 18, scale: Any = SCALE) -> dict[str, Any]:
    return {"opset": opset, "weights": {"s": scale, "z": zero}}


PAIR = "(float[2,8] x) => (float[2,8] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
LSTM_TEXT, LSTM = recurrent("LSTM", ", input_forget=1")
BOTH_TEXT, BOTH = recurrent(
    "LSTM", ', direction="bidirectional", activations=["Sigmoid","Tanh","Tanh","Sigmoid","Relu","Tanh"]', 2
)
PLAIN_TEXT, PLAIN = recurrent("LSTM", "")
GRU_TEXT, GRU = recurrent("GRU", ", linear_before_reset=1", gates=3)

CASES = {
    "operator": case("operator", "(float[2,8] x) => (uint8[2,8] y) { y, s, z = DynamicQuantizeLinear(x) }"),
    "integer product": case(
        "operator",
        "(int8[2,8] x, int8[8,2] w) => (int32[2,2] y) { y = MatMulInteger(x, w) }",
    ),
    "AffineGrid": case(
        "operator", "(float[2,2,3] x, int64[4] z) => (float[2,4,4,2] y) { y = AffineGrid(x, z) }", opset=20
    ),
    "unknown": case("unknown-operator", "(float[2,8] x) => (float[2,8] y) { y = Relux(x) }"),
    "domain": case(
        "domain",
        """(float[5,1,3] x) => (float[5,1,1,4] y) {
             y = com.microsoft.DynamicQuantizeLSTM<hidden_size=4>(x, W, R) }""",
        weights={"W": np.ones((1, 3, 16), np.int8), "R": np.ones((1, 4, 16), np.int8)},
    ),
    "nms": case(
        "nms",
        """(float[1,8,4] b, float[1,2,8] s, float[8,2] w) => (float[a,b2] z) {
             y = NonMaxSuppression(b, s, m, i)
             f = Cast<to=1>(y)  t = Slice(f, from, to, axis)  u = Transpose(t)  z = MatMul(u, t) }""",
        weights={
            "m": np.array([3]),
            "i": np.array([0.5], np.float32),
            "from": np.array([0]),
            "to": np.array([3]),
            "axis": np.array([0]),
        },
    ),
    "double input": case("double", "(double[2] x) => (int32[2] y) { y = Cast<to=6>(x) }", node="", rtx=False),
    "double constant": case(
        "double",
        "(float[2] x) => (float[2] y) { d = Cast<to=11>(x) y1 = Mul(d, c) y = Cast<to=1>(y1) }",
        weights={"c": np.array(2.0**24 + 1)},
        node="node_d",
        rtx=False,
    ),
    "int16 input": case("type", "(int16[2,8] x) => (float[2,8] y) { y = Cast<to=1>(x) }", node=""),
    "int16 inside": case(
        "type", "(float[2,8] x) => (float[2,8] y) { z = Cast<to=5>(x) y = Cast<to=1>(z) }", node="node_z"
    ),
    "text": case("type", "(string[2,8] x) => (int64[2] y) { y = Shape(x) }", node=""),
    "uint8 inside": case(
        "uint8", "(float[2,8] x) => (float[2,8] y) { z = Cast<to=2>(x) y = Cast<to=1>(z) }", node="node_z"
    ),
    "int4": case(
        "int4",
        "(float[2,4] x) => (float[2,4] y) { w = DequantizeLinear<axis=0>(q, s) y = MatMul(x, w) }",
        opset=21,
        weights={"q": np.ones((4, 4), "int4"), "s": np.full(4, SCALE)},
        node="node_w",
        version="8.5",
        rtx=False,
    ),
    "int64": case(
        "int64",
        "(float[2] x) => (int64[2] y) { i = Cast<to=7>(x) y = Add(i, big) }",
        weights={"big": np.array(2**40)},
        severity="warning",
        version="8.6",
        rtx=False,
    ),
    "int64 input": case(
        "int64",
        "(int64[2] x) => (int64[2] y) { y = Neg(x) }",
        node="",
        severity="warning",
        version="8.6",
        rtx=False,
    ),
    "bf16": case(
        "bf16",
        "(float[2] x) => (float[2] y) { y = Relu(x) }",
        node="",
        precision="bf16",
        version="8.6",
        rtx=False,
    ),
    "not quantized": case(
        "not-quantized", "(float[2] x) => (float[2] y) { y = Relu(x) }", node="", precision="int8", rtx=False
    ),
    "input_forget": case("input-forget", LSTM_TEXT, weights=LSTM),
    "activations": case("activations", BOTH_TEXT, weights=BOTH),
    "recurrent": case(
        "recurrent-float",
        PLAIN_TEXT.replace("(x, W", "(d, W").replace(
            "{ y", "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y"
        ),
        weights={**PLAIN, "s": SCALE, "z": np.int8(0)},
        severity="warning",
        precision="int8",
        rtx=False,
    ),
    "quantized sequence": case(
        "quantized-sequence",
        """(float[N,8,5] x) => (float[5,1,N,16] y) {
             c = Conv<pads=[1,1]>(x, k)  t = Transpose<perm=[2,0,1]>(c)
             q = QuantizeLinear(t, s, z)  d = DequantizeLinear(q, s, z)
             y = LSTM<hidden_size=16>(d, W, R) }""",
        weights={
            "k": random(8, 8, 3),
            "s": SCALE,
            "z": np.int8(0),
            "W": random(1, 64, 8),
            "R": random(1, 64, 16),
        },
        version=RTX,
        sizes={"N": (1, 2, 3)},
    ),
    "gru in bf16": case("gru-bf16", GRU_TEXT, weights=GRU, precision="bf16", version=RTX),
    "pool dilations": case(
        "pool-dilations",
        "(float[1,2,8,8] x) => (float[1,2,6,6] y) { y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x) }",
    ),
    "pool indices": case(
        "pool-indices",
        """(float[1,2,8,8] x) => (float[1,2,4,4] y, int64[1,2,4,4] i) {
             y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }""",
    ),
    "mean of a normalization": case(
        "extra-outputs",
        "(float[2,8] x) => (float[2,8] y, float[2,1] m) { y, m = LayerNormalization(x, w) }",
        weights={"w": random(8)},
    ),
    "training": case(
        "training",
        "(float[2,8] x) => (float[2,8] y) { y, m, v = BatchNormalization<training_mode=1>(x, w, w, w, w) }",
        weights={"w": np.ones(8, np.float32)},
    ),
    "scatter": case(
        "scatter-reduction",
        """(float[4,3] x, int64[2,1] i, float[2,3] u) => (float[4,3] y) {
             y = ScatterND<reduction="max">(x, i, u) }""",
    ),
    "zero point": case("zero-point", PAIR, **quantized(np.int8(3)), node="node_q"),
    "int16 codes": case("quantized-type", PAIR, **quantized(np.int16(0), 21), node="node_q"),
    "antialias": case(
        "resize",
        '(float[1,2,4,4] x) => (float[1,2,8,8] y) { y = Resize<mode="linear", antialias=1>(x, , s) }',
        weights={"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "symmetric": case(
        "resize",
        """(float[1,2,4,4] x) => (float[1,2,8,8] y) {
             y = Resize<mode="linear", coordinate_transformation_mode="half_pixel_symmetric">(x, , s) }""",
        opset=19,
        weights={"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "volumes": case(
        "grid-sample",
        "(float[1,2,4,4,4] x, float[1,3,3,3,3] g) => (float[1,2,3,3,3] y) { y = GridSample(x, g) }",
        opset=20,
        rtx=False,
    ),
    "ranks": case(
        "changing-shapes",
        """(bool c, float[2,3] x) => (float[a,b] y) {
             y = If(c) <then_branch = t () => (float[2,3] u) { u = Relu(x) },
                        else_branch = e () => (float[6] v) { v = Reshape(x, six) }> }""",
        weights={"six": np.array([6])},
    ),
    "sizes": case(
        "changing-shapes",
        """(bool c, float[2,3] x) => (float[a,b] y) {
             y = If(c) <then_branch = t () => (float[2,3] u) { u = Relu(x) },
                        else_branch = e () => (float[3,2] v) { v = Transpose(x) }> }""",
        version="8.6",
        rtx=False,
    ),
    "growing": case(
        "changing-shapes",
        """(float[2,3] x) => (float[n,3] y) {
             m = Constant<value_int=4>()  c = Constant<value = bool {1}>()
             y = Loop(m, c, x) <body = b (int64 i, bool ci, float[a,3] h) => (bool co, float[d,3] g) {
               co = Identity(ci)  g = Concat<axis=0>(h, x) }> }""",
    ),
    "stacking": case(
        "changing-shapes",
        """(float[2,3] x, float[t] long) => (float[2,3] y, float[t,2,3] z) {
             m = Size(long)  c = Constant<value = bool {1}>()
             y, z = Loop(m, c, x) <body = b (int64 i, bool ci, float[2,3] h)
                 => (bool co, float[2,3] g, float[2,3] s) {
               co = Identity(ci)  g = Add(h, x)  s = Identity(g) }> }""",
        severity="warning",
        rtx=False,
    ),
    "data": case("data-dependent", "(float[2,3] x) => (int64[2,n] y) { y = NonZero(x) }", version=RTX),
    "overflow": case(
        "fp16-overflow",
        "(float[2] x) => (float[2] y) { y = Mul(x, c) }",
        weights={"c": np.array([1, 1e6], np.float32)},
        severity="warning",
        precision="fp16",
        rtx=False,
    ),
}


def without_cures(model: onnx.ModelProto, precision: str, version: str) -> list[Any]:
    return [one for one in findings(model, precision, (version,)) if one.severity != "cured"]


@pytest.mark.parametrize("name", CASES)
def test_each_rule_finds_its_graph_and_nothing_else(name: str) -> None:
    wanted = CASES[name]
    found = without_cures(wanted.make(), wanted.precision, wanted.version)
    assert {(one.rule, one.severity) for one in found} == {(wanted.rule, wanted.severity)}
    assert wanted.node in {one.node for one in found}
    assert all(one.reason and one.cure for one in found)
    assert all(one.module == one.node.replace("node_", "net.") for one in found)


def test_every_rule_has_a_graph() -> None:
    assert RULES
    assert {rule.name for rule in RULES} == {one.rule for one in CASES.values()}


@needs_rtx
@pytest.mark.parametrize("name", [name for name, one in CASES.items() if one.rtx])
def test_what_is_refused_is_refused(name: str) -> None:
    """In TensorRT-RTX's own parser and builder, so that the rules cannot rot."""
    from edgekit.targets._plan.variants import variants

    wanted = CASES[name]
    model = cured(wanted.make())[0]
    typed = variants(model, wanted.precision)[0].model
    assert rtx_builds(typed, **wanted.sizes) != ""
    assert any(one.severity == "error" for one in findings(wanted.make(), wanted.precision, (RTX,)))


def test_rules_that_claim_to_be_tried_are_tried() -> None:
    tried = {rule.name for rule in RULES if rule.known in (TRIED, TRIED_AND_READ)}
    accepted = {"double"}  # takes it, and computes in float32: nothing to be refused
    assert tried - accepted <= {one.rule for one in CASES.values() if one.rtx}


@needs_rtx
def test_operators_that_no_tensorrt_takes() -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    reader = trt.OnnxParser(network, logger)
    assert [kind for kind in sorted(NEVER) if reader.supports_operator(kind)] == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_good_graph_has_nothing_against_it(crnn: Path, precision: str) -> None:
    modern = [version for version in VERSIONS if number(version) >= (10, 0)]
    assert findings(onnx.load(crnn), precision, [*modern, RTX]) == []
    assert supports(onnx.load(crnn), precision) == []


def test_a_quantized_graph_is_warned_of_its_recurrent_layers(crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    assert supports(model, "int8") == []
    found = findings(model, "int8", (MODERN,))
    assert {(one.rule, one.severity) for one in found} == {
        ("recurrent-float", "warning"),
        ("quantized-sequence", "warning"),
    }
    assert ("quantized-sequence", "error") in {
        (one.rule, one.severity) for one in findings(model, "int8", (RTX,))
    }


class TestVersions:
    def test_an_older_opset_is_cured_and_said_once(self, crnn: Path) -> None:
        (found,) = findings(onnx.load(crnn), "fp16")
        assert (found.rule, found.severity, found.versions) == (
            "opset",
            "cured",
            "TensorRT 8.5, TensorRT 8.6",
        )
        assert found.cure == "lowered to opset 17"

    def test_an_operator_that_8_5_lacks_is_cured(self) -> None:
        model = net("(float[2,8] x) => (float[2,8] y) { y = LayerNormalization(x, w) }", 17, w=random(8))
        (found,) = findings(model, "fp16")
        assert (found.rule, found.severity, found.versions) == ("late-operator", "cured", "TensorRT 8.5")
        assert (found.node, found.module) == ("node_y", "net.y")

    def test_an_operator_without_another_form_is_an_error_there(self) -> None:
        model = net("(float[2,8] x) => (float[2,8] y) { y = Hardmax(x) }", 17)
        (found,) = findings(model, "fp16")
        assert (found.severity, found.versions) == ("error", "TensorRT 8.5, TensorRT 8.6")
        assert supports(model, "fp16") == []

    def test_an_opset_that_cannot_be_lowered_names_the_node(self) -> None:
        model = net("(float[2,3] x, int64[1] a) => (float[b,c] y) { y = ReduceMean(x, a) }")
        found = [one for one in findings(model, "fp32", ("8.6",)) if one.rule == "opset"]
        assert [(one.node, one.severity) for one in found] == [("node_y", "error")]

    def test_where_a_rule_holds_is_said(self) -> None:
        model = CASES["bf16"].make()
        (found,) = findings(model, "bf16", ("8.5", "10.3"))[:1]
        assert found.versions == "TensorRT before 10.0"
        assert findings(model, "bf16", ("10.3", "11.4", RTX)) == []

    def test_tensorrt_and_rtx_may_differ(self) -> None:
        found = findings(CASES["data"].make(), "fp32", (MODERN, RTX))
        assert [(one.severity, one.versions) for one in found] == [
            ("warning", "TensorRT"),
            ("error", "TensorRT-RTX"),
        ]


def test_cures_come_first_and_are_no_errors() -> None:
    text, weights = recurrent("LSTM", ", layout=1, input_forget=1")
    found = findings(
        net(text.replace("[5,1,3]", "[1,5,3]").replace("[5,1,1,4]", "[1,5,1,4]"), **weights),
        "fp32",
        (MODERN,),
    )
    assert [(one.rule, one.severity) for one in found] == [("layout", "cured"), ("input-forget", "error")]


def test_supports_gives_errors_that_hold_in_every_version() -> None:
    assert [one.rule for one in supports(CASES["input_forget"].make(), "fp32")] == ["input-forget"]
    assert [one.rule for one in supports(CASES["volumes"].make(), "fp32")] == ["grid-sample"]
    assert supports(CASES["gru in bf16"].make(), "bf16") == []
    assert [one.rule for one in supports(CASES["bf16"].make(), "fp8")] == ["precision"]
