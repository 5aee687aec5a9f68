from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import (
    Labels,
    Manifest,
    Preprocess,
    State,
    TensorSpec,
    hashes,
    read_manifest,
    verify,
    write_manifest,
)

MANIFEST = Manifest(
    model="net",
    target="onnxruntime",
    precision="fp32",
    device="CPU",
    state="proved",
    passed=True,
    engine={"kind": "onnxruntime", "file": "engine/model.onnx", "precision": "fp32", "threads": 1},
    inputs=(TensorSpec("image", ("batch", 1, 32, "width"), ranges={"batch": (1, 8), "width": (16, 99)}),),
    outputs=(TensorSpec("logits", ("batch", "steps", 5)),),
    states=(State("h0", "hn", (1, "batch", 4)),),
    preprocess=Preprocess(height=32, mean=(0.5,), std=(0.5,)),
    labels=Labels(("", "a"), "ctc"),
)


def bundled(folder: Path) -> Manifest:
    (folder / "engine").mkdir()
    (folder / "engine" / "model.onnx").write_bytes(b"a graph")
    manifest = replace(MANIFEST, files=hashes(folder))
    write_manifest(manifest, folder)
    return manifest


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = bundled(tmp_path)
    assert read_manifest(tmp_path) == manifest
    verify(tmp_path, manifest)


def test_the_manifest_does_not_hash_itself(tmp_path: Path) -> None:
    assert list(bundled(tmp_path).files) == ["engine/model.onnx"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "inputs": 3}']
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BadFileError):
        read_manifest(tmp_path)


def test_a_folder_without_one_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="is no bundle"):
        read_manifest(tmp_path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    bundled(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))
    with pytest.raises(BadFileError, match="surprise"):
        read_manifest(tmp_path)


def test_altered_missing_and_escaping_files_are_named(tmp_path: Path) -> None:
    manifest = bundled(tmp_path)
    engine = tmp_path / "engine" / "model.onnx"
    engine.write_bytes(b"a graph!")
    with pytest.raises(BadFileError, match=r"engine/model.onnx was altered"):
        verify(tmp_path, manifest)
    engine.unlink()
    with pytest.raises(BadFileError, match=r"engine/model.onnx is missing"):
        verify(tmp_path, manifest)
    with pytest.raises(BadFileError, match="leaves the bundle"):
        verify(tmp_path, replace(manifest, files={"../secret": "0"}))


def test_a_shape_at_sizes() -> None:
    spec = MANIFEST.inputs[0]
    assert spec.dynamic == ("batch", "width")
    assert spec.at({"batch": 2, "width": 40}) == (2, 1, 32, 40)
