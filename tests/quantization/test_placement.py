"""Where Q/DQ pairs stand, which ranges the nodes carry, and what is known of each candidate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.quantization import ptq
from tests.quantization.nets import Feed, Measurements, notes, run, written

OPTIONS = ptq.Options()


def quantized(nets: Measurements, kind: str, **plan: str) -> onnx.ModelProto:
    made, measured = nets[kind]
    return ptq.quantize(made.graph, measured, plan, OPTIONS)


def sources(graph: onnx.ModelProto) -> list[str]:
    """The operators whose results are quantized."""
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    found = (node.input[0] for node in graph.graph.node if node.op_type == "QuantizeLinear")
    return sorted(makers.get(name, "input") for name in found)


def test_results_are_quantized_behind_silu_and_relu6_and_where_they_are_added(
    nets: Measurements,
) -> None:
    graph = quantized(nets, "convolutions")
    assert sources(graph) == ["Add", "Clip", "Conv", "Mul", "ReduceMean", "Relu", "input"]


def test_a_residual_stream_in_float_stays_float(nets: Measurements) -> None:
    graph = quantized(nets, "encoder")
    makers = {name: node for node in graph.graph.node for name in node.output}
    sums = [node for node in graph.graph.node if node.op_type == "Add"]
    streams = [makers[name].op_type for node in sums for name in node.input if name in makers]
    assert "LayerNormalization" in streams
    assert "DequantizeLinear" not in streams
    assert sources(graph) == ["LayerNormalization", "LayerNormalization", "Mul"]  # the last is a GELU


def test_a_result_that_leads_to_no_layer_stays_float_and_tells_its_range(
    nets: Measurements,
) -> None:
    _, measured = nets["loudness"]
    graph = quantized(nets, "loudness")
    assert sources(graph) == ["input"]
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    assert notes(graph, "edgekit.output_range") == {conv.name: measured.largest(conv.output[0])}
    assert not notes(graph, "edgekit.result_range")


def test_what_feeds_a_recurrent_layer_tells_its_range_after_the_activation(
    nets: Measurements,
) -> None:
    graph = quantized(nets, "lines")
    assert notes(graph, "edgekit.output_range") == {
        "cnn.4/Conv": nets["lines"][1].largest("cnn.6/Relu_output_0")
    }


def test_a_convolution_before_a_curve_tells_the_range_between(
    nets: Measurements,
) -> None:
    graph = quantized(nets, "convolutions")
    stem = next(node for node in graph.graph.node if node.op_type == "Conv")
    assert notes(graph, "edgekit.result_range") == {
        stem.name: nets["convolutions"][1].largest(stem.output[0])
    }


def test_every_quantizer_tells_the_bounds_of_its_tensor(nets: Measurements) -> None:
    graph = quantized(nets, "convolutions")
    lows, highs = notes(graph, "edgekit.low"), notes(graph, "edgekit.high")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            top = 127 * values[node.input[1]]
            assert -1.001 * top <= lows[node.name] <= highs[node.name] <= 1.001 * top
            assert max(-lows[node.name], highs[node.name]) == pytest.approx(top, rel=1e-4)
    clipped = next(name for name in lows if "Clip" in name)
    assert lows[clipped] == 0


def test_an_lstm_tells_the_range_of_what_it_reads_and_of_its_state(
    nets: Measurements,
) -> None:
    made, measured = nets["tagger"]
    graph = quantized(nets, "tagger")
    lstm = next(node for node in graph.graph.node if node.op_type == "LSTM")
    largest = max(float(np.abs(feed["x"]).max()) for feed in made.samples)
    assert notes(graph, "edgekit.input_range") == {"rnn/LSTM": largest}
    assert notes(graph, "edgekit.hidden_range") == {"rnn/LSTM": measured.largest(lstm.output[0])}
    assert 0 < measured.largest(lstm.output[0]) < 1


def test_equalization_brings_the_features_to_one_range(nets: Measurements) -> None:
    made, measured = nets["tagger"]
    graph = ptq.quantize(made.graph, measured, {}, ptq.Options(equalization=True))
    assert 0.5 < notes(graph, "edgekit.input_range")["rnn/LSTM"] <= 1
    assert any(node.op_type == "Mul" for node in graph.graph.node)


def test_candidates_tell_module_operator_default_and_multiplications(
    nets: Measurements,
) -> None:
    made, measured = nets["lines"]
    found = ptq.candidates(made.graph, OPTIONS, measured)
    assert list(found) == list(ptq.quantized_layers(made.graph))
    assert [each.module for each in found.values()] == ["cnn.0", "cnn.4", "rnn", "rnn", "head"]
    assert [each.default for each in found.values()] == [True, True, False, False, False]
    width = sorted(feed["image"].shape[-1] for feed in made.samples)[4]
    steps = width // 2
    assert [each.macs for each in found.values()] == [
        8 * 16 * width * 9,
        16 * 8 * steps * 8 * 9,
        steps * 2 * 48 * (64 + 12),
        steps * 2 * 48 * (24 + 12),
        steps * 24 * 7,
    ]


def test_the_default_plan_is_what_the_candidates_say(nets: Measurements) -> None:
    for kind, (made, measured) in nets.items():
        found = ptq.candidates(made.graph, OPTIONS, measured)
        layers = ptq.quantized_layers(quantized(nets, kind))
        for name, each in found.items():
            assert layers[name] == ("int8" if each.default else "fp32"), (kind, name)
            assert each.macs > 0


def test_without_samples_the_multiplications_are_those_of_the_known_sizes() -> None:
    sizes = {"w": (3, 2, 3, 3), "v": (10, 4)}
    body = "h = Conv<pads=[1,1,1,1]>(x, w)\n y = MatMul(h, v)"
    graph = written("(float[n,2,8,10] x) => (float[n,3,8,4] y)", body, **sizes)
    found = ptq.candidates(graph, OPTIONS)
    assert [each.macs for each in found.values()] == [3 * 80 * 18, 24 * 40]
    samples: list[Feed] = [{"x": np.ones((5, 2, 8, 10), np.float32)}]
    measured = ptq.measure(graph, samples, OPTIONS)
    assert [each.macs for each in ptq.candidates(graph, OPTIONS, measured).values()] == [
        5 * 3 * 80 * 18,
        5 * 24 * 40,
    ]


def test_layers_that_share_a_loop_have_a_switch_each(tmp_path: Path) -> None:
    import torch
    from torch import Tensor, nn
    from torch._higher_order_ops.scan import scan

    from edgekit.exporting import export_onnx
    from edgekit.runtime.manifest import TensorSpec
    from tests.exporting.networks import SERIES

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            def step(hidden: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
                hidden = torch.tanh(self.two(torch.relu(self.one(frame + hidden))))
                return hidden, hidden.clone()

            steps = scan(step, x.new_zeros(x.shape[0], 6), x.transpose(0, 1), dim=0)[1]
            out: Tensor = self.last(steps.clone())
            return out

    torch.manual_seed(0)
    outputs = (TensorSpec("steps", ("time", "batch", 6)),)
    export_onnx(Twice().eval(), SERIES, outputs, (), tmp_path / "twice.onnx")
    graph = onnx.load(tmp_path / "twice.onnx")
    samples: list[Feed] = [{"x": np.random.default_rng(0).standard_normal((2, 9, 6), np.float32)}]
    measured = ptq.measure(graph, samples, OPTIONS)
    found = ptq.candidates(graph, OPTIONS, measured)
    switches = ptq.switches(graph, measured, OPTIONS)
    inner = [name for name, each in found.items() if not each.default]
    assert len(inner) == 2
    assert switches.layers == tuple(found)
    for on in ([inner[0]], [inner[1]], inner, [*found]):
        plan = {name: "int8" if name in on else "fp32" for name in found}
        want = run(ptq.quantize(graph, measured, plan, OPTIONS), samples)
        have = run(switches.graph, [{**samples[0], "edgekit.switches": switches.values(on)}])
        assert np.linalg.norm(have - want) < 1e-3 * np.linalg.norm(want - run(graph, samples)), on
    layers = ptq.quantized_layers(ptq.quantize(graph, measured, dict.fromkeys(found, "int8"), OPTIONS))
    assert layers == dict.fromkeys(found, "int8")
