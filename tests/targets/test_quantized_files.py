"""Quantized files of strangers: what a target without kernels for their codes says of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgekit.targets import onnxruntime, openvino
from tests.sources.onnx_files import F32, linear, model, node, noise, value, weight


def integer(operator: str = "MatMulInteger", domain: str = "") -> onnx.ModelProto:
    """Two integer products, as quantize_dynamic leaves them."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "x/Q"),
        node(operator, ["q", "w", "z"], ["i"], "/fc/quant", domain=domain),
        node("Cast", ["i"], ["y"], to=F32),
    ]
    made = model(
        nodes, [value("x", F32, ["batch", 4])], [value("y", F32, None)], [weight("w", CODES)]
    )  # fmt: skip
    made.graph.node[1].metadata_props.add(key="edgekit.module", value="fc")
    return made


CODES = np.linspace(0, 255, 12).astype(np.uint8).reshape(4, 3)


def unsigned(zero: int) -> onnx.ModelProto:
    """`y = x @ dq(codes)`, the codes uint8 around `zero`."""
    codes = CODES if zero == 120 else np.full((4, 3), zero + 3, np.uint8)
    return model(
        [node("DequantizeLinear", ["codes", "s", "z"], ["w"], "w/DQ"),
         node("MatMul", ["x", "w"], ["y"], "/fc/MatMul")],
        [value("x", F32, ["batch", 4])], [value("y", F32, None)],
        [weight("codes", codes), weight("s", np.float32(0.1)), weight("z", np.uint8(zero))],
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("operator", "domain"), [("MatMulInteger", ""), ("MatMulIntegerToFloat", "com.microsoft")]
)
def test_integer_operators_are_one_problem_with_the_cure(operator: str, domain: str, precision: str) -> None:
    made = integer(operator, domain)
    assert onnxruntime.supports(made, precision) == []
    (found,) = openvino.supports(made, precision)
    assert found.node == "x/Q"
    assert "DynamicQuantizeLinear is an integer operator, one of 2" in found.reason
    assert "--target onnxruntime" in found.cure
    assert "QuantFormat.QDQ" in found.cure


def test_other_operators_of_a_foreign_domain_are_named() -> None:
    made = linear()
    made.graph.node[0].domain = "my.company"
    (found,) = openvino.supports(made, "fp32")
    assert "'my.company'" in found.reason


def test_weights_in_uint8_that_int8_cannot_hold_are_refused_in_int8_only() -> None:
    (found,) = openvino.supports(unsigned(120), "int8")
    assert (found.node, "uint8 codes" in found.reason) == ("/fc/MatMul", True)
    assert "QuantType.QInt8" in found.cure
    assert openvino.supports(unsigned(120), "fp32") == []
    assert openvino.supports(unsigned(128), "int8") == []
    assert onnxruntime.supports(unsigned(120), "int8") == []


def test_one_layer_with_int8_weights_is_enough() -> None:
    made = unsigned(120)
    made.graph.node.extend(
        [node("DequantizeLinear", ["other", "s"], ["v"], "v/DQ"), node("MatMul", ["y", "v"], ["last"])]
    )
    made.graph.initializer.append(weight("other", noise(3, 2).astype(np.int8)))
    assert openvino.supports(made, "int8") == []
