"""Every quantized graph goes into every engine, by the default plan and with everything in int8."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit import registry
from edgekit.quantization import ptq
from tests.quantization.nets import Array, Measurements, Net, outliers, relative, run

OPTIONS = ptq.Options()
TENSORRT = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
for path in sys.argv[1:]:
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    with open(path, "rb") as file:
        parsed = parser.parse(file.read())
    assert parsed, [path, *(parser.get_error(index).desc() for index in range(parser.num_errors))]
"""


@pytest.fixture(scope="module")
def quantized(nets: Measurements, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Net, Path]]:
    """By name: the float network and the file of its int8 graph."""
    folder, found = tmp_path_factory.mktemp("engines"), {}
    for kind, (made, measured) in nets.items():
        everything = dict.fromkeys(ptq.candidates(made.graph, OPTIONS), "int8")
        for plan, name in (({}, kind), (everything, f"{kind}-all")):
            path = folder / f"{name}.int8.onnx"
            onnx.save(ptq.quantize(made.graph, measured, plan, OPTIONS), path)
            found[name] = (made, path)
    path = folder / "outliers.int8.onnx"
    outlying = outliers(folder)
    smooth = ptq.Options(smooth=True)
    measured = ptq.measure(outlying.graph, outlying.samples, smooth)
    everything = dict.fromkeys(ptq.candidates(outlying.graph, smooth), "int8")
    onnx.save(ptq.quantize(outlying.graph, measured, everything, smooth), path)
    found["outliers"] = (outlying, path)
    return found


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
def test_tensorrt_parses_them(quantized: dict[str, tuple[Net, Path]]) -> None:
    command = [sys.executable, "-c", TENSORRT, *(str(path) for _, path in quantized.values())]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_onnxruntime_runs_them(quantized: dict[str, tuple[Net, Path]]) -> None:
    for name, (made, path) in quantized.items():
        session = onnxruntime.InferenceSession(path)
        results = [session.run(None, feed)[0].ravel() for feed in made.samples]
        assert 0 < relative(run(made.graph, made.samples), np.concatenate(results)) < 0.05, name


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_runs_them(quantized: dict[str, tuple[Net, Path]]) -> None:
    import openvino

    core, target = openvino.Core(), registry.load("target", "openvino")
    for name, (made, path) in quantized.items():
        graph = onnx.load(path)
        target.lower(graph)
        model = core.read_model(graph.SerializeToString())
        engine = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results: list[Array] = [engine(feed)[0].ravel() for feed in made.samples]
        assert 0 < relative(run(made.graph, made.samples), np.concatenate(results)) < 0.05, name
