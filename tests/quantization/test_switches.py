"""The graph with switches computes what the Q/DQ graph of the same plan computes."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest

from edgekit.quantization import ptq
from edgekit.quantization._calibration import Measured
from edgekit.runtime.errors import UsageError
from tests.quantization.nets import KINDS, Array, Feed, Measurements, Net, relative, run, written

OPTIONS = ptq.Options()


@pytest.fixture(params=KINDS)
def measured(request: pytest.FixtureRequest, nets: Measurements) -> tuple[Net, Measured]:
    return nets[request.param]


def feeds(samples: list[Feed], values: Array) -> list[Feed]:
    return [{**sample, "edgekit.switches": values} for sample in samples[:3]]


def read_in_int8(graph: onnx.ModelProto, measured: Measured) -> onnx.ModelProto:
    """What an LSTM with int8 weights reads goes through static int8 too, as in the switched graph."""
    from edgekit.quantization._qdq import pair, tidy

    restored = {node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.graph.node:
        if node.op_type == "LSTM" and node.input[1] in restored:
            source, node.input[0] = node.input[0], f"{node.name}/X/dequantized"
            made = pair(graph.graph, source, node.input[0], measured.largest(source), f"{node.name}/X")
            graph.graph.node.extend(made)
    tidy(graph.graph)
    return graph


def test_any_plan_computes_the_same(measured: tuple[Net, Measured]) -> None:
    made, found = measured
    switches = ptq.switches(made.graph, found, OPTIONS)
    onnx.checker.check_model(switches.graph)
    layers = list(ptq.candidates(made.graph, OPTIONS))
    assert list(switches.layers) == layers
    plain = run(made.graph, made.samples[:3])
    chosen = random.Random(0)
    for on in ([layers[0]], layers, *([name for name in layers if chosen.random() < 0.5] for _ in range(3))):
        if not on:
            continue
        plan = {name: "int8" if name in on else "fp32" for name in layers}
        graph = read_in_int8(ptq.quantize(made.graph, found, plan, OPTIONS), found)
        want = run(graph, made.samples[:3])
        have = run(switches.graph, feeds(made.samples, switches.values(on)))
        error = np.linalg.norm(want - plain)
        assert error > 0
        assert np.linalg.norm(have - want) < 1e-3 * error, on


def test_all_off_is_the_float_network(measured: tuple[Net, Measured]) -> None:
    made, found = measured
    switches = ptq.switches(made.graph, found, OPTIONS)
    have = run(switches.graph, feeds(made.samples, switches.values([])))
    assert relative(run(made.graph, made.samples[:3]), have) < 1e-6


def test_the_given_graph_is_not_changed(measured: tuple[Net, Measured]) -> None:
    made, found = measured
    before = made.graph.SerializeToString(deterministic=True)
    ptq.switches(made.graph, found, OPTIONS)
    assert made.graph.SerializeToString(deterministic=True) == before


def test_a_layer_without_a_switch_is_named(nets: Measurements) -> None:
    made, found = nets["tagger"]
    with pytest.raises(UsageError, match="the layer 'rnn/GRU' has no switch"):
        ptq.switches(made.graph, found, OPTIONS).values(["rnn/GRU"])


def convolutions_in_a_loop() -> onnx.ModelProto:
    """A Scan in which one convolution reads what another gives, and that leaves the body too."""
    body = """{
        s = Add(h, x_t) a = Conv<pads=[1, 1]>(s, k) r = Relu(a) b = Conv<pads=[1, 1]>(r, l)
        h_next = Tanh(b) each = Identity(r) raw = Identity(r)
    }"""
    scan = (
        "end, y, z = Scan<num_scan_inputs=1, body=step (float[n,2,6] h, float[n,2,6] x_t) => "
        f"(float[n,2,6] h_next, float[n,2,6] each, float[n,2,6] raw) {body}>(start, x) e = Add(y, z)"
    )
    signature = "(float[n,2,6] start, float[t,n,2,6] x) => (float[n,2,6] end, float[t,n,2,6] e)"
    graph = written(signature, scan, k=(2, 2, 3), l=(2, 2, 3))
    loop = next(attribute.g for attribute in graph.graph.node[0].attribute if attribute.name == "body")
    for place, node in enumerate(loop.node):
        node.name = f"step/{place}/{node.op_type}"
    return graph


def test_convolutions_that_share_a_loop_have_a_switch_each() -> None:
    graph, generator = convolutions_in_a_loop(), np.random.default_rng(0)
    samples: list[Feed] = [
        {"start": generator.standard_normal((2, 2, 6), np.float32), "x": x}
        for x in generator.standard_normal((3, 5, 2, 2, 6), np.float32)
    ]
    measured = ptq.measure(graph, samples, OPTIONS)
    layers = list(ptq.candidates(graph, OPTIONS, measured))
    switches = ptq.switches(graph, measured, OPTIONS)
    onnx.checker.check_model(switches.graph)
    assert len(layers) == len(switches.layers) == 2
    plain = run(graph, samples)
    for on in ([layers[0]], [layers[1]], layers):
        plan = {name: "int8" if name in on else "fp32" for name in layers}
        want = run(ptq.quantize(graph, measured, plan, OPTIONS), samples)
        have = run(switches.graph, feeds(samples, switches.values(on)))
        assert np.linalg.norm(have - want) < 1e-3 * np.linalg.norm(want - plain), on
    off = run(switches.graph, feeds(samples, switches.values([])))
    assert np.array_equal(off, plain)
