"""Model files that are not what they claim, or are another framework's: one sentence and the way out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.conftest import Cli
from tests.sources.onnx_files import F32, external, linear, save, value, weight, weight_bytes


def truncated(folder: Path) -> Path:
    path = save(folder, linear())
    path.write_bytes(path.read_bytes()[:200])
    return path


def lying_of_an_output(folder: Path) -> Path:
    made = linear()
    made.graph.output[0].CopyFrom(value("y", F32, ["batch", 5]))
    return save(folder, made)


def lying_of_an_input(folder: Path) -> Path:
    made = linear()
    made.graph.input[0].CopyFrom(value("x", F32, ["batch", 5]))
    return save(folder, made)


def with_nan(folder: Path) -> Path:
    made = linear()
    made.graph.initializer[0].CopyFrom(weight("w", np.full((4, 3), np.nan, np.float32)))
    return save(folder, made)


def climbing(folder: Path) -> Path:
    return external(folder, "../secret.bin")


def absolute(folder: Path) -> Path:
    return external(folder, str(folder.parent / "secret.bin"))


def linked(folder: Path) -> Path:
    path = external(folder)
    (folder / "net.bin").symlink_to(folder.parent / "secret.bin")
    return path


def without_its_data(folder: Path) -> Path:
    return external(folder)


def with_large_data(folder: Path) -> Path:
    """Its data file is sparse: 4 GB of which nothing is written."""
    path = external(folder, length=2**32)
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].dims[:] = [2**15, 2**15]
    (folder / "net.bin").touch()
    os.truncate(folder / "net.bin", 2**32)
    return save(folder, made)


def too_large(folder: Path) -> Path:
    path = save(folder, linear())
    os.truncate(path, 2**31)
    return path


def torchscript(folder: Path) -> Path:
    path = folder / "net.pt"
    torch.jit.trace(torch.nn.Linear(4, 3), torch.zeros(1, 4)).save(str(path))
    return path


def keras(folder: Path) -> Path:
    path = folder / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    return path


def hdf5(folder: Path) -> Path:
    path = folder / "net.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    return path


OUTSIDE = ("'w' points outside the file's folder", "put the data file itself beside the ONNX file")
BAD: list[tuple[Callable[[Path], Path], int, tuple[str, ...]]] = [
    (truncated, 6, ("is no ONNX model, or is cut short", "export it again")),
    (lying_of_an_output, 6, ("declares 'y' as (batch, 5)", "running it gives (2, 3)")),
    (lying_of_an_input, 6, ("/head/fc/MatMul", "export it again")),
    (with_nan, 6, ("the weight 'w' holds NaN", "another checkpoint")),
    (climbing, 6, OUTSIDE),
    (absolute, 6, OUTSIDE),
    (linked, 6, OUTSIDE),
    (without_its_data, 6, ("'net.bin' of 'w' is missing", "copy it too")),
    (with_large_data, 4, ("holds 4.0 GB of weights", "float16, or cut it into two")),
    (too_large, 6, ("is 2.0 GB", "save_as_external_data=True")),
    (torchscript, 4, ("is TorchScript", "torch.export.save", "torch.onnx.export")),
    (keras, 4, ("is a Keras or TensorFlow model", "model.export('net.onnx'")),
    (hdf5, 4, ("is a Keras or TensorFlow model", "tf2onnx")),
]


@pytest.mark.parametrize(("make", "code", "said"), BAD, ids=[make.__name__ for make, _, _ in BAD])
def test_one_sentence_and_the_exit_code(
    edgekit: Cli, tmp_path: Path, make: Callable[[Path], Path], code: int, said: tuple[str, ...]
) -> None:
    (tmp_path / "secret.bin").write_bytes(weight_bytes())
    folder = tmp_path / "net"
    folder.mkdir()
    path = make(folder)
    ran = edgekit("compile", path, "--target", "onnxruntime", "--output", tmp_path / "out", cwd=tmp_path)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert ran.err.count("error: ") == 1
    assert "Traceback" not in ran.err
    assert str(path) in ran.err
    assert all(word in ran.err for word in said), ran.err
    assert not (tmp_path / "out").exists()
