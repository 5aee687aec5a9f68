from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime import engines, probe
from edgekit.runtime.engines import EngineOptions, check_feeds, load_engine
from edgekit.runtime.errors import BadFileError, MissingPackageError
from edgekit.runtime.manifest import TensorSpec

SPECS = (
    TensorSpec("image", ("batch", 3, 8, "width"), ranges={"batch": (1, 4), "width": (8, 64)}),
    TensorSpec("h0", (2, "batch", 5)),
)
FOLDER = Path(engines.__file__).parent


def feeds(**changes: np.ndarray) -> dict[str, np.ndarray]:
    good = {"image": np.zeros((2, 3, 8, 16), np.float32), "h0": np.zeros((2, 2, 5), np.float32)}
    return {**good, **changes}


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_good_feeds_pass() -> None:
    check_feeds(feeds(), SPECS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": zeros(1)}, "there is no input 'picture'"),
        ({"image": zeros(2, 3, 8, 16, dtype=np.uint8)}, "input 'image' is uint8, not float32"),
        ({"image": zeros(3, 8, 16)}, r"input 'image' has shape \(3, 8, 16\), not 4 dimensions"),
        ({"image": zeros(2, 1, 8, 16)}, "input 'image' has 1 at axis 1, not 3"),
        ({"image": zeros(2, 3, 8, 65)}, "input 'image' has width = 65, outside 8 to 64"),
        ({"image": zeros(2, 3, 8, 7)}, "input 'image' has width = 7, outside 8 to 64"),
        ({"image": zeros(0, 3, 8, 16)}, "input 'image' has batch = 0, outside 1 to 4"),
        ({"h0": zeros(2, 3, 5)}, "input 'h0' has batch = 3, another input 2"),
    ],
)
def test_bad_feeds_are_told_in_one_sentence(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(BadFileError, match=message) as error:
        check_feeds(feeds(**changes), SPECS)
    assert error.value.hint


def test_a_missing_input_is_named() -> None:
    with pytest.raises(BadFileError, match="input 'h0' is missing") as error:
        check_feeds({"image": feeds()["image"]}, SPECS)
    assert error.value.hint == "the inputs are: image, h0"


def test_an_empty_dimension_is_refused_without_a_range() -> None:
    with pytest.raises(BadFileError, match="time = 0"):
        check_feeds({"x": zeros(0)}, [TensorSpec("x", ("time",))])


def test_an_unknown_engine_names_those_there_are(tmp_path: Path) -> None:
    assert {"onnxruntime", "openvino", "pytorch", "tensorrt"} <= set(engines.engine_kinds())
    for kind in ("caffe", "../errors", "__init__", ""):
        with pytest.raises(BadFileError, match="there is no engine") as error:
            load_engine(kind, tmp_path / "model", EngineOptions())
        assert "openvino" in error.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"model\.xml: there is no such engine file"):
        load_engine("openvino", tmp_path / "model.xml")


def test_a_missing_package_comes_with_the_command() -> None:
    with pytest.raises(MissingPackageError) as error:
        engines.import_engine("no_such_engine", "openvino", "openvino")
    assert (
        error.value.hint == "pip install openvino; on a workstation: pip install 'edgekit-deploy[openvino]'"
    )


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("f32", "fp32"),
        ("float", "fp32"),
        ("bfloat16", "bf16"),
        ("BF16", "bf16"),
        ("u8", "int8"),
        ("i32", "i32"),
    ],
)
def test_precision_names(dtype: str, name: str) -> None:
    assert engines.precision_name(dtype) == name


def test_usable_cores_is_what_the_process_may_use() -> None:
    import os

    assert 1 <= engines.usable_cores() <= (os.cpu_count() or 1)


def test_the_probe_never_raises(tmp_path: Path) -> None:
    absent = probe.probe_gpus("libno_such_driver.so.1")
    assert absent.devices == ()
    assert "does not load" in absent.reason
    garbage = tmp_path / "libcuda.so.1"
    garbage.write_bytes(b"not a library")
    assert probe.probe_gpus(str(garbage)).devices == ()
    assert isinstance(probe.probe_gpus(), probe.GpuProbe)


def test_a_library_without_the_driver_calls_is_no_driver() -> None:
    assert probe.probe_gpus("libm.so.6").devices == ()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_engines_are_python_3_8_and_import_engines_late(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        (node.module or "").split(".")[0]
        for node in top
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    heavy = {"torch", "onnx", "openvino", "onnxruntime", "tensorrt", "edgekit"}
    assert not names & heavy
