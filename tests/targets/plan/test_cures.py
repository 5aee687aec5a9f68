"""Each mechanical cure: the same numbers before and after, and TensorRT-RTX takes what it refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgekit.targets._plan.cures import cured
from tests.targets.plan.graphs import (
    HAS_RTX,
    all_graphs,
    net,
    random,
    relative,
    rtx_builds,
    rtx_parses,
    run,
)

needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
SCALE = np.float32(0.05)


def changed(model: onnx.ModelProto, *rules: str) -> onnx.ModelProto:
    """The cured model, after looking at what was said of it."""
    before = model.SerializeToString()
    made, told = cured(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    assert [(one.rule, one.severity) for one in told] == [(rule, "cured") for rule in rules]
    assert all(one.node.startswith("node_") and one.module.startswith("net.") for one in told)
    assert all(one.reason and one.cure for one in told)
    return made


def same(model: onnx.ModelProto, made: onnx.ModelProto, **feeds: np.ndarray) -> None:
    for before, after in zip(run(model, feeds), run(made, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def convolution(bias: str = "int32", codes: str = "int8", zero: int = 0) -> onnx.ModelProto:
    """What a quantizer writes that also quantizes the bias and knows no symmetry."""
    return net(
        """(float[N,2,6,6] x) => (float[N,3,4,4] y) {
             q = QuantizeLinear(x, s, z)
             d = DequantizeLinear(q, s, z)
             w = DequantizeLinear<axis=0>(wq, ws, wz)
             b = DequantizeLinear<axis=0>(bq, bs)
             y = Conv(d, w, b)
           }""",
        s=SCALE,
        z=np.array(zero, codes),
        wq=np.random.default_rng(1).integers(-100, 100, (3, 2, 3, 3)).astype(np.int8),
        ws=np.array([0.01, 0.02, 0.03], np.float32),
        wz=np.zeros(3, np.int8),
        bq=np.array([100, -2000, 30], bias),
        bs=np.array([0.0005, 0.001, 0.0015], np.float32),
    )


def test_an_int32_bias_becomes_float() -> None:
    model = convolution()
    made = changed(model, "int32-bias")
    same(model, made, x=random(2, 2, 6, 6))
    assert [node.op_type for node in made.graph.node].count("DequantizeLinear") == 2
    assert not [tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.INT32]


@needs_rtx
def test_tensorrt_takes_the_float_bias_and_not_the_int32_one() -> None:
    model = convolution()
    assert "DequantizeLinear" in rtx_parses(model)
    assert rtx_builds(cured(model)[0], N=(1, 1, 2)) == ""


@needs_rtx
def test_tensorrt_takes_int8_and_not_zero_point_128() -> None:
    model = convolution(codes="uint8", zero=128)
    assert "zero" in rtx_parses(model).lower()
    assert rtx_builds(cured(model)[0], N=(1, 1, 2)) == ""


def test_zero_point_128_keeps_its_numbers() -> None:
    model = convolution(codes="uint8", zero=128)
    made = changed(model, "int32-bias", "zero-point")
    same(model, made, x=random(2, 2, 6, 6))


def pair(zero: np.ndarray, scale: np.ndarray = SCALE, more: str = "") -> onnx.ModelProto:
    text = f"q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z) {more}"
    outputs = "float[2,3,4] y, float[2,3,4] v" if more else "float[2,3,4] y"
    return net(f"(float[2,3,4] x) => ({outputs}) {{ {text} }}", s=scale, z=zero)


class TestTrapC:
    """TensorRT reads uint8 codes with zero point 0 as int8, with only a warning."""

    x = np.linspace(0, 255 * float(SCALE), 24, dtype=np.float32).reshape(2, 3, 4)

    def as_tensorrt(self) -> np.ndarray:
        """Codes above 127 clip, because the type is taken for int8."""
        return np.clip(np.round(self.x / SCALE), -128, 127).astype(np.float32) * SCALE

    @needs_rtx
    def test_tensorrt_takes_the_graph_as_it_is(self) -> None:
        assert rtx_builds(pair(np.uint8(0))) == ""

    def test_its_answer_would_be_wrong_and_the_cure_is_right(self) -> None:
        model = pair(np.uint8(0))
        right = run(model, {"x": self.x})[0]
        assert relative(self.as_tensorrt(), right) > 0.2
        made = changed(model, "zero-point")
        got = run(made, {"x": self.x})[0]
        step = float(SCALE) * 255 / 127
        assert np.abs(got - self.x).max() <= step / 2 * 1.001
        assert relative(got, right) < 0.01

    def test_every_reader_is_changed_with_it(self) -> None:
        model = pair(np.uint8(0), more="v = DequantizeLinear<axis=1>(q, s, z)")
        first, second = run(changed(model, "zero-point"), {"x": self.x})
        np.testing.assert_array_equal(first, second)

    def test_a_zero_point_that_is_left_out_is_uint8_too(self) -> None:
        model = net(
            "(float[2,3,4] x) => (float[2,3,4] y) { q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }",
            s=SCALE,
        )
        made = changed(model, "zero-point")
        assert relative(run(made, {"x": self.x})[0], run(model, {"x": self.x})[0]) < 0.01

    def test_one_scale_per_channel(self) -> None:
        model = pair(np.full(3, 128, np.uint8), np.array([0.01, 0.02, 0.03], np.float32))
        same(model, changed(model, "zero-point"), x=random(2, 3, 4))

    def test_codes_that_something_else_reads_stay(self) -> None:
        model = net(
            """(float[2,3] x) => (float[2,3] y, uint8[3,2] t) {
                 q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) t = Transpose(q) }""",
            s=SCALE,
            z=np.uint8(0),
        )
        assert cured(model) == (model, [])

    def test_other_zero_points_stay(self) -> None:
        model = pair(np.uint8(77))
        assert cured(model) == (model, [])


def weight(codes: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> onnx.ModelProto:
    return net(
        "(float[2,4] x) => (float[2,3] y) { w = DequantizeLinear<axis=1>(q, s, z) y = MatMul(x, w) }",
        q=codes,
        z=zero,
        s=scale,
    )


class TestWeights:
    codes = np.random.default_rng(0).integers(0, 256, (4, 3)).astype(np.uint8)
    scale = np.array([0.01, 0.02, 0.03], np.float32)

    def test_uint8_around_128_is_exact(self) -> None:
        model = weight(self.codes, np.full(3, 128, np.uint8), self.scale)
        same(model, changed(model, "zero-point"), x=random(2, 4))

    def test_small_codes_around_0_are_exact(self) -> None:
        model = weight(self.codes // 2, np.zeros(3, np.uint8), self.scale)
        same(model, changed(model, "zero-point"), x=random(2, 4))

    @pytest.mark.parametrize("zero", [0, 40])
    def test_codes_that_do_not_fit_are_rounded_to_steps_of_their_channel(self, zero: int) -> None:
        model = weight(self.codes, np.full(3, zero, np.uint8), self.scale)
        made = changed(model, "zero-point")
        exact = (self.codes.astype(np.float32) - zero) * self.scale
        got = run(made, {"x": np.eye(4, dtype=np.float32)[:2]})[0]
        assert (np.abs(got - exact[:2]) <= self.scale * 255 / 127 / 2 * 1.001).all()

    def test_int8_around_another_zero(self) -> None:
        codes = self.codes.astype(np.int16).clip(0, 200) - 100
        model = weight(codes.astype(np.int8), np.full(3, 20, np.int8), self.scale)
        same(model, changed(model, "zero-point"), x=random(2, 4))

    def test_given_as_constant_nodes(self) -> None:
        model = net(
            """(float[1,2] x) => (float[1,2] y) {
                 q = Constant<value = uint8[2,2] {130, 120, 128, 255}>()
                 z = Constant<value = uint8 {128}>()
                 s = Constant<value_float = 0.5>()
                 w = DequantizeLinear(q, s, z)
                 y = MatMul(x, w) }"""
        )
        same(model, changed(model, "zero-point"), x=random(1, 2))


def batch_first(kind: str, gates: int, outputs: str, states: str, types: str) -> onnx.ModelProto:
    return net(
        f"""(float[N,T,3] x, float[N,1,4] h, float[N,1,4] c) => ({types}) {{
             {outputs} = {kind}<hidden_size=4, layout=1>(x, W, R, B, {states}) }}""",
        W=random(1, gates * 4, 3, seed=1),
        R=random(1, gates * 4, 4, seed=2),
        B=random(1, gates * 8, seed=3),
    )


SEQUENCE, STATE = "float[N,T,1,4] y", "float[N,1,4] "


def in_torch(model: onnx.ModelProto, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """PyTorch's layer with batch_first, from ONNX's gate order iofc to ifgo."""
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor)[0] for tensor in model.graph.initializer}

    def ordered(array: np.ndarray) -> torch.Tensor:
        i, o, f, g = np.split(array, 4)
        return torch.from_numpy(np.concatenate([i, f, g, o]))

    layer = torch.nn.LSTM(3, 4, batch_first=True)
    first, second = np.split(weights["B"], 2)
    parts = {"weight_ih": weights["W"], "weight_hh": weights["R"], "bias_ih": first, "bias_hh": second}
    with torch.no_grad():
        for name, part in parts.items():
            getattr(layer, f"{name}_l0").copy_(ordered(part))
        start = (torch.from_numpy(h).transpose(0, 1), torch.from_numpy(c).transpose(0, 1))
        y, (last, cell) = layer(torch.from_numpy(x), start)
    return [y.unsqueeze(2).numpy(), last.transpose(0, 1).numpy(), cell.transpose(0, 1).numpy()]


class TestLayout:
    def test_the_answer_is_that_of_pytorch(self) -> None:
        types = f"{SEQUENCE}, {STATE} yh, {STATE} yc"
        model = batch_first("LSTM", 4, "y, yh, yc", ", h, c", types)
        made = changed(model, "layout")
        feeds = {"x": random(2, 5, 3), "h": random(2, 1, 4, seed=8), "c": random(2, 1, 4, seed=9)}
        got = run(made, feeds)
        for one, wanted in zip(got, in_torch(model, **feeds), strict=True):
            np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)
        assert [value.name for value in made.graph.output] == ["y", "yh", "yc"]

    @needs_rtx
    def test_tensorrt_takes_it_either_way_so_only_the_cure_helps(self) -> None:
        model = net(
            "(float[1,5,3] x) => (float[1,5,1,4] y) { y = LSTM<hidden_size=4, layout=1>(x, W, R) }",
            W=random(1, 16, 3),
            R=random(1, 16, 4),
        )
        assert rtx_builds(model) == ""
        assert rtx_builds(cured(model)[0]) == ""

    @pytest.mark.parametrize(("kind", "gates"), [("GRU", 3), ("RNN", 1)])
    def test_gru_and_rnn_with_some_outputs(self, kind: str, gates: int) -> None:
        """Each sample of a batch gets the answer that it gets alone."""
        made = changed(batch_first(kind, gates, '"", yh', ", h", f"{STATE} yh"), "layout")
        feeds = {"x": random(2, 5, 3), "h": random(2, 1, 4), "c": random(2, 1, 4)}
        (last,) = run(made, feeds)
        (alone,) = run(made, {name: value[1:] for name, value in feeds.items()})
        assert last.shape == (2, 1, 4)
        np.testing.assert_allclose(alone, last[1:], rtol=1e-5, atol=1e-6)


DETECTOR = """(float[N,8,4] x) => (int64[n,3] chosen, float[N,8,4] raw, float[n,4] kept) {
    raw = Mul(x, two)
    scores = ReduceMean<keepdims=1>(x, axes)
    turned = Transpose<perm=[0,2,1]>(scores)
    boxes = Sigmoid(raw)
    chosen = NonMaxSuppression(boxes, turned, most, iou)
    index = Gather<axis=1>(chosen, last)
    flat = Reshape(boxes, rows)
    kept = Gather(flat, index)
  }"""


def detector() -> onnx.ModelProto:
    return net(
        DETECTOR,
        two=np.float32(2),
        axes=np.array([2]),
        most=np.array([3]),
        iou=np.array([0.5], np.float32),
        last=np.array(2),
        rows=np.array([-1, 4]),
    )


class TestSuppression:
    def test_the_graph_ends_before_it(self) -> None:
        model = detector()
        made = changed(model, "nms")
        assert [value.name for value in made.graph.output] == ["raw", "boxes", "turned"]
        assert not {"NonMaxSuppression", "Gather", "Reshape"} & {node.op_type for node in made.graph.node}
        assert {tensor.name for tensor in made.graph.initializer} == {"two", "axes"}
        x = random(2, 8, 4)
        raw, boxes, scores = run(made, {"x": x})
        np.testing.assert_array_equal(raw, run(model, {"x": x})[1])
        assert boxes.shape == (2, 8, 4)
        assert scores.shape == (2, 1, 8)

    def test_what_it_hands_out_gives_the_same_choice(self) -> None:
        model = detector()
        boxes, scores = run(cured(model)[0], {"x": random(2, 8, 4)})[1:]
        alone = net(
            "(float[N,8,4] b, float[N,1,8] s) => (int64[n,3] y) { y = NonMaxSuppression(b, s, m, i) }",
            m=np.array([3]),
            i=np.array([0.5], np.float32),
        )
        wanted = run(model, {"x": random(2, 8, 4)})[0]
        np.testing.assert_array_equal(run(alone, {"b": boxes, "s": scores})[0], wanted)

    @needs_rtx
    def test_tensorrt_builds_what_is_left(self) -> None:
        model = detector()
        assert rtx_parses(model) == ""
        assert "builder" in rtx_builds(model, N=(1, 1, 1))
        assert rtx_builds(cured(model)[0], N=(1, 1, 2)) == ""

    def test_in_the_middle_of_a_network_it_stays(self) -> None:
        model = detector()
        model.graph.node.append(onnx.helper.make_node("MatMul", ["kept", "w"], ["more"], name="node_more"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(random(4, 2), "w"))
        model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, None))
        assert cured(model) == (model, [])


class TestDoubles:
    text = """(float[2,3] x) => (float[2,3] y) {
        d = Cast<to=11>(x)
        m = Mul(d, c)
        y = Cast<to=1>(m) }"""

    def test_inside_they_become_float(self) -> None:
        model = net(self.text, c=np.array(0.1, np.float64))
        made = changed(model, "double", "double")
        same(model, made, x=random(2, 3))
        assert 11 not in {tensor.data_type for tensor in made.graph.initializer}

    @pytest.mark.parametrize("value", [2.0**24 + 1, 1e300])
    def test_values_that_float_does_not_hold_stay(self, value: float) -> None:
        model = net(self.text, c=np.array(value, np.float64))
        assert cured(model) == (model, [])

    def test_an_input_that_is_double_stays(self) -> None:
        model = net("(double[2] x) => (double[2] y) { y = Relu(x) }")
        assert cured(model) == (model, [])


class TestLeftovers:
    def test_identity_and_dropout_go(self) -> None:
        model = net(
            "(float[2,3] x) => (float[2,3] y) { a = Identity(x) b = Relu(a) c = Dropout(b) y = Identity(c) }"
        )
        made = changed(model, "leftover", "leftover", "leftover")
        assert [node.op_type for node in made.graph.node] == ["Relu"]
        same(model, made, x=random(2, 3))

    def test_one_between_input_and_output_stays(self) -> None:
        model = net("(float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Relu(x) }")
        assert cured(model) == (model, [])

    def test_a_dropout_whose_mask_is_read_stays(self) -> None:
        model = net("(float[2] x) => (float[2] z, bool[2] m) { y, m = Dropout(x) z = Relu(y) }")
        assert cured(model) == (model, [])


def test_unread_pool_indices_go() -> None:
    model = net(
        "(float[1,2,4,4] x) => (float[1,2,2,2] y) { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
    )
    made = changed(model, "pool-indices")
    assert list(made.graph.node[0].output) == ["y"]
    same(model, made, x=random(1, 2, 4, 4))


class TestFunctions:
    model = staticmethod(
        lambda: net("(float[N,2,T,4] x) => (float[N,2,T,4] y) { y = Attention(x, x, x) }", opset=23)
    )

    def test_attention_is_written_out(self) -> None:
        made = changed(self.model(), "function")
        assert "Attention" not in {node.op_type for node in made.graph.node}
        assert {node.metadata_props[0].value for node in made.graph.node} == {"net.y"}
        x = random(2, 2, 5, 4)
        weights = np.einsum("bhqd,bhkd->bhqk", x, x) / 2
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        wanted = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdims=True), x)
        np.testing.assert_allclose(run(made, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)

    @needs_rtx
    def test_tensorrt_builds_it(self) -> None:
        assert rtx_builds(cured(self.model())[0], N=(1, 1, 2), T=(2, 5, 9)) == ""


def test_bodies_are_cured_too() -> None:
    model = net(
        """(float[T,2,3] x, float[2,3] h) => (float[2,3] last, float[T,2,3] all) {
             last, all = Scan<num_scan_inputs=1, body = step (float[2,3] a, float[2,3] b)
                 => (float[2,3] c, float[2,3] e) {
               s = Add(a, b)
               q = QuantizeLinear(s, qs, qz)
               d = DequantizeLinear(q, qs, qz)
               f = Identity(d)
               c = Tanh(f)
               e = Identity(c)
             }>(h, x) }""",
        qs=SCALE,
        qz=np.uint8(128),
    )
    made = changed(model, "leftover", "zero-point")
    body = all_graphs(made.graph)[1]
    assert [node.op_type for node in body.node] == [
        "Add",
        "QuantizeLinear",
        "DequantizeLinear",
        "Tanh",
        "Identity",
    ]
    same(model, made, x=random(4, 2, 3), h=random(2, 3))


def test_a_good_graph_is_given_back_as_it_is(crnn_int8: object) -> None:
    model = onnx.load(str(crnn_int8))
    assert cured(model) == (model, [])


class TestRecurrentWeights:
    @staticmethod
    def layer(kind: str, gates: int, setting: str = "", directions: int = 1) -> onnx.ModelProto:
        codes = np.random.default_rng(3).integers(-127, 128, (2, directions, gates * 4, 4)).astype(np.int8)
        return net(
            f"""(float[S,1,4] x) => (float[S,{directions},1,4] y) {{
                  w = DequantizeLinear<axis=1>(wq, s, z)
                  r = DequantizeLinear<axis=1>(rq, s, z)
                  y = {kind}<hidden_size=4{setting}>(x, w, r) }}""",
            wq=codes[0],
            rq=codes[1],
            s=np.linspace(0.001, 0.004, gates * 4, dtype=np.float32),
            z=np.zeros(gates * 4, np.int8),
        )

    @pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    def test_become_float_constants_of_the_same_values(self, kind: str, gates: int) -> None:
        model = self.layer(kind, gates)
        made = changed(model, "recurrent-weights")
        assert [node.op_type for node in made.graph.node] == [kind]
        assert {tensor.data_type for tensor in made.graph.initializer} == {onnx.TensorProto.FLOAT}
        same(model, made, x=random(5, 1, 4))

    def test_also_inside_a_body(self) -> None:
        inner = self.layer("LSTM", 4)
        inner.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, [5, 1, 4]))
        outer = net("(float[5,1,4] x, bool c) => (float[5,1,1,4] y) { y = If(c) }")
        for branch in ("then_branch", "else_branch"):
            body = onnx.GraphProto()
            body.CopyFrom(inner.graph)
            del body.input[:]
            outer.graph.node[0].attribute.append(onnx.helper.make_attribute(branch, body))
        made = changed(outer, "recurrent-weights", "recurrent-weights")
        assert {node.op_type for graph in all_graphs(made.graph) for node in graph.node} == {"If", "LSTM"}

    @needs_rtx
    @pytest.mark.parametrize(
        ("setting", "directions"), [(", linear_before_reset=1", 1), (', direction="bidirectional"', 2)]
    )
    def test_tensorrt_refuses_a_gru_with_them(self, setting: str, directions: int) -> None:
        model = self.layer("GRU", 3, setting, directions)
        assert rtx_builds(model, S=(1, 5, 9)) != ""
        assert rtx_builds(cured(model)[0], S=(1, 5, 9)) == ""
