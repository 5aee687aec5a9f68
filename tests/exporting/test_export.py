"""What an exported file contains, and what is refused instead of being written."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.exporting import export_onnx
from edgekit.exporting.export import _symbol
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from tests.exporting.networks import (
    IMAGE,
    LINE_STATES,
    LINES,
    RANGES,
    SERIES,
    FixedLoop,
    Scanned,
    SeriesTagger,
    line_reader,
)

TAGS = (TensorSpec("tags", ("batch", "time", "features")),)


def shapes_of(values: Any) -> dict[str, list[str | int]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("lines") / "model.onnx"
    export_onnx(line_reader(), IMAGE, LINES, (), path)
    return onnx.load(path)


def test_recurrent_layers_are_single_nodes_and_batch_norms_are_folded(lines: onnx.ModelProto) -> None:
    onnx.checker.check_model(lines, full_check=True)
    kinds = Counter(node.op_type for node in lines.graph.node)
    assert kinds["LSTM"] == 2
    assert kinds["Conv"] == 2
    assert not kinds.keys() & {"BatchNormalization", "Slice", "Shape", "Constant", "Identity", "Loop"}
    assert sum(kinds.values()) < 20


def test_inputs_outputs_and_dimensions_have_the_asked_names(lines: onnx.ModelProto) -> None:
    assert shapes_of(lines.graph.input) == {"image": ["batch", 1, 16, "width"]}
    assert shapes_of(lines.graph.output) == {"logits": ["steps", "batch", 7]}


def test_nodes_tell_their_module_and_nothing_else(lines: onnx.ModelProto) -> None:
    modules = {}
    for node in lines.graph.node:
        assert not node.doc_string
        assert {entry.key for entry in node.metadata_props} <= {"edgekit.module"}
        modules[node.name] = next((entry.value for entry in node.metadata_props), "")
    assert modules["cnn.0/Conv"] == "cnn.0"
    assert modules["cnn.4/Conv"] == "cnn.4"
    assert modules["rnn/LSTM"] == modules["rnn/LSTM_1"] == "rnn"
    assert modules["head/MatMul"] == "head"
    assert len(modules) == len(lines.graph.node)


def test_no_trace_of_the_machine_or_the_exporter_is_left(lines: onnx.ModelProto) -> None:
    content = lines.SerializeToString()
    for remark in (b"site-packages", b".py", b"pkg.torch", b"pkg.onnxscript", b"stack_trace"):
        assert remark not in content
    assert lines.producer_name == "edgekit"
    assert [entry.domain for entry in lines.opset_import] == [""]
    read = {name for node in lines.graph.node for name in node.input}
    assert {tensor.name for tensor in lines.graph.initializer} <= read


def test_states_go_in_and_out_and_carry_a_sequence_over(tmp_path: Path) -> None:
    network = line_reader()
    made = export_onnx(network, IMAGE, LINES, LINE_STATES, tmp_path / "model.onnx")
    assert made.states == LINE_STATES
    session = onnxruntime.InferenceSession(str(made.path))
    assert [value.name for value in session.get_inputs()] == ["image", "h0", "c0"]
    assert [value.name for value in session.get_outputs()] == ["logits", "hn", "cn"]
    image = np.random.default_rng(0).standard_normal((3, 1, 16, 20), np.float32)
    zero = np.zeros((4, 3, 12), np.float32)
    _, hn, cn = session.run(None, {"image": image, "h0": zero, "c0": zero})
    found = session.run(None, {"image": image, "h0": hn, "c0": cn})
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, (image, hn, cn)))
    for want, have in zip(expected, found, strict=True):
        np.testing.assert_allclose(have, want.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "operator", "count"),
    [
        (nn.GRU, {"num_layers": 2, "bidirectional": True}, "GRU", 2),
        (nn.RNN, {"bidirectional": True, "nonlinearity": "relu"}, "RNN", 1),
        (nn.LSTM, {"bias": False, "num_layers": 3}, "LSTM", 3),
    ],
)
def test_each_kind_of_recurrent_layer(
    kind: type[nn.RNNBase], options: dict[str, Any], operator: str, count: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = SeriesTagger(kind, **options).eval()
    made = export_onnx(network, SERIES, TAGS, (), tmp_path / "model.onnx")
    kinds = Counter(node.op_type for node in onnx.load(made.path).graph.node)
    assert kinds[operator] == count
    assert made.made_by["recheck_rel_l2"] < 1e-5


def test_a_scan_stays_one_node_and_its_body_tells_its_module(tmp_path: Path) -> None:
    outputs = (TensorSpec("steps", ("time", "batch", 3, 3)),)
    made = export_onnx(Scanned().eval(), SERIES, outputs, (), tmp_path / "model.onnx")
    scans = [node for node in onnx.load(made.path).graph.node if node.op_type == "Scan"]
    assert len(scans) == 1
    body = next(attribute.g for attribute in scans[0].attribute if attribute.name == "body")
    convolution = next(node for node in body.node if node.op_type == "Conv")
    assert convolution.name == "cell/Conv"
    assert [entry.value for entry in convolution.metadata_props] == ["cell"]


def test_the_artifact_describes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.onnx"
    made = export_onnx(SeriesTagger(nn.LSTM).eval(), SERIES, TAGS, (), path)
    assert made.path == path
    assert made.outputs[0].shape == ("batch", "time", "features")
    assert len(made.sha256) == 64
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_a_module_in_training_mode_is_exported_in_evaluation_mode_and_not_touched(tmp_path: Path) -> None:
    network = line_reader().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_onnx(network, IMAGE, LINES, (), tmp_path / "model.onnx", shapes=[{"batch": 3, "width": 21}])
    assert network.training
    assert isinstance(network.rnn, nn.LSTM)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("opset", [17, 21])
def test_another_opset_can_be_asked_for(opset: int, tmp_path: Path) -> None:
    shapes = [{"batch": 3, "width": 21}]
    made = export_onnx(line_reader(), IMAGE, LINES, (), tmp_path / "m.onnx", opset=opset, shapes=shapes)
    assert [entry.version for entry in onnx.load(made.path).opset_import] == [opset]


def test_an_unknown_opset_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="opset 99"):
        export_onnx(line_reader(), IMAGE, LINES, (), tmp_path / "m.onnx", opset=99)


def test_nothing_is_printed_or_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(SeriesTagger(nn.GRU).eval(), SERIES, TAGS, (), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


class ReadsValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 2


class NeedsFive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = functional.avg_pool1d(x.transpose(1, 2), 5, stride=1)
        return torch.transpose(pooled, 1, 2)


def test_a_loop_that_fixes_the_length_is_refused_by_dimension(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"time.*constant") as caught:
        export_onnx(FixedLoop().eval(), SERIES, TAGS, (), tmp_path / "model.onnx")
    assert caught.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_a_dimension_that_the_exporter_fixed_silently_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="dimension 'time' of input 'x' was fixed to 24"):
        _symbol(SERIES[0], "time", 24)
    assert _symbol(SERIES[0], "time", "s7") == {"s7": "time"}


def test_a_branch_on_data_is_refused_with_the_users_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"test_export\.py:\d+: return x if x\.sum\(\) > 0"):
        export_onnx(ReadsValue(), SERIES, TAGS, (), tmp_path / "model.onnx")


def test_a_range_in_which_not_every_size_works_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="time") as caught:
        export_onnx(NeedsFive(), SERIES, TAGS, (), tmp_path / "model.onnx")
    assert "range" in caught.value.hint


def test_other_outputs_than_declared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="returns 2 tensors, but 1 outputs are named: tags"):
        export_onnx(Doubles(), SERIES, TAGS, (), tmp_path / "model.onnx")
    wrong = (TensorSpec("tags", ("batch", "time", 4)),)
    with pytest.raises(UnsupportedError, match=r"output 'tags'.*declared"):
        export_onnx(SeriesTagger(nn.LSTM).eval(), SERIES, wrong, (), tmp_path / "model.onnx")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_bad_weights_are_refused_by_name(value: float, word: str, tmp_path: Path) -> None:
    network = line_reader()
    with torch.no_grad():
        network.get_parameter("rnn.weight_hh_l1_reverse")[3, 2] = value
    with pytest.raises(BadFileError, match=f"rnn.weight_hh_l1_reverse' holds {word}"):
        export_onnx(network, IMAGE, LINES, (), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(UnsupportedError):
        export_onnx(FixedLoop().eval(), SERIES, TAGS, (), path)
    assert path.read_bytes() == b"old"


def test_a_range_of_one_size_is_a_fixed_dimension(tmp_path: Path) -> None:
    inputs = (TensorSpec("x", ("batch", "time", 6), ranges={"batch": (1, 1), "time": (9, 9)}),)
    made = export_onnx(FixedLoop().eval(), inputs, TAGS, (), tmp_path / "model.onnx")
    assert shapes_of(onnx.load(made.path).graph.input) == {"x": [1, 9, 6]}


def test_a_fixed_shape_needs_no_ranges(tmp_path: Path) -> None:
    inputs = (TensorSpec("x", (2, 9, 6), ranges=RANGES),)
    made = export_onnx(FixedLoop().eval(), inputs, (TensorSpec("tags", (2, 9, 5)),), (), tmp_path / "m.onnx")
    assert made.outputs[0].shape == (2, 9, 5)
