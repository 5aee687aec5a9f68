"""A network and data of the user's own, from the command line and from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.runtime.manifest import read_manifest
from tests.conftest import Cli

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean(2))

def make():
    torch.manual_seed(0)
    return Small()

class Heads(Small):
    def forward(self, x):
        h = torch.relu(self.conv(x)).mean(2)
        scores = self.out(h)
        return {"boxes": h, "scores": scores, "ids": scores.argmax(1)}

def heads():
    torch.manual_seed(0)
    return Heads()

def score(outputs, target):
    return float(outputs["output"].argmax() == target)

def broken(outputs, target):
    return outputs["logits"]

def wrong():
    raise RuntimeError("no weights today")
"""
INPUT = "x=float32[batch:1..8,4,time:8..64]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    random = np.random.default_rng(0)
    x = random.standard_normal((32, 4, 40)).astype(np.float32)
    np.savez(folder / "calibration.npz", x=x)
    np.savez(folder / "test.npz", x=x[:16], target=random.integers(0, 3, 16))
    np.savez(folder / "wrong.npz", left=x, right=x)
    (folder / "feeds").mkdir()
    for index in range(18):
        feed = random.standard_normal((1, 4, 10 + 2 * index)).astype(np.float32)
        np.savez(folder / "feeds" / f"{index:02d}.npz", x=feed)
    _graph(folder / "net.onnx")
    return folder


def _graph(path: Path) -> None:
    random = np.random.default_rng(1)
    weight = onnx.numpy_helper.from_array(random.standard_normal((8, 4, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]), helper.make_node("Relu", ["c"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, "t"])
        for name, size in (("x", 4), ("y", 8))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def test_a_factory_with_what_it_takes(edgekit: Cli, place: Path) -> None:
    ran = edgekit("compile", "nets:make", "--target", "openvino", "--input", INPUT, "--json", cwd=place)
    assert ran.code == 0, ran.err
    report = ran.json
    assert (report["model"], report["state"], report["accuracy"]) == ("nets-make", "proved", None)
    assert any("random inputs" in note for note in report["notes"])
    manifest = read_manifest(place / report["bundle"])
    assert manifest.inputs[0].ranges == {"batch": (1, 8), "time": (8, 64)}
    checked = edgekit("check", report["bundle"], "--json", cwd=place)
    assert checked.code == 0, checked.err


@pytest.mark.parametrize("target", [pytest.param("openvino", marks=pytest.mark.slow), "onnxruntime"])
def test_int8_with_data_and_metric_of_the_users_own(edgekit: Cli, place: Path, target: str) -> None:
    ran = edgekit(
        "compile", "nets:make", "--target", target, "--precision", "int8", "--calibration", "feeds",
        "--data", "test.npz", "--metric", "nets:score", "--max-drop", "20%", "--max-error", "10%",
        "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    report = ran.json
    assert report["layers"]["int8"] >= 1
    assert report["accuracy"]["metric"] == "nets:score"
    assert (report["quantization"]["judged_on"], report["accuracy"]["samples"]) == (5, 11)
    limits = {check["name"]: check["limit"] for check in report["checks"]}
    assert (limits["accuracy.drop"], limits["parity.rel_l2"]) == (0.2, 0.1)
    assert any("was inferred from" in note for note in report["notes"])


def test_an_onnx_file_is_held_against_onnx_runtime(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "compile", "net.onnx", "--target", "openvino", "--precision", "int8", "--calibration",
        "calibration.npz", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    assert ran.json["latency"]["reference_engine"] == "ONNX Runtime fp32"
    assert ran.json["layers"]["int8"] >= 1


def test_where_they_part(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "check", "nets:make", "--target", "openvino", "--precision", "int8", "--calibration", "feeds",
        "--layers", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert {"conv", "out"} <= {row["module"] for row in ran.json["rows"]}
    page = (place / ran.json["page"]).read_text(encoding="utf-8")
    assert "<svg" in page
    assert "conv" in page


def test_an_error_budget_that_is_broken_is_exit_1(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "check", "nets:make", "--target", "openvino", "--precision", "int8", "--calibration", "feeds",
        "--max-error", "0.0001%", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 1, ran.err
    assert {one["name"] for one in ran.json["checks"] if not one["passed"]} >= {"parity.rel_l2"}


def test_outputs_have_limits_of_their_own_that_the_bundle_keeps(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "compile", "nets:heads", "--target", "onnxruntime", "--precision", "int8", "--calibration", "feeds",
        "--max-error", "20%", "--max-error", "scores=0.0001%", "--max-error", "ids=50%", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 1, ran.err
    limits = {check["name"]: check["limit"] for check in ran.json["checks"]}
    assert (limits["parity.rel_l2"], limits["parity.rel_l2.scores"]) == (0.2, 1e-6)
    assert (limits["parity.rel_l2.boxes"], limits["parity.agreement.ids"]) == (0.2, 0.5)
    failed = {check["name"] for check in ran.json["checks"] if not check["passed"]}
    broken = {"parity.grid.rel_l2.scores", "parity.rel_l2.scores"}
    assert failed == broken | {f"held_back.{name}" for name in broken}
    board = subprocess.run(
        [sys.executable, place / ran.json["bundle"] / "run.py", "check", "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(board.stdout)["checks"]}
    assert board.returncode == 1
    assert checks["golden.rel_l2.scores"]["limit"] == 1e-6
    assert checks["golden.agreement.ids"]["limit"] == 0.5


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_network_of_ones_own_goes_to_tensorrt_too(edgekit: Cli, place: Path, target: str) -> None:
    ran = edgekit(
        "compile", "nets:make", "--target", target, "--precision", "int8", "--calibration", "feeds",
        "--output", f"build/{target}", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 5, ran.err
    assert ran.json["passed"] is None
    assert all(check["passed"] for check in ran.json["checks"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nets:made",), 2, "did you mean"),
        (("nots:make",), 2, "nots"),
        (("nets:wrong", "--input", INPUT), 2, "no weights today"),
        (("nets:make",), 2, "--input"),
        (("nets:make", "--input", "x=float32[batch"), 2, "NAME=TYPE"),
        (("nets:make", "--input", INPUT, "--precision", "int8"), 2, "--calibration"),
        (("nets:make", "--calibration", "nowhere.npz"), 6, "nowhere.npz"),
        (("nets:make", "--input", INPUT, "--calibration", "wrong.npz"), 6, "wrong.npz"),
        (("nets:make", "--input", INPUT, "--data", "test.npz", "--metric", "nets:broken"), 2, "logits"),
        (("nets:make", "--input", INPUT, "--data", "test.npz", "--metric", "acuracy"), 2, "accuracy"),
        (("nets:make", "--input", INPUT, "--max-error", "0%"), 2, "100%"),
        (("nets:make", "--input", INPUT, "--max-error", "scores=2%"), 2, "its outputs: output"),
        (("nets:make", "--input", "y=float32[batch,7,time]"), 2, "nets.py"),
        (("cnn", "--input", INPUT), 2, "cnn is a recipe"),
        (("net.onnx", "--weights", "w.safetensors"), 2, "--weights"),
        (("nothing.onnx",), 6, "nothing.onnx"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    edgekit: Cli, place: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    out = tmp_path / "out"
    ran = edgekit("compile", *arguments, "--target", "onnxruntime", "--output", out, cwd=place)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not out.exists()


API = """
import json
import numpy as np
import edgekit, nets
with edgekit.compile(
    nets.make(), "build/api", inputs="x=float32[batch:1..8,4,time:8..64]", target="onnxruntime",
    precision="int8", calibration="feeds", max_error="10%",
) as made:
    out = made.infer({"x": np.zeros((3, 4, 20), np.float32)})
    print(json.dumps([made.report.passed, str(made.bundle), list(out["output"].shape)]))
"""


def test_the_same_words_in_python(edgekit: Cli, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", API], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, "build/api", [3, 3]]
    checked = edgekit("check", "build/api", "--json", cwd=place)
    assert checked.code == 0, checked.err
    assert any("held against the recorded pairs alone" in note for note in checked.json["notes"])
    assert edgekit("run", "build/api", "feeds/00.npz", cwd=place).code == 0
