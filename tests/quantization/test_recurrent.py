"""int8 forms of recurrent layers: the numbers, the form that engines take, and what they are told."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.quantization._recurrent import (
    equalize,
    gru_candidates,
    lstm_candidates,
    quantize_gru,
    quantize_lstm,
)
from tests.recurrent_nets import copied, error, feeds, network, quantized, run
from tests.targets.plan.graphs import rtx_builds

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
FORMS: dict[str, dict[str, Any]] = {
    "one": {},
    "states": {"initial": True},
    "both sides, two layers": {"sides": 2, "layers": 2},
    "both sides, states": {"sides": 2, "initial": True},
    "backward": {"direction": "reverse"},
    "no last state": {"lasts": False},
    "no bias": {"biased": False},
}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def notes(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


class TestLstm:
    @pytest.mark.parametrize("form", FORMS)
    def test_the_error_is_small(self, form: str) -> None:
        model = network("LSTM", **FORMS[form])
        feed = feeds(model)
        made = quantized(model, feed)
        onnx.checker.check_model(made, full_check=True)
        assert 1e-5 < error(run(made, feed), run(model, feed)) < 0.02

    def test_weights_are_codes_with_a_scale_per_row_for_both_directions(self) -> None:
        model = network("LSTM", sides=2)
        made = quantized(model, feeds(model))
        makers = {node.output[0]: node for node in made.graph.node}
        layer, values = lstm_candidates(model.graph)[0], constants(made)
        for place in (1, 2):
            dequantize = makers[made.graph.node[2].input[place]]
            codes, scale, zero = (values[name] for name in dequantize.input)
            weight = values[layer.input[place]]
            assert dequantize.attribute[0].name == "axis"
            assert dequantize.attribute[0].i == 1
            assert (codes.dtype, codes.shape, scale.shape) == (np.int8, weight.shape, (96,))
            assert not zero.any()
            assert codes.min() >= -127
            assert np.abs(codes * scale[:, None] - weight).max() <= scale.max() / 2 * 1.001
            np.testing.assert_allclose(scale, np.abs(weight).max((0, 2)) / 127, rtol=1e-6)

    def test_what_targets_must_know_is_noted_once(self) -> None:
        model = network("LSTM")
        layer = lstm_candidates(model.graph)[0]
        quantize_lstm(model.graph, layer, 3.5)
        assert notes(layer) == {"edgekit.module": "rnn.0", "edgekit.input_range": "3.5"}
        assert layer.input[0] == "x"

    def test_the_range_of_h_where_it_is_known(self) -> None:
        model = network("LSTM")
        layer = lstm_candidates(model.graph)[0]
        quantize_lstm(model.graph, layer, 3.5, 0.25)
        assert notes(layer)["edgekit.hidden_range"] == "0.25"

    def test_layers_that_share_weights_share_the_codes(self) -> None:
        model = network("LSTM", size=24, layers=2)
        first, second = lstm_candidates(model.graph)
        second.input[1], second.input[2] = first.input[1], first.input[2]
        made = quantized(model, feeds(model))
        onnx.checker.check_model(made, full_check=True)
        assert [node.op_type for node in made.graph.node].count("DequantizeLinear") == 2

    def test_only_constant_float_weights_are_candidates(self) -> None:
        model = network("LSTM")
        assert [node.name for node in lstm_candidates(model.graph)] == ["rnn.0/LSTM"]
        assert lstm_candidates(quantized(model, feeds(model)).graph) == []
        assert gru_candidates(model.graph) == []

    @needs_rtx
    def test_tensorrt_parses_and_builds_it(self) -> None:
        model = network("LSTM", sides=2)
        assert rtx_builds(quantized(model, feeds(model)), time=(1, 30, 60), batch=(1, 1, 2)) == ""


class TestGru:
    @pytest.mark.parametrize("form", FORMS)
    def test_the_error_is_small(self, form: str) -> None:
        model = network("GRU", **FORMS[form])
        feed = feeds(model)
        made = quantized(model, feed)
        onnx.checker.check_model(made, full_check=True)
        kinds = [node.op_type for node in made.graph.node]
        assert "GRU" not in kinds
        assert 1e-5 < error(run(made, feed), run(model, feed)) < 0.02
        assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]

    def test_openvino_agrees(self) -> None:
        import openvino

        model = network("GRU", sides=2, initial=True)
        feed = feeds(model)
        made = quantized(model, feed)
        read = openvino.Core().read_model(made.SerializeToString())
        compiled = openvino.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        got = list(compiled(feed).values())
        assert error(got, run(made, feed)) < 0.01

    def test_a_scan_has_the_name_and_every_node_the_module(self) -> None:
        model = network("GRU", layers=2)
        made = quantized(model, feeds(model))
        scans = [node for node in made.graph.node if node.op_type == "Scan"]
        assert [node.name for node in scans] == ["rnn.0/GRU", "rnn.1/GRU"]
        fresh = [node for node in made.graph.node if node.name.startswith("rnn.")]
        fresh += [node for scan in scans for node in scan.attribute[0].g.node]
        assert {notes(node)["edgekit.module"] for node in fresh} == {"rnn.0", "rnn.1"}
        assert len({node.name for node in fresh}) == len(fresh)

    def test_all_products_are_int8(self) -> None:
        model = network("GRU")
        made = quantized(model, feeds(model))
        body = next(one.g for node in made.graph.node for one in node.attribute if one.name == "body")
        for graph in (made.graph, body):
            makers = {node.output[0]: node for node in graph.node}
            products = [node for node in graph.node if node.op_type == "MatMul"]
            assert len(products) == 1
            assert [makers[name].op_type for name in products[0].input] == ["DequantizeLinear"] * 2

    @pytest.mark.parametrize(
        "settings",
        [
            {"linear_before_reset": 0},
            {"clip": 0.5},
            {"activations": ["HardSigmoid", "Tanh"]},
            {"activations": ["Sigmoid", "Relu"]},
        ],
    )
    def test_another_gru_is_no_candidate(self, settings: dict[str, Any]) -> None:
        assert gru_candidates(network("GRU", **settings).graph) == []

    def test_one_with_lengths_is_none_either(self) -> None:
        model = network("GRU")
        model.graph.input.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT32, ["batch"]))
        model.graph.node[0].input.append("n")
        assert gru_candidates(model.graph) == []

    def test_the_usual_activations_may_be_said(self) -> None:
        said = network("GRU", sides=2, activations=["Sigmoid", "Tanh"] * 2)
        assert len(gru_candidates(said.graph)) == 1

    def test_an_input_that_is_always_zero_is_harmless(self) -> None:
        model = network("GRU")
        feed = {"x": np.zeros((5, 1, 10), np.float32)}
        wanted = run(model, feed)
        quantize_gru(model.graph, gru_candidates(model.graph)[0], 0.0)
        assert error(run(model, feed), wanted) < 0.02

    @needs_rtx
    @pytest.mark.parametrize("form", ["one", "both sides, states"])
    def test_tensorrt_builds_it(self, form: str) -> None:
        model = network("GRU", **FORMS[form])
        assert rtx_builds(quantized(model, feeds(model)), time=(1, 30, 60), batch=(1, 1, 2)) == ""


class TestEqualize:
    spread = np.logspace(-3, 3, 10)

    @pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
    def test_is_exact(self, kind: str) -> None:
        model = network(kind, scale=1 / self.spread)
        feed = {"x": feeds(model)["x"] * self.spread.astype(np.float32)}
        made = copied(model)
        equalize(made.graph, made.graph.node[0], np.abs(feed["x"]).max((0, 1)))
        onnx.checker.check_model(made, full_check=True)
        assert error(run(made, feed), run(model, feed)) < 1e-6

    def test_features_come_into_one_range(self) -> None:
        model = network("LSTM")
        ranges = np.abs(feeds(model)["x"]).max((0, 1)) * self.spread
        equalize(model.graph, model.graph.node[0], ranges)
        factors = constants(model)["rnn.0/LSTM/equalized.factors"]
        assert (ranges * factors > 0.5).all()
        assert (ranges * factors <= 1).all()
        assert (np.frexp(factors)[0] == 0.5).all()

    def test_saves_an_lstm_whose_inputs_span_six_orders_of_magnitude(self) -> None:
        """One scale per row of W loses the small columns: the factors bring them back."""
        model = network("LSTM", scale=1 / self.spread)
        feed = {"x": feeds(model)["x"] * self.spread.astype(np.float32)}
        wanted = run(model, feed)
        plain = quantized(model, feed)
        cured = copied(model)
        equalize(cured.graph, cured.graph.node[0], np.abs(feed["x"]).max((0, 1)))
        cured = quantized(cured, feed)
        assert error(run(plain, feed), wanted) > 0.3
        assert error(run(cured, feed), wanted) < 0.02

    def test_a_feature_that_is_never_seen_keeps_its_weight(self) -> None:
        model = network("LSTM")
        equalize(model.graph, model.graph.node[0], [0.0] + [1.0] * 9)
        assert constants(model)["rnn.0/LSTM/equalized.factors"][0] == 1
