"""Layer precision from what versions of TensorRT print: shapes of text that cannot be built here."""

from __future__ import annotations

import json

import pytest

from edgekit.runtime.engines import Layer
from edgekit.runtime.plans.layers import from_inspector, from_log

OLD_LOG = """Engine Layer Information:
Layer(Reformat): CopyNode for Input Tensor 0 to Conv_0, Tactic: 0x3ea, x (Float[1,3]) -> r (Int8[1,3:4])
Layer(CaskConvolution): Conv_0 + Relu_1, Tactic: 0x5deb29b7, r (Int8[1,3:4,8,8]) -> a (Int8[1,8:32,8,8])
Layer(CaskConvolution): Conv_2, Tactic: 0x1, a (Half[1,8:8,8,8]), b (Half[1,8:8,8,8]) -> c (Half[1,8,8,8])
Layer(Shuffle): Reshape_4, Tactic: 0x0, c (Half[1,8,8,8]) -> d (Half[1,512])
Layer(Myelin): {ForeignNode[LSTM_5...Add_9]}, Tactic: 0x0, d (Float[1,512]) -> y (Float[1,10])"""


def test_the_verbose_log_of_tensorrt_8() -> None:
    assert from_log(["something else", OLD_LOG]) == [
        Layer("Conv_0 + Relu_1", "CaskConvolution", "int8"),
        Layer("Conv_2", "CaskConvolution", "fp16"),
        Layer("{ForeignNode[LSTM_5...Add_9]}", "Myelin", "fp32"),
    ]


def line(name: str, kind: str, inputs: str, rest: str = "Outputs: [], Metadata: ") -> str:
    return f"Name: {name}, LayerType: {kind}, Inputs: [{inputs}], {rest}"


def tensor(kind: str, name: str = "t") -> str:
    return f" {{ Name: {name}, Dimensions: [1,8], Strides: [8,1], Datatype: {kind}, Format: (Linear) Row }}"


def test_the_data_decide_and_not_the_constants() -> None:
    constants = f"Constants: [{tensor('Int8')}], Outputs: [], Metadata: "
    assert from_log([line("g_myl0_1", "gemm", tensor("Half"), constants)])[0].precision == "fp16"
    both = tensor("Float") + "," + tensor("Int8")
    assert from_log([line("g_myl0_1", "gemm", both)])[0].precision == "int8"


def test_layers_that_move_data_do_not_count() -> None:
    lines = [
        line("__myl_Tran_myl0_0", "kgen", tensor("Float")),
        line("pool_myl0_1", "maxpool", tensor("Int8")),
        line("i_myl0_2", "gemm", tensor("Int64")),
        line("[ShapeHostToDeviceCopy 0]", "ShapeHostToDevice", ""),
    ]
    assert from_log(["Layers:\n" + "\n".join(lines)]) == []


def test_fused_kernels_take_the_name_of_their_node() -> None:
    origin = "Outputs: [], Metadata: [ONNX Layer: head/MatMul][ONNX Layer: head/Add]"
    lines = [
        line("__myl_FcAdd_myl0_7", "runtime_fusion", tensor("Half"), origin),
        line("_gemm_mha_v2_myl0_3", "kgen", tensor("Half"), "Outputs: [], Metadata: [ONNX Layer: attention]"),
        line(
            "__myl_ReshMulSum_myl0_4", "kgen", tensor("Float"), "Outputs: [], Metadata: [ONNX Layer: small]"
        ),
    ]
    found = from_log(["\n".join(lines)])
    assert [layer.name for layer in found] == ["head/MatMul", "attention", "small"]


def test_of_several_profiles_the_first_counts() -> None:
    lines = [
        line("a_myl1_1", "gemm", tensor("Half")),
        line("a [profile 1]_myl3_1", "gemm", tensor("Half")),
        line("__myl_FcAdd_myl3_2", "runtime_fusion", tensor("Half", "plain")),
        line("b [profile 2]", "CaskConvolution", tensor("Half")),
    ]
    assert [layer.name for layer in from_log(["\n".join(lines)])] == ["a"]


def told(**layer: object) -> str:
    return json.dumps({"Layers": [{"Name": "c", "LayerType": "CaskConvolution", **layer}], "Bindings": []})


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        ({"Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, "fp16"),
        (
            {"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]},
            "int8",
        ),
        ({"Inputs": [{"Format/Datatype": "Row major linear FP32"}]}, "fp32"),
        ({"Inputs": [{"Format/Datatype": "Row major linear BFloat16 format"}]}, "bf16"),
        ({"Inputs": [{"Datatype": "Int8", "Format": "(NHWC) Channel major format"}]}, "int8"),
        ({"Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}], "Weights": {"Type": "Half"}}, "fp16"),
        (
            {
                "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
                "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
            },
            "int8",
        ),
    ],
)
def test_the_inspectors_words(layer: dict[str, object], precision: str) -> None:
    assert from_inspector(told(**layer)) == [Layer("c", "CaskConvolution", precision)]


def test_an_inspector_that_knows_names_alone() -> None:
    text = json.dumps({"Layers": ["Conv_0 + Relu_1", "Reformatting CopyNode", "shuffle"]})
    assert from_inspector(text) == [Layer("Conv_0 + Relu_1", "conv", "undefined")]
    assert from_inspector('["MatMul_3"]') == [Layer("MatMul_3", "conv", "undefined")]
