"""Files that somebody else has quantized or cast: their codes in usual forms, their layers, their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.declare import parse_inputs
from edgekit.exporting import _adopt_quantized as quantized
from edgekit.exporting._adopt_codes import usual_codes
from edgekit.exporting._adopt_half import widened
from edgekit.exporting.adopt import adopt_onnx
from edgekit.sources import graph
from edgekit.sources._onnx_probe import readable
from edgekit.sources._onnx_walk import is_half
from edgekit.spec import Own, Sample
from tests.sources.onnx_files import (
    F16,
    F32,
    I64,
    Array,
    linear,
    looping,
    model,
    node,
    noise,
    run,
    save,
    value,
    weight,
)

OUTPUT_DTYPE = {"output_dtype": TensorProto.INT8}


def pair(name: str, result: str, zero: Any, **options: Any) -> list[onnx.NodeProto]:
    """Q and DQ of a tensor with the scale `s` and a zero point of its own."""
    return [
        node("QuantizeLinear", [name, "s", f"{name}.z"], [f"{name}.q"], f"{name}/Q", **options),
        node("DequantizeLinear", [f"{name}.q", "s", f"{name}.z"], [result], f"{name}/DQ"),
    ]


def coded(zero: Array, codes: Array, weight_zero: Array, **options: Any) -> onnx.ModelProto:
    """`y = dq(q(x)) @ dq(codes) + dq(bias)` with an int32 bias; x of shape (batch, 4)."""
    nodes = [
        *pair("x", "xd", zero, **options),
        node("DequantizeLinear", ["codes", "ws", "wz"], ["w"], "w/DQ", axis=1),
        node("DequantizeLinear", ["bias", "bs"], ["b"], "b/DQ", axis=0),
        node("Gemm", ["xd", "w", "b"], ["y"], "/fc/Gemm"),
    ]
    weights = [
        weight("s", np.float32(0.05)), weight("x.z", zero), weight("codes", codes),
        weight("ws", np.array([0.01, 0.02, 0.03], np.float32)), weight("wz", weight_zero),
        weight("bias", np.array([100, -7, 3], np.int32)),
        weight("bs", np.array([5e-4, 1e-3, 1.5e-3], np.float32)),
    ]  # fmt: skip
    return model(nodes, [value("x", F32, ["batch", 4])], [value("y", F32, None)], weights, 21)


CODES = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)


def constants(made: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}


@pytest.mark.parametrize("options", [{}, OUTPUT_DTYPE], ids=["by-zero-point", "output_dtype"])
def test_activations_around_another_zero_point_become_uint8(options: dict[str, int]) -> None:
    made = coded(np.int8(-7), CODES, np.zeros(3, np.int8), **options)
    x = {"x": noise(5, 4)}
    expected = run(readable(made), x)
    usual_codes(made.graph)
    known = constants(made)
    entry, back = made.graph.node[:2]
    assert known[entry.input[2]] == known[back.input[2]] == np.uint8(121)
    np.testing.assert_allclose(run(made, x), expected, rtol=1e-5)


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(9)])
def test_activations_in_a_usual_form_stay(zero: Any) -> None:
    made = coded(zero, CODES, np.zeros(3, np.int8))
    before = made.graph.node[0].SerializeToString()
    usual_codes(made.graph)
    assert made.graph.node[0].SerializeToString() == before


def test_codes_that_something_else_reads_stay() -> None:
    made = coded(np.int8(-7), CODES, np.zeros(3, np.int8))
    made.graph.node.append(node("Cast", ["x.q"], ["seen"], to=I64))
    made.graph.output.append(value("seen", I64, None))
    usual_codes(made.graph)
    assert made.graph.node[0].input[2] == "x.z"


def test_weights_become_int8_where_every_code_fits_and_biases_float32() -> None:
    zero = np.array([128, 120, 130], np.uint8)
    made = coded(np.int8(-7), (CODES.astype(int) + zero).astype(np.uint8), zero)
    x = {"x": noise(5, 4)}
    expected = run(made, x)
    usual_codes(made.graph)
    known = constants(made)
    np.testing.assert_array_equal(known[made.graph.node[2].input[0]], CODES)
    assert known[made.graph.node[2].input[2]].dtype == np.int8
    bias = known[made.graph.node[4].input[2]]
    np.testing.assert_array_equal(bias, np.float32([0.05, -0.007, 0.0045]))
    np.testing.assert_allclose(run(made, x), expected, rtol=1e-6)


def test_weights_that_int8_has_no_room_for_stay() -> None:
    codes = np.linspace(0, 255, 12).astype(np.uint8).reshape(4, 3)
    made = coded(np.int8(-7), codes, np.full(3, 120, np.uint8))
    usual_codes(made.graph)
    assert made.graph.node[2].input[0] == "codes"


# What is said of the layers.


def test_layers_are_counted_by_their_weights() -> None:
    made = coded(np.int8(0), CODES, np.zeros(3, np.int8))
    turned = node("Transpose", ["w"], ["t"], "turn")
    plain = node("MatMul", ["y", "t"], ["z"], "/next/MatMul")
    other = node("MatMul", ["z", "v"], ["last"], "/last/MatMul")
    made.graph.node.extend([turned, plain, other])
    made.graph.initializer.append(weight("v", noise(4, 2)))
    layers = quantized.quantized_layers(made)
    assert layers == {"/fc/Gemm": "int8", "/next/MatMul": "int8", "/last/MatMul": "fp32"}
    assert quantized.notes(made)[0].endswith("its 2 Q/DQ layers are taken as they are")


def test_a_float_file_says_nothing() -> None:
    assert not quantized.is_quantized(linear())
    assert quantized.notes(linear()) == ()


def test_weights_of_four_bits_are_told_as_such() -> None:
    codes = helper.make_tensor("codes", TensorProto.INT4, [4, 3], list(range(-6, 6)))
    made = coded(np.int8(0), CODES, np.zeros(3, np.int8))
    made.graph.initializer[2].CopyFrom(codes)
    assert quantized.quantized_layers(made) == {"/fc/Gemm": "int4"}


# float16.


def test_float16_is_computed_in_float32_with_the_same_weights(tmp_path: Path) -> None:
    made = linear(kind=F16)
    wide = widened(made)
    onnx.checker.check_model(wide, full_check=True)
    assert [end.type.tensor_type.elem_type for end in (*wide.graph.input, *wide.graph.output)] == [F16, F16]
    for name, array in constants(wide).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, constants(made)[name].astype(np.float32))
    x = {"x": noise(5, 4).astype(np.float16)}
    np.testing.assert_allclose(run(wide, x)[0], run(made, x)[0], rtol=5e-3, atol=5e-3)


def test_casts_between_the_two_disappear() -> None:
    made = model(
        [node("Cast", ["x"], ["h"], to=F16), node("MatMul", ["h", "w"], ["m"], "/fc/MatMul"),
         node("Cast", ["m"], ["f"], to=F32), node("Relu", ["f"], ["y"])],
        [value("x", F32, ["batch", 4])], [value("y", F32, ["batch", 3])],
        [weight("w", noise(4, 3).astype(np.float16))],
    )  # fmt: skip
    wide = widened(made)
    assert [one.op_type for one in wide.graph.node] == ["MatMul", "Relu"]
    x = noise(2, 4)
    expected = np.maximum(x @ noise(4, 3).astype(np.float16).astype(np.float32), 0)
    np.testing.assert_allclose(run(wide, {"x": x})[0], expected, rtol=1e-5)


def test_sub_graphs_are_widened_with_what_they_read_from_around() -> None:
    made = looping("Loop")
    for tensor in made.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(weight("w", noise(3, 3).astype(np.float16)))
    made.graph.input[0].CopyFrom(value("x", F16, ["n", 3]))
    made.graph.output[0].CopyFrom(value("y", F16, None))
    body = next(setting.g for setting in made.graph.node[0].attribute if setting.name == "body")
    for end in (body.input[2], body.output[1]):
        end.type.tensor_type.elem_type = F16
    wide = widened(made)
    assert body.input[2].type.tensor_type.elem_type == F16  # the file's own stays
    x = {"x": noise(2, 3).astype(np.float16)}
    np.testing.assert_allclose(run(wide, x)[0], run(made, x)[0], rtol=1e-2, atol=1e-2)


def test_a_float32_file_stays() -> None:
    made = linear()
    assert not is_half(made)
    assert widened(made) == made


def test_an_adopted_file_in_float16_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, linear(kind=F16))
    found = graph.load(Own(source=path.name, folder=tmp_path), None, ())
    artifact = adopt_onnx(found, tmp_path / "out.onnx")
    assert artifact.made_by["notes"][0].startswith("the file is in float16: its weights are held in float32")
    assert artifact.made_by["recheck_rel_l2"] < 1e-4


# Samples whose batch is not the first axis.


def test_samples_are_compared_along_the_batch_wherever_it_stands(tmp_path: Path) -> None:
    made = model(
        [node("MatMul", ["x", "w"], ["y"], "/fc/MatMul")],
        [value("x", F32, ["time", "batch", 4])], [value("y", F32, None)], [weight("w", noise(4, 3))],
    )  # fmt: skip
    path = save(tmp_path, made)
    own = Own(source=path.name, folder=tmp_path, inputs=parse_inputs(["x=float32[time:2..9,batch:2..4,4]"]))
    samples = [Sample(inputs=(noise(7, 4),), target=None)]
    found = graph.load(own, None, samples)
    assert found.inputs[0].ranges == {"time": (2, 9), "batch": (2, 4)}
    adopt_onnx(found, tmp_path / "out.onnx", samples=samples)
