"""The mean of what rounding the weights does to a channel is taken out of its bias."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.quantization import ptq
from tests.quantization.nets import Array, Feed, relative, run, written

ON, OFF = ptq.Options(), ptq.Options(bias_correction=False)
Sizes = dict[str, tuple[int, ...]]
BODIES: dict[str, tuple[Sizes, str]] = {
    "conv": ({"w": (4, 6, 3, 3), "b": (4,)}, "y = Conv(x, w, b)"),
    "conv without a bias": ({"w": (4, 6, 3, 3)}, "y = Conv(x, w)"),
    "grouped": ({"w": (8, 3, 3, 3), "b": (8,)}, "y = Conv<group=2>(x, w, b)"),
    "depthwise": ({"w": (6, 1, 3, 3), "b": (6,)}, "y = Conv<group=6>(x, w, b)"),
    "transposed": ({"w": (6, 4, 2, 2), "b": (4,)}, "y = ConvTranspose<strides=[2,2]>(x, w, b)"),
    "grouped and transposed": (
        {"w": (6, 4, 2, 2), "b": (8,)},
        "y = ConvTranspose<strides=[2,2], group=2>(x, w, b)",
    ),
    "gemm": ({"w": (432, 5), "b": (5,)}, "m = Flatten(x)\n y = Gemm(m, w, b)"),
    "gemm turned": ({"w": (5, 432), "b": (1, 5)}, "m = Flatten(x)\n y = Gemm<transB=1, alpha=0.5>(m, w, b)"),
    "gemm without a bias": ({"w": (432, 5)}, "m = Flatten(x)\n y = Gemm(m, w)"),
    "matmul": ({"w": (9, 5), "b": (5,)}, "m = MatMul(x, w)\n y = Add(b, m)"),
    "matmul and a number": ({"w": (9, 5), "b": (1,)}, "m = MatMul(x, w)\n y = Add(m, b)"),
}
PLACELESS = {
    "two readers": "y = Add(m, b)\n q = Neg(m)",
    "varies": "y = Add(m, x)\n q = Neg(y)",
    "by row": "y = Add(m, c)\n q = Neg(y)",
}


def graph(kind: str) -> onnx.ModelProto:
    """A single layer behind a ReLU."""
    sizes, body = BODIES[kind]
    result = "float[n,m] y" if "gemm" in kind else "float[n,m,h,w] y"
    return written(f"(float[n,6,8,9] z) => ({result})", f"x = Relu(z)\n {body}", **sizes)


def feeds(count: int) -> list[Feed]:
    random = np.random.default_rng(5)
    return [{"z": random.standard_normal((4, 6, 8, 9)).astype(np.float32) + 2} for _ in range(count)]


def channel_means(model: onnx.ModelProto, samples: list[Feed], kind: str) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results: list[Array] = [session.run(None, feed)[0] for feed in samples]
    axis = -1 if "m" in kind.split()[0] else 1
    rows = [np.moveaxis(result, axis, 0).reshape(result.shape[axis], -1) for result in results]
    means: Array = np.concatenate(rows, 1).mean(1)
    return means


def without_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Only the weights stay int8."""
    restored = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    codes = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        node.input[:] = [codes.get(restored.get(name, ""), name) for name in node.input]
    return model


@pytest.mark.parametrize("kind", BODIES)
def test_the_mean_of_every_channel_stays(kind: str) -> None:
    plain, samples = graph(kind), feeds(6)
    measured = ptq.measure(plain, samples, ON)
    want = channel_means(plain, samples, kind)
    errors = {}
    for name, options in (("on", ON), ("off", OFF)):
        measured.kept.clear()
        made = without_activations(ptq.quantize(plain, measured, {}, options))
        onnx.checker.check_model(made)
        errors[name] = np.linalg.norm(channel_means(made, samples, kind) - want)
    assert errors["on"] < 0.05 * errors["off"]


@pytest.mark.parametrize("kind", PLACELESS)
def test_a_layer_without_a_place_for_a_bias_stays_without_one(kind: str) -> None:
    body = f"m = MatMul(x, w)\n {PLACELESS[kind]}"
    signature = "(float[6,9] x) => (float[6,9] y, float[6,9] q)"
    plain = written(signature, body, w=(9, 9), b=(9,), c=(6, 1))
    samples: list[Feed] = [{"x": np.random.default_rng(1).standard_normal((6, 9)).astype(np.float32) + 1}]
    made = ptq.quantize(plain, ptq.measure(plain, samples, ON), {}, ON)
    assert not [tensor.name for tensor in made.graph.initializer if "corrected" in tensor.name]
    assert 0 < relative(run(plain, samples), run(made, samples)) < 0.03


def test_layers_that_share_a_bias_get_their_own() -> None:
    body = "h = Conv(x, v, b)\n r = Relu(h)\n y = Conv(r, w, b)"
    model = written("(float[1,4,n] x) => (float[1,4,n] y)", body, v=(4, 4, 1), w=(4, 4, 1), b=(4,))
    samples = [{"x": np.random.default_rng(1).standard_normal((1, 4, 50)).astype(np.float32) + 1}]
    made = ptq.quantize(model, ptq.measure(model, samples, ON), {"2/Conv": "fp32"}, ON)
    read = {node.name: node.input[2] for node in made.graph.node if node.op_type == "Conv"}
    assert read == {"0/Conv": "0/Conv/bias.corrected", "2/Conv": "b"}
