"""A user's own network on its way through the steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit import pipeline
from edgekit.runtime.errors import UsageError
from edgekit.steps.load import load, samples

NETS = """
import os
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 4)
        self.power = int(os.environ["POWER"])

    def forward(self, x):
        return self.a(x) ** self.power

def make():
    return Net()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ownnets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POWER", "2")
    return tmp_path


def summing(path: Path) -> None:
    """y = x + h, and h comes back as what it was fed plus x."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "h", "y", "hn")
    ]
    nodes = [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Add", ["y", "x"], ["hn"])]
    graph = helper.make_graph(nodes, "net", ends[:2], ends[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def test_an_export_is_never_another_networks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal code and equal weights: what a user's code reads besides decides the graph too."""
    recipe = pipeline.load("ownnets:make", network={"inputs": ["x=float32[batch:1..4,4]"]})
    first = pipeline.export(recipe, place / "first.onnx")
    monkeypatch.setenv("POWER", "3")
    second = pipeline.export(recipe, place / "second.onnx")
    assert load(recipe).weights_sha256
    assert first.sha256 != second.sha256


def test_a_fixed_batch_of_one_is_fed_one_by_one(place: Path, tmp_path: Path) -> None:
    recipe = pipeline.load(
        "ownnets:make", target="onnxruntime", network={"inputs": ["x=float32[1,4]"]}, seed=1
    )
    report = pipeline.check(recipe)
    assert report.passed
    assert {"parity.rel_l2", "parity.grid.rel_l2"} <= {check.name for check in report.checks}


def test_a_graph_takes_its_states_from_the_data(place: Path) -> None:
    summing(place / "net.onnx")
    x, h = np.ones((20, 4), np.float32), np.arange(80, dtype=np.float32).reshape(20, 4)
    np.savez(place / "both.npz", x=x, h=h)
    recipe = pipeline.load("net.onnx", target="onnxruntime", data="both.npz", network={"states": ["h=hn"]})
    network = load(recipe)
    assert [spec.name for spec in network.inputs] == ["x"]
    np.testing.assert_array_equal(samples(recipe, "test", network)[3].states["h"], h[3])
    assert pipeline.check(recipe).passed


def test_a_limit_for_an_output_that_is_not_there_names_those_that_are(place: Path) -> None:
    summing(place / "net.onnx")
    recipe = pipeline.load("net.onnx", network={"states": ["h=hn"]}, max_errors={"z": 0.1})
    with pytest.raises(UsageError, match="output 'z'") as caught:
        load(recipe)
    assert caught.value.hint == "its outputs: y, hn"
    assert load(pipeline.load("net.onnx", network={"states": ["h=hn"]}, max_errors={"hn": 0.1}))
