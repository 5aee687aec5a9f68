"""The int8 graph: its form node by node, its error, what it was calibrated on, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekit.exporting import export_onnx
from edgekit.quantization import ptq
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from tests.exporting.networks import IMAGE, LINES, SERIES, SeriesTagger, line_reader
from tests.quantization.nets import Measurements

Feeds = list[dict[str, np.ndarray[Any, Any]]]
OPTIONS = ptq.Options()
HEAD = "head/MatMul"


class Classifier(nn.Module):
    """Residual and depthwise convolutions, a swish, a transposed convolution, pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.stem(x))
        x = nn.functional.relu(x + self.body(x))
        scores: torch.Tensor = self.head(self.up(x).mean((2, 3)))
        return scores


def feeds(count: int, seed: int = 0) -> Feeds:
    random = np.random.default_rng(seed)
    widths = random.integers(8, 96, count)
    return [{"image": random.standard_normal((1, 1, 16, width), np.float32)} for width in widths]


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(line_reader(), IMAGE, LINES, (), path, shapes=[{"batch": 3, "width": 21}])
    return onnx.load(path)


@pytest.fixture(scope="module")
def quantized(lines: onnx.ModelProto) -> onnx.ModelProto:
    return int8(lines, feeds(12), {HEAD: "int8"}, OPTIONS)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("scores") / "model.onnx"
    outputs = (TensorSpec("scores", ("batch", 4)),)
    export_onnx(classifier(), IMAGE, outputs, (), path, shapes=[{"batch": 3, "width": 21}])
    return onnx.load(path)


def run(graph: onnx.ModelProto, feed: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    result: np.ndarray[Any, Any] = session.run(None, feed)[0]
    return result


def int8(
    graph: onnx.ModelProto, samples: Feeds, plan: dict[str, str], options: ptq.Options
) -> onnx.ModelProto:
    return ptq.quantize(graph, ptq.measure(graph, samples, options), plan, options)


def error(graph: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    random = np.random.default_rng(99)
    feed = {"image": random.standard_normal((5, 1, 16, 50), np.float32)}
    want, have = run(reference, feed), run(graph, feed)
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def converters(graph: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield node


def producers(graph: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.graph.node for name in node.output}


def assert_universal_form(graph: onnx.ModelProto) -> None:
    """Signed int8, zero points all 0, weights per channel, no int32 behind a DequantizeLinear."""
    onnx.checker.check_model(graph, full_check=True)
    values = constants(graph)
    for node in converters(graph):
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert zero.shape == scale.shape
        assert node.domain == ""
        if node.input[0] in values:
            assert node.op_type == "DequantizeLinear"
            assert values[node.input[0]].dtype == np.int8
            assert values[node.input[0]].min() >= -127
        else:
            assert scale.shape == ()


def test_every_converter_has_the_form_that_all_targets_take(
    quantized: onnx.ModelProto, scores: onnx.ModelProto
) -> None:
    assert_universal_form(quantized)
    assert_universal_form(int8(scores, feeds(4), {}, OPTIONS))


def test_layers_read_int8_weights_per_channel_and_keep_a_float_bias(quantized: onnx.ModelProto) -> None:
    values, makers = constants(quantized), producers(quantized)
    layers = [node for node in quantized.graph.node if node.op_type in ("Conv", "MatMul")]
    assert len(layers) == 3
    for layer in layers:
        source = makers[layer.input[1]]
        axis = next(attribute.i for attribute in source.attribute if attribute.name == "axis")
        assert source.op_type == "DequantizeLinear"
        assert axis == (0 if layer.op_type == "Conv" else 1)
        assert values[source.input[1]].shape == (values[source.input[0]].shape[axis],)
        if layer.op_type == "Conv":
            assert values[layer.input[2]].dtype == np.float32


def test_results_are_quantized_after_the_activation_and_before_pooling(quantized: onnx.ModelProto) -> None:
    makers = producers(quantized)
    sources = [
        makers[node.input[0]].op_type if node.input[0] in makers else "input"
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert sorted(sources) == ["LSTM", "Relu", "input"]


def test_what_a_recurrent_layer_reads_stays_float(quantized: onnx.ModelProto) -> None:
    makers = producers(quantized)
    for node in quantized.graph.node:
        source = node
        while source.op_type in ("LSTM", "Transpose", "Reshape", "MaxPool"):
            source = makers[source.input[0]]
            assert node.op_type != "LSTM" or source.op_type != "DequantizeLinear"
    read = {name for node in quantized.graph.node for name in node.input}
    assert "cnn.6/Relu_output_0" in read


def test_recurrent_layers_stay_float_and_are_counted(quantized: onnx.ModelProto) -> None:
    assert ptq.quantized_layers(quantized) == {
        "cnn.0/Conv": "int8",
        "cnn.4/Conv": "int8",
        "rnn/LSTM": "fp32",
        "rnn/LSTM_1": "fp32",
        HEAD: "int8",
    }


def test_a_small_matrix_behind_a_recurrent_layer_stays_float_unless_planned(lines: onnx.ModelProto) -> None:
    made = int8(lines, feeds(4), {}, OPTIONS)
    assert ptq.quantized_layers(made)[HEAD] == "fp32"
    assert error(made, lines) < 0.01


def test_the_error_is_small_at_a_shape_never_calibrated(
    quantized: onnx.ModelProto, lines: onnx.ModelProto, scores: onnx.ModelProto
) -> None:
    assert 1e-5 < error(quantized, lines) < 0.03
    made = int8(scores, feeds(12), {}, OPTIONS)
    assert set(ptq.quantized_layers(made).values()) == {"int8"}
    assert 1e-5 < error(made, scores) < 0.03


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "entropy"])
def test_other_calibrators_take_samples_of_any_size(calibrator: Any, lines: onnx.ModelProto) -> None:
    made = int8(lines, feeds(6), {}, ptq.Options(calibrator=calibrator))
    assert error(made, lines) < 0.03


def test_the_given_graph_is_not_changed_and_modules_are_kept(
    quantized: onnx.ModelProto, lines: onnx.ModelProto
) -> None:
    assert not any(True for _ in converters(lines))
    named = {node.name: node.metadata_props for node in quantized.graph.node}
    for node in lines.graph.node:
        assert all(entry in named[node.name] for entry in node.metadata_props)


def test_same_samples_same_bytes(lines: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    again = int8(lines, feeds(12), {HEAD: "int8"}, OPTIONS)
    assert again.SerializeToString(deterministic=True) == quantized.SerializeToString(deterministic=True)


def test_other_samples_other_scales(lines: onnx.ModelProto) -> None:
    few, more = (int8(lines, feeds(count), {}, ptq.Options(calibrator="minmax")) for count in (2, 12))
    assert constants(few)["image/scale"] < constants(more)["image/scale"]
    largest = max(np.abs(feed["image"]).max() for feed in feeds(12))
    assert constants(more)["image/scale"] == pytest.approx(largest / 127)


def test_a_plan_keeps_layers_in_float(lines: onnx.ModelProto) -> None:
    made = int8(lines, feeds(3), {"cnn.4/Conv": "fp32"}, OPTIONS)
    assert ptq.quantized_layers(made)["cnn.4/Conv"] == "fp32"
    assert "cnn.4.weight" in constants(made)


def test_operators_can_be_chosen(lines: onnx.ModelProto) -> None:
    made = int8(lines, feeds(3), {}, ptq.Options(op_types=("MatMul",)))
    assert ptq.quantized_layers(made)["cnn.0/Conv"] == "fp32"


def test_a_channel_of_zeros_and_a_dead_activation_are_harmless(lines: onnx.ModelProto) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(lines)
    for tensor in graph.graph.initializer:
        if tensor.name in ("cnn.4.weight", "cnn.4.bias"):
            value = numpy_helper.to_array(tensor) * np.float32(0)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    made = int8(graph, feeds(3), {}, OPTIONS)
    assert_universal_form(made)
    assert np.isfinite(run(made, feeds(1)[0])).all()


@pytest.mark.parametrize(
    ("plan", "options", "words"),
    [
        ({"cnn.4/Conf": "fp32"}, {}, "unknown layer 'cnn.4/Conf'"),
        ({"cnn.4/Conv": "int3"}, {}, "unknown precision 'int3'"),
        ({}, {"calibrator": "guess"}, "unknown calibrator 'guess'"),
        ({}, {"op_types": ("Softmax",)}, "'Softmax' cannot be quantized"),
        ({}, {"percentile": 0.1}, "not between 50 and 100"),
    ],
)
def test_wrong_names_are_usage_errors(
    plan: dict[str, str], options: dict[str, Any], words: str, lines: onnx.ModelProto
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        int8(lines, feeds(1), plan, ptq.Options(**options))
    assert caught.value.hint
    if "Conf" in words:
        assert caught.value.hint == "did you mean 'cnn.4/Conv'?"


def test_no_samples_are_never_replaced_by_random_ones(lines: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="random data is never used"):
        int8(lines, [], {}, OPTIONS)


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"image": np.full((1, 1, 16, 20), np.nan, np.float32)}, "sample 1, input 'image' holds NaN"),
        ({"image": np.full((1, 1, 16, 20), np.inf, np.float32)}, "sample 1, input 'image' holds NaN or inf"),
        ({"image": np.zeros((1, 1, 17, 20), np.float32)}, r"has shape \(1, 1, 17, 20\)"),
        ({"image": np.zeros((1, 16, 20), np.float32)}, r"has shape \(1, 16, 20\)"),
        ({"image": np.zeros((0, 1, 16, 20), np.float32)}, "is empty"),
        ({"image": np.zeros((1, 1, 16, 20))}, "is float64, not float32"),
        ({"picture": np.zeros((1, 1, 16, 20), np.float32)}, r"inputs \['picture'\].*takes \['image'\]"),
    ],
)
def test_bad_samples_are_named(
    feed: dict[str, np.ndarray[Any, Any]], words: str, lines: onnx.ModelProto
) -> None:
    with pytest.raises(BadFileError, match=words):
        int8(lines, [feeds(1)[0], feed], {}, OPTIONS)


def test_a_graph_without_anything_for_int8_is_refused(tmp_path: Path, lines: onnx.ModelProto) -> None:
    outputs = (TensorSpec("tags", ("batch", "time", 5)),)
    made = export_onnx(SeriesTagger(nn.RNN).eval(), SERIES, outputs, (), tmp_path / "model.onnx")
    samples = [{"x": np.ones((1, 9, 6), np.float32)}]
    with pytest.raises(UnsupportedError, match="no layer"):
        int8(onnx.load(made.path), samples, {}, OPTIONS)
    with pytest.raises(UnsupportedError, match=r"'cnn\.2/Relu' cannot be int8"):
        int8(lines, feeds(1), {"cnn.2/Relu": "int8"}, OPTIONS)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_become_int8_where_the_plan_says_so(kind: Any, tmp_path: Path) -> None:
    outputs = (TensorSpec("tags", ("batch", "time", 10)),)
    torch.manual_seed(0)
    network = SeriesTagger(kind, bidirectional=True).eval()
    plain = onnx.load(export_onnx(network, SERIES, outputs, (), tmp_path / "model.onnx").path)
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((2, 9, 6), np.float32)} for _ in range(8)]
    layer = f"rnn/{kind.__name__}"
    assert ptq.quantized_layers(plain) == {layer: "fp32"}
    made = int8(plain, samples, {layer: "int8"}, OPTIONS)
    onnx.checker.check_model(made, full_check=True)
    assert ptq.quantized_layers(made) == {layer: "int8"}
    want, have = run(plain, samples[0]), run(made, samples[0])
    assert 1e-5 < np.linalg.norm(want - have) / np.linalg.norm(want) < 0.03


def test_a_network_of_nothing_but_an_lstm_becomes_int8_by_itself(tmp_path: Path) -> None:
    outputs = (TensorSpec("tags", ("batch", "time", 5)),)
    made = export_onnx(SeriesTagger(nn.LSTM).eval(), SERIES, outputs, (), tmp_path / "model.onnx")
    samples = [{"x": np.ones((1, 9, 6), np.float32)}]
    quantized = int8(onnx.load(made.path), samples, {}, OPTIONS)
    assert ptq.quantized_layers(quantized) == {"rnn/LSTM": "int8"}


def test_an_activation_that_overflows_is_refused(lines: onnx.ModelProto) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(lines)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "cnn.0.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 1, 3, 3), 3e38, np.float32), weight.name))
    words = r"node 'cnn.0/Conv' of module 'cnn.0' \(Conv\) computes infinite values on calibration sample 0"
    with pytest.raises(BadFileError, match=words):
        int8(graph, feeds(1), {}, OPTIONS)


TENSORRT = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network()
parser = trt.OnnxParser(network, logger)
with open(sys.argv[1], "rb") as file:
    parsed = parser.parse(file.read())
assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
profile, config = builder.create_optimization_profile(), builder.create_builder_config()
profile.set_shape("image", (1, 1, 16, 8), (1, 1, 16, 64), (4, 1, 16, 96))
config.add_optimization_profile(profile)
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
assert builder.build_serialized_network(network, config) is not None
"""


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("name", ["quantized", "scores"])
def test_tensorrt_parses_and_builds_the_graph(
    name: str, quantized: onnx.ModelProto, scores: onnx.ModelProto, tmp_path: Path
) -> None:
    graph = quantized if name == "quantized" else int8(scores, feeds(4), {}, OPTIONS)
    onnx.save(graph, tmp_path / "model.onnx")
    command = [sys.executable, "-c", TENSORRT, str(tmp_path / "model.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_seven_bit_weights_leave_room_for_two_products_in_sixteen_bits(nets: Measurements) -> None:
    """Without VNNI two products of unsigned and signed bytes are added in 16 bits, which saturate."""
    for kind, (made, measured) in nets.items():
        every = dict.fromkeys(ptq.candidates(made.graph, OPTIONS), "int8")
        for reduced, most in ((False, 127), (True, 63)):
            graph = ptq.quantize(made.graph, measured, every, ptq.Options(reduce_range=reduced))
            largest = max(int(np.abs(codes.astype(np.int32)).max()) for codes in weight_codes(graph))
            assert largest == most, kind
            assert (255 * largest * 2 <= np.iinfo(np.int16).max) is reduced


def weight_codes(graph: onnx.ModelProto) -> Iterator[np.ndarray[Any, Any]]:
    """Of the bodies of loops too."""
    bodies = [each.g for node in graph.graph.node for each in node.attribute if each.HasField("g")]
    for inside in (graph.graph, *bodies):
        for tensor in inside.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
                yield numpy_helper.to_array(tensor)
