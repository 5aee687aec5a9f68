"""Outlying channels go into the weights: to the last bit the same network, and one that bears int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.quantization import ptq
from edgekit.quantization._calibration import Measured
from tests.quantization.nets import Feed, Measurements, Net, outliers, relative, run, written

PLAIN, SMOOTH = ptq.Options(), ptq.Options(smooth=True)


@pytest.fixture(scope="module")
def outlying(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return outliers(tmp_path_factory.mktemp("outliers"))


def smoothed(graph: onnx.ModelProto, measured: Measured) -> onnx.ModelProto:
    """The float graph with the factors moved: what int8 begins with."""
    nothing = dict.fromkeys(ptq.candidates(graph, SMOOTH), "fp32")
    one = next(iter(nothing))
    made = ptq.quantize(graph, measured, {**nothing, one: "int8"}, SMOOTH)
    return made


def multiplications(graph: onnx.ModelProto) -> list[str]:
    return [node.name for node in graph.graph.node if node.op_type == "Mul"]


def test_the_float_network_is_the_same_to_the_last_bit(
    outlying: Net,
) -> None:
    graph, samples = outlying.graph, outlying.samples
    measured = ptq.measure(graph, samples, SMOOTH)
    assert len(measured.factors) == 3
    switches = ptq.switches(graph, measured, SMOOTH)
    off = [{**feed, "edgekit.switches": switches.values([])} for feed in samples]
    assert np.array_equal(run(switches.graph, off), run(graph, samples))


def test_outlying_channels_bear_int8_then(outlying: Net) -> None:
    graph, samples = outlying.graph, outlying.samples
    want, held_out = run(graph, samples[12:]), samples[12:]
    everything = dict.fromkeys(ptq.candidates(graph, PLAIN), "int8")
    errors = {}
    for options in (PLAIN, SMOOTH):
        made = ptq.quantize(graph, ptq.measure(graph, samples[:12], options), everything, options)
        onnx.checker.check_model(made, full_check=True)
        errors[options] = relative(want, run(made, held_out))
    assert errors[PLAIN] > 0.05
    assert errors[SMOOTH] < errors[PLAIN] / 3


def test_factors_go_into_what_makes_the_tensor_where_nothing_else_reads_it(
    outlying: Net,
) -> None:
    graph, samples = outlying.graph, outlying.samples
    made = smoothed(graph, ptq.measure(graph, samples, SMOOTH))
    assert multiplications(made) == ["end/LayerNormalization_output_0/smoothed/Mul"]
    names = {name for node in made.graph.node for name in node.output}
    assert "norm/LayerNormalization_output_0/smoothed" in names


def test_where_little_is_gained_nothing_is_smoothed(nets: Measurements) -> None:
    made, _ = nets["encoder"]
    measured = ptq.measure(made.graph, made.samples, SMOOTH)
    assert not measured.factors
    assert ptq.quantize(made.graph, measured, {}, SMOOTH) == ptq.quantize(
        made.graph, ptq.measure(made.graph, made.samples, PLAIN), {}, PLAIN
    )


BODIES = {
    "an output too": ("(float[n,8] x) => (float[n,8] h, float[n,4] y)", "h = MatMul(x, w) y = MatMul(h, v)"),
    "two products": (
        "(float[n,8] x) => (float[n,4] y)",
        "h = MatMul(x, w) a = MatMul(h, v) b = Gemm<alpha=0.5, transB=1>(h, t) y = Add(a, b)",
    ),
    "a weight used twice": (
        "(float[n,8] x) => (float[n,8] y)",
        "h = MatMul(x, w) g = Relu(h) a = MatMul(g, w) y = Add(a, h)",
    ),
    "a gemm with a bias": (
        "(float[n,8] x) => (float[n,4] y)",
        "h = Gemm<beta=0.5>(x, w, c) r = Relu(h) y = MatMul(r, v)",
    ),
    "a scale": ("(float[n,8] x) => (float[n,4] y)", "s = Mul(x, c) y = MatMul(s, v)"),
    "the input": ("(float[n,8] x) => (float[n,4] y)", "y = MatMul(x, v)"),
    "a bias of one value": (
        "(float[n,8] x) => (float[n,4] y)",
        "h = Gemm(x, w, o) r = Relu(h) y = MatMul(r, v)",
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_whatever_reads_and_makes_the_tensor(body: str) -> None:
    """One channel of every tensor before a product is large, and its weights small."""
    graph = written(*BODIES[body], w=(8, 8), v=(8, 4), t=(4, 8), c=(8,), o=(1,))
    large = np.array([1, 1, 300, 1, 1, 1, 1, 1], np.float32)
    for tensor in graph.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.name in "wc":
            value = value * large
        if tensor.name in "vt":
            value = value / (large[:, None] if tensor.name == "v" else large)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    random = np.random.default_rng(0)
    samples: list[Feed] = [{"x": random.standard_normal((4, 8), np.float32) * large} for _ in range(8)]
    measured = ptq.measure(graph, samples, SMOOTH)
    assert measured.factors
    switches = ptq.switches(graph, measured, SMOOTH)
    off = [{**feed, "edgekit.switches": switches.values([])} for feed in samples]
    want, have = run(graph, samples), run(switches.graph, off)
    assert np.array_equal(want, have)
    every = dict.fromkeys(ptq.candidates(graph, SMOOTH), "int8")
    onnx.checker.check_model(ptq.quantize(graph, measured, every, SMOOTH), full_check=True)


def test_what_a_convolution_gives_keeps_its_one_scale() -> None:
    body = "h = Conv(x, k) f = Flatten(h) y = MatMul(f, v)"
    graph = written("(float[n,2,4,4] x) => (float[n,4] y)", body, k=(2, 2, 4, 4), v=(2, 4))
    kernel = next(tensor for tensor in graph.graph.initializer if tensor.name == "k")
    uneven = numpy_helper.to_array(kernel) * np.array([300, 1], np.float32)[:, None, None, None]
    kernel.CopyFrom(numpy_helper.from_array(uneven, "k"))
    random = np.random.default_rng(0)
    samples: list[Feed] = [{"x": random.standard_normal((1, 2, 4, 4), np.float32)} for _ in range(8)]
    assert not ptq.measure(graph, samples, SMOOTH).factors


def test_the_given_graph_is_not_changed(outlying: Net) -> None:
    graph, samples = outlying.graph, outlying.samples
    before = graph.SerializeToString(deterministic=True)
    measured = ptq.measure(graph, samples, SMOOTH)
    ptq.quantize(graph, measured, {}, SMOOTH)
    assert graph.SerializeToString(deterministic=True) == before
    again = ptq.measure(graph, samples, SMOOTH)
    assert ptq.quantize(graph, again, {}, SMOOTH) == ptq.quantize(graph, measured, {}, SMOOTH)
