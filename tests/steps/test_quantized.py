"""A graph that came quantized is not quantized again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.recipe import read_own
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.spec import AGREEMENT, REL_L2, Artifact, Recipe
from edgekit.steps._quantized import already_quantized, with_limits
from edgekit.steps.load import Network
from edgekit.steps.prove import reference_runner
from tests.sources.onnx_files import F16, F32, linear, model, node, noise, save, value, weight


@pytest.fixture
def recipe() -> Recipe:
    return replace(read_own("net.onnx", {}, (), "onnxruntime"), precision="fp32")


def artifact(path: Path) -> Artifact:
    return Artifact(kind="onnx", path=path, sha256="")


def quantized() -> onnx.ModelProto:
    """`y = x @ dq(codes)`."""
    return model(
        [node("DequantizeLinear", ["codes", "s"], ["w"], "w/DQ"),
         node("MatMul", ["x", "w"], ["y"], "/fc/MatMul")],
        [value("x", F32, ["batch", 4])], [value("y", F32, None)],
        [weight("codes", noise(4, 3).astype(np.int8)), weight("s", np.float32(0.1))],
    )  # fmt: skip


def test_its_layers_are_told_and_a_float_graph_has_none(tmp_path: Path, recipe: Recipe) -> None:
    assert already_quantized(artifact(save(tmp_path, quantized())), recipe) == {"/fc/MatMul": "int8"}
    assert already_quantized(artifact(save(tmp_path, linear())), recipe) is None


def test_a_plan_for_what_is_settled_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    planned = replace(recipe, plan={"/fc/MatMul": "fp32"})
    with pytest.raises(UsageError, match="already quantized") as caught:
        already_quantized(artifact(save(tmp_path, quantized())), planned)
    assert "float network" in caught.value.hint
    assert already_quantized(artifact(save(tmp_path, linear())), planned) is None


def test_the_limits_are_those_of_int8_where_the_user_set_none(recipe: Recipe) -> None:
    wider = with_limits(recipe).limits
    assert (wider.rel_l2["fp32"], wider.agreement["fp32"]) == (REL_L2["int8"], AGREEMENT["int8"])
    assert wider.rel_l2["bf16"] == REL_L2["bf16"]
    own = replace(recipe, limits=replace(recipe.limits, rel_l2={"fp32": 0.02}))
    assert with_limits(own).limits.rel_l2["fp32"] == 0.02


@pytest.mark.parametrize(("kind", "dtype", "precision"), [(F16, "float16", "fp16"), (F32, "float32", "fp32")])
def test_a_float16_file_is_the_reference_as_such(
    tmp_path: Path, kind: int, dtype: str, precision: str
) -> None:
    """Opened as float32, ONNX Runtime may crash the process where a width is dynamic."""
    network = Network(
        module=None,
        inputs=(TensorSpec("x", ("batch", 4), dtype),),
        outputs=(TensorSpec("y", ("batch", 3), dtype),),
        states=(),
        preprocess=None,
        labels=None,
        task=None,
        weights_sha256="",
        graph=save(tmp_path, linear(kind=kind)),
    )
    with reference_runner(network, threads=1) as runner:
        assert runner.settings["precision"] == precision
        assert runner.infer({"x": noise(2, 4).astype(dtype)})["y"].dtype == dtype
