"""int8 in the bodies of Scan and Loop: a convolutional LSTM the way a user writes it, and odd bodies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from edgekit.exporting import export_onnx
from edgekit.quantization import _scan, ptq
from edgekit.runtime.manifest import TensorSpec
from edgekit.spec import Shapes
from edgekit.targets import onnxruntime as ort_target
from edgekit.targets import openvino as ov_target

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]
CELL = "cell.conv/Conv"
SIDE, HIDDEN = 12, 8
CLIP = (TensorSpec("clip", ("batch", "time", 1, SIDE, SIDE), "float32", {"batch": (1, 4), "time": (2, 20)}),)
LAST = (TensorSpec("last", ("batch", 1, SIDE, SIDE)),)


class Cell(nn.Module):
    """One step of a convolutional LSTM (Shi et al., arXiv 1506.04214, without peepholes)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + HIDDEN, 4 * HIDDEN, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Forecast(nn.Module):
    """The next frame of a clip [batch, time, 1, height, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.cell = Cell(4)
        self.head = nn.Conv2d(HIDDEN, 1, 1)

    def forward(self, clip: Tensor) -> Tensor:
        batch, time, _, height, width = clip.shape
        frames = torch.relu(self.stem(clip.flatten(0, 1))).unflatten(0, (batch, time)).transpose(0, 1)
        zero = clip.new_zeros(batch, HIDDEN, height, width)

        def step(states: list[Tensor], frame: Tensor) -> tuple[list[Tensor], Tensor]:
            h, c = self.cell(frame, *states)
            return [h, c], h.clone()

        (last, _), _ = scan(step, [zero, zero.clone()], frames)
        scores: Tensor = self.head(last)
        return scores


def clips(count: int, seed: int = 0) -> list[Feed]:
    random = np.random.default_rng(seed)
    return [
        {"clip": random.standard_normal((1, 4 + index % 5, 1, SIDE, SIDE), np.float32)}
        for index in range(count)
    ]


def clip(batch: int, time: int) -> Feed:
    random = np.random.default_rng(batch * 100 + time)
    return {"clip": random.standard_normal((batch, time, 1, SIDE, SIDE), np.float32)}


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    torch.manual_seed(0)
    network = Forecast().eval()
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(network, CLIP, LAST, (), path, shapes=[{"batch": 3, "time": 7}])
    return onnx.load(path)


@pytest.fixture(scope="module")
def measured(floating: onnx.ModelProto) -> Any:
    return ptq.measure(floating, clips(8), ptq.Options())


@pytest.fixture(scope="module")
def quantized(floating: onnx.ModelProto, measured: Any) -> onnx.ModelProto:
    return ptq.quantize(floating, measured, {CELL: "int8"}, ptq.Options())


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def body_of(model: onnx.ModelProto) -> onnx.GraphProto:
    owner = next(node for node in model.graph.node if node.op_type in _scan.OWNERS)
    return next(attribute.g for attribute in owner.attribute if attribute.name == "body")


def run(model: onnx.ModelProto, feed: Feed, *names: str) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [np.asarray(array) for array in session.run(list(names) or None, feed)]


def relative(have: Array, want: Array) -> float:
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


def test_the_layers_of_a_body_and_what_they_read_and_give(floating: onnx.ModelProto) -> None:
    (layer,) = _scan.body_layers(floating.graph)
    assert (layer.node.name, layer.node.op_type, layer.owner.op_type, layer.axis) == (CELL, "Conv", "Scan", 0)
    assert layer.weight.shape == (4 * HIDDEN, 4 + HIDDEN, 3, 3)
    makers = {name: node.op_type for node in body_of(floating).node for name in node.output}
    prefix = f"{layer.owner.name}/"
    assert [makers[tensor.removeprefix(prefix)] for tensor in layer.tensors] == ["Concat", "Conv"]


def test_a_probe_shows_every_step(floating: onnx.ModelProto) -> None:
    (layer,) = _scan.body_layers(floating.graph)
    probed = copy_of(floating)
    stacked = _scan.probe(probed.graph, layer.tensors)
    assert list(stacked) == list(layer.tensors)
    for name in stacked.values():
        probed.graph.output.append(helper.make_empty_tensor_value_info(name))
    read, given, last = run(probed, clip(2, 9), *stacked.values(), "last")
    assert read.shape == (9, 2, 4 + HIDDEN, SIDE, SIDE)
    assert given.shape == (9, 2, 4 * HIDDEN, SIDE, SIDE)
    bias = next(t for t in floating.graph.initializer if t.name == layer.node.input[2])
    wanted = torch.conv2d(
        torch.from_numpy(read[5]),
        torch.from_numpy(layer.weight.copy()),
        torch.from_numpy(numpy_helper.to_array(bias).copy()),
        padding=1,
    )
    assert relative(given[5], wanted.numpy()) < 1e-5
    assert relative(last, run(floating, clip(2, 9))[0]) < 1e-6


def test_everything_that_makes_it_int8_is_in_the_body(quantized: onnx.ModelProto) -> None:
    onnx.checker.check_model(quantized, full_check=True)
    body = body_of(quantized)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    makers = {name: node for node in body.node for name in node.output}
    readers = [node for node in body.node if f"{CELL}/weight.dequantized" in node.input]
    assert [node.name for node in readers] == [CELL]
    conv = readers[0]
    weight = makers[conv.input[1]]
    assert values[weight.input[0]].dtype == np.int8
    assert values[weight.input[1]].shape == (4 * HIDDEN,)
    assert makers[conv.input[0]].op_type == "DequantizeLinear"
    behind = [node.op_type for node in body.node if conv.output[0] in node.input]
    assert behind == ["QuantizeLinear"]
    assert not any(values[node.input[2]].any() for node in body.node if node.op_type == "QuantizeLinear")
    assert "cell.conv.weight" not in {tensor.name for tensor in quantized.graph.initializer}


def test_the_states_between_two_steps_stay_float(
    quantized: onnx.ModelProto, floating: onnx.ModelProto
) -> None:
    kinds = [
        Counter(node.op_type for node in body_of(each).node if "Linear" not in node.op_type)
        for each in (quantized, floating)
    ]
    assert kinds[0] == kinds[1]
    assert [value.name for value in body_of(quantized).output] == [
        value.name for value in body_of(floating).output
    ]


@pytest.mark.parametrize(("batch", "time"), [(1, 2), (3, 5), (2, 20)])
def test_the_error_is_small_at_any_length(
    quantized: onnx.ModelProto, floating: onnx.ModelProto, batch: int, time: int
) -> None:
    feed = clip(batch, time)
    assert 1e-5 < relative(run(quantized, feed)[0], run(floating, feed)[0]) < 0.05


def test_a_plan_that_leaves_the_cell_out_leaves_the_body_alone(
    floating: onnx.ModelProto, measured: Any
) -> None:
    made = ptq.quantize(floating, measured, {CELL: "fp32"}, ptq.Options())
    assert body_of(made) == body_of(floating)


def test_onnx_runtime_has_an_integer_kernel_in_the_body(quantized: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(quantized, tmp_path / "model.onnx")
    ort_target.compile(
        tmp_path / "model.onnx", Shapes(inputs=()), "int8", ort_target.Options(), tmp_path / "engine"
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "engine" / "model.onnx"), options)
    body = body_of(onnx.load(tmp_path / "optimized.onnx"))
    kinds = Counter(node.op_type for node in body.node)
    assert kinds["QLinearConv"] == 1
    assert kinds["DequantizeLinear"] == 1, "that of the gates; no weight at every step"


RUN = """
import sys, numpy, openvino
graph, feeds, out = sys.argv[1:]
compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(out, compiled(dict(numpy.load(feeds)))[0])
"""


def openvino(graph: Path, feed: Feed, folder: Path, isa: str) -> Array:
    """OpenVINO in a process of its own, which may be told to do without newer instructions."""
    np.savez(folder / "feeds.npz", **feed)  # type: ignore[arg-type]
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    command = [sys.executable, "-c", RUN, str(graph), str(folder / "feeds.npz"), str(folder / "out.npy")]
    subprocess.run(command, check=True, env=environment)
    return np.asarray(np.load(folder / "out.npy"))


def has(flag: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and flag in info.read_text()


@pytest.mark.parametrize(
    "isa",
    [
        "",
        pytest.param(
            "AVX512_CORE_VNNI",
            marks=pytest.mark.skipif(not has("avx512_vnni"), reason="needs AVX512-VNNI"),
        ),
    ],
)
def test_openvino_is_right_in_the_body(quantized: onnx.ModelProto, tmp_path: Path, isa: str) -> None:
    """Signed codes in a body come out wrong on CPUs without AMX; the lowering reaches into bodies."""
    onnx.save(quantized, tmp_path / "model.onnx")
    build = ov_target.compile(
        tmp_path / "model.onnx", Shapes(inputs=()), "int8", ov_target.Options(), tmp_path / "engine"
    )
    assert build.engine is not None
    wanted = run(quantized, clip(2, 9))[0]
    cured = relative(openvino(build.engine, clip(2, 9), tmp_path, isa), wanted)
    assert cured < 0.01
    if isa:
        wrong = relative(openvino(tmp_path / "model.onnx", clip(2, 9), tmp_path, isa), wanted)
        assert wrong > 5 * cured, "OpenVINO is right without the lowering now: it need not reach into bodies"


TENSORRT = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network()
parser = trt.OnnxParser(network, logger)
with open(sys.argv[1], "rb") as file:
    parsed = parser.parse(file.read())
assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
profile, config = builder.create_optimization_profile(), builder.create_builder_config()
profile.set_shape("clip", (1, 2, 1, 12, 12), (1, 8, 1, 12, 12), (4, 20, 1, 12, 12))
config.add_optimization_profile(profile)
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
assert builder.build_serialized_network(network, config) is not None
"""


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
def test_tensorrt_parses_and_builds_it(quantized: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(quantized, tmp_path / "model.onnx")
    command = [sys.executable, "-c", TENSORRT, str(tmp_path / "model.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def values(*names: str) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]


def scalar(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])


def constant(name: str, *shape: int) -> onnx.TensorProto:
    array = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32) / 3
    return numpy_helper.from_array(array, name)


def model_of(loop: onnx.NodeProto, result: str, *weights: onnx.TensorProto) -> onnx.ModelProto:
    """A graph that is one loop, from `start` [batch, 6] and `x` [time, batch, 6] to `result`."""
    graph = helper.make_graph(
        [loop],
        "graph",
        [
            helper.make_tensor_value_info("start", onnx.TensorProto.FLOAT, ["batch", 6]),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["time", "batch", 6]),
        ],
        [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, ["time", "batch", 6])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def scanned() -> onnx.ModelProto:
    """Runs backwards; one weight is a Constant node of the body, the other outside of it."""
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["W"], "made", value=constant("W", 6, 6)),
            helper.make_node("MatMul", ["x_t", "W"], ["from_x"], "input"),
            helper.make_node("Gemm", ["h", "R", "B"], ["from_h"], "state", transB=1),
            helper.make_node("Add", ["from_x", "from_h"], ["both"], "add"),
            helper.make_node("Tanh", ["both"], ["h_next"], "tanh"),
            helper.make_node("Identity", ["h_next"], ["h_each"], "each"),
        ],
        "body",
        values("h", "x_t"),
        values("h_next", "h_each"),
        [constant("B", 6)],
    )
    loop = helper.make_node(
        "Scan", ["start", "x"], ["end", "y"], "loop",
        num_scan_inputs=1, body=body, scan_input_directions=[1], scan_output_directions=[1],
        scan_output_axes=[0],
    )  # fmt: skip
    return model_of(loop, "y", constant("R", 6, 6))


def counted() -> onnx.ModelProto:
    """A Loop of three rounds around a convolution whose result, after a ReLU, is what leaves the body."""
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["h", "axes"], ["row"], "row"),
            helper.make_node("Conv", ["row", "K"], ["mixed"], "mix", pads=[1, 1]),
            helper.make_node("Squeeze", ["mixed", "axes"], ["flat"], "flat"),
            helper.make_node("Relu", ["flat"], ["h_next"], "relu"),
            helper.make_node("Identity", ["h_next"], ["h_each"], "each"),
            helper.make_node("Identity", ["go"], ["go_on"], "go"),
        ],
        "body",
        [scalar("round", onnx.TensorProto.INT64), scalar("go", onnx.TensorProto.BOOL), *values("h")],
        [scalar("go_on", onnx.TensorProto.BOOL), *values("h_next", "h_each")],
    )
    loop = helper.make_node("Loop", ["rounds", "", "start"], ["end", "y"], "loop", body=body)
    axes = numpy_helper.from_array(np.array([1]), "axes")
    rounds = numpy_helper.from_array(np.array(3), "rounds")
    return model_of(loop, "y", constant("K", 1, 1, 3), axes, rounds)


def flat_feed(seed: int = 0) -> Feed:
    random = np.random.default_rng(seed)
    return {
        "start": random.standard_normal((2, 6), np.float32),
        "x": random.standard_normal((5, 2, 6), np.float32),
    }


def in_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Every layer of its bodies in int8, measured on two samples."""
    layers = _scan.body_layers(model.graph)
    probed = copy_of(model)
    stacked = _scan.probe(probed.graph, [name for layer in layers for name in layer.tensors])
    for name in stacked.values():
        probed.graph.output.append(helper.make_empty_tensor_value_info(name))
    found = [run(probed, flat_feed(seed), *stacked.values()) for seed in (0, 1)]
    largest = {
        name: max(float(np.abs(arrays[index]).max()) for arrays in found)
        for index, name in enumerate(stacked)
    }
    made, names = copy_of(model), [layer.node.name for layer in layers]
    _scan.quantize_bodies(made.graph, names, largest, lambda name: (-largest[name], largest[name]))
    return made, names


@pytest.mark.parametrize(("make", "layers"), [(scanned, ["input", "state"]), (counted, ["mix"])])
def test_other_bodies(make: Any, layers: list[str]) -> None:
    model = make()
    made, names = in_int8(model)
    assert names == layers
    onnx.checker.check_model(made, full_check=True)
    assert 1e-5 < relative(run(made, flat_feed())[0], run(model, flat_feed())[0]) < 0.05
    known = [node for node in body_of(made).node if node.op_type == "QuantizeLinear"]
    assert all({entry.key for entry in node.metadata_props} == {_scan.LOW, _scan.HIGH} for node in known)
    codes = [tensor.name for tensor in body_of(made).initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(name.endswith("weight.int8") for name in codes) == len(layers)


@pytest.mark.parametrize(("between", "default"), [("Transpose", False), ("Relu", True)])
def test_a_convolution_that_feeds_a_loop_is_int8_only_if_it_is_asked_for(between: str, default: bool) -> None:
    """Behind a ReLU it gives features that the body may read in int8; else what is added at every step."""
    made = scanned()
    loop = made.graph.node[0]
    loop.input[1] = "moved"
    before = [
        helper.make_node("Conv", ["x", "K"], ["mixed"], "mix", pads=[1, 1]),
        helper.make_node(between, ["mixed"], ["moved"], "between"),
    ]
    made.graph.node.insert(0, before[0])
    made.graph.node.insert(1, before[1])
    made.graph.initializer.extend([constant("K", 6, 6, 3), constant("H", 6, 2)])
    alone = {name: layer.default for name, layer in ptq.candidates(made, ptq.Options()).items()}
    assert alone == {"mix": default, "input": not default, "state": not default}
    made.graph.node.append(helper.make_node("MatMul", ["y", "H"], ["z"], "head"))
    assert ptq.candidates(made, ptq.Options())["mix"].default is default


def test_a_result_that_leaves_the_body_is_the_quantized_one() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x_t", "axes"], ["row"], "row"),
            helper.make_node("Conv", ["row", "K"], ["mixed"], "mix", pads=[1, 1]),
            helper.make_node("Identity", ["h"], ["h_next"], "keep"),
        ],
        "body",
        values("h", "x_t"),
        values("h_next", "mixed"),
    )
    loop = helper.make_node("Scan", ["start", "x"], ["end", "y"], "loop", num_scan_inputs=1, body=body)
    axes = numpy_helper.from_array(np.array([1]), "axes")
    model = model_of(loop, "y", constant("K", 1, 1, 3), axes)
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("y"))
    made, _ = in_int8(model)
    assert 1e-5 < relative(run(made, flat_feed())[0], run(model, flat_feed())[0]) < 0.05
    makers = {name: node.op_type for node in body_of(made).node for name in node.output}
    assert [makers[value.name] for value in body_of(made).output] == ["Identity", "DequantizeLinear"]


def test_a_layer_whose_weight_is_computed_is_none() -> None:
    model = scanned()
    body = body_of(model)
    next(node for node in body.node if node.name == "made").CopyFrom(
        helper.make_node("Exp", ["R"], ["W"], "made")
    )
    assert [layer.node.name for layer in _scan.body_layers(model.graph)] == ["state"]
