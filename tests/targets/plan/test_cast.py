"""The cast to half precision: close in numbers, valid, and built by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.targets._plan.cast import cast
from edgekit.targets._plan.raised import raised
from tests.targets import graphs
from tests.targets.plan.graphs import HAS_RTX, all_graphs, net, random, relative, rtx_builds, run

needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
FLOAT, HALF, BFLOAT = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
CLOSE = 1e-2


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The fp16 form, checked; its inputs and outputs are those of the model."""
    before = model.SerializeToString()
    made, said = cast(model, "fp16")
    assert model.SerializeToString() == before
    assert said[0].startswith("float32 -> float16")
    onnx.checker.check_model(made, full_check=True)
    for old, new in zip(boundary(model), boundary(made), strict=True):
        assert (old.name, old.type.tensor_type.elem_type) == (new.name, new.type.tensor_type.elem_type)
    return made


def boundary(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


def kinds(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for graph in all_graphs(model.graph) for node in graph.node if node.op_type == kind]


def types_read(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Element types of what a node reads, as ONNX infers them."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return [known[name] for name in node.input if name]


def attention() -> onnx.ModelProto:
    """LayerNormalization, one head of attention, a feed-forward half with Gelu's primitives; dynamic time."""
    return net(
        """(float[N,T,16] x) => (float[N,T,16] y) {
             a = LayerNormalization<axis=-1>(x, gain, shift)
             q = MatMul(a, Wq)  k = MatMul(a, Wk)  v = MatMul(a, Wv)
             kt = Transpose<perm=[0,2,1]>(k)
             s = MatMul(q, kt)  t = Div(s, four)  p = Softmax<axis=-1>(t)
             o = MatMul(p, v)  r = Add(x, o)
             mean = ReduceMean(r, last)  c = Sub(r, mean)  two = Constant<value_float=2.0>()
             sq = Pow(c, two)  var = ReduceMean(sq, last)  ve = Add(var, tiny)  sd = Sqrt(ve)
             n = Div(c, sd)  h = MatMul(n, W1)  e = Erf(h)  g = Mul(h, e)  f = MatMul(g, W2)
             y = Add(r, f) }""",
        gain=1 + random(16, seed=1, scale=0.1),
        shift=random(16, seed=2, scale=0.1),
        four=np.float32(4),
        last=np.array([-1]),
        tiny=np.float32(1e-12),
        **{name: random(16, 16, seed=number, scale=0.25) for number, name in enumerate(("Wq", "Wk", "Wv"))},
        W1=random(16, 32, seed=7, scale=0.25),
        W2=random(32, 16, seed=8, scale=0.2),
    )


def scan() -> onnx.ModelProto:
    """A convolution with a hidden state, step by step: what a ConvLSTM is in ONNX."""
    return net(
        """(float[T,N,2,5,5] x, float[N,3,5,5] h) => (float[N,3,5,5] last, float[T,N,3,5,5] all) {
             last, all = Scan<num_scan_inputs=1, body = step (float[N,3,5,5] a, float[N,2,5,5] b)
                 => (float[N,3,5,5] c, float[N,3,5,5] e) {
               both = Concat<axis=1>(a, b)
               g = Conv<pads=[1,1,1,1]>(both, w, bias)
               i, o, u = Split<axis=1, num_outputs=3>(g)
               si = Sigmoid(i)  so = Sigmoid(o)  tu = Tanh(u)
               m = Mul(si, tu)  keep = Mul(so, a)  c = Add(m, keep)
               e = Identity(c)
             }>(h, x) }""",
        w=random(9, 5, 3, 3, scale=0.15),
        bias=random(9, seed=1, scale=0.1),
    )


def recurrent(kind: str, gates: int) -> onnx.ModelProto:
    """A recurrent layer whose state goes in and out."""
    more = {"LSTM": ", yc = LSTM<", "GRU": " = GRU<linear_before_reset=1, ", "RNN": " = RNN<"}[kind]
    cell = kind == "LSTM"
    return net(
        f"""(float[T,N,3] x, float[1,N,8] h{", float[1,N,8] c" if cell else ""})
             => (float[T,1,N,8] y, float[1,N,8] yh{", float[1,N,8] yc" if cell else ""}) {{
             y, yh{more}hidden_size=8>(x, W, R, B, , h{", c" if cell else ""}) }}""",
        W=random(1, gates * 8, 3, seed=1, scale=0.5),
        R=random(1, gates * 8, 8, seed=2, scale=0.3),
        B=random(1, gates * 16, seed=3, scale=0.1),
    )


def resize() -> onnx.ModelProto:
    """Upsampling by a constant, then to a size computed from the input's own."""
    return net(
        """(float[N,2,H,W] x) => (float[N,3,H2,W2] y) {
             c = Conv<pads=[1,1,1,1]>(x, w)
             u = Resize<mode="linear">(c, , scales)
             size = Shape<start=2>(x)
             f = Cast<to=1>(size)  d = Mul(f, factor)  g = Floor(d)  target = Cast<to=7>(g)
             nc = Shape<start=0, end=2>(u)
             full = Concat<axis=0>(nc, target)
             y = Resize<mode="nearest">(u, , , full) }""",
        w=random(3, 2, 3, 3, scale=0.3),
        scales=np.array([1, 1, 2, 2], np.float32),
        factor=np.array([3, 3], np.float32),
    )


FEEDS = {
    "attention": (attention, {"x": random(2, 7, 16)}),
    "scan": (scan, {"x": random(4, 2, 2, 5, 5), "h": random(2, 3, 5, 5, seed=5)}),
    "LSTM": (
        lambda: recurrent("LSTM", 4),
        {"x": random(5, 2, 3), "h": random(1, 2, 8, seed=5), "c": random(1, 2, 8, seed=6)},
    ),
    "GRU": (lambda: recurrent("GRU", 3), {"x": random(5, 2, 3), "h": random(1, 2, 8, seed=5)}),
    "RNN": (lambda: recurrent("RNN", 1), {"x": random(5, 2, 3), "h": random(1, 2, 8, seed=5)}),
    "resize": (resize, {"x": random(2, 2, 6, 9)}),
}
SIZES = {"N": (1, 1, 2), "T": (2, 5, 9), "H": (6, 6, 6), "W": (9, 9, 9)}


@pytest.mark.parametrize("name", FEEDS)
def test_half_precision_is_close(name: str) -> None:
    make, feeds = FEEDS[name]
    model = make()
    for got, wanted in zip(run(half(model), feeds), run(model, feeds), strict=True):
        assert got.dtype == np.float32
        assert relative(got, wanted) < CLOSE


@pytest.mark.parametrize("width", [32, 57])
def test_a_whole_network(crnn: Path, width: int) -> None:
    model = onnx.load(crnn)
    feeds = graphs.image(2, width)
    assert relative(run(half(model), feeds)[0], run(model, feeds)[0]) < CLOSE


def test_a_quantized_network(crnn: Path, crnn_int8: Path) -> None:
    """No further from float32 than the int8 graph was: other codes at the edges of the steps."""
    model = raised(onnx.load(crnn_int8), 19)
    feeds = graphs.image(2, 57)
    wanted = run(onnx.load(crnn), feeds)[0]
    made = half(model)
    assert relative(run(made, feeds)[0], run(model, feeds)[0]) < 0.05
    assert relative(run(made, feeds)[0], wanted) < 1.2 * relative(run(model, feeds)[0], wanted) + CLOSE
    scales = {node.input[1] for kind in ("QuantizeLinear", "DequantizeLinear") for node in kinds(made, kind)}
    assert {one.data_type for one in made.graph.initializer if one.name in scales} == {HALF}


@needs_rtx
@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_builds_it(name: str, precision: str) -> None:
    if (name, precision) == ("GRU", "bf16"):
        pytest.skip("TensorRT-RTX has no GRU in bf16")
    model = FEEDS[name][0]()
    made, _ = cast(raised(model, 22) if precision == "bf16" else model, precision)
    onnx.checker.check_model(made, full_check=True)
    assert rtx_builds(made, **SIZES) == ""


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_builds_a_quantized_network(crnn_int8: Path, precision: str) -> None:
    """Of fixed sizes: with dynamic ones the Q/DQ before the LSTM is in its way in any precision."""
    made, _ = cast(raised(onnx.load(crnn_int8), 22), precision)
    onnx.checker.check_model(made, full_check=True)
    assert rtx_builds(made, batch=(1, 1, 1), width=(64, 64, 64)) == ""


def test_weights_and_layers_are_half() -> None:
    made = half(attention())
    assert {tensor.data_type for tensor in made.graph.initializer if tensor.name.startswith("W")} == {HALF}
    for node in (*kinds(made, "MatMul"), *kinds(made, "Softmax"), *kinds(made, "Erf")):
        assert set(types_read(made, node)) == {HALF}


def test_what_is_delicate_stays_float_without_casts_in_between() -> None:
    made = half(attention())
    for kind in ("LayerNormalization", "Pow", "Sqrt"):
        assert set(types_read(made, kinds(made, kind)[0])) == {FLOAT}
    (epsilon,) = [node for node in kinds(made, "Add") if node.name == "node_ve"]
    assert types_read(made, epsilon) == [FLOAT, FLOAT]
    between = [node for node in kinds(made, "Cast") if "var" in node.input or "ve" in node.input]
    assert between == []


def test_what_stays_is_said() -> None:
    said = cast(attention(), "fp16")[1]
    assert "kept in float32: 1 LayerNormalization, 1 Pow, 2 ReduceMean" in said


def test_sizes_are_computed_in_float32() -> None:
    """fp16 counts to 2048 only: a size beyond would change."""
    made = half(resize())
    first, second = kinds(made, "Resize")
    assert types_read(made, first) == [HALF, FLOAT]
    floor = kinds(made, "Floor")[0]
    assert types_read(made, floor) == [FLOAT]
    assert types_read(made, second)[-1] == onnx.TensorProto.INT64


def test_a_body_carries_half_precision() -> None:
    made = half(scan())
    body = all_graphs(made.graph)[1]
    assert {value.type.tensor_type.elem_type for value in (*body.input, *body.output)} == {HALF}
    assert "Cast" not in {node.op_type for node in body.node}


def test_loops_and_branches() -> None:
    model = net(
        """(float[2,3] x, bool more) => (float[2,3] y, float[2,3] z) {
             rounds = Constant<value_int=3>()  go = Constant<value = bool {1}>()
             y = Loop(rounds, go, x) <body = b (int64 i, bool on, float[2,3] h) => (bool off, float[2,3] g) {
               off = Identity(on)  e = Exp(h)  half = Constant<value_float=0.1>()  g = Mul(e, half) }>
             z = If(more) <then_branch = t () => (float[2,3] a) { a = Mul(x, w) },
                           else_branch = f () => (float[2,3] b) { b = Exp(x) }> }""",
        w=random(2, 3),
    )
    made = half(model)
    for more in (True, False):
        feeds = {"x": random(2, 3, scale=0.5), "more": np.array(more)}
        for got, wanted in zip(run(made, feeds), run(model, feeds), strict=True):
            assert relative(got, wanted) < CLOSE


def test_values_that_fp16_does_not_hold() -> None:
    model = net(
        """(float[2,3] x) => (float[2,3] y) {
             m = Mul(x, mask)  s = Softmax(m)  w = Mul(s, part)  y = Add(w, tiny) }""",
        mask=np.array([1, 3e38, -np.inf], np.float32),
        part=np.array([1e-4, 3e-8, 1e-4], np.float32),
        tiny=np.float32(1e-12),
    )
    made, said = cast(model, "fp16")
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    np.testing.assert_array_equal(held["mask"], np.array([1, 65504, -np.inf], np.float16))
    assert held["tiny"].dtype == np.float32
    assert said[1:] == ["kept in float32: 1 Add", "values beyond 65504 clamped in mask"]


def test_what_becomes_zero_beside_larger_values_is_said() -> None:
    values = {"part": np.array([1e-5, 2e-8], np.float32)}
    said = cast(net("(float[2] x) => (float[2] y) { y = Mul(x, part) }", **values), "fp16")[1]
    assert said[-1] == "values too small for float16 became 0 in part"


def test_a_scale_too_small_for_fp16_stays() -> None:
    model = net(
        """(float[2,3] x) => (float[2,3] y) {
             a = Relu(x)  q = QuantizeLinear(a, s, z)  y = DequantizeLinear(q, s, z) }""",
        opset=19,
        s=np.float32(1e-6),
        z=np.int8(0),
    )
    made, said = cast(model, "fp16")
    onnx.checker.check_model(made, full_check=True)
    assert said[-1] == "scales too small for float16, so their Q/DQ stay float32: s"
    feeds = {"x": random(2, 3, scale=5e-5)}
    assert relative(run(made, feeds)[0], run(model, feeds)[0]) < 0.02


def test_types_in_attributes_follow() -> None:
    model = net(
        """(float[2,3] x, bool[2,3] m) => (float[2,3] y) {
             size = Shape(x)
             ones = ConstantOfShape<value = float[1] {1.5}>(size)
             gate = Cast<to=1>(m)
             eye = EyeLike(x)
             a = Mul(x, gate)  b = Add(a, ones)  y = Add(b, eye) }"""
    )
    made = half(model)
    assert types_read(made, kinds(made, "Mul")[0]) == [HALF, HALF]
    assert types_read(made, kinds(made, "Add")[0]) == [HALF, HALF]
    feeds = {"x": random(2, 3), "m": np.array([[True, False, True]] * 2)}
    assert relative(run(made, feeds)[0], run(model, feeds)[0]) < CLOSE


def test_bf16_before_its_opset_stays_float_and_says_so(crnn: Path) -> None:
    _, said = cast(onnx.load(crnn), "bf16")
    assert said[1] == "kept in float32: 2 Conv, 2 LSTM, 2 MaxPool"
    _, said = cast(raised(onnx.load(crnn), 22), "bf16")
    assert said == ["float32 -> bfloat16; inputs and outputs stay float32"]


def test_an_output_that_is_also_read_inside() -> None:
    model = net("(float[2,3] x) => (float[2,3] a, float[2,3] b) { a = Relu(x) b = Tanh(a) }")
    made = half(model)
    for got, wanted in zip(run(made, {"x": random(2, 3)}), run(model, {"x": random(2, 3)}), strict=True):
        assert relative(got, wanted) < CLOSE
    assert types_read(made, kinds(made, "Tanh")[0]) == [HALF]
