from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.data import digits, text_lines
from edgekit.models import cnn
from edgekit.runtime.errors import BadFileError, HardwareError, UsageError
from edgekit.runtime.manifest import sha256_of
from edgekit.spec import Choice, ExportOptions, Limits, Recipe
from edgekit.steps import _batches, _fitting
from edgekit.steps.train import TrainProgress, _version, load_weights, train
from edgekit.tasks import classify, recognize

SMALL = {"steps": 48, "batch": 16, "validate_every": 16, "workers": 0, "threads": 1, "learning_rate": 3e-3}
NETWORK = {"height": 28, "width": 28, "channels": 1}


def recipe(**train_options: Any) -> Recipe:
    return Recipe(
        name="tiny",
        model=Choice(name="cnn", options=NETWORK),
        task=Choice(name="classify"),
        data=Choice(name="digits"),
        train=SMALL | train_options,
        quantization=Choice(name="ptq"),
        export=ExportOptions(),
        target=Choice(name="openvino"),
        precision="fp32",
        limits=Limits(),
    )


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    module = cnn.build(cnn.Options(**NETWORK))
    load_weights(module, path)
    return module.state_dict()


def same(first: Path, second: Path) -> bool:
    pairs = zip(weights_of(first).values(), weights_of(second).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrainProgress], dict[str, Any]]:
    out, told = tmp_path_factory.mktemp("trained"), []
    artifact = train(recipe(), out, told.append)
    return artifact.path, told, dict(artifact.made_by)


def test_it_learns_and_tells_how_far_it_is(trained: tuple[Path, list[TrainProgress], dict[str, Any]]) -> None:
    _, told, made_by = trained
    assert [event.step for event in told] == list(range(1, 49))
    assert told[-1].seconds_left == 0
    assert told[0].metric is None
    assert told[-1].metric is not None
    assert made_by["scores"]["test"]["value"] > 0.6
    assert made_by["scores"]["test"]["n"] == 1100


def test_provenance_lies_beside_the_weights(
    trained: tuple[Path, list[TrainProgress], dict[str, Any]],
) -> None:
    path, _, made_by = trained
    written = json.loads(path.with_name("tiny.provenance.json").read_text())
    assert written == json.loads(json.dumps(made_by))
    assert written["sha256"] == sha256_of(path)
    assert written["command"] == "edgekit train tiny --seed 0"
    assert written["sources"][0]["licence"]
    assert {entry.name for entry in path.parent.iterdir()} == {"tiny.safetensors", "tiny.provenance.json"}


def test_the_same_seed_gives_the_same_weights_with_background_workers(
    trained: tuple[Path, list[TrainProgress], dict[str, Any]], tmp_path: Path
) -> None:
    assert same(trained[0], train(recipe(workers=1), tmp_path).path)


def test_an_interrupted_training_resumes_to_the_same_weights(
    trained: tuple[Path, list[TrainProgress], dict[str, Any]], tmp_path: Path
) -> None:
    def interrupt(event: TrainProgress) -> None:
        if event.step == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path, interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.checkpoint.safetensors"]
    told: list[TrainProgress] = []
    resumed = train(recipe(resume=True), tmp_path, told.append)
    assert told[0].step == 33
    assert same(trained[0], resumed.path)


@pytest.mark.parametrize("every", [10, 16])
def test_dropout_and_batches_go_on_where_they_were(tmp_path: Path, every: int) -> None:
    """Ten steps are no whole number of the pools that batches are sorted in."""
    options = NETWORK | {
        "classes": 10,
        "patch": 7,
        "layers": 1,
        "heads": 1,
        "hidden": 8,
        "mlp": 8,
        "dropout": 0.5,
    }
    plain = replace(recipe(steps=30, validate_every=every), model=Choice(name="vit", options=options))
    whole = train(plain, tmp_path / "whole").path

    def interrupt(event: TrainProgress) -> None:
        if event.step == every + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plain, tmp_path / "parts", interrupt)
    resumed = train(replace(plain, train=plain.train | {"resume": True}), tmp_path / "parts").path
    assert sha256_of(resumed) == sha256_of(whole)


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="no checkpoint"):
        train(recipe(resume=True), tmp_path)
    train_one = replace(recipe(), train=SMALL | {"steps": 1})
    checkpoint = tmp_path / "tiny.checkpoint.safetensors"

    def keep(event: TrainProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(train_one, tmp_path, keep)
    assert checkpoint.is_file()
    with pytest.raises(BadFileError, match="other options"):
        train(recipe(resume=True), tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(BadFileError, match="truncated"):
        train(recipe(resume=True), tmp_path)


@pytest.mark.parametrize("wrong", [{"stepz": 1}, {"steps": 0}, {"device": "tpu"}, {"batch": "many"}])
def test_bad_training_options_are_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="train"):
        train(recipe(**wrong), tmp_path)


def test_a_training_that_diverges_stops(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="diverged"):
        train(recipe(learning_rate=1e30, clip=1e30), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="CUDA"):
        train(recipe(device="cuda"), tmp_path)


def test_one_cycle_rises_and_falls() -> None:
    rates = [_fitting.one_cycle(step / 100, 0.2) for step in range(101)]
    assert rates[0] == pytest.approx(_fitting.START)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(_fitting.END)


def test_lines_of_similar_width_share_a_batch_and_none_is_lost() -> None:
    samples = [text_lines.load("train", text_lines.Options(), Path())[index] for index in range(32)]
    made = _batches._Pooled(recognize.collate, 8)(samples)
    widths = [inputs[0].shape[-1] for inputs, _ in made]
    assert widths == sorted(widths)
    assert sorted(target for _, targets in made for target in targets) == sorted(s.target for s in samples)


def test_scores_keep_the_order_of_the_samples() -> None:
    data = digits.load("validation", digits.Options(), Path())
    module = cnn.build(cnn.Options(**NETWORK))
    samples = _batches.gather(data)
    reading = _batches.Reading(
        inputs=cnn.inputs(cnn.Options(**NETWORK)),
        outputs=cnn.outputs(cnn.Options(**NETWORK)),
        labels=digits.labels(digits.Options()),
    )
    answers = _batches.evaluate(module, samples, classify, reading)
    alone = [_batches.evaluate(module, [sample], classify, reading)[0] for sample in samples[:20]]
    assert answers[:20] == alone


def test_threads_are_those_asked_for_and_given_back(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), set()
    train(recipe(steps=2, threads=1), tmp_path, lambda event: seen.add(torch.get_num_threads()))
    assert seen == {1}
    assert torch.get_num_threads() == before


def test_a_source_without_a_package_has_no_version() -> None:
    assert _version("") == _version("no-such-distribution") == ""
    assert _version("numpy") != ""
