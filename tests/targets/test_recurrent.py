"""Recurrent layers with int8 weights on each target: the form that it gets, the numbers, and what is said."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.runtime.engines import EngineOptions, Layer, load_engine
from edgekit.runtime.manifest import TensorSpec
from edgekit.spec import Build, Shapes
from edgekit.targets import openvino as openvino_target
from edgekit.targets._bodies import dynamic_products
from edgekit.targets._lstm import dynamic_lstm, static_lstm
from edgekit.targets._lstm_scales import Layer as Weights
from edgekit.targets._lstm_scales import common_scales
from edgekit.targets._overlooked import overlooked
from edgekit.targets._recurrent import fold
from tests.recurrent_nets import Feeds, copied, error, feeds, network, quantized, run, value

FORMS: dict[str, dict[str, Any]] = {
    "one": {},
    "states": {"initial": True},
    "both sides, two layers": {"sides": 2, "layers": 2},
    "both sides, states": {"sides": 2, "initial": True},
    "backward": {"direction": "reverse"},
    "no last state": {"lasts": False},
    "no bias": {"biased": False},
}
LIMITS = {"onnxruntime": 0.03, "openvino": 0.08}


def compiled(target: str, model: onnx.ModelProto, folder: Path) -> Build:
    onnx.save(model, folder / "model.onnx")
    module = import_module(f"edgekit.targets.{target}")
    build: Build = module.compile(
        folder / "model.onnx", Shapes(inputs=()), "int8", module.Options(), folder / "engine"
    )
    return build


def answered(
    target: str, model: onnx.ModelProto, feed: Feeds, folder: Path, precision: str = "fp32"
) -> tuple[list[np.ndarray[Any, Any]], list[Layer], tuple[str, ...]]:
    """What the engine gives, the layers that it ran, and how the graph was lowered."""
    build = compiled(target, model, folder)
    assert build.engine is not None
    with load_engine(target, build.engine, EngineOptions(precision=precision)) as runner:
        outputs = runner.infer(feed)
        return [outputs[value.name] for value in model.graph.output], runner.layers(), build.lowering


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("form", FORMS)
def test_an_lstm_runs_in_int8_and_is_counted_so(target: str, form: str, tmp_path: Path) -> None:
    model = network("LSTM", **FORMS[form])
    feed = feeds(model)
    got, layers, lowering = answered(target, quantized(model, feed), feed, tmp_path)
    assert error(got, run(model, feed)) < LIMITS[target]
    recurrent = [layer for layer in layers if layer.type in ("DynamicQuantizeLSTM", "RNNSeq")]
    assert len(recurrent) >= FORMS[form].get("layers", 1)
    assert {layer.precision for layer in recurrent} == {"int8"}
    assert "rnn.0/LSTM" in lowering[0]


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("form", FORMS)
def test_a_gru_that_is_written_out_runs_in_int8(target: str, form: str, tmp_path: Path) -> None:
    model = network("GRU", **FORMS[form])
    feed = feeds(model)
    got, layers, _ = answered(target, quantized(model, feed), feed, tmp_path)
    assert error(got, run(model, feed)) < 0.03
    assert Counter(layer.precision for layer in layers)["int8"] >= FORMS[form].get("layers", 1)


@pytest.mark.parametrize(("time", "batch"), [(1, 1), (7, 1), (33, 4)])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("target", LIMITS)
def test_other_sizes(target: str, kind: str, time: int, batch: int, tmp_path: Path) -> None:
    model = network(kind, sides=2)
    feed = feeds(model, time, batch)
    got, _, _ = answered(target, quantized(model, feeds(model)), feed, tmp_path)
    assert error(got, run(model, feed)) < LIMITS[target]


def test_openvino_does_not_know_what_runs_inside_a_loop(tmp_path: Path) -> None:
    model = network("GRU")
    feed = feeds(model)
    _, layers, _ = answered("openvino", quantized(model, feed), feed, tmp_path, "bf16")
    found = {layer.type: layer.precision for layer in layers}
    assert found == {"FullyConnected": "int8", "TensorIterator": "undefined"}


class TestFold:
    @pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
    def test_keeps_the_numbers_and_names_the_layers(self, kind: str) -> None:
        model = in_user_form(network(kind, layers=2))
        feed = feeds(model)
        wanted = run(model, feed, optimized=False)
        assert fold(model, "it is float there") == [
            f"rnn.0/{kind}, rnn.1/{kind}: int8 weights -> float, the same values: it is float there"
        ]
        onnx.checker.check_model(model, full_check=True)
        assert kinds(model)["DequantizeLinear"] == 0
        assert error(run(model, feed), wanted) < 1e-5

    def test_leaves_a_float_graph_alone(self) -> None:
        model = network("LSTM")
        before = model.SerializeToString()
        assert fold(model, "") == dynamic_lstm(model) == static_lstm(model) == dynamic_products(model) == []
        assert model.SerializeToString() == before

    def test_a_float_weight_that_is_quantized_in_the_graph(self) -> None:
        """NNCF writes the weight in float, with both converters behind it."""
        model = network("GRU")
        feed = feeds(model)
        for name in ("W0", "R0"):
            converters(model, name)
        wanted = run(model, feed, optimized=False)
        assert len(fold(model, "")) == 1
        assert error(run(model, feed), wanted) < 1e-5


def converters(model: onnx.ModelProto, name: str) -> None:
    graph = model.graph
    scale = np.array(np.abs(constants(model)[name]).max() / 127, np.float32)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.s"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.z"))
    ends = [f"{name}.s", f"{name}.z"]
    layer = next(node for node in graph.node if node.op_type == "GRU")
    layer.input[:] = [f"{name}.d" if one == name else one for one in layer.input]
    graph.node.insert(
        0, helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [f"{name}.d"], f"{name}d")
    )
    graph.node.insert(0, helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"], f"{name}q"))
    for place in range(2, len(graph.node)):  # the layer comes behind its converters
        if graph.node[place].op_type in ("LSTM", "GRU", "RNN"):
            break


def in_user_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """W and R as uint8 around 128, one scale for a whole tensor: what another tool writes."""
    graph, values = model.graph, constants(model)
    for node in [one for one in graph.node if one.op_type in ("LSTM", "GRU", "RNN")]:
        for place in (1, 2):
            name = node.input[place]
            scale = np.float32(np.abs(values[name]).max() / 127)
            codes = np.clip(np.round(values[name] / scale) + 128, 0, 255).astype(np.uint8)
            parts = {"q": codes, "s": scale, "z": np.uint8(128)}
            graph.initializer.extend(
                numpy_helper.from_array(np.asarray(one), f"{name}.{key}") for key, one in parts.items()
            )
            inputs = [f"{name}.{key}" for key in parts]
            node.input[place] = f"{name}.float"
            graph.node.insert(
                0, helper.make_node("DequantizeLinear", inputs, [f"{name}.float"], f"{name}/DQ")
            )
    kept = [tensor for tensor in graph.initializer if tensor.name[:-1] not in ("W", "R")]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_user_s_own_quantized_layer_becomes_float_and_that_is_said(
    target: str, kind: str, tmp_path: Path
) -> None:
    model = in_user_form(network(kind, sides=2))
    feed = feeds(model)
    assert import_module(f"edgekit.targets.{target}").supports(model, "int8") == []
    got, layers, lowering = answered(target, model, feed, tmp_path)
    assert error(got, run(model, feed, optimized=False)) < 1e-4
    assert {layer.precision for layer in layers} == {"fp32"}
    assert any("int8 weights -> float" in record and f"rnn.0/{kind}" in record for record in lowering)


@pytest.mark.parametrize("target", LIMITS)
def test_a_layer_without_an_int8_form_is_named_in_the_report(target: str, tmp_path: Path) -> None:
    build = compiled(target, in_user_form(network("GRU", layers=2)), tmp_path)
    ran = build.settings["precision"]
    (note,) = build.notes
    assert note.startswith(f"rnn.0/GRU, rnn.1/GRU: in {ran}, because ")
    assert note.endswith("has no int8 GRU")
    model = network("LSTM")
    assert compiled(target, quantized(model, feeds(model)), tmp_path).notes == ()


class TestDynamicLstm:
    def test_the_codes_are_the_very_same(self) -> None:
        model = network("LSTM", sides=2)
        made = quantized(model, feeds(model))
        before = constants(made)
        assert len(dynamic_lstm(made)) == 1
        layer = next(node for node in made.graph.node if node.op_type == "DynamicQuantizeLSTM")
        values = constants(made)
        for place, name in ((1, "W0"), (2, "R0")):
            codes, scale = before[f"{name}/int8.axis1"], before[f"{name}/scale.axis1"]
            np.testing.assert_array_equal(values[layer.input[place]], codes.transpose(0, 2, 1))
            np.testing.assert_array_equal(values[layer.input[6 + 2 * place]], np.stack([scale, scale]))
            assert not values[layer.input[7 + 2 * place]].any()

    @pytest.mark.parametrize("settings", [{"clip": 0.3}, {"input_forget": 1}])
    def test_what_the_operator_has_too_is_kept(self, settings: dict[str, Any], tmp_path: Path) -> None:
        model = network("LSTM", **settings)
        feed = feeds(model)
        got, layers, _ = answered("onnxruntime", quantized(model, feed), feed, tmp_path)
        assert error(got, run(model, feed)) < 0.03
        assert [layer.type for layer in layers] == ["DynamicQuantizeLSTM"]

    def test_lengths_and_peepholes(self, tmp_path: Path) -> None:
        model = network("LSTM", sides=2)
        random = np.random.default_rng(0)
        peepholes = random.uniform(-0.2, 0.2, (2, 72)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(peepholes, "P"))
        model.graph.input.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT32, ["batch"]))
        model.graph.node[0].input.extend(["n", "", "", "P"])
        x = random.standard_normal((20, 3, 10)).astype(np.float32)
        feed = {"x": x, "n": np.array([20, 7, 1], np.int32)}
        got, layers, _ = answered("onnxruntime", quantized(model, feed), feed, tmp_path)
        assert error(got, run(model, feed)) < 0.03
        assert {layer.precision for layer in layers} == {"int8"}


class TestStaticLstm:
    def lowered(self, model: onnx.ModelProto, feed: Feeds, **ranges: float) -> onnx.ModelProto:
        made = quantized(model, feed, **ranges)
        assert static_lstm(made)
        onnx.checker.check_model(made, full_check=True)
        return made

    def test_w_and_r_share_scales_and_so_do_x_and_h(self) -> None:
        model = network("LSTM", scale=5.0)
        made = self.lowered(model, feeds(model))
        layer = next(node for node in made.graph.node if node.op_type == "LSTM")
        makers = {node.output[0]: node for node in made.graph.node}
        values = constants(made)
        scales = [values[makers[layer.input[place]].input[1]] for place in (0, 5, 1, 2)]
        assert scales[0] == scales[1]
        np.testing.assert_array_equal(scales[2], scales[3])
        np.testing.assert_array_equal(scales[2], np.tile(scales[2][:24], 4))  # all gates of a unit

    @pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
    def test_the_size_of_the_input_does_not_matter(self, scale: float, tmp_path: Path) -> None:
        """W and X can be as far apart as they like: their product is what counts."""
        model = network("LSTM", scale=1 / scale)
        feed = {"x": feeds(model)["x"] * np.float32(scale)}
        got, _, _ = answered("openvino", quantized(model, feed), feed, tmp_path)
        assert error(got, run(model, feed)) < 0.05

    def test_the_range_of_h_makes_it_better(self, tmp_path: Path) -> None:
        model = network("LSTM", hidden=64, scale=0.3)
        feed = feeds(model)
        wanted = run(model, feed)
        largest = float(np.abs(wanted[0]).max())
        rough, _, _ = answered("openvino", quantized(model, feed), feed, tmp_path)
        fine, _, _ = answered("openvino", quantized(model, feed, hidden_range=largest), feed, tmp_path)
        assert error(fine, wanted) < 0.6 * error(rough, wanted)

    def test_layers_of_one_shape_share_their_scales(self, tmp_path: Path) -> None:
        model = network("LSTM", hidden=32, size=32, layers=3, scale=0.2)
        feed = feeds(model)
        made = self.lowered(model, feed)
        values, makers = constants(made), {node.output[0]: node for node in made.graph.node}
        layers = [node for node in made.graph.node if node.op_type == "LSTM"]
        for place in (0, 1, 2, 5):
            scales = [values[makers[layer.input[place]].input[1]] for layer in layers]
            np.testing.assert_array_equal(scales[0], scales[1])
            np.testing.assert_array_equal(scales[0], scales[2])
        got, _, _ = answered("openvino", quantized(model, feed), feed, tmp_path)
        assert error(got, run(model, feed)) < 0.06

    def test_the_factor_of_the_input_follows_what_is_read(self) -> None:
        w, r = np.ones((1, 4, 8), np.float32), np.ones((1, 4, 2), np.float32)
        scales = [
            common_scales([Weights(w / size, r, largest=size, hidden=1.0)]) for size in (1.0, 100.0, 0.01)
        ]
        assert 0.5 <= scales[0].factors[0] <= 1
        for size, found in zip((1.0, 100.0, 0.01), scales, strict=True):
            assert found.factors[0] * size == pytest.approx(scales[0].factors[0])
            assert found.values == pytest.approx(scales[0].values)
            np.testing.assert_allclose(found.weights, scales[0].weights, rtol=1e-5)

    def test_common_scales_hold_every_layer(self) -> None:
        random = np.random.default_rng(0)
        layers = [
            Weights(random.normal(0, size, (2, 16, 8)), random.normal(0, 1, (2, 16, 4)), 3 / size, 0.7)
            for size in (0.01, 1.0, 30.0)
        ]
        scales = common_scales(layers)
        for layer, factor in zip(layers, scales.factors, strict=True):
            assert factor * layer.largest <= 127 * scales.values * 1.0001
            for weight in (layer.w / factor, layer.r):
                assert (np.abs(weight).max((0, 2)) <= 127 * scales.weights * 1.0001).all()
        assert scales.values >= 0.7 / 127

    @pytest.mark.parametrize("settings", [{"clip": 0.3}, {"activations": ["Sigmoid", "Relu", "Tanh"]}])
    def test_what_openvino_has_no_int8_kernel_for_is_float(
        self, settings: dict[str, Any], tmp_path: Path
    ) -> None:
        model = network("LSTM", **settings)
        feed = feeds(model)
        got, layers, lowering = answered("openvino", quantized(model, feed), feed, tmp_path)
        assert error(got, run(model, feed)) < 0.02
        assert "int8" not in {layer.precision for layer in layers}
        assert "int8 weights -> float" in lowering[0]

    def test_behind_a_quantized_convolution(self, tmp_path: Path) -> None:
        """The activations around it become uint8, those of the layer itself stay int8."""
        from tests.targets import graphs

        model = graphs.crnn(int8=True)
        feed = graphs.image(2, 64)
        wanted = run(model, feed)
        made = with_int8_lstms(model)
        got, layers, _ = answered("openvino", made, feed, tmp_path)
        assert error(got, wanted) < 0.08
        counted = Counter((layer.type, layer.precision) for layer in layers)
        assert counted["Convolution", "int8"] == 2
        assert counted["RNNSeq", "int8"] == 4


def with_int8_lstms(model: onnx.ModelProto) -> onnx.ModelProto:
    from edgekit.quantization._recurrent import lstm_candidates, quantize_lstm

    made = copied(model)
    for node in lstm_candidates(made.graph):
        quantize_lstm(made.graph, node, 6.0 if node.name.endswith("0") else 1.0)
    return made


class TestOverlooked:
    @pytest.mark.parametrize(
        ("kind", "settings", "words"),
        [
            ("LSTM", {"input_forget": 1}, "coupled gates"),
            ("GRU", {"sides": 2, "activations": ["Sigmoid", "Tanh", "Sigmoid", "Relu"]}, "backward"),
        ],
    )
    def test_settings(self, kind: str, settings: dict[str, Any], words: str) -> None:
        problems = openvino_target.supports(network(kind, **settings), "fp32")
        assert [(one.node, one.module) for one in problems] == [(f"rnn.0/{kind}", "rnn.0")]
        assert words in problems[0].reason
        assert problems[0].cure

    def test_layout(self) -> None:
        model = network("RNN", lasts=False)
        model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
        assert ["layout=1" in one.reason for one in overlooked(model)] == [True]

    def test_peepholes(self) -> None:
        model = network("LSTM")
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 72), np.float32), "P"))
        model.graph.node[0].input.extend(["", "", "", "P"])
        assert ["peephole" in one.reason for one in overlooked(model)] == [True]

    def test_lengths_that_are_fed_but_not_those_of_the_shape(self) -> None:
        fed = network("LSTM")
        fed.graph.input.append(value("n", ["batch"]))
        fed.graph.node.insert(0, helper.make_node("Cast", ["n"], ["lengths"], "cast", to=6))
        fed.graph.node[1].input.append("lengths")
        assert ["lengths" in one.reason for one in overlooked(fed)] == [True]
        full = network("LSTM")
        full.graph.node.insert(0, helper.make_node("Shape", ["x"], ["lengths"], "shape", start=0, end=1))
        full.graph.node[1].input.append("lengths")
        assert overlooked(full) == []

    def test_usual_layers_have_nothing(self) -> None:
        assert [overlooked(network(kind, sides=2, initial=True)) for kind in ("LSTM", "GRU", "RNN")] == [
            []
        ] * 3


class TestDynamicProducts:
    def test_the_loop_gets_the_same_codes(self) -> None:
        model = network("GRU")
        made = quantized(model, feeds(model))
        (before,) = codes_in_the_loop(made)
        assert dynamic_products(made) == [
            "rnn.0/GRU: matrix products of the loop -> DynamicQuantizeMatMul, the same int8 weights"
        ]
        onnx.checker.check_model(made)
        (after,) = codes_in_the_loop(made)
        np.testing.assert_array_equal(before, after)
        body = next(one.g for node in made.graph.node for one in node.attribute if one.name == "body")
        found = Counter(node.op_type for node in body.node)
        assert found["DynamicQuantizeMatMul"] == 1
        assert found["QuantizeLinear"] == found["DequantizeLinear"] == found["MatMul"] == 0


def codes_in_the_loop(model: onnx.ModelProto) -> list[np.ndarray[Any, Any]]:
    bodies = [one.g for node in model.graph.node for one in node.attribute if one.name == "body"]
    arrays = [numpy_helper.to_array(tensor) for body in bodies for tensor in body.initializer]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim == 2]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize(("kind", "ran"), [("LSTM", "fp16"), ("GRU", "int8")])
def test_tensorrt_rtx_computes_an_lstm_in_float_and_a_gru_that_is_written_out_in_int8(
    kind: str, ran: str, tmp_path: Path
) -> None:
    model = network(kind, sides=2, lasts=False)
    onnx.save(quantized(model, feeds(model)), tmp_path / "model.onnx")
    ranges = {"time": (1, 40), "batch": (1, 2)}
    shapes = Shapes(inputs=(TensorSpec("x", ("time", "batch", 10), ranges=ranges),))
    module = import_module("edgekit.targets.tensorrt_rtx")
    options = module.Options(compute_capabilities=("8.6",))
    build = module.compile(tmp_path / "model.onnx", shapes, "int8", options, tmp_path / "engine")
    assert set(build.layers) == {ran}
    folded = [record for record in build.lowering if "weights are float constants" in record]
    said = [note for note in build.notes if "TensorRT has no int8 LSTM" in note]
    assert len(folded) == len(said) == (1 if kind == "LSTM" else 0)
