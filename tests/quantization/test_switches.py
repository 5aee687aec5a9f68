"""The graph with switches computes what the Q/DQ graph of the same plan computes."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest

from edgekit.quantization import ptq
from edgekit.quantization._calibration import Measured
from edgekit.runtime.errors import UsageError
from tests.quantization.nets import KINDS, Array, Feed, Measurements, Net, relative, run

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
    assert not switches.unswitched
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
