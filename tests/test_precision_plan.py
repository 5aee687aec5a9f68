"""A plan as a file: written, edited, read again, and every way in which it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit import precision_plan
from edgekit import recipe as recipes
from edgekit.precision_plan import Plan, laid_over, read, resolved, rest_of
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError

LAYERS = {
    "features.0/Conv": "features.0",
    "features.3/Conv": "features.3",
    "rnn/LSTM": "rnn",
    "head/Gemm": "",
}


def written(tmp_path: Path, told: Any) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    recipe = recipes.read("cnn", ["quantization.options.calibrator=mse"])
    precision_plan.write(recipe, {"features.0/Conv": "int8"}, tmp_path / "plan.json")
    plan = read(tmp_path)
    assert plan == Plan(
        layers={"features.0/Conv": "int8"},
        method="ptq",
        options={"calibrator": "mse"},
        target=recipe.target.name,
    )
    again = laid_over(recipes.read("cnn"), plan)
    assert again.plan == {"features.0/Conv": "int8"}
    assert again.quantization == recipe.quantization


def test_what_a_search_chose_beside_the_layers_is_given_again(tmp_path: Path) -> None:
    recipe = recipes.read("cnn", ["target.options.rest=fp32"])
    precision_plan.write(recipe, {"features.0/Conv": "int8"}, tmp_path / "plan.json", searched=True)
    plan = read(tmp_path)
    again = laid_over(recipes.read("cnn"), plan)
    assert again.search is not None, "samples are parted as they were"
    assert again.target.options["rest"] == "fp32"
    elsewhere = laid_over(recipes.read("cnn", (), "onnxruntime"), plan)
    assert "rest" not in elsewhere.target.options


def test_a_node_that_is_always_float_may_be_named() -> None:
    plan = {"features.0/Conv": "int8", "attention/MatMul": "fp32"}
    assert resolved(plan, LAYERS, {"attention/MatMul"}) == plan
    with pytest.raises(UsageError, match="unknown layer 'attention/MatMul'"):
        resolved(plan, LAYERS)


def test_a_recipe_can_hold_a_plan_and_a_search() -> None:
    recipe = recipes.read("cnn", ["plan.classifier=fp32", "search.seconds=5"])
    assert recipe.plan == {"classifier": "fp32"}
    assert recipe.search is not None
    assert recipe.search.seconds == 5
    assert recipes.parse(recipes.told(recipe), "again", Path()) == recipe


@pytest.mark.parametrize(
    ("told", "kind", "said"),
    [
        ("{", BadFileError, "cannot be read"),
        ("[]", BadFileError, "names no layers"),
        ({"layers": {}}, BadFileError, "names no layers"),
        ({"schema": 7, "layers": {"a": "int8"}}, BadFileError, "no plan of schema 1"),
        ({"layers": {"a": "int9"}}, UsageError, "'int9', which does not exist"),
        ({"layers": {"a": ["int8"]}}, UsageError, "which does not exist"),
        ({"layers": {"a": "int8"}, "lairs": {}}, UsageError, "unknown key 'lairs'"),
        ({"layers": {"a": "int8"}, "method": "pqt"}, UsageError, "pqt"),
        ({"layers": {"a": "int8"}, "method": "ptq", "options": {"calibrator": 3}}, UsageError, "calibrator"),
        ({"layers": {"a": "int8"}, "method": "ptq", "options": ["calibrator"]}, UsageError, "options"),
        ({"layers": {"a": "int8"}, "options": {"calibrator": "mse"}}, UsageError, "no method"),
        ({"layers": {"a": "int8"}, "rest": "int8"}, UsageError, "rest is a floating precision"),
        ({"layers": {"a": "int8"}, "searched": "yes"}, UsageError, "searched is true or false"),
    ],
)
def test_a_bad_plan_is_told_in_one_sentence(
    tmp_path: Path, told: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        read(written(tmp_path, told))


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(BadFileError, match="does not exist"):
        read(tmp_path)


def test_a_module_stands_for_every_layer_inside_it_and_a_layer_overrides_it() -> None:
    found = resolved({"features": "int8", "features.3/Conv": "fp32", "rnn": "bf16"}, LAYERS)
    assert found == {"features.0/Conv": "int8", "features.3/Conv": "fp32", "rnn/LSTM": "bf16"}


def test_an_unknown_layer_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown layer 'features\.4/Conv'") as error:
        resolved({"features.4/Conv": "int8"}, LAYERS)
    assert "features." in error.value.hint


def test_an_engine_has_one_floating_precision() -> None:
    assert rest_of({"a": "int8", "b": "bf16", "c": "bf16"}) == "bf16"
    assert rest_of({"a": "int8"}) == ""
    with pytest.raises(UnsupportedError, match="bf16 and in fp32"):
        rest_of({"a": "fp32", "b": "bf16"})
