"""The examples of CONTRIBUTING.md, put into the package as they stand there, are taken up and work."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^```python\n# (edgekit/\S+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RECIPE = re.compile(r"^```toml\n(# A perceptron.*?)^```", re.DOTALL | re.MULTILINE)
FRESH = """
from edgekit import pipeline
from edgekit.steps.load import build
from edgekit.steps.train import save_weights
recipe = pipeline.load("perceptron")
save_weights(build(recipe), recipe.weights)
"""


@pytest.fixture(scope="module")
def examples() -> dict[str, str]:
    """Each example's place in the package and its text."""
    return dict(EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def checkout(examples: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the examples in it."""
    place = tmp_path_factory.mktemp("checkout")
    for folder in ("edgekit", "recipes", "tests"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    for name, text in examples.items():
        assert not (place / name).exists()
        (place / name).write_text(text, encoding="utf-8")
    (recipe,) = RECIPE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for ours, example in {"classify": "classify_smoothed", "digits": "small_digits"}.items():
        recipe = recipe.replace(f'name = "{ours}"', f'name = "{example}"')
    (place / "recipes" / "perceptron.toml").write_text(recipe, encoding="utf-8")
    return place


def ran(checkout: Path, *command: str) -> str:
    """What a command prints, run on the copy; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_an_example_of_each_kind(examples: dict[str, str]) -> None:
    folders = {Path(name).parent.name for name in examples}
    assert folders == {"models", "tasks", "data", "quantization", "targets", "engines"}


def test_the_examples_keep_the_rules(checkout: Path, examples: dict[str, str]) -> None:
    tools = Path(sysconfig.get_path("scripts"))
    ran(checkout, str(tools / "ruff"), "check", "--no-cache", *examples)
    ran(checkout, str(tools / "ruff"), "format", "--check", "--no-cache", *examples)
    ran(checkout, str(tools / "lint-imports"), "--no-cache")
    wanted = "travels or plugin or options_are or two_halves"
    told = ran(
        checkout, sys.executable, "-m", "pytest", "-n0", "-vv", "-p", "no:cacheprovider", "-k", wanted,
        "tests/test_house.py",
    )  # fmt: skip
    for name in examples:
        assert re.search(rf"\b{Path(name).stem}\b.*PASSED", told), name


def test_a_new_model_goes_to_a_new_target_with_no_other_line_changed(checkout: Path) -> None:
    ran(checkout, sys.executable, "-c", FRESH)
    told = ran(
        checkout, sys.executable, "-m", "edgekit", "compile", "perceptron", "--target", "onnx-reference",
        "--precision", "fp32", "--json",
    )  # fmt: skip
    assert json.loads(told)["passed"] is True
    listed = json.loads(ran(checkout, sys.executable, "-m", "edgekit", "list", "targets", "--json"))
    assert "onnx_reference" in [row["name"] for row in listed]


def test_the_new_method_makes_int8(checkout: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "weights_only", checkout / "edgekit/quantization/weights_only.py"
    )
    assert spec is not None
    assert spec.loader is not None
    method = importlib.util.module_from_spec(spec)
    sys.modules["weights_only"] = method
    spec.loader.exec_module(method)
    rng = np.random.default_rng(0)
    float_graph, feed = gemm(rng), {"x": rng.standard_normal((4, 32), np.float32)}
    measured = method.measure(float_graph, [], method.Options())
    int8_graph = method.quantize(float_graph, measured, {}, method.Options())
    assert method.quantized_layers(float_graph) == {"layer": "fp32"}
    assert method.quantized_layers(int8_graph) == {"layer": "int8"}
    expected, found = (
        onnxruntime.InferenceSession(graph.SerializeToString()).run(None, feed)[0]
        for graph in (float_graph, int8_graph)
    )
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02


def gemm(rng: np.random.Generator) -> onnx.ModelProto:
    """y = x w, with w of shape (32, 16)."""
    weight = onnx.numpy_helper.from_array(rng.standard_normal((32, 16), np.float32), "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="layer")
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, size])
        for name, size in (("x", 32), ("y", 16))
    ]
    graph = helper.make_graph([node], "gemm", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
