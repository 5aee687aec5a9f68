from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.targets import graphs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def crnn(folder: Path) -> Path:
    onnx.save(graphs.crnn(), folder / "crnn.onnx")
    return folder / "crnn.onnx"


@pytest.fixture(scope="session")
def crnn_int8(folder: Path) -> Path:
    onnx.save(graphs.crnn(int8=True), folder / "crnn_int8.onnx")
    return folder / "crnn_int8.onnx"


@pytest.fixture(scope="session")
def concatenated(folder: Path) -> Path:
    onnx.save(graphs.concatenated(), folder / "concatenated.onnx")
    return folder / "concatenated.onnx"
