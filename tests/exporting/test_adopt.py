"""A user's own ONNX file in edgekit's one form: the same answers, and nothing of its history."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, version_converter

from edgekit.declare import parse_inputs
from edgekit.exporting import adopt as adopting
from edgekit.exporting._adopt_graph import canonical
from edgekit.exporting.adopt import adopt_onnx
from edgekit.runtime.engines import EngineOptions
from edgekit.runtime.engines.onnxruntime import open_engine
from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.runtime.manifest import sha256_of
from edgekit.sources import graph
from edgekit.spec import Artifact, Found, Own, Sample
from tests.sources.onnx_files import (
    BOOL,
    F16,
    F32,
    I64,
    attention,
    convolution,
    external,
    linear,
    looping,
    model,
    node,
    noise,
    recurrent,
    run,
    save,
    value,
    weight,
    weight_bytes,
)


def found_in(path: Path, inputs: Sequence[str] = (), states: Sequence[tuple[str, str]] = ()) -> Found:
    own = Own(source=path.name, folder=path.parent, inputs=parse_inputs(inputs), states=tuple(states))
    return graph.load(own, None, ())


def adopt(
    path: Path,
    out: Path,
    inputs: Sequence[str] = (),
    states: Sequence[tuple[str, str]] = (),
    check: bool = True,
) -> tuple[Artifact, onnx.ModelProto]:
    artifact = adopt_onnx(found_in(path, inputs, states), out)
    made = onnx.load(out)
    if check:  # of ONNX's own operators only
        onnx.checker.check_model(made)
    return artifact, made


def operators(made: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in made.graph.node]


def dims(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in values
    }


def modules(made: onnx.ModelProto) -> dict[str, str]:
    return {one.name: entry.value for one in made.graph.node for entry in one.metadata_props}


# The same answers.


@pytest.mark.parametrize(("opset", "becomes"), [(11, 18), (13, 18), (17, 18), (18, 18), (21, 21)])
def test_an_older_opset_is_brought_forward(tmp_path: Path, opset: int, becomes: int) -> None:
    path = save(tmp_path, linear(opset))
    artifact, made = adopt(path, tmp_path / "out.onnx")
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", becomes)]
    assert artifact.made_by["opset"] == becomes
    x = noise(5, 4)
    np.testing.assert_array_equal(run(made, {"x": x})[0], run(path, {"x": x})[0])
    assert artifact.sha256 == sha256_of(artifact.path)


def test_operators_whose_form_changed_with_the_opset_keep_their_meaning(tmp_path: Path) -> None:
    made = model(
        [node("Squeeze", ["x"], ["q"], axes=[1]), node("Unsqueeze", ["q"], ["u"], axes=[0]),
         node("ReduceSum", ["u"], ["s"], axes=[0], keepdims=0), node("Softmax", ["s"], ["y"], axis=1),
         node("ReduceMean", ["s"], ["z"], axes=[1])],
        [value("x", F32, ["batch", 1, 4])], [value("y", F32, None), value("z", F32, None)], (), 11,
    )  # fmt: skip
    path = save(tmp_path, made)
    x = noise(3, 1, 4)
    _, adopted = adopt(path, tmp_path / "out.onnx")
    for want, have in zip(run(path, {"x": x}), run(adopted, {"x": x}), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)


def test_where_the_converter_fails_the_files_own_opset_is_kept_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(made: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter for Relu")

    monkeypatch.setattr(version_converter, "convert_version", fails)
    artifact, _ = adopt(save(tmp_path, linear(13)), tmp_path / "out.onnx")
    assert artifact.made_by["opset"] == 13
    assert "left in opset 13" in artifact.made_by["notes"][0]
    assert "no adapter for Relu" in artifact.made_by["notes"][0]
    with pytest.raises(UnsupportedError, match="no adapter for Relu"):
        adopt(save(tmp_path, linear(12)), tmp_path / "out.onnx")


def test_where_the_converter_changes_the_answers_they_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(made: onnx.ModelProto, version: int) -> onnx.ModelProto:
        changed = linear(version)
        changed.graph.node[2].op_type = "Abs"
        return changed

    monkeypatch.setattr(version_converter, "convert_version", wrong)
    path = save(tmp_path, linear(13))
    artifact, made = adopt(path, tmp_path / "out.onnx")
    assert artifact.made_by["opset"] == 13
    assert "differs by" in artifact.made_by["notes"][0]
    assert operators(made)[-1] == "Relu"


def test_a_graph_that_is_not_the_file_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: object) -> onnx.ModelProto:
        changed = canonical(*arguments)  # type: ignore[arg-type]
        changed.graph.initializer[0].raw_data = (noise(4, 3) * np.float32(1.01)).tobytes()
        return changed

    monkeypatch.setattr(adopting, "canonical", wrong)
    with pytest.raises(UnsupportedError, match=r"'y' differs by"):
        adopt(save(tmp_path / "in", linear()), tmp_path / "out" / "out.onnx")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
@pytest.mark.parametrize("opset", [11, 18])
def test_sub_graphs_keep_what_they_read_from_around(tmp_path: Path, kind: str, opset: int) -> None:
    path = save(tmp_path, looping(kind, opset))
    _, made = adopt(path, tmp_path / "out.onnx")
    for x in (noise(3, 3), -np.abs(noise(6, 3))):
        np.testing.assert_allclose(run(made, {"x": x})[0], run(path, {"x": x})[0], rtol=1e-6)
    inner = [one.name for one in nodes_everywhere(made.graph)]
    assert all(inner)
    assert len(set(inner)) == len(inner)


def nodes_everywhere(body: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [entry.g for one in body.node for entry in one.attribute if entry.HasField("g")]
    return [*body.node, *(one for deeper in inner for one in nodes_everywhere(deeper))]


def test_masks_of_minus_infinity_and_not_a_number_where_the_file_gives_it(tmp_path: Path) -> None:
    artifact, made = adopt(save(tmp_path, attention()), tmp_path / "out.onnx")
    assert artifact.made_by["recheck_rel_l2"] < 1e-6
    assert dims(made.graph.input) == {"ids": ["batch", "ids.1"], "mask": ["batch", "ids.1"]}


def test_float16_is_kept(tmp_path: Path) -> None:
    artifact, made = adopt(save(tmp_path, linear(kind=F16)), tmp_path / "out.onnx")
    assert made.graph.input[0].type.tensor_type.elem_type == F16
    assert artifact.outputs[0].dtype == "float16"


def test_real_samples_are_compared_too(tmp_path: Path) -> None:
    made = model(
        [node("Gather", ["table", "ids"], ["y"])], [value("ids", I64, ["batch", 2])], [value("y", F32, None)],
        [weight("table", noise(2, 3))],
    )  # fmt: skip
    found = found_in(save(tmp_path, made))
    adopt_onnx(found, tmp_path / "out.onnx")
    sample = Sample(inputs=(np.array([0, 5]),), target=None)
    with pytest.raises(UnsupportedError, match=r"the file itself does not run at ids \(1, 2\)"):
        adopt_onnx(found, tmp_path / "out.onnx", samples=[sample])


def test_a_range_in_which_a_size_does_not_run_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, attention())
    found = found_in(path, ["ids=int64[batch:1..4,n:2..80]", "mask=bool[batch:1..4,n:2..80]"])
    with pytest.raises(UnsupportedError, match=r"does not run at ids \(.*80\)") as caught:
        adopt_onnx(found, tmp_path / "out.onnx")
    assert "--input" in caught.value.hint


# One form.


def test_constants_and_local_functions_become_plain_nodes_and_initializers(tmp_path: Path) -> None:
    function = helper.make_function(
        "my.layers", "Scale", ["a"], ["b"],
        [node("Constant", [], ["two"], value_float=2.0), node("Mul", ["a", "two"], ["b"], "mul")],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    call = node("Scale", ["c"], ["d"], "/scale/Scale", domain="my.layers")
    made = model(
        [node("Constant", [], ["w"], value=weight("", noise(4, 3))), node("MatMul", ["x", "w"], ["c"]), call,
         node("Constant", [], ["shape"], value_ints=[-1, 3, 1]), node("Reshape", ["d", "shape"], ["y"])],
        [value("x", F32, ["batch", 4])], [value("y", F32, None)],
        functions=[function], imports=[helper.make_opsetid("my.layers", 1)],
    )  # fmt: skip
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    assert operators(adopted) == ["MatMul", "Mul", "Reshape"]
    assert not adopted.functions
    assert [entry.domain for entry in adopted.opset_import] == [""]
    assert {"w", "shape"} <= {tensor.name for tensor in adopted.graph.initializer}
    np.testing.assert_allclose(
        run(adopted, {"x": noise(2, 4)})[0][..., 0], noise(2, 4) @ noise(4, 3) * 2, rtol=1e-5
    )


def test_every_node_has_a_name_of_its_own_and_says_its_module(tmp_path: Path) -> None:
    made = convolution()
    made.graph.node[1].name = made.graph.node[0].name
    made.graph.node[3].name = ""
    made.graph.node[4].name = "Flatten_7"
    made.graph.node[2].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'body', 'body.pool', 'max_pool2d']"
    )
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    names = [one.name for one in adopted.graph.node]
    assert names == [
        "/stem/stem.0/Conv", "/stem/stem.0/Conv_1", "/stem/stem.2/MaxPool", "GlobalAveragePool", "Flatten_7",
    ]  # fmt: skip
    told = modules(adopted)
    assert told == {names[0]: "stem.0", names[1]: "stem.0", names[2]: "body.pool"}


def test_names_survive_the_converter(tmp_path: Path) -> None:
    _, adopted = adopt(save(tmp_path, linear(11)), tmp_path / "out.onnx")
    assert modules(adopted) == {
        "/head/fc/MatMul": "head.fc", "/head/fc/Add": "head.fc", "/act/Relu": "act",
    }  # fmt: skip


@pytest.mark.parametrize("scopes", ["[" * 2000, "__import__('os').system('true')", "{}", "['x']"])
def test_a_strangers_metadata_is_never_run_and_stops_nothing(tmp_path: Path, scopes: str) -> None:
    made = linear()
    made.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    assert modules(adopted)["/head/fc/MatMul"] == "head.fc"


def test_nothing_of_the_files_history_stays(tmp_path: Path) -> None:
    trace = "/somewhere/else/train.py"
    made = looping("Loop")
    body = next(entry.g for entry in made.graph.node[0].attribute if entry.HasField("g"))
    made.doc_string = made.producer_name = made.producer_version = made.domain = made.graph.name = trace
    made.metadata_props.add(key="path", value=trace)
    made.graph.value_info.append(value("inside", F32, None))
    for holder in (
        made.graph,
        made.graph.node[0],
        made.graph.input[0],
        made.graph.initializer[0],
        body,
        body.node[0],
    ):
        holder.doc_string = trace
        holder.metadata_props.add(key="path", value=trace)
    body.name = trace
    made.graph.node[0].attribute[0].doc_string = trace
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    assert trace.encode() not in (tmp_path / "out.onnx").read_bytes()
    assert (adopted.producer_name, adopted.graph.name) == ("edgekit", "main")
    assert not adopted.graph.value_info
    assert adopted.ir_version <= 10


def test_what_is_not_needed_goes_and_what_is_not_in_order_is_put_so(tmp_path: Path) -> None:
    made = linear()
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([nodes[2], nodes[1], node("Neg", ["h"], ["dead"]), nodes[0]])
    made.graph.initializer.append(weight("unused", noise(9)))
    made.graph.input.append(value("w", F32, [4, 3]))
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    assert operators(adopted) == ["MatMul", "Add", "Relu"]
    assert [tensor.name for tensor in adopted.graph.initializer] == ["w", "b"]
    assert [one.name for one in adopted.graph.input] == ["x"]
    assert [entry.domain for entry in adopted.opset_import] == [""]


def test_dimensions_have_the_names_and_sizes_that_were_found(tmp_path: Path) -> None:
    path = save(tmp_path, convolution())
    artifact, made = adopt(path, tmp_path / "out.onnx", ["image=float32[batch:1..4,2,16,width:8..32]"])
    assert dims(made.graph.input) == {"x": ["batch", 2, 16, "width"]}
    assert dims(made.graph.output) == {"y": ["batch", 5, 8, "y.3"], "z": ["batch", 5]}
    assert artifact.inputs[0].ranges == {"batch": (1, 4), "width": (8, 32)}


@pytest.mark.parametrize(
    ("kind", "states"), [("LSTM", [("h0", "hn"), ("c0", "cn")]), ("GRU", [("h0", "hn")])]
)
def test_states_are_last(tmp_path: Path, kind: str, states: list[tuple[str, str]]) -> None:
    artifact, made = adopt(save(tmp_path, recurrent(kind)), tmp_path / "out.onnx", states=states)
    assert [one.name for one in made.graph.input] == ["x", *(name for name, _ in states)]
    assert [one.name for one in made.graph.output] == ["s", *(output for _, output in states)]
    assert [state.input for state in artifact.states] == [name for name, _ in states]


def test_an_output_that_is_a_constant_stays_one(tmp_path: Path) -> None:
    made = linear()
    made.graph.node.append(node("Constant", [], ["anchors"], value=weight("", noise(2))))
    made.graph.output.append(value("anchors", F32, [2]))
    _, adopted = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    np.testing.assert_array_equal(run(adopted, {"x": noise(1, 4)})[1], noise(2))


def test_the_same_file_gives_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    first = save(tmp_path / "one", convolution(13))
    second = tmp_path / "quite" / "another" / "name.onnx"
    second.parent.mkdir(parents=True)
    shutil.copyfile(first, second)
    outs = [tmp_path / f"{place}.onnx" for place in range(2)]
    for path, out in zip((first, second), outs, strict=True):
        adopt(path, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_external_data_is_inside_afterwards_and_gives_the_same_bytes(tmp_path: Path) -> None:
    path = external(tmp_path / "split")
    (tmp_path / "split" / "net.bin").write_bytes(weight_bytes())
    adopt(path, tmp_path / "a.onnx")
    adopt(save(tmp_path / "whole", linear()), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, linear())
    found = found_in(path)
    save(tmp_path, convolution())
    with pytest.raises(BadFileError, match="was changed"):
        adopt_onnx(found, tmp_path / "out.onnx")


# Quantized files.


class Calibration:
    """Three samples for onnxruntime's quantizer."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._left = [noise(*shape, seed=seed) for seed in range(3)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"x": self._left.pop()} if self._left else None


def quantized(folder: Path, form: str) -> Path:
    from onnxruntime import quantization as q

    source, path = folder / "float.onnx", folder / f"{form}.onnx"
    made = convolution(13, shape=["batch", 2, 8, 8])
    made.ir_version = 10
    source.write_bytes(made.SerializeToString())
    if form == "dynamic":
        plain = linear(13)
        plain.ir_version = 10
        source.write_bytes(plain.SerializeToString())
        q.quantize_dynamic(source, path)
    else:
        q.quantize_static(source, path, Calibration((1, 2, 8, 8)), quant_format=q.QuantFormat[form])
    return path


def test_a_file_in_qdq_form_is_kept_as_it_is(tmp_path: Path) -> None:
    path = quantized(tmp_path, "QDQ")
    _, made = adopt(path, tmp_path / "out.onnx")
    pairs = {"QuantizeLinear", "DequantizeLinear"}
    before = [name for name in operators(onnx.load(path)) if name in pairs]
    assert before
    assert [name for name in operators(made) if name in pairs] == before
    codes = {TensorProto.INT8, TensorProto.UINT8}
    assert any(tensor.data_type in codes and len(tensor.dims) == 4 for tensor in made.graph.initializer)


@pytest.mark.parametrize(
    ("form", "operator", "domains"),
    [("QOperator", "QLinearConv", ["", "com.microsoft"]), ("dynamic", "MatMulInteger", [""])],
)
def test_integer_operators_are_kept_as_they_are(
    tmp_path: Path, form: str, operator: str, domains: list[str]
) -> None:
    artifact, made = adopt(quantized(tmp_path, form), tmp_path / "out.onnx", check=form != "QOperator")
    assert operator in operators(made)
    assert [entry.domain for entry in made.opset_import] == domains
    assert artifact.made_by["notes"][-2] == (
        "the file is already quantized: its one integer layer is taken as it is"
    )


# The reference of a bare ONNX file: ONNX Runtime on what was adopted.


@pytest.mark.parametrize(
    ("made", "feeds"),
    [
        (linear(kind=F16), {"x": noise(3, 4).astype(np.float16)}),
        (attention(), {"ids": np.ones((2, 5), np.int64), "mask": np.ones((2, 5), np.bool_)}),
        (looping("Scan"), {"x": noise(4, 3)}),
    ],
)
def test_the_engine_takes_what_was_adopted(
    tmp_path: Path,
    made: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
) -> None:
    path = save(tmp_path, made)
    artifact, _ = adopt(path, tmp_path / "out.onnx")
    with open_engine(artifact.path, EngineOptions(precision="fp32")) as engine:
        assert [(spec.name, spec.shape, spec.dtype) for spec in engine.inputs] == [
            (spec.name, spec.shape, spec.dtype) for spec in artifact.inputs
        ]
        (have,) = engine.infer(feeds).values()
    np.testing.assert_allclose(have, run(path, feeds)[0], rtol=1e-3)


def test_bool_outputs_are_compared(tmp_path: Path) -> None:
    made = model(
        [node("Greater", ["x", "zero"], ["y"])], [value("x", F32, ["batch", 4])], [value("y", BOOL, None)],
        [weight("zero", np.float32(0))],
    )  # fmt: skip
    artifact, _ = adopt(save(tmp_path, made), tmp_path / "out.onnx")
    assert artifact.outputs[0].dtype == "bool"
