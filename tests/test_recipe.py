from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import recipe as recipes
from edgekit import registry
from edgekit.runtime.errors import BadFileError, UsageError

MINIMAL = """
[model]
name = "cnn"
[task]
name = "classify"
[data]
name = "digits"
[quantization]
name = "ptq"
[target]
name = "onnxruntime"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_every_built_in_recipe_parses_and_is_told_as_it_was(name: str) -> None:
    recipe = recipes.read(name)
    assert recipe.name == name
    assert recipes.parse(recipes.told(recipe), "again", Path()) == recipe


def test_there_are_recipes() -> None:
    assert {"cnn", "crnn", "crnn_small"} <= set(registry.names("recipe"))


def test_a_recipe_takes_its_name_from_its_file(tmp_path: Path) -> None:
    assert recipes.read(written(tmp_path, MINIMAL)).name == "mine"


def test_dashes_and_underscores_are_the_same() -> None:
    assert recipes.read("crnn-small").name == "crnn_small"


def test_three_faults_are_all_named(tmp_path: Path) -> None:
    text = MINIMAL.replace('"cnn"', '"cnnn"').replace('"classify"', "3") + '\nprecision = "int9"\n'
    with pytest.raises(UsageError) as caught:
        recipes.read(written(tmp_path, text))
    assert "3 faults" in caught.value.message
    for fault in ("did you mean 'cnn'?", "task.name: 3 is not text", "there is no precision 'int9'"):
        assert fault in caught.value.message


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("model.options.channels='many'", "model.options.channels: 'many' is not a whole number"),
        ("model.options.chanels=3", "did you mean 'channels'?"),
        ("limits.max_drop=5", "limits.max_drop: 5"),
        ("limits.rel_l2.int9=0.1", "int9"),
        ("limits.outputs.logits=0", "limits.outputs.logits: 0 is not above 0"),
        ("limits.outputs.logits='2%'", "is not a table, each a number"),
        ("seed=-1", "seed: -1"),
        ("sead=1", "did you mean 'seed'?"),
        ("nonsense", "it must read key=value"),
        ("seed.deep=1", "seed is a value, not a table"),
    ],
)
def test_a_bad_override_is_one_sentence(line: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipes.read("cnn", [line])
    assert fault in caught.value.message


def test_overrides_are_toml_values_or_plain_text() -> None:
    recipe = recipes.read("cnn", ["seed=7", "target.precision=fp16", "limits.max_drop=0.02"])
    assert (recipe.seed, recipe.precision, recipe.limits.max_drop) == (7, "fp16", 0.02)


def test_a_limit_for_one_precision_leaves_the_others_as_they_are() -> None:
    limits = recipes.read("cnn", ["limits.rel_l2.int8=0.02"]).limits
    assert (limits.rel_l2["int8"], limits.rel_l2["fp32"]) == (0.02, 1e-3)


def test_a_limit_for_one_output_survives_being_told() -> None:
    recipe = recipes.read("cnn", ["limits.outputs.logits=0.02"])
    assert recipe.limits.outputs == {"logits": 0.02}
    assert recipes.parse(recipes.told(recipe), "told", Path()).limits == recipe.limits


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        recipes.read("crn")
    assert caught.value.hint == "did you mean 'crnn'?"


def test_what_is_no_toml_is_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="is not a TOML file"):
        recipes.read(written(tmp_path, "[model\n"))
    with pytest.raises(BadFileError, match="does not exist"):
        recipes.read(str(tmp_path / "none.toml"))


def test_built_in_weights_stand_by_name_not_by_place() -> None:
    told = recipes.told(recipes.read("cnn"))
    assert told["weights"] == "built-in:cnn.safetensors"


def test_built_in_weights_cannot_leave_the_recipes() -> None:
    told = {**recipes.told(recipes.read("cnn")), "weights": "built-in:../../secret"}
    assert recipes.parse(told, "x", Path()).weights == registry.recipes_folder() / "secret"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("nets:make", "nets-make"),
        ("other:make", "other-make"),
        ("package.nets:Net.small", "nets-Net.small"),
        ("nets.onnx", "nets"),
        ("folder/nets.pt2", "nets"),
        ("timm:resnet18", "resnet18"),
        ("hf:org/bert-tiny", "org_bert-tiny"),
        ("object:Small", "Small"),
    ],
)
def test_networks_of_ones_own_have_names_that_tell_them_apart(source: str, name: str) -> None:
    assert recipes.read_own(source, {}).name == name
