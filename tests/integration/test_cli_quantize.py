"""A budget that is kept, a plan that is data, and all that can be wrong with either."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.runtime.manifest import read_manifest
from edgekit.steps._search.samples import UNLABELLED, _parted
from tests.conftest import Cli, Ran

NETS = '''
import torch
import torch.nn as nn


class Fragile(nn.Module):
    """What the first LSTM reads spans six orders of magnitude, and all of it matters."""

    def __init__(self, scale):
        super().__init__()
        self.first = nn.LSTM(12, 64, batch_first=True)
        self.second = nn.LSTM(64, 64, batch_first=True)
        self.head = nn.Linear(64, 16)
        with torch.no_grad():
            self.first.weight_ih_l0 *= scale

    def forward(self, x):
        x, _ = self.first(x)
        x, _ = self.second(x)
        return self.head(x)


def by_time():
    """Small and large values follow one another in every feature."""
    torch.manual_seed(0)
    return Fragile(300.0).eval()


def by_feature():
    """Each feature has a range of its own."""
    torch.manual_seed(0)
    return Fragile(torch.logspace(3, -3, 12)).eval()


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()


def plain_rnn():
    torch.manual_seed(0)
    return nn.RNN(12, 8, batch_first=True).eval()
'''
SERIES = ("--input", "x=float32[batch:1..8,time:4..60,12]")
FRAGILE = ("nets:by_time", *SERIES, "--calibration", "by_time.npz")
UNEVEN = ("nets:by_feature", *SERIES, "--calibration", "by_feature.npz")
SMALL = ("nets:small", "--input", "x=float32[batch:1..4,3,8,8]", "--calibration", "pictures.npz")
QUICK = ("--set", "search.seconds=10")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    random = np.random.default_rng(0)
    shape = (64, 40, 12)
    by_time = 10 ** random.uniform(-3, 3, shape) * random.choice([-1, 1], shape)
    np.savez(folder / "by_time.npz", x=by_time.astype(np.float32))
    by_feature = random.standard_normal(shape) * np.logspace(-3, 3, 12)
    np.savez(folder / "by_feature.npz", x=by_feature.astype(np.float32))
    pictures = random.standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "pictures.npz", x=pictures, target=random.integers(0, 4, 64))
    unlike = pictures.copy()
    unlike[_parted(len(unlike), UNLABELLED, seed=0)[0]] *= 30
    np.savez(folder / "unlike.npz", x=unlike)
    np.savez(folder / "flat.npz", x=pictures.reshape(64, -1))
    np.savez(folder / "seven.npz", x=pictures, target=np.full(64, 7))
    write(folder / "all.json", {"first": "int8", "second": "int8", "head": "int8"})
    return folder


def write(path: Path, layers: dict[str, str], **more: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "layers": layers, **more}), encoding="utf-8")
    return path


def error_of(ran: Ran) -> float:
    return float(next(check["value"] for check in ran.json["checks"] if check["name"] == "parity.rel_l2"))


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_plain_int8_breaks_the_fragile_network_and_the_budget_finds_its_layer(
    edgekit: Cli, place: Path, target: str
) -> None:
    said = (*FRAGILE, "--max-error", "5%", "--target", target, "--precision", "int8", "--json")
    plain = edgekit("compile", *said, "--plan", "all.json", cwd=place)
    assert plain.code == 1, plain.err
    assert plain.json["layers"]["int8"] == 3
    assert error_of(plain) > 0.05

    kept = edgekit("compile", *said, *QUICK, cwd=place)
    assert kept.code == 0, kept.err
    report = kept.json
    assert error_of(kept) <= 0.05
    assert report["layers"]["int8"] >= 1
    told = report["quantization"]
    assert max(told["sensitivity"], key=lambda row: row["error"])["layer"] == "first/LSTM"
    assert report["plan"]["first/LSTM"] in ("fp32", "bf16")
    assert "int8" in report["plan"].values()
    assert told["judged_on"] == 16
    assert "ship" in told["verdict"]
    assert all(row["p50_ms"] for row in told["candidates"] if row["chosen"])
    page = (place / report["bundle"] / "report.html").read_text(encoding="utf-8")
    assert "Which precision to ship" in page
    assert "<svg" in page


@pytest.mark.slow
def test_features_of_different_ranges_are_brought_to_one_before_the_layer_that_they_break(
    edgekit: Cli, place: Path
) -> None:
    said = (*UNEVEN, "--max-error", "2%", "--target", "onnxruntime", "--precision", "int8", "--json")
    plain = edgekit("compile", *said, "--plan", "all.json", cwd=place)
    assert plain.code == 1, plain.err
    assert error_of(plain) > 0.05
    kept = edgekit("compile", *said, *QUICK, "--output", "even", cwd=place)
    assert kept.code == 0, kept.err
    whole = [row for row in kept.json["quantization"]["candidates"] if row["layers"].get("int8") == 3]
    assert [(row["method"].get("equalization"), row["keeps"]) for row in whole] == [(True, True)]
    plan = json.loads((place / "even" / "plan.json").read_text(encoding="utf-8"))
    assert plan["options"]["equalization"] is True
    plan["layers"] = dict.fromkeys(plan["layers"], "int8")
    (place / "even.json").write_text(json.dumps(plan), encoding="utf-8")
    again = edgekit("compile", *said, "--plan", "even.json", cwd=place)
    assert again.code == 0, again.err
    assert again.json["plan"]["first/LSTM"] == "int8"


@pytest.mark.slow
def test_quantize_ships_the_fastest_of_all_precisions(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "quantize", *FRAGILE, "--max-error", "5%", "--target", "onnxruntime", *QUICK, "--json", cwd=place
    )
    assert ran.code == 0, ran.err
    report = ran.json
    rows = report["quantization"]["candidates"]
    chosen = next(row for row in rows if row["chosen"])
    fastest = min(row["p50_ms"] for row in rows if row["keeps"] and row["p50_ms"])
    assert chosen["keeps"]
    assert chosen["p50_ms"] <= 1.03 * fastest
    assert report["quantization"]["verdict"].startswith(f"ship {chosen['precision']}")
    assert report["precision"] == chosen["precision"]
    assert report["bundle"].endswith(f"-onnxruntime-{report['precision']}")
    assert (report["precision"] == "int8") == (report["layers"].get("int8", 0) > 0)


def test_a_budget_that_nothing_keeps_is_exit_1_with_the_layers_to_blame(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "compile", *FRAGILE, "--max-error", "0.01%", "--target", "onnxruntime", "--precision", "int8",
        *QUICK, "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 1, ran.err
    assert "no int8 plan keeps the limits" in ran.json["next"]
    assert "first/LSTM of module first" in ran.json["next"]


def test_a_budget_that_breaks_on_samples_held_back_is_exit_1(edgekit: Cli, place: Path) -> None:
    """They are far larger than what was calibrated on: no calibrator can know, and none is believed."""
    said = (*SMALL[:-1], "unlike.npz", "--max-error", "3%", "--target", "onnxruntime", "--precision", "int8")
    ran = edgekit("compile", *said, *QUICK, "--output", "unlike", "--json", cwd=place)
    assert ran.code == 1, ran.err
    failed = [check["name"] for check in ran.json["checks"] if not check["passed"]]
    assert "held_back.parity.rel_l2" in failed
    assert "most of the error is made by" in ran.json["next"]
    tried = [row["method"]["calibrator"] for row in ran.json["quantization"]["candidates"] if row["method"]]
    assert "minmax" in tried


def test_a_network_without_a_layer_for_int8_gets_its_fastest_float(edgekit: Cli, place: Path) -> None:
    said = ("nets:plain_rnn", *SERIES, "--calibration", "by_time.npz", "--max-error", "5%")
    ran = edgekit("quantize", *said, "-t", "onnxruntime", "--output", "rnn", "--json", cwd=place)
    assert ran.code == 0, ran.err
    assert ran.json["precision"] == "fp32"
    verdict = ran.json["quantization"]["verdict"]
    assert verdict.startswith("no layer of this graph can become int8: ship fp32")


@pytest.mark.slow
def test_a_plan_is_written_edited_and_given_again(edgekit: Cli, place: Path) -> None:
    said = ("compile", *SMALL, "--target", "openvino", "--precision", "int8", "--json")
    first = edgekit(*said, "--output", "first", cwd=place)
    assert first.code == 0, first.err
    assert "candidates" in first.json["quantization"], "int8 is compared with float without a budget too"
    told = json.loads((place / "first" / "plan.json").read_text(encoding="utf-8"))
    assert told["layers"] == first.json["plan"] == dict(read_manifest(place / "first").plan)
    conv = next(layer for layer in told["layers"] if "Conv" in layer)
    edited = write(
        place / "edited.json", {**told["layers"], conv: "fp32"}, method="ptq", options={"calibrator": "mse"}
    )
    second = edgekit(*said, "--plan", edited, "--output", "second", cwd=place)
    assert second.code == 0, second.err
    assert second.json["plan"][conv] == "fp32"
    assert set(second.json["plan"].values()) == {"fp32", "int8"}
    assert second.json["layers"]["int8"] == first.json["layers"]["int8"] - 1
    manifest = read_manifest(place / "second")
    assert manifest.recipe["quantization"]["options"] == {"calibrator": "mse"}
    reused = edgekit(*said, "--plan", "second", "--output", "third", cwd=place)
    assert reused.json["plan"] == second.json["plan"]
    graphs = [(place / name / "model.onnx").read_bytes() for name in ("second", "third")]
    assert graphs[0] == graphs[1]


@pytest.mark.slow
def test_a_module_in_a_plan_stands_for_its_layers(edgekit: Cli, place: Path) -> None:
    plan = write(place / "module.json", {"0": "fp32"})
    ran = edgekit(
        "compile", *SMALL, "--target", "onnxruntime", "--precision", "int8", "--plan", plan,
        "--output", "module", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert sorted(ran.json["plan"].values()) == ["fp32", "int8"]
    graph = onnx.load(place / "module" / "model.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    conv = next(node for node in graph.node if node.op_type == "Conv")
    assert makers.get(conv.input[1]) != "DequantizeLinear"


@pytest.mark.parametrize(
    ("plan", "target", "code", "said"),
    [
        ({"3/Gemmm": "int8"}, "openvino", 2, "unknown layer '3/Gemmm'"),
        ({"0": "bf16"}, "onnxruntime", 4, "onnxruntime computes in fp32"),
        ({"0": "fp32", "3": "fp32"}, "openvino", 4, "no layer"),
        (None, "openvino", 6, "does not exist"),
    ],
)
def test_a_bad_plan_is_refused_in_a_sentence(
    edgekit: Cli, place: Path, plan: dict[str, str] | None, target: str, code: int, said: str
) -> None:
    path = place / "bad.json"
    path.unlink(missing_ok=True)
    if plan is not None:
        write(path, plan)
    ran = edgekit(
        "compile", *SMALL, "--target", target, "--precision", "int8", "--plan", path, "--json", cwd=place
    )
    assert ran.code == code, ran.err
    assert said in ran.json["error"]["message"]
    assert ran.json["error"]["hint"]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (("--max-error", "0%"), 2, "--max-error"),
        (("--max-error", "150%"), 2, "--max-error"),
        (("--max-drop", "0"), 2, "--max-drop"),
        (("--max-drop", "many"), 2, "--max-drop"),
        (("--data", "seven.npz", "--metric", "accuracy", "--max-drop", "1%"), 2, "7"),
        (("--calibration", "flat.npz", "--max-error", "5%"), 6, "flat.npz"),
        (("--set", "search.seconds=0", "--max-error", "5%"), 2, "seconds"),
    ],
)
def test_a_bad_budget_or_bad_samples_are_refused_in_a_sentence(
    edgekit: Cli, place: Path, said: tuple[str, ...], code: int, words: str
) -> None:
    ran = edgekit("quantize", *SMALL, "--target", "onnxruntime", *said, "--json", cwd=place)
    assert ran.code == code, ran.err
    assert words in ran.json["error"]["message"]
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_labels_part_into_samples_to_choose_by_and_samples_to_prove_on(edgekit: Cli, place: Path) -> None:
    ran = edgekit(
        "quantize", *SMALL, "--data", "pictures.npz", "--metric", "accuracy", "--max-drop", "5%",
        "--target", "onnxruntime", *QUICK, "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["quantization"]["judged_on"] == 21
    assert ran.json["accuracy"]["samples"] == 64 - 21
    assert all(row["drop"] is not None for row in ran.json["quantization"]["candidates"])


def test_interrupting_a_search_keeps_the_best_so_far(place: Path) -> None:
    command = [
        sys.executable, "-m", "edgekit", "compile", *FRAGILE, "--max-error", "0.001%", "--precision", "int8",
        "--target", "openvino", "--output", "cut", "--set", "search.trials=1000", "-v", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if "tried int8" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        out = process.stdout.read()
    assert process.returncode == 1, "the best so far misses this budget"
    report = json.loads(out)
    assert report["quantization"]["interrupted"] is True
    assert read_manifest(place / "cut").passed is False


def test_a_target_that_cannot_run_here_is_judged_by_its_graph(edgekit: Cli, tmp_path: Path) -> None:
    """TensorRT computes recurrent layers in float, so that no plan for it says int8 of one."""
    ran = edgekit(
        "quantize", "crnn_small", "--max-error", "5%", "-t", "tensorrt", *QUICK, "--json", cwd=tmp_path
    )
    assert ran.code == 5, ran.err
    report = ran.json
    assert (report["state"], report["passed"], report["precision"]) == ("deferred", None, "int8")
    assert not any("LSTM" in layer for layer in report["plan"])
    assert "not verified here" in report["quantization"]["verdict"]
    assert all(row["p50_ms"] is None for row in report["quantization"]["candidates"])


def test_the_first_int8_engine_is_made_however_little_may_be_spent(edgekit: Cli, place: Path) -> None:
    """One trial is gone with the first floating precision, and OpenVINO has two."""
    ran = edgekit(
        "compile", *SMALL, "--max-error", "7%", "-t", "openvino", "-p", "int8", "--set", "search.trials=1",
        "--output", "hasty", "--json", cwd=place,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = ran.json["quantization"]["candidates"]
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert [row["chosen"] for row in rows] == [False, True]


def test_what_int8_gives_way_to_keeps_the_same_promise(edgekit: Cli, place: Path) -> None:
    """fp32 would have its own limit otherwise, and a loose budget would not let bf16 through."""
    ran = edgekit(
        "quantize", *SMALL, "--max-error", "0.05%", "-t", "onnxruntime", *QUICK, "--json", cwd=place
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["precision"] == "fp32"
    limits = {check["name"]: check["limit"] for check in ran.json["checks"]}
    assert limits["parity.rel_l2"] == limits["parity.grid.rel_l2"] == 0.0005
    assert ran.json["quantization"]["verdict"].startswith("no int8 plan keeps the limits: ship fp32")
