"""From the command line to a proved bundle, and what can be done with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import edgekit as package
from tests.conftest import Cli
from tests.integration.conftest import SAMPLES, Compiled

INT8 = [
    ("crnn", "openvino"),
    ("crnn", "onnxruntime"),
    ("cnn", "openvino"),
    ("cnn", "onnxruntime"),
    ("crnn_small", "openvino"),
]


@pytest.mark.parametrize(("model", "target"), INT8)
def test_int8_is_proved(compiled: Compiled, model: str, target: str) -> None:
    bundle, ran = compiled(model, target, "int8")
    assert ran.code == 0, ran.err
    report = ran.json
    assert report["passed"] is True
    assert report["state"] == "proved"
    assert report["accuracy"]["samples"] == (SAMPLES if model == "crnn" else 1100)
    assert report["accuracy"]["drop"] <= 0.005
    assert report["layers"]["int8"] >= 1
    assert "int8" in report["plan"].values()
    assert report["latency"]["target"]["p50_ms"] > 0
    assert report["latency"]["threads"] == report["latency"]["reference_threads"]
    assert json.loads((bundle / "report.json").read_text()) == report


def test_a_convolution_that_an_lstm_reads_runs_in_int8(compiled: Compiled) -> None:
    """ONNX Runtime needs a quantized result to run a convolution in int8: it is given one."""
    _, ran = compiled("crnn_small", "onnxruntime", "int8")
    assert (ran.code, ran.json["layers"]["int8"]) == (0, list(ran.json["plan"].values()).count("int8"))


def test_int8_that_no_layer_runs_in_is_not_passed(edgekit: Cli, tmp_path: Path) -> None:
    """A file that came quantized, with a convolution that ONNX Runtime can only run in float."""
    scales = {"s": np.float32(0.02), "z": np.int8(0), "w8": np.ones((2, 1, 3, 3), np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"], "w"),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv"),
    ]
    ends = [
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 1, 8, 8]), ("y", None))
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in scales.items()]
    graph = helper.make_graph(nodes, "quantized", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    ran = edgekit("compile", "net.onnx", "-t", "onnxruntime", "-p", "int8", "--json", cwd=tmp_path)
    failed = [check["name"] for check in ran.json["checks"] if not check["passed"]]
    assert (ran.code, failed, ran.json["layers"].get("int8")) == (1, ["layers.int8"], None)
    assert "no layer runs in int8" in ran.json["next"]


def test_crnn_is_timed_at_sizes_as_they_come_and_at_one_fixed_size(compiled: Compiled) -> None:
    latency = compiled("crnn", "openvino", "int8")[1].json["latency"]
    assert set(latency["fixed_shape"]["shape"]) == {"batch", "width"}
    assert latency["speedup"] == pytest.approx(
        latency["reference"]["p50_ms"] / latency["target"]["p50_ms"], abs=0.002
    )


def test_the_lstm_is_whole_and_stays_in_float(compiled: Compiled) -> None:
    plan = compiled("crnn", "openvino", "int8")[1].json["plan"]
    assert [precision for layer, precision in plan.items() if "LSTM" in layer] in (["fp32"] * 2, ["bf16"] * 2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_float_precision_is_asked_for_and_what_ran_is_recorded(compiled: Compiled, precision: str) -> None:
    bundle, ran = compiled("cnn", "openvino", precision)
    assert ran.code == 0, ran.err
    settings = json.loads((bundle / "manifest.json").read_text())["engine"]["settings"]
    assert settings["precision"]
    assert sum(ran.json["layers"].values()) >= 3


def test_pytorch_is_a_target_too(compiled: Compiled) -> None:
    assert compiled("cnn", "pytorch", "fp32")[1].code == 0


def test_states_become_inputs_and_outputs(edgekit: Cli, tmp_path: Path) -> None:
    output = tmp_path / "b"
    ran = edgekit(
        "compile", "crnn_small", "-t", "onnxruntime", "-p", "fp32", "-o", output,
        "--set", "export.states=true", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    with package.open_bundle(output) as session:
        feed = {"image": np.zeros((3, 1, 28, 28), np.float32)}
        first = session.infer(feed)
        assert first["hn"].shape == (1, 3, 128)
        second = session.infer({**feed, "h0": first["hn"], "c0": first["cn"]})
        assert not np.allclose(first["logits"], second["logits"])
    with package.open_bundle(output, stream=True) as session:
        session.infer(feed)
        assert np.allclose(session.infer(feed)["logits"], second["logits"], atol=1e-5)
        session.reset()
        assert np.allclose(session.infer(feed)["logits"], first["logits"], atol=1e-5)


def test_a_bundle_reads_an_image(compiled: Compiled, edgekit: Cli, tmp_path: Path) -> None:
    from edgekit.data import text_lines

    bundle, _ = compiled("crnn", "openvino", "int8")
    lines = text_lines.load("test", text_lines.Options(test=8, strength=0.3), tmp_path)
    texts, files = [], []
    for index in range(8):
        text, pixels = lines.image(index)
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(files[-1])
        texts.append(text.lower())
    ran = edgekit("run", bundle, *files)
    assert ran.code == 0, ran.err
    read = [line.split("\t")[1] for line in ran.out.splitlines()]
    assert sum(one == other for one, other in zip(read, texts, strict=True)) >= 7
    assert edgekit("run", bundle, files[0]).out.strip() == read[0]
    told = edgekit("run", bundle, *files[:2], "--json").json
    assert [one["answer"] for one in told] == read[:2]
    with package.open_bundle(bundle) as session:
        assert session.predict(files[0]) == read[0]


def test_check_proves_a_bundle_again(compiled: Compiled, edgekit: Cli) -> None:
    bundle, made = compiled("cnn", "onnxruntime", "int8")
    ran = edgekit("check", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["accuracy"] == made.json["accuracy"]
    assert {"parity.rel_l2", "parity.grid.rel_l2", "accuracy.drop"} <= {
        one["name"] for one in ran.json["checks"]
    }


def test_bench_times_a_bundle_and_leaves_it_as_it_is(compiled: Compiled, edgekit: Cli) -> None:
    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    ran = edgekit("bench", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["latency"]["speedup"] > 0
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_a_failed_check_is_exit_code_1_and_the_bundle_says_so(edgekit: Cli, tmp_path: Path) -> None:
    output = tmp_path / "b"
    ran = edgekit(
        "compile", "cnn", "-t", "onnxruntime", "-p", "int8", "-o", output,
        "--set", "limits.rel_l2.int8=1e-9",
    )  # fmt: skip
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert json.loads((output / "manifest.json").read_text())["passed"] is False


def test_tensorrt_without_a_gpu_writes_a_build_kit_and_exits_5(edgekit: Cli, tmp_path: Path) -> None:
    from edgekit.runtime.probe import probe_gpus

    if probe_gpus().devices:
        pytest.skip("this machine has a GPU")
    output = tmp_path / "kit"
    ran = edgekit("compile", "crnn", "--target", "tensorrt", "--output", output, "--json")
    assert ran.code == 5, ran.err
    assert (ran.json["state"], ran.json["passed"]) == ("deferred", None)
    assert "run.py build" in ran.json["next"]
    assert {path.name for path in output.iterdir()} >= {"model.onnx", "golden.npz", "run.py", "manifest.json"}
    assert "trtexec" in (output / "manifest.json").read_text()
    assert edgekit("compile", "crnn", "--target", "tensorrt", "--output", output, "--kit", "-q").code == 0
    assert edgekit("check", output).code == 5


def test_the_same_recipe_gives_the_same_graph_in_any_folder(edgekit: Cli, tmp_path: Path) -> None:
    graphs = []
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        ran = edgekit("export", "crnn", cwd=folder, EDGEKIT_CACHE=str(folder / "cache"))
        assert ran.code == 0, ran.err
        graphs.append((folder / "build" / "crnn.onnx").read_bytes())
    assert graphs[0] == graphs[1]
    assert str(tmp_path).encode() not in graphs[0]


def test_your_own_images_take_the_place_of_the_held_out_data(
    compiled: Compiled, edgekit: Cli, tmp_path: Path
) -> None:
    from edgekit.data import digits

    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    samples = digits.load("test", digits.Options(), tmp_path)
    for index in range(20):
        sample = samples[index]
        folder = tmp_path / "mine" / str(sample.target)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip((sample.inputs[0][0] * 0.3081 + 0.1307) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    ran = edgekit("check", bundle, "--data", tmp_path / "mine", "--json")
    assert ran.json["accuracy"]["samples"] == 20
    assert ran.json["accuracy"]["reference"] >= 0.9


def test_a_copied_bundle_still_proves_itself(compiled: Compiled, edgekit: Cli, tmp_path: Path) -> None:
    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    engine = copy / "engine" / "model.onnx"
    assert edgekit("run", copy, _blank(tmp_path)).code == 0
    engine.write_bytes(engine.read_bytes()[:-1])
    ran = edgekit("run", copy, _blank(tmp_path))
    assert ran.code == 6
    assert "engine/model.onnx was altered" in ran.err


def _blank(folder: Path) -> Path:
    path = folder / "blank.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    return path
