"""Silently wrong answers of OpenVINO's int8, each shown without the lowering and gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.spec import Shapes
from edgekit.targets import openvino as target
from tests.targets import graphs

NO_SHAPES = Shapes(inputs=())

RUN = """
import sys, numpy, openvino
graph, feeds, out = sys.argv[1:]
compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(out, compiled({"image": numpy.load(feeds)})[0])
"""


def run(graph: Path, feeds: graphs.Feeds, folder: Path, isa: str = "") -> np.ndarray:
    """OpenVINO in a process of its own, which may be told to do without newer instructions."""
    np.save(folder / "feeds.npy", feeds["image"])
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    command = [sys.executable, "-c", RUN, str(graph), str(folder / "feeds.npy"), str(folder / "out.npy")]
    subprocess.run(command, check=True, env=environment)
    return np.asarray(np.load(folder / "out.npy"))


def has(flag: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and flag in info.read_text()


@pytest.mark.skipif(not has("avx512_vnni"), reason="needs AVX512-VNNI")
def test_signed_activations_around_a_concat(tmp_path: Path, concatenated: Path) -> None:
    feeds = {"image": np.random.default_rng(5).standard_normal((2, 3, 16, 16)).astype(np.float32)}
    wanted = graphs.reference(concatenated, feeds)
    build = target.compile(concatenated, NO_SHAPES, "int8", target.Options(), tmp_path / "engine")
    assert build.engine is not None
    cured = graphs.relative(run(build.engine, feeds, tmp_path, "AVX512_CORE_VNNI"), wanted)
    wrong = graphs.relative(run(concatenated, feeds, tmp_path, "AVX512_CORE_VNNI"), wanted)
    assert cured < 0.03
    assert wrong > 0.1, "OpenVINO is right without the lowering now: it can go"


def test_bias_of_a_quantized_convolution_with_dynamic_shape(tmp_path: Path, crnn_int8: Path) -> None:
    feeds = graphs.image(2, 96)
    wanted = graphs.reference(crnn_int8, feeds)
    build = target.compile(crnn_int8, NO_SHAPES, "int8", target.Options(), tmp_path / "engine")
    assert build.engine is not None
    cured = graphs.relative(run(build.engine, feeds, tmp_path), wanted)
    wrong = graphs.relative(run(crnn_int8, feeds, tmp_path), wanted)
    assert cured < 0.03
    assert wrong > 2 * cured, "OpenVINO is right without the lowering now: it can go"
