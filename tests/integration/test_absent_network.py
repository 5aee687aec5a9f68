"""`edgekit check BUNDLE` where the network that it was made from has gone or changed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import pipeline
from edgekit.report import Report
from edgekit.runtime.errors import BadFileError, EdgekitError, UsageError
from edgekit.runtime.manifest import hashes, read_manifest, write_manifest
from edgekit.runtime.proof import load_pairs, save_pairs

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(8, 4)

    def forward(self, x):
        return {"scores": torch.relu(self.a(x))}

def make():
    return Net()
"""
INPUT = "x=float32[batch:1..4,8]"
NOTE = "the network is not here: held against the recorded pairs alone"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `gonenets.py`, its data, and bundles of it, of its graph and of the module itself."""
    folder = tmp_path_factory.mktemp("absent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "gonenets.py").write_text(NETS, encoding="utf-8")
        x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
        np.savez(folder / "data.npz", x=x)
        recipe = pipeline.load(
            "gonenets:make", target="onnxruntime", data="data.npz", network={"inputs": [INPUT]}
        )
        pipeline.compile(recipe, "of-factory")
        pipeline.export(recipe, folder / "net.onnx")
        pipeline.compile(pipeline.load("net.onnx", target="onnxruntime"), "of-graph")
        module = sys.modules["gonenets"].make()
        with edgekit.compile(module, "of-module", inputs=INPUT, target="onnxruntime"):
            pass
        yield folder


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Whatever a test changes is put back."""
    kept = {name: (made / name).read_bytes() for name in ("gonenets.py", "data.npz", "net.onnx")}
    monkeypatch.delitem(sys.modules, "gonenets", raising=False)
    yield made
    for name, content in kept.items():
        (made / name).write_bytes(content)


def alone(report: Report) -> str:
    """The note of a report that has the recorded pairs and nothing else."""
    assert {check.name.partition(".")[0] for check in report.checks} == {"golden"}
    assert report.accuracy is None
    (note,) = (note for note in report.notes if NOTE in note)
    return note


def changed(place: Path, old: str, new: str) -> None:
    assert old in NETS
    (place / "gonenets.py").write_text(NETS.replace(old, new), encoding="utf-8")


def test_with_the_network_there_all_is_proved(place: Path) -> None:
    report = pipeline.check(place / "of-factory")
    assert report.passed
    assert {"golden.rel_l2", "parity.rel_l2", "parity.grid.rel_l2"} <= {one.name for one in report.checks}
    assert not any(NOTE in note for note in report.notes)


def test_a_module_handed_over_in_python(place: Path) -> None:
    report = pipeline.check(place / "of-module")
    assert report.passed
    assert "handed over in Python" in alone(report)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def make()", "def remake()", "gonenets has no 'make'"),
        ("self.a(x)", "self.b(x)", "no attribute 'b'"),
        ('"scores"', '"points"', "gonenets:make returns points"),
    ],
)
def test_a_module_that_was_changed(place: Path, old: str, new: str, said: str) -> None:
    changed(place, old, new)
    report = pipeline.check(place / "of-factory")
    assert report.passed
    assert said in alone(report)


def test_a_module_that_has_gone_with_its_data(place: Path) -> None:
    (place / "gonenets.py").unlink()
    (place / "data.npz").unlink()
    assert "there is no module 'gonenets'" in alone(pipeline.check(place / "of-factory"))


def test_a_file_that_has_gone(place: Path) -> None:
    (place / "net.onnx").unlink()
    assert "net.onnx" in alone(pipeline.check(place / "of-graph"))


def refused(kind: type[EdgekitError], bundle: Path, data: Path | None = None) -> str:
    with pytest.raises(kind) as caught:
        pipeline.check(bundle, data=data)
    return caught.value.message


def test_other_weights_and_files_that_are_bad_stay_bad(place: Path) -> None:
    changed(place, "manual_seed(0)", "manual_seed(1)")
    assert "the weights of gonenets:make are not those" in refused(BadFileError, place / "of-factory")
    (place / "net.onnx").write_bytes(b"x")
    refused(BadFileError, place / "of-graph")


def test_data_that_has_gone_is_no_absent_network(place: Path) -> None:
    (place / "data.npz").unlink()
    assert "data.npz does not exist" in refused(BadFileError, place / "of-factory")


def test_what_needs_the_network_says_so(place: Path) -> None:
    (place / "gonenets.py").unlink()
    assert "no module" in refused(UsageError, place / "of-factory", data=place / "data.npz")
    with pytest.raises(UsageError, match="no module"):
        pipeline.bench(place / "of-factory")


def test_the_recorded_pairs_can_fail(place: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(place / "of-module", bundle)
    inputs, outputs = load_pairs(bundle / "golden.npz")
    save_pairs(bundle / "golden.npz", inputs, [{"scores": out["scores"] + 1} for out in outputs])
    manifest = read_manifest(bundle)
    object.__setattr__(manifest, "files", hashes(bundle))
    write_manifest(manifest, bundle)
    report = pipeline.check(bundle)
    assert report.passed is False
    alone(report)
