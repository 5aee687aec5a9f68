"""The check at unseen shapes: which shapes, and that a wrong graph does not pass."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from edgekit.exporting import export_onnx, recheck
from edgekit.exporting.recheck import example, unseen_shapes
from edgekit.runtime.errors import MissingPackageError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from tests.exporting.networks import SERIES, SeriesTagger

TAGS = (TensorSpec("tags", ("batch", "time", 5)),)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    network = SeriesTagger(nn.LSTM).eval()
    path = tmp_path_factory.mktemp("series") / "model.onnx"
    export_onnx(network, SERIES, TAGS, (), path)
    return path, network


def test_shapes_hold_every_batch_and_both_ends_of_each_range() -> None:
    shapes = unseen_shapes(SERIES)
    assert {sizes["batch"] for sizes in shapes} == {1, 2, 3, 7, 12}
    times = {sizes["time"] for sizes in shapes}
    assert {2, 40} <= times
    assert len(times) >= 4
    assert max(sizes["batch"] * sizes["time"] for sizes in shapes) < 12 * 40


def test_shapes_stay_inside_narrow_ranges() -> None:
    narrow = (TensorSpec("x", ("batch", "time"), ranges={"batch": (1, 2), "time": (5, 6)}),)
    assert all(1 <= sizes["batch"] <= 2 and 5 <= sizes["time"] <= 6 for sizes in unseen_shapes(narrow))
    assert unseen_shapes((TensorSpec("x", (1, 3)),)) == [{}]


def test_examples_are_seeded_and_typed() -> None:
    spec = (TensorSpec("x", (2, 3)), TensorSpec("ids", (4,), "int64"))
    first, again, other = (example(spec, {}, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])
    assert first["ids"].dtype == np.int64
    assert set(first["ids"].tolist()) <= {0, 1}


def test_a_right_graph_passes(exported: tuple[Path, nn.Module]) -> None:
    assert recheck(*exported, SERIES) < 1e-5


def change(path: Path, out: Path, name: str, value: np.ndarray[Any, Any]) -> Path:
    graph = onnx.load(path)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(graph, out)
    return out


def test_a_wrong_weight_is_found_with_shape_and_output(
    exported: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    path, network = exported
    weight = next(t for t in onnx.load(path).graph.initializer if t.name == "rnn.l0.W")
    wrong = change(
        path, tmp_path / "wrong.onnx", "rnn.l0.W", numpy_helper.to_array(weight) * np.float32(1.01)
    )
    with pytest.raises(UnsupportedError, match=r"x \(12, 2, 6\): output 'tags' differs by"):
        recheck(wrong, network, SERIES)


def test_a_graph_that_fails_at_a_new_shape_is_refused(
    exported: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    path, network = exported
    graph = onnx.load(path)
    reshape = next(node for node in graph.graph.node if node.op_type == "Reshape")
    fixed = change(path, tmp_path / "fixed.onnx", reshape.input[1], np.array([2, 9, 5], np.int64))
    recheck(fixed, network, SERIES, shapes=[{"batch": 2, "time": 9}])
    with pytest.raises(UnsupportedError, match=r"x \(3, 9, 6\): ONNX Runtime fails"):
        recheck(fixed, network, SERIES, shapes=[{"batch": 3, "time": 9}])


def test_a_missing_onnx_runtime_is_told_with_the_command(
    exported: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(MissingPackageError) as caught:
        recheck(*exported, SERIES)
    assert caught.value.hint == "pip install 'edgekit-deploy[onnxruntime]'"
