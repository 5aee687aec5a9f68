"""What a user without a GPU sees of TensorRT: kits, engines ahead of time, and what stands in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.recipe import with_weights
from edgekit.runtime.manifest import read_manifest, verify
from edgekit.runtime.probe import probe_gpus
from tests.conftest import Cli
from tests.integration.conftest import Compiled

pytestmark = pytest.mark.skipif(bool(probe_gpus().devices), reason="this machine has a GPU")

PRECISIONS = ("fp32", "fp16", "int8")
IN_THE_GATE = ("cnn", "convlstm", "crnn")
"""Every architecture at its smallest is built in tests/test_family.py; the other recipes are slow."""
RECIPES = [
    pytest.param(name, marks=() if name in IN_THE_GATE else pytest.mark.slow) for name in with_weights()
]


@pytest.mark.parametrize("model", RECIPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_built_in_model_builds_with_rtx(compiled: Compiled, model: str, precision: str) -> None:
    bundle, ran = compiled(model, "tensorrt-rtx", precision)
    assert ran.code == 5, ran.err
    report = ran.json
    assert (report["state"], report["passed"]) == ("built", None)
    assert report["layers"].get(precision, 0) >= 1
    assert (bundle / "engine" / "model.engine").read_bytes()[:4] == b"vtrt"
    graph = next(check for check in report["checks"] if check["name"].startswith("graph."))
    assert graph["passed"]
    assert any("not on a Jetson" in note for note in report["notes"])


def test_asked_for_capabilities_the_exit_code_is_0(edgekit: Cli, tmp_path: Path) -> None:
    ran = edgekit(
        "compile", "cnn", "--target", "tensorrt-rtx", "--compute-capability", "8.6,8.9,12.0",
        "--output", tmp_path / "rtx", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    settings = read_manifest(tmp_path / "rtx").engine["settings"]
    assert settings["compute_capabilities"] == ["8.6", "8.9", "12.0"]


def test_a_kit_without_a_gpu(compiled: Compiled) -> None:
    bundle, ran = compiled("crnn", "tensorrt", "int8")
    assert ran.code == 5, ran.err
    report = ran.json
    assert (report["state"], report["passed"], report["bundle"]) == ("deferred", None, str(bundle))
    assert "python3 run.py build" in report["next"]
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    assert "trtexec" in manifest.engine["kit"]
    assert len(manifest.engine["build"]["profiles"]) == 3
    assert {check["name"].split(".")[0] for check in report["checks"]} == {"graph"}
    assert {path.name for path in bundle.iterdir()} >= {"model.onnx", "golden.npz", "run.py", "graphs"}


def test_asked_for_a_kit_the_exit_code_is_0(edgekit: Cli, tmp_path: Path) -> None:
    place = tmp_path / "kit"
    ran = edgekit(
        "compile", "cnn", "--target", "tensorrt", "--board", "jetson-orin-nano", "--kit", "-q",
        "--output", place,
    )  # fmt: skip
    assert (ran.code, ran.out) == (0, "")
    kit = read_manifest(place).engine["kit"]
    assert kit["board"] == "jetson_orin_nano"
    assert kit["jetpack"]["6.2"] == "10.3"
    assert "7.0" not in kit["jetpack"]  # Thor only
    assert edgekit("check", place).code == 5


def test_the_kit_is_built_up_to_the_point_where_a_gpu_is_needed(compiled: Compiled, tmp_path: Path) -> None:
    """TensorRT-RTX stands in tensorrt's place: it builds without a GPU, and cannot run without one."""
    bundle, _ = compiled("crnn", "tensorrt", "int8")
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "tensorrt.py").write_text(
        "import tensorrt_rtx as real\nglobals().update(vars(real))\n", encoding="utf-8"
    )
    ran = _run_py(bundle, "build", "--output", str(tmp_path / "built"), "--json", path=shim)
    assert ran.returncode == 5, ran.stderr
    told = json.loads(ran.stdout)
    assert told["state"] == "built"
    assert told["passed"] is None
    assert told["layers"]["int8"] >= 6
    assert "GPU" in json.dumps(told["notes"])
    manifest = read_manifest(tmp_path / "built")
    verify(tmp_path / "built", manifest)
    assert manifest.state == "built"
    checked = _run_py(tmp_path / "built", "check", path=shim)
    assert checked.returncode == 6  # the bundle is TensorRT's, the plan is not
    assert "plan of TensorRT-RTX" in checked.stderr


def test_the_kit_alone_stops_at_the_missing_gpu(compiled: Compiled) -> None:
    bundle, _ = compiled("crnn", "tensorrt", "int8")
    ran = _run_py(bundle, "build", path=bundle)
    assert ran.returncode in (3, 5)
    assert "Traceback" not in ran.stderr
    assert "error: " in ran.stderr
    assert not bundle.with_name(bundle.name + "-built").exists()


def _run_py(bundle: Path, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(bundle / "run.py"), *arguments],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--target", "tensorrt", "--board", "jetson-nano"), 4, "8.2"),
        (("--target", "tensorrt-rtx", "--board", "jetson-orin-nano"), 4, "Jetson"),
        (("--target", "tensorrt", "--board", "jetson-orin-nono"), 2, "did you mean"),
        (("--target", "tensorrt", "--compute-capability", "8.6"), 2, "tensorrt-rtx"),
        (("--target", "tensorrt-rtx", "--compute-capability", "ampere"), 2, "8.6,8.9"),
        (("--target", "tensorrt-rtx", "--compute-capability", "8.7"), 4, "8.7"),
        (("--target", "tensorrt", "--device", "NPU"), 5, "NPU"),
        (("--target", "tensorrt", "--set", "target.options.buckets=0"), 2, "begin at 1"),
        (("--target", "tensorrt", "--set", "target.options.usual_batch=32"), 2, "above largest_batch"),
        (("--target", "tensorrt", "--set", "target.options.dla=0", "-p", "fp32"), 4, "DLA"),
        (("--target", "tensorrt", "--set", "target.options.ranges.batch=[4,1]"), 2, "outside 4 to 1"),
        (("--target", "tensorrt", "-p", "bf16", "--board", "jetson-xavier-nx"), 4, "bf16"),
        (("--target", "tensorrt-rtx", "--board", "8.9", "--compute-capability", "8.6"), 2, "8.9"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    edgekit: Cli, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = edgekit("compile", "cnn", *arguments, "--output", tmp_path / "out")
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()


def test_check_target_says_what_a_model_meets(edgekit: Cli) -> None:
    ran = edgekit("check-target", "crnn", "--target", "tensorrt", "--board", "jetson-orin-nano", "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["passed"] is True
    assert {"8.5", "10.3"} <= set(told["versions"])
    assert told["trial"]["built"] is True
    assert told["trial"]["by"].startswith("TensorRT-RTX")
    assert told["trial"]["layers"]["int8"] >= 6
    assert any("LSTM" in one["node"] and one["severity"] == "warning" for one in told["findings"])
    for one in told["findings"]:
        assert one["reason"]


def _save(path: Path, *nodes: onnx.NodeProto, initializer: Any = ()) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=list(initializer),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_an_operator_that_nobody_knows(edgekit: Cli, tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx", helper.make_node("Frobnicate", ["x"], ["y"], name="odd"))
    ran = edgekit("check-target", path, "--target", "tensorrt", "--json")
    assert ran.code == 4, ran.err
    assert [one["node"] for one in ran.json["findings"] if one["severity"] == "error"][:1] == ["odd"]


def test_a_graph_that_is_fine(edgekit: Cli, tmp_path: Path) -> None:
    path = _save(tmp_path / "net.onnx", helper.make_node("Relu", ["x"], ["y"], name="relu"))
    for target in ("tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"):
        ran = edgekit("check-target", path, "--target", target)
        assert ran.code == 0, ran.out + ran.err
        assert "CAN GO THERE" in ran.out


def test_a_file_that_is_no_graph(edgekit: Cli, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    ran = edgekit("check-target", tmp_path / "net.onnx", "--target", "tensorrt")
    assert ran.code == 6
    assert "Traceback" not in ran.err


def test_doctor_knows_the_board_and_what_the_model_meets_there(edgekit: Cli) -> None:
    rows = edgekit("doctor", "--board", "jetson-orin-nano", "--json").json
    told = json.dumps(rows)
    assert "10.3" in told
    assert "system-site-packages" in told
    rows = edgekit("doctor", "crnn", "--board", "jetson-orin-nano", "--json").json
    assert any("can go there" in row["found"] for row in rows)
    assert edgekit("doctor", "crnn").code == 2


def test_the_documented_options_reach_the_kit(edgekit: Cli, tmp_path: Path) -> None:
    ran = edgekit(
        "compile", "crnn_small", "--target", "tensorrt", "--kit", "-q", "-p", "int8",
        "--output", tmp_path / "kit",
        "--set", "target.options.ranges.batch=[1,4]", "--set", "target.options.workspace_mb=99",
        "--set", "target.options.rest=bf16",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    build = read_manifest(tmp_path / "kit").engine["build"]
    assert build["workspace_bytes"] == 99 << 20
    assert all(shapes[2][0] == 4 for profile in build["profiles"] for shapes in profile.values())


def test_bf16_is_held_against_the_reference_too(edgekit: Cli, tmp_path: Path) -> None:
    ran = edgekit(
        "compile", "crnn_small", "-t", "tensorrt", "-p", "bf16", "--output", tmp_path / "kit", "--json"
    )
    assert ran.code == 5, ran.err
    assert any(check["name"] == "graph.typed.rel_l2" and check["passed"] for check in ran.json["checks"])


@pytest.mark.parametrize("opset", [9, 23, 25, 99])
def test_any_opset_gets_an_answer(edgekit: Cli, tmp_path: Path, opset: int) -> None:
    path = _save(tmp_path / "net.onnx", helper.make_node("Relu", ["x"], ["y"], name="relu"))
    model = onnx.load(path)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    ran = edgekit("check-target", path, "--target", "tensorrt", "--board", "jetson-orin-nano", "--json")
    assert ran.code in (0, 4, 6), ran.err
