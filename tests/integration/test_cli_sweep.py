"""`edgekit sweep` on real networks: small in the gate, every built-in recipe under slow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.recipe import with_weights
from edgekit.runtime.manifest import read_manifest, verify
from tests.conftest import Cli
from tests.integration.test_cli_refusals import refused

RTX = "tensorrt_rtx"


def test_a_sweep_from_beginning_to_end_and_again(edgekit: Cli, tmp_path: Path) -> None:
    asked = (
        "sweep", "cnn", "-t", "onnxruntime", "-t", "tensorrt-rtx", "-p", "fp32", "-p", "bf16", "-o", "out",
    )  # fmt: skip
    ran = edgekit(*asked, "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "cnn onnxruntime fp32: passed" in ran.err
    assert ran.json == json.loads((tmp_path / "out" / "sweep.json").read_text())
    rows = {(row["target"], row["precision"]): row for row in ran.json["cells"]}
    assert [row["state"] for row in rows.values()] == ["proved", "refused", "built", "built"]
    proved, refusal = rows["onnxruntime", "fp32"], rows["onnxruntime", "bf16"]
    assert "does not run on this target" in refusal["reason"]
    assert (refusal["exit_code"], refusal["passed"], refusal["bundle"]) == (4, None, None)
    assert (proved["accuracy"]["samples"], proved["failed"]) == (1100, [])
    assert proved["error"] < 1e-3
    assert proved["latency"]["speedup"] > 0
    assert "needs a GPU" in rows[RTX, "fp32"]["reason"] or rows[RTX, "fp32"]["state"] == "proved"
    bundle = tmp_path / "out" / "cnn-onnxruntime-fp32"
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    assert manifest.command.startswith("edgekit sweep cnn")
    assert manifest.engine["settings"]["threads"] == proved["latency"]["threads"]
    assert edgekit("check", bundle).code == 0
    again = edgekit(*asked, cwd=tmp_path)
    assert again.code == 0
    assert again.err == ""  # no cell was worked on
    assert "4 cells: 1 passed, 1 refused, 2 built; 4 were there already" in again.out
    assert "speedup" in again.out.splitlines()[0]


def test_an_interrupt_ends_every_process_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "sweep", "cnn", "crnn_small", "-t", "onnxruntime", "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if ": export" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    left = sorted(path.name for path in (tmp_path / "build" / "sweep").iterdir())
    assert left == [".sweep", "sweep.html", "sweep.json"]


def test_what_is_misspelt_is_exit_code_2(edgekit: Cli, tmp_path: Path) -> None:
    refused(edgekit("sweep", "cnn", "crn", cwd=tmp_path), 2, "no model called 'crn'", "did you mean 'crnn'?")
    refused(edgekit("sweep", "cnn", "-t", "openvin", cwd=tmp_path), 2, "did you mean 'openvino'?")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_named(edgekit: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = "file is no folder that can be written", "give another --output"
    refused(edgekit("sweep", "cnn", "-o", "file", cwd=tmp_path), 7, *said)


@pytest.mark.slow
@pytest.mark.parametrize("name", with_weights())
def test_every_built_in_recipe_is_swept(edgekit: Cli, tmp_path: Path, name: str) -> None:
    ran = edgekit("sweep", name, "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert len(ran.json["cells"]) == 9
    assert ran.json["complete"]
