"""Bad input: one clear sentence, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgekit import registry
from tests.conftest import Cli, Ran
from tests.integration.conftest import Compiled

CARRIED = registry.recipes_folder() / "cnn.safetensors"


def refused(ran: Ran, code: int, *sentences: str) -> None:
    """One error of that exit code, in words, with no traceback."""
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert ran.err.count("error: ") == 1
    for sentence in sentences:
        assert sentence in ran.err


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["compile", "crn"], ["there is no model called 'crn'", "did you mean 'crnn'?"]),
        (
            ["compile", "crnn", "--target", "openvin"],
            ["no target called 'openvin'", "did you mean 'openvino'?"],
        ),
        (["compile", "crnn", "--precision", "int9"], ["no precision called 'int9'", "did you mean 'int8'?"]),
        (["compile", "crnn", "--precison", "int8"], ["No such option: --precison"]),
        (["compile"], ["Missing argument"]),
        (["frobnicate"], ["No such command"]),
        (["list", "modles"], ["modles"]),
        (["compile", "cnn", "--set", "seeed=3"], ["did you mean 'seed'?"]),
    ],
)
def test_what_is_misspelt_is_exit_code_2(
    edgekit: Cli, tmp_path: Path, arguments: list[str], sentences: list[str]
) -> None:
    refused(edgekit(*arguments, cwd=tmp_path), 2, *sentences)
    assert list(tmp_path.iterdir()) == []


def test_with_json_a_refusal_is_a_document_too(edgekit: Cli) -> None:
    for arguments in (["compile", "crn", "--json"], ["compile", "crnn", "--precison", "int8", "--json"]):
        ran = edgekit(*arguments)
        assert ran.code == 2
        assert set(ran.json["error"]) == {"code", "message", "hint"}


def test_a_recipe_with_three_faults_names_all_three(edgekit: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = (registry.recipes_folder() / "cnn.toml").read_text()
    for good, bad in (
        ('"classify"', '"clasify"'),
        ("classes = 10", "classes = true"),
        ('name = "digits"', 'name = "digit"'),
    ):
        assert good in text
        text = text.replace(good, bad, 1)
    recipe.write_text(text)
    sentences = ("3 faults", "'classify'", "'digits'", "model.options.classes")
    refused(edgekit("compile", recipe, cwd=tmp_path), 2, *sentences)


def truncated(path: Path) -> None:
    path.write_bytes(CARRIED.read_bytes()[:-100])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def of_another_architecture(path: Path) -> None:
    path.write_bytes((registry.recipes_folder() / "crnn_small.safetensors").read_bytes())


class Bomb:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("boom"),)  # type: ignore[return-value]


def a_pickle(path: Path) -> None:
    path.with_suffix(".pt").write_bytes(pickle.dumps(Bomb()))


def a_pickle_in_torchs_archive(path: Path) -> None:
    torch.save({"weight": Bomb()}, path.with_suffix(".pt"))


def with_nan(path: Path) -> None:
    tensors = load_file(CARRIED)
    tensors[next(iter(tensors))].view(-1)[0] = float("nan")
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncated, ""),
        (cut_to_nothing, ""),
        (of_another_architecture, "missing"),
        (a_pickle, "pickle"),
        (a_pickle_in_torchs_archive, "pickle"),
        (with_nan, "NaN"),
    ],
)
def test_bad_weights_are_exit_code_6(
    edgekit: Cli, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(tmp_path / "w.safetensors")
    (weights,) = tmp_path.glob("w.*")
    refused(edgekit("compile", "cnn", "--weights", weights, cwd=tmp_path), 6, str(weights), sentence)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [weights.name]


def test_weights_that_are_not_there(edgekit: Cli, tmp_path: Path) -> None:
    refused(edgekit("compile", "cnn", "--weights", "none.safetensors", cwd=tmp_path), 6, "none.safetensors")


def test_a_data_folder_that_is_missing_empty_or_wrong(edgekit: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong" / "eleven").mkdir(parents=True)
    (tmp_path / "wrong" / "eleven" / "a.png").write_bytes(b"")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "labels.tsv").write_text("a.png\t3\n")
    (tmp_path / "file").write_text("")
    for name, sentence in {
        "none": "does not exist",
        "file": "is a file",
        "empty": "holds no labelled images",
        "wrong": "there is no class 'eleven'",
        "listed": "line 1: the image 'a.png' does not exist",
    }.items():
        ran = edgekit("compile", "cnn", "-t", "onnxruntime", "--data", tmp_path / name, cwd=tmp_path)
        refused(ran, 6, sentence)
    assert not any(tmp_path.glob("build/*"))


def test_an_image_that_is_no_image(compiled: Compiled, edgekit: Cli, tmp_path: Path) -> None:
    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    image = tmp_path / "image.png"
    for content in (b"", b"not an image", b"\x89PNG\r\n\x1a\n cut short"):
        image.write_bytes(content)
        refused(edgekit("run", bundle, image), 6, "image.png")
    refused(edgekit("run", bundle, tmp_path / "none.png"), 6, "none.png")


def test_a_garbage_onnx_file(edgekit: Cli, tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    for content in (b"", b"garbage", bytes(range(256))):
        graph.write_bytes(content)
        refused(edgekit("compile", graph, cwd=tmp_path), 6, str(graph))
    refused(edgekit("compile", tmp_path / "none.onnx"), 6, "there is no such file")


def test_an_output_folder_that_is_no_bundle_is_not_touched(edgekit: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    refused(edgekit("compile", "cnn", "-o", tmp_path / "thesis"), 2, "is a folder that is no bundle")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years"


def test_an_output_folder_that_cannot_be_written(edgekit: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(edgekit("compile", "cnn", "-o", tmp_path / "file" / "b"), 7, "cannot be written")


@pytest.mark.parametrize("package", ["openvino", "torch", "onnxruntime"])
def test_a_missing_package_is_one_sentence_with_the_pip_command(tmp_path: Path, package: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from edgekit.cli.app import run\n"
        "sys.exit(run(['compile', 'cnn', '--target', 'openvino', '--precision', 'int8']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    ran = Ran(done.returncode, done.stdout, done.stderr)
    refused(ran, 3, f"the package '{package}' is not installed", "pip install 'edgekit-deploy[")
    assert not any(tmp_path.glob("build/*"))


@pytest.mark.parametrize("step", ["export", "quantize", "prove"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, step: str, sent: signal.Signals) -> None:
    command = [sys.executable, "-m", "edgekit", "compile", "cnn", "-t", "openvino", "-p", "int8", "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == step:
                break
        time.sleep(0.2)
        process.send_signal(sent)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not any((tmp_path / "build").iterdir())


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".hidden"])
def test_a_recipes_name_cannot_leave_the_folder(edgekit: Cli, tmp_path: Path, name: str) -> None:
    refused(edgekit("export", "cnn", "--set", f"name='{name}'", cwd=tmp_path), 2, "is not made of letters")
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_graphs_only(edgekit: Cli, tmp_path: Path) -> None:
    notes, graph = tmp_path / "notes.txt", tmp_path / "net.onnx"
    notes.write_text("mine")
    graph.write_text("old")
    refused(edgekit("export", "cnn", "-o", notes), 2, "it is not replaced")
    assert notes.read_text() == "mine"
    assert edgekit("export", "cnn", "-o", graph).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "notes.txt"]


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--set", "seed=99999999999"]])
def test_a_seed_is_refused_before_any_work(edgekit: Cli, tmp_path: Path, arguments: list[str]) -> None:
    refused(edgekit("compile", "cnn", *arguments, cwd=tmp_path), 2, "is not a whole number from 0")


def test_standard_output_that_is_full_is_exit_code_7() -> None:
    command = [sys.executable, "-m", "edgekit", "list", "models", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    refused(Ran(done.returncode, "", done.stderr), 7, "No space left on device")


@pytest.mark.parametrize(
    "damage",
    [
        {"engine": {}},
        {"engine": []},
        {"files": []},
        {"files": {}},
        {"inputs": []},
        {"limits": None},
        {"state": "junk"},
        {"recipe": {}},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_a_bad_file(
    compiled: Compiled, edgekit: Cli, tmp_path: Path, damage: dict[str, object]
) -> None:
    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **damage}))
    refused(edgekit("check", copy), 6, "copy")


def test_a_labels_file_as_spreadsheets_write_it(compiled: Compiled, edgekit: Cli, tmp_path: Path) -> None:
    bundle, _ = compiled("cnn", "onnxruntime", "int8")
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    (tmp_path / "labels.tsv").write_bytes(b"\xef\xbb\xbfa.png\t3\r\n\r\n")
    assert edgekit("check", bundle, "--data", tmp_path, "--json").json["accuracy"]["samples"] == 1
