"""The forms of a graph for each TensorRT: which there are, that they compute the same, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.runtime.plans.config import KEEP_FLOAT
from edgekit.targets._plan.context import CannotLower
from edgekit.targets._plan.opset import lowered
from edgekit.targets._plan.raised import raised
from edgekit.targets._plan.variants import NORMALIZATION, PlanGraph, variants
from edgekit.targets._plan.versions import VERSIONS, oldest_for, parser_opset
from tests.targets import graphs
from tests.targets.plan.graphs import HAS_RTX, all_graphs, net, random, relative, rtx_parses, run

needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
API = Path(__file__).parents[1] / "runtime" / "tensorrt_api"


def forms(model: onnx.ModelProto, precision: str, rest: str = "fp16") -> dict[str, PlanGraph]:
    made = variants(model, precision, rest)
    for form in made:
        onnx.checker.check_model(form.model, full_check=True)
        assert form.opset == form.model.opset_import[0].version
    return {form.name: form for form in made}


def named(made: dict[str, PlanGraph]) -> dict[str, tuple[str, str, int]]:
    return {name: (form.typing, form.oldest, form.opset) for name, form in made.items()}


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for graph in all_graphs(model.graph) for node in graph.node}


class TestWhichThereAre:
    def test_fp32(self, crnn: Path) -> None:
        model = onnx.load(crnn)
        made = forms(model, "fp32")
        assert named(made) == {
            "typed": ("strong", "", 18),
            "weak": ("weak", "10.0", 18),
            "weak-8.5": ("weak", "8.5", 17),
        }
        assert made["typed"].model is model
        assert made["typed"].lowering == made["weak"].lowering == ()
        assert made["weak-8.5"].lowering == ("opset 18 -> 17",)

    def test_fp16(self, crnn: Path) -> None:
        made = forms(onnx.load(crnn), "fp16")
        assert list(made) == ["typed", "weak", "weak-8.5"]
        assert made["typed"].opset == 18
        assert made["typed"].lowering[0].startswith("float32 -> float16")

    def test_bf16_has_no_form_before_10(self, crnn: Path) -> None:
        made = forms(onnx.load(crnn), "bf16")
        assert named(made) == {"typed": ("strong", "", 22), "weak": ("weak", "10.0", 18)}
        assert made["typed"].lowering[0] == "opset 18 -> 22"
        assert not any("kept" in said for said in made["typed"].lowering)

    def test_int8_has_its_rest_in_the_types(self, crnn_int8: Path) -> None:
        made = forms(onnx.load(crnn_int8), "int8")
        assert list(made) == ["typed", "weak", "weak-8.5"]
        assert made["typed"].opset == 19
        assert forms(onnx.load(crnn_int8), "int8", "fp32")["typed"].lowering == ()
        assert named(forms(onnx.load(crnn_int8), "int8", "bf16")).keys() == {"typed", "weak"}

    def test_one_form_for_all_where_nothing_need_change(self, crnn: Path) -> None:
        model = onnx.load(crnn)
        model.opset_import[0].version = 17
        made = forms(model, "fp16")
        assert named(made)["weak"] == ("weak", "8.5", 17)
        assert made["weak"].model is model
        assert list(made) == ["typed", "weak"]

    def test_a_graph_newer_than_the_parsers_of_10(self) -> None:
        made = forms(net("(float[2,8] x) => (float[2,8] y) { y = Gelu(x) }", opset=22), "fp32")
        assert named(made)["weak"] == ("weak", "10.15", 22)
        assert named(made)["weak-8.5"] == ("weak", "8.5", 17)

    def test_an_operator_that_came_later_and_has_no_other_form(self) -> None:
        made = forms(net("(float[2,8] x) => (float[2,8] y) { y = Hardmax(x) }", opset=17), "fp32")
        assert list(made) == ["typed", "weak"]
        assert made["weak"].oldest == "9.2"


def normalized() -> onnx.ModelProto:
    return net(
        """(float[N,T,8] x) => (float[N,T,8] y) {
             a = LayerNormalization<axis=-1, epsilon=0.01>(x, g, b)
             m = ReduceMean<keepdims=1>(a, last)
             y = Sub(a, m) }""",
        g=random(8, seed=1),
        b=random(8, seed=2),
        last=np.array([-1]),
    )


class TestLayerNormalization:
    def test_8_6_has_it_and_8_5_gets_it_written_out(self) -> None:
        made = forms(normalized(), "fp16")
        assert list(made) == ["typed", "weak", "weak-8.6", "weak-8.5"]
        assert "LayerNormalization" in kinds(made["weak-8.6"].model)
        assert "LayerNormalization" not in kinds(made["weak-8.5"].model)
        assert made["weak-8.5"].lowering == ("opset 18 -> 17", "LayerNormalization written out: 1")

    def test_the_class_that_8_6_must_have_is_there_and_not_in_8_5(self) -> None:
        assert forms(normalized(), "fp16")["weak-8.6"].needs == (NORMALIZATION,)
        tables = {path.stem: json.loads(path.read_text()) for path in API.glob("[0-9]*.json")}
        having = {version for version, table in tables.items() if NORMALIZATION in table}
        assert having == {version for version in tables if not version.startswith("8.5")}

    def test_what_must_stay_in_float32_is_marked(self) -> None:
        model = forms(normalized(), "fp16")["weak-8.5"].model
        marked = [node.op_type for node in model.graph.node if KEEP_FLOAT in node.name]
        assert marked == ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
        assert {node.metadata_props[0].value for node in model.graph.node} == {"net.a", "net.m", "net.y"}

    def test_the_numbers_stay(self) -> None:
        x = random(2, 5, 8)
        wanted = run(normalized(), {"x": x})[0]
        for form in forms(normalized(), "fp32").values():
            np.testing.assert_allclose(run(form.model, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)


LOWERED: dict[str, tuple[str, int, dict[str, Any], dict[str, np.ndarray]]] = {
    "ReduceMean": (
        "(float[2,3,4] x) => (float[2,1,4] y) { y = ReduceMean(x, a) }",
        18,
        {"a": np.array([1])},
        {"x": random(2, 3, 4)},
    ),
    "ReduceMax without axes": (
        "(float[2,3] x) => (float[1,1] y) { y = ReduceMax(x) }",
        18,
        {},
        {"x": random(2, 3)},
    ),
    "ReduceL2 that does nothing": (
        "(float[2,3] x) => (float[2,3] y) { y = ReduceL2<noop_with_empty_axes=1>(x) }",
        18,
        {},
        {"x": np.abs(random(2, 3))},
    ),
    "Split unequally": (
        "(float[2,7] x) => (float[2,3] a, float[2,3] b, float[2,1] c) {"
        " a, b, c = Split<axis=1, num_outputs=3>(x) }",
        18,
        {},
        {"x": random(2, 7)},
    ),
    "Pad of some axes": (
        '(float[2,3,4] x) => (float[2,a,b] y) { y = Pad<mode="reflect">(x, p, , ax) }',
        18,
        {"p": np.array([1, 2, 1, 0]), "ax": np.array([1, -1])},
        {"x": random(2, 3, 4)},
    ),
    "Resize of some axes": (
        '(float[1,2,4,5] x) => (float[1,2,8,5] y) { y = Resize<mode="linear", axes=[2,3]>(x, , s) }',
        18,
        {"s": np.array([2, 1], np.float32)},
        {"x": random(1, 2, 4, 5)},
    ),
    "GridSample": (
        '(float[1,2,4,4] x, float[1,3,3,2] g) => (float[1,2,3,3] y) { y = GridSample<mode="linear">(x, g) }',
        20,
        {},
        {"x": random(1, 2, 4, 4), "g": random(1, 3, 3, 2, scale=0.4)},
    ),
    "GroupNormalization per group": (
        "(float[N,6,4,5] x) => (float[N,6,4,5] y) { y = GroupNormalization<num_groups=3>(x, g, b) }",
        18,
        {"g": random(3, seed=1), "b": random(3, seed=2)},
        {"x": random(2, 6, 4, 5)},
    ),
    "GroupNormalization per channel": (
        "(float[N,6,4,5] x) => (float[N,6,4,5] y) { y = GroupNormalization<num_groups=3>(x, g, b) }",
        21,
        {"g": random(6, seed=1), "b": random(6, seed=2)},
        {"x": random(2, 6, 4, 5)},
    ),
    "Gelu": ("(float[2,8] x) => (float[2,8] y) { y = Gelu(x) }", 20, {}, {"x": random(2, 8)}),
    "Gelu by tanh": (
        '(float[2,8] x) => (float[2,8] y) { y = Gelu<approximate="tanh">(x) }',
        20,
        {},
        {"x": random(2, 8)},
    ),
    "Mish": ("(float[2,8] x) => (float[2,8] y) { y = Mish(x) }", 18, {}, {"x": random(2, 8)}),
    "CastLike": (
        "(int64[2,8] x, float[2] z) => (float[2,8] y) { y = CastLike(x, z) }",
        18,
        {},
        {"x": np.arange(16).reshape(2, 8), "z": random(2)},
    ),
    "Attention, by its function": (
        "(float[N,T,8] x) => (float[N,T,8] y) { y = Attention<q_num_heads=2, kv_num_heads=2>(x, x, x) }",
        23,
        {},
        {"x": random(2, 5, 8)},
    ),
    "inside a body": (
        """(float[T,2,3] x, float[2,3] h) => (float[2,3] last, float[T,2,1] all) {
             last, all = Scan<num_scan_inputs=1, body = step (float[2,3] a, float[2,3] b)
                 => (float[2,3] c, float[2,1] e) {
               s = Add(a, b)  n = Mish(s)  c = Tanh(n)  e = ReduceMean(c, axes) }>(h, x) }""",
        18,
        {"axes": np.array([-1])},
        {"x": random(4, 2, 3), "h": random(2, 3)},
    ),
}


@pytest.mark.parametrize("name", LOWERED)
def test_lowering_keeps_the_numbers(name: str) -> None:
    text, opset, weights, feeds = LOWERED[name]
    model = net(text, opset, **weights)
    before = model.SerializeToString()
    made, said = lowered(model, 17, {"CastLike"})
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    assert (made.opset_import[0].version, made.ir_version) == (17, 8)
    assert said[0] == f"opset {opset} -> 17"
    for got, wanted in zip(run(made, feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    modules = [node.metadata_props[0].value for graph in all_graphs(made.graph) for node in graph.node]
    assert all(module.startswith("net.") for module in modules)


@needs_rtx
@pytest.mark.parametrize("name", LOWERED)
def test_tensorrt_reads_what_was_lowered(name: str) -> None:
    text, opset, weights, _ = LOWERED[name]
    assert rtx_parses(lowered(net(text, opset, **weights), 17, {"CastLike"})[0]) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2,3] x, int64[1] a) => (float[b,c] y) { y = ReduceMean(x, a) }", "computed"),
        (
            "(float[2,n] x) => (float[2,a] y, float[2,b] z) { y, z = Split<axis=1, num_outputs=2>(x) }",
            "dynamic",
        ),
        ("(float[1,1,4] x, float[3] s) => (float[a,b,c] y) { y = Resize<antialias=1>(x, , s) }", "antialias"),
        ("(int32[2] x, int32[2] z) => (int32[2] y) { y = BitwiseAnd(x, z) }", "no form"),
    ],
)
def test_what_cannot_be_lowered_is_named(text: str, reason: str) -> None:
    with pytest.raises(CannotLower, match=reason) as refused:
        lowered(net(text), 17)
    assert refused.value.node.name == "node_y"
    assert "weak-8.5" not in {form.name for form in variants(net(text), "fp32")}


class TestRaising:
    def test_plain_operators_keep_their_names(self, crnn: Path) -> None:
        model = onnx.load(crnn)
        made = raised(model, 22)
        onnx.checker.check_model(made, full_check=True)
        assert [node.name for node in made.graph.node] == [node.name for node in model.graph.node]
        feeds = graphs.image(1, 40)
        np.testing.assert_array_equal(run(made, feeds)[0], run(model, feeds)[0])

    def test_operators_whose_meaning_changed(self) -> None:
        model = net(
            """(float[1,4,4,4] x, float[1,3,3,2] g) => (float[1,4,3,3] y) {
                 n = GroupNormalization<num_groups=2>(x, w, b)
                 y = GridSample<mode="bilinear">(n, g) }""",
            w=random(2),
            b=random(2),
        )
        made = raised(model, 22)
        onnx.checker.check_model(made, full_check=True)
        feeds = {"x": random(1, 4, 4, 4), "g": random(1, 3, 3, 2, scale=0.4)}
        np.testing.assert_allclose(run(made, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-6)

    def test_an_old_opset_goes_through_the_converter_and_keeps_its_modules(self) -> None:
        model = net("(float[2,3] x) => (float[2,1] y) { y = ReduceMean<axes=[1]>(x) }", opset=13)
        made = raised(model, 19)
        onnx.checker.check_model(made, full_check=True)
        (node,) = [one for one in made.graph.node if one.op_type == "ReduceMean"]
        assert node.metadata_props[0].value == "net.y"
        np.testing.assert_allclose(
            run(made, {"x": random(2, 3)})[0], random(2, 3).mean(1, keepdims=True), rtol=1e-5
        )


def test_int8_in_every_form_is_close(crnn_int8: Path) -> None:
    model = onnx.load(crnn_int8)
    feeds = graphs.image(2, 57)
    wanted = run(model, feeds)[0]
    made = forms(model, "int8")
    assert relative(run(made["typed"].model, feeds)[0], wanted) < 0.05
    np.testing.assert_allclose(run(made["weak-8.5"].model, feeds)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("version", "opset"), [("8.5", 17), ("8.6", 17), ("10.3", 20), ("10.16", 24), ("11.4", 24)]
)
def test_what_each_parser_reads(version: str, opset: int) -> None:
    assert version in VERSIONS
    assert parser_opset(version) == opset
    assert parser_opset("rtx-1.7") == 24


def test_the_oldest_that_reads_a_graph(crnn: Path) -> None:
    assert oldest_for(onnx.load(crnn)) == "9.2"
    assert (
        oldest_for(net("(float[2,8] x) => (float[2,8] y) { y = RMSNormalization(x, w) }", 23, w=random(8)))
        == "10.15"
    )
