"""`edgekit quantize MODEL --max-drop 0.5%` for every built-in network that brings weights, on both engines.

Most run with `-m slow`: up to two minutes each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.recipe import with_weights
from tests.conftest import Cli

IN_THE_GATE = {("cnn", "onnxruntime"), ("crnn_small", "openvino")}
TARGETS = ("onnxruntime", "openvino")
CELLS = [
    pytest.param(name, target, marks=() if (name, target) in IN_THE_GATE else pytest.mark.slow)
    for name in with_weights()
    for target in TARGETS
]


def test_there_are_cells() -> None:
    assert {cell.values for cell in CELLS} >= IN_THE_GATE


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_the_budget_is_kept_and_the_fastest_is_shipped(
    edgekit: Cli, tmp_path: Path, name: str, target: str
) -> None:
    ran = edgekit("quantize", name, "--max-drop", "0.5%", "--target", target, "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    report, told = ran.json, ran.json["quantization"]
    assert report["accuracy"]["drop"] <= 0.005
    drops = {check["name"]: check["value"] for check in report["checks"] if check["name"].endswith(".drop")}
    assert drops["held_back.accuracy.drop"] <= 0.005, "on the validation split"
    assert sum(report["layers"].values()) >= 1
    assert (report["precision"] == "int8") == (report["layers"].get("int8", 0) >= 1)

    rows = [row for row in told["candidates"] if row["keeps"]]
    chosen = next(row for row in told["candidates"] if row["chosen"])
    fastest = min(row["p50_ms"] for row in rows if row["precision"] != "int8")
    assert chosen in rows
    if report["precision"] == "int8":
        assert chosen["p50_ms"] < fastest
        assert told["verdict"].startswith("ship int8")
    else:
        assert chosen["p50_ms"] == fastest
        assert told["verdict"].startswith((f"ship {report['precision']}", "no "))
