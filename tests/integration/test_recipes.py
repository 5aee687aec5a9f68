"""Every recipe that is carried: its engine keeps the recipe's limits, and its command gives its score again.

Run with `-m slow`: up to a minute for each engine, up to six minutes for each training (`crnn`: 34).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit import registry
from edgekit.recipe import with_weights
from tests.conftest import Cli

RECIPES = with_weights()
TWELVE = {
    "attention_cnn", "cnn", "convlstm", "crnn", "densenet", "detector",
    "gru", "lstm", "resnet", "rnn", "transformer", "vit",
}  # fmt: skip
"""What the family consists of, each by the recipe of its own name."""


def provenance(name: str) -> dict[str, Any]:
    path = registry.recipes_folder() / f"{name}.provenance.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told


def test_the_list_of_models_says_what_each_is(edgekit: Cli) -> None:
    rows = edgekit("list", "models", "--json").json
    assert {row["name"] for row in rows} == TWELVE
    for row in rows:
        assert row["task"]
        assert row["parameters"] > 0
        assert "[batch," in row["input"]
        assert 0.5 < float(row["score"].split()[-1]) <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_score_says_how_sure_it_is(name: str) -> None:
    told = provenance(name)["scores"]["test"]
    low, high = told["interval"]
    assert 0 <= low <= told["value"] <= high <= 1
    assert high - low < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", RECIPES)
def test_int8_keeps_the_limits(edgekit: Cli, tmp_path: Path, name: str, target: str) -> None:
    said = ("--target", target, "--precision", "int8", "--output", tmp_path / "bundle", "--json")
    ran = edgekit("compile", name, *said)
    assert ran.code == 0, ran.out + ran.err
    assert ran.json["layers"]["int8"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_command_gives_the_score_again(edgekit: Cli, tmp_path: Path, name: str) -> None:
    """On the same processor to the byte. On another one kernels round otherwise, bfloat16 above all, and two
    trainings agree as far as their intervals do."""
    before = provenance(name)
    ran = edgekit("train", name, "--output", tmp_path, "--quiet", seconds=4 * 3600)
    assert ran.code == 0, ran.err
    again = json.loads((tmp_path / f"{name}.provenance.json").read_text(encoding="utf-8"))
    (low, high), (lowest, highest) = (one["scores"]["test"]["interval"] for one in (before, again))
    assert low <= highest
    assert lowest <= high
    assert again["parameters"] == before["parameters"]
