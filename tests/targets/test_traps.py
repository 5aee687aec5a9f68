"""Silently wrong answers of the engines: each shown with the naive graph, and gone in ours.

A  OpenVINO: signed int8 around a Concat, on CPUs without AMX.
B  OpenVINO: an int8 LSTM takes the scale of W for R, that of X for h, those of one gate for another, and
   those of the first layer of its shape for its own.
C  TensorRT: uint8 codes are read as int8 (`plan/test_cures.py`, class TestTrapC).
D  OpenVINO: lengths and other parts of recurrent layers are ignored; what is refused is in
   `test_recurrent.py`, class TestOverlooked.
E  CPUs without VNNI: products of bytes overflow in 16 bits; weights of seven bits do not.
And OpenVINO's bias of a quantized convolution of dynamic shape.

Where a CPU does not show a trap the naive graph is proved right there, and the test says so by a skip.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgekit.quantization import ptq
from edgekit.spec import Shapes
from edgekit.targets import openvino as target
from tests.quantization.nets import written
from tests.recurrent_nets import Feeds, error, feeds, network, quantized
from tests.recurrent_nets import run as answer
from tests.targets import graphs

NO_SHAPES = Shapes(inputs=())
RIGHT = 0.05

RUN = """
import sys, numpy, openvino
graph, feeds, out = sys.argv[1:]
compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
results = compiled(dict(numpy.load(feeds)))
numpy.savez(out, *(results[port] for port in compiled.outputs))
"""


def run(graph: Path, feed: Feeds, folder: Path, isa: str = "") -> list[np.ndarray[Any, Any]]:
    """OpenVINO in a process of its own, which may be told to do without newer instructions."""
    np.savez(folder / "feeds.npz", **feed)  # type: ignore[arg-type]
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    command = [sys.executable, "-c", RUN, str(graph), str(folder / "feeds.npz"), str(folder / "out.npz")]
    subprocess.run(command, check=True, env=environment)
    with np.load(folder / "out.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def has(flag: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and flag in info.read_text()


def compiled(graph: Path, folder: Path) -> Path:
    build = target.compile(graph, NO_SHAPES, "int8", target.Options(), folder / "engine")
    assert build.engine is not None
    return build.engine


def shown(wrong: float, by: str, expected: bool = True) -> None:
    """The naive graph errs; where the CPU is none that errs, it is right, and that is said."""
    if not expected and wrong < RIGHT:
        pytest.skip(f"the naive graph is right on this CPU ({wrong:.1%}): the trap shows on {by}")
    assert wrong > 2 * RIGHT, "the engine is right without the lowering now: it can go"


def test_a_signed_activations_around_a_concat(tmp_path: Path, concatenated: Path) -> None:
    feed = {"image": np.random.default_rng(5).standard_normal((2, 3, 16, 16)).astype(np.float32)}
    wanted = [graphs.reference(concatenated, feed)]
    without_amx = "AVX512_CORE_VNNI"
    assert error(run(compiled(concatenated, tmp_path), feed, tmp_path, without_amx), wanted) < RIGHT
    wrong = error(run(concatenated, feed, tmp_path, without_amx), wanted)
    shown(wrong, "CPUs with AVX512-VNNI", has("avx512_vnni"))


def test_a_is_right_in_our_graph_with_every_instruction_that_is_here(
    tmp_path: Path, concatenated: Path
) -> None:
    feed = {"image": np.random.default_rng(6).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    wanted = [graphs.reference(concatenated, feed)]
    assert error(run(compiled(concatenated, tmp_path), feed, tmp_path), wanted) < RIGHT


def naive_lstm(model: onnx.ModelProto, feed: Feeds) -> onnx.ModelProto:
    """Every tensor with the scale that suits it alone: what a quantizer writes."""
    made = quantized(model, feed)
    graph = made.graph
    layer = next(node for node in graph.node if node.op_type == "LSTM")
    for place, scale in ((0, np.abs(feed["x"]).max() / 127), (5, 1 / 127)):
        name = layer.input[place]
        ends = [f"{name}.s", f"{name}.z"]
        for end, value in zip(ends, (np.float32(scale), np.int8(0)), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), end))
        restore = helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [f"{name}.d"])
        graph.node.insert(0, restore)
        graph.node.insert(0, helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"]))
        layer.input[place] = f"{name}.d"
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize(
    ("w", "x"), [(0.2, 1.0), (1.0, 8.0), (0.05, 20.0)], ids=["of the weights", "of the values", "of both"]
)
def test_b_scales_of_an_int8_lstm(w: float, x: float, tmp_path: Path) -> None:
    """The naive graph is right in ONNX Runtime, wrong in OpenVINO; ours is right in OpenVINO."""
    model = network("LSTM", hidden=32, initial=True, scale=w)
    feed = feeds(model)
    feed["x"] *= np.float32(x)
    wanted = answer(model, feed)
    naive = naive_lstm(model, feed)
    assert error(answer(naive, feed, optimized=False), wanted) < RIGHT
    for name, graph in (("naive", naive), ("ours", quantized(model, feed))):
        onnx.save(graph, tmp_path / f"{name}.onnx")
    assert error(run(compiled(tmp_path / "ours.onnx", tmp_path), feed, tmp_path), wanted) < RIGHT
    wrong = error(run(tmp_path / "naive.onnx", feed, tmp_path), wanted)
    shown(wrong, "CPUs with int8 LSTM kernels (VNNI)", has("avx512_vnni") or has("avx_vnni"))


def test_b_scales_of_the_gates_of_an_int8_lstm(tmp_path: Path) -> None:
    """Gates of different size, with one scale in common for W and R, and one for X and h."""
    model = network("LSTM", hidden=32, initial=True)
    for tensor in model.graph.initializer:
        if tensor.name in ("W0", "R0"):
            sizes = np.repeat([0.1, 3, 1, 0.3], 32).astype(np.float32)[:, None]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * sizes, tensor.name))
    feed = feeds(model)
    feed["x"] = np.clip(feed["x"], -1, 1)
    wanted = answer(model, feed)
    naive = naive_lstm(model, feed)
    with_common_scales(naive)
    assert error(answer(naive, feed, optimized=False), wanted) < RIGHT
    for name, graph in (("naive", naive), ("ours", quantized(model, feed))):
        onnx.save(graph, tmp_path / f"{name}.onnx")
    assert error(run(compiled(tmp_path / "ours.onnx", tmp_path), feed, tmp_path), wanted) < RIGHT
    wrong = error(run(tmp_path / "naive.onnx", feed, tmp_path), wanted)
    shown(wrong, "CPUs with int8 LSTM kernels (VNNI)", has("avx512_vnni") or has("avx_vnni"))


def test_b_scales_of_int8_lstm_layers_of_one_shape(tmp_path: Path) -> None:
    """The naive graph has larger codes and smaller scales in its second layer: the same weights."""
    model = network("LSTM", hidden=32, size=32, layers=2)
    for tensor in model.graph.initializer:
        if tensor.name in ("W1", "R1"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 4, tensor.name))
    feed = feeds(model)
    wanted = answer(model, feed)
    onnx.save(quantized(model, feed), tmp_path / "ours.onnx")
    assert error(run(compiled(tmp_path / "ours.onnx", tmp_path), feed, tmp_path), wanted) < 2 * RIGHT
    naive = onnx.load(tmp_path / "ours.onnx")
    target.lower(naive)
    for tensor in naive.graph.initializer:
        if tensor.name.startswith("rnn.1/LSTM.") and tensor.name.endswith((".W.int8", ".R.int8")):
            codes = numpy_helper.to_array(tensor)
            assert np.abs(codes).max() <= 42
            tensor.CopyFrom(numpy_helper.from_array(codes * np.int8(3), tensor.name))
        if tensor.name in ("rnn.1/LSTM.W.scale", "rnn.1/LSTM.R.scale"):
            third = numpy_helper.to_array(tensor) / np.float32(3)
            tensor.CopyFrom(numpy_helper.from_array(third, tensor.name))
    assert error(answer(naive, feed, optimized=False), wanted) < RIGHT
    onnx.save(naive, tmp_path / "naive.onnx")
    wrong = error(run(tmp_path / "naive.onnx", feed, tmp_path), wanted)
    shown(wrong, "CPUs with int8 LSTM kernels (VNNI)", has("avx512_vnni") or has("avx_vnni"))


def with_common_scales(model: onnx.ModelProto) -> None:
    """The rows of W and R on the larger of their two scales."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    common = np.maximum(values["W0/scale.axis1"], values["R0/scale.axis1"])
    for weight in ("W0", "R0"):
        codes, scale = f"{weight}/int8.axis1", f"{weight}/scale.axis1"
        made = np.round(values[codes] * (values[scale] / common)[:, None]).astype(np.int8)
        tensors[codes].CopyFrom(numpy_helper.from_array(made, codes))
        tensors[scale].CopyFrom(numpy_helper.from_array(common, scale))


@pytest.mark.parametrize("part", ["lengths", "peepholes", "coupled gates", "other activations", "layout"])
def test_d_parts_of_a_recurrent_layer_that_openvino_ignores(part: str, tmp_path: Path) -> None:
    """The graph is refused, because OpenVINO would give the answer of another layer."""
    model, plain = with_part(part), network("LSTM", sides=2 if part == "other activations" else 1)
    feed = feeds(plain)
    lengths = {"n": np.array([30, 7, 1], np.int32)} if part == "lengths" else {}
    assert len(target.supports(model, "fp32")) == 1
    onnx.save(model, tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", {**feed, **lengths}, tmp_path)
    if part == "layout":  # ONNX Runtime has none: OpenVINO answers as if it had not been asked for
        assert error(got[:1], [answer(plain, feed)[0].reshape(got[0].shape)]) < 1e-4
        return
    assert error(got, answer(plain, feed)) < 1e-4 or part == "other activations"
    assert error(got, answer(model, {**feed, **lengths})) > 0.02, "OpenVINO is right now: no need to refuse"


def with_part(part: str) -> onnx.ModelProto:
    settings: dict[str, Any] = {
        "coupled gates": {"input_forget": 1},
        "other activations": {
            "sides": 2,
            "activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"],
        },
    }
    model = network("LSTM", **settings.get(part, {}))
    layer = model.graph.node[0]
    if part == "layout":
        layer.attribute.append(helper.make_attribute("layout", 1))
        del model.graph.node[1:], model.graph.output[1:], layer.output[1:]
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", onnx.TensorProto.FLOAT, None))
    if part == "lengths":
        model.graph.input.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT32, ["batch"]))
        layer.input.append("n")
    if part == "peepholes":
        peepholes = np.random.default_rng(0).uniform(-1, 1, (1, 72)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(peepholes, "P"))
        layer.input.extend(["", "", "", "P"])
    return model


def test_bias_of_a_quantized_convolution_with_dynamic_shape(tmp_path: Path, crnn_int8: Path) -> None:
    feed = graphs.image(2, 96)
    wanted = [graphs.reference(crnn_int8, feed)]
    cured = error(run(compiled(crnn_int8, tmp_path), feed, tmp_path), wanted)
    wrong = error(run(crnn_int8, feed, tmp_path), wanted)
    assert cured < 0.03
    assert wrong > 2 * cured, "OpenVINO is right without the lowering now: it can go"


def test_e_bytes_overflow_without_vnni_and_weights_of_seven_bits_do_not(tmp_path: Path) -> None:
    """All weights and all inputs are near their largest, and so is each sum of two products."""
    body = "h = MatMul(x, w) r = Relu(h) y = MatMul(r, w)"
    graph = written("(float[n,16] x) => (float[n,16] y)", body)
    graph.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16), np.float32), "w"))
    random = np.random.default_rng(0)
    samples = [{"x": random.uniform(0.9, 1, (4, 16)).astype(np.float32)} for _ in range(8)]
    wanted = [answer_of(graph, samples[0])]
    errors = {}
    for reduced in (False, True):
        options = ptq.Options(reduce_range=reduced)
        folder = tmp_path / str(reduced)
        folder.mkdir()
        made = ptq.quantize(graph, ptq.measure(graph, samples, options), {}, options)
        onnx.save(made, folder / "int8.onnx")
        engine = compiled(folder / "int8.onnx", folder)
        errors[reduced] = error(run(engine, samples[0], folder, "AVX2"), wanted)
    assert errors[True] < RIGHT
    shown(errors[False], "CPUs with AVX2")


def answer_of(graph: onnx.ModelProto, feed: Feeds) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    result: np.ndarray[Any, Any] = session.run(None, feed)[0]
    return result
