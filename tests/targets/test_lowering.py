from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.targets import _lowering
from tests.targets import graphs


def zero_points(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {n.name: values[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}


def test_unsigned_keeps_ranges_and_gets_nearer_to_float(tmp_path: Path, crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    records = _lowering.unsigned_activations(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "lowered.onnx")
    assert records == [
        "2 activations: int8 zero point 0 -> uint8 zero point 128, same scale",
        "2 activations after a ReLU: int8 zero point 0 -> uint8 zero point 0, same range",
    ]
    feeds = graphs.image(3, 37)
    lowered, canonical = (graphs.reference(path, feeds) for path in (tmp_path / "lowered.onnx", crnn_int8))
    assert 0 < graphs.relative(lowered, canonical) < 0.01


def test_zero_point_128_keeps_the_numbers(tmp_path: Path) -> None:
    make = graphs.Maker()
    make.node("Identity", [make.quantized("image", "x", 2 / 127)], "logits")
    model = make.model(["batch", 9], ["batch", 9])
    onnx.save(model, tmp_path / "signed.onnx")
    _lowering.unsigned_activations(model)
    onnx.save(model, tmp_path / "unsigned.onnx")
    feeds = {"image": np.linspace(-3, 3, 900, dtype=np.float32).reshape(100, 9)}
    signed, unsigned = (graphs.reference(tmp_path / f"{name}.onnx", feeds) for name in ("signed", "unsigned"))
    assert np.array_equal(signed, unsigned)


def test_after_relu_the_range_stays_and_the_step_halves(tmp_path: Path) -> None:
    make = graphs.Maker()
    make.node("Identity", [make.quantized(make.node("Relu", ["image"], "relu"), "x", 2 / 127)], "logits")
    model = make.model(["batch", 9], ["batch", 9])
    _lowering.unsigned_activations(model)
    onnx.save(model, tmp_path / "unsigned.onnx")
    feeds = {"image": np.linspace(-3, 3, 9000, dtype=np.float32).reshape(1000, 9)}
    found = np.unique(graphs.reference(tmp_path / "unsigned.onnx", feeds))
    assert len(found) == 256
    assert found[0] == 0
    assert found[-1] == pytest.approx(2)


def test_zero_point_is_zero_only_after_relu(crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    _lowering.unsigned_activations(model)
    found = {name: int(zero) for name, zero in zero_points(model).items()}
    assert found == {"node_input.q": 128, "node_between.q": 128, "node_pooled.q": 0, "node_features.q": 0}
    assert {zero.dtype.name for zero in zero_points(model).values()} == {"uint8"}


def test_weights_stay_signed(crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    _lowering.unsigned_activations(model)
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".w")]
    assert len(weights) == 2
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}


def test_the_input_of_a_quantized_lstm_stays_signed(crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == lstm.input[1])
    scaled = np.round(numpy_helper.to_array(weight) * 400).astype(np.int8)
    model.graph.initializer.extend(
        [numpy_helper.from_array(scaled, "W8"), numpy_helper.from_array(np.float32(1 / 400), "W8.scale")]
    )
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["W8", "W8.scale"], ["W8.float"]))
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    lstm.input[1] = "W8.float"
    _lowering.unsigned_activations(model)
    assert zero_points(model)["node_features.q"].dtype.name == "int8"
    assert zero_points(model)["node_pooled.q"].dtype.name == "uint8"


def test_explicit_bias_keeps_numbers_and_modules(tmp_path: Path, crnn: Path) -> None:
    model = onnx.load(crnn)
    assert _lowering.explicit_bias(model) == ["2 convolutions: bias -> a separate addition"]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "lowered.onnx")
    added = [node for node in model.graph.node if node.name == "node_conv0.bias"]
    assert [_lowering.module_of(node) for node in added] == ["net.conv0"]
    assert "conv0.bias" not in {tensor.name for tensor in model.graph.initializer}
    feeds = graphs.image(2, 24)
    assert (
        graphs.relative(graphs.reference(tmp_path / "lowered.onnx", feeds), graphs.reference(crnn, feeds))
        < 1e-6
    )


def test_nothing_to_change_gives_no_record(crnn: Path) -> None:
    assert _lowering.unsigned_activations(onnx.load(crnn)) == []


@pytest.mark.parametrize(("domain", "count"), [("", 0), ("com.example", 1)])
def test_a_foreign_operator_is_named_with_its_module(crnn: Path, domain: str, count: int) -> None:
    model = onnx.load(crnn)
    model.graph.node[0].domain = domain
    found = _lowering.common_problems(model, "fp32", _lowering.STANDARD_DOMAINS)
    assert [(one.node, one.module) for one in found] == [("node_conv0", "net.conv0")] * count


def test_int8_needs_a_quantized_graph(crnn: Path, crnn_int8: Path) -> None:
    refused = _lowering.common_problems(onnx.load(crnn), "int8", _lowering.STANDARD_DOMAINS)
    assert "no QuantizeLinear" in refused[0].reason
    assert _lowering.common_problems(onnx.load(crnn_int8), "int8", _lowering.STANDARD_DOMAINS) == []
