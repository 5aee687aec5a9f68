"""A user's own ONNX file: what is read out of it, and what is refused before it is believed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.declare import parse_inputs
from edgekit.runtime.errors import BadFileError, EdgekitError, UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.sources import _onnx_probe, graph
from edgekit.sources._onnx_file import read_model
from edgekit.spec import Found, Own, Sample
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
    save,
    value,
    weight,
    weight_bytes,
)


def load(
    path: Path,
    inputs: Sequence[str] = (),
    samples: Sequence[Sample] = (),
    states: Sequence[tuple[str, str]] = (),
) -> Found:
    own = Own(source=path.name, folder=path.parent, inputs=parse_inputs(inputs), states=tuple(states))
    return graph.load(own, None, samples)


def refused(kind: type[EdgekitError], path: Path, *words: str, **options: Any) -> EdgekitError:
    with pytest.raises(kind) as caught:
        load(path, **options)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.hint
    return caught.value


def shapes(specs: Sequence[TensorSpec]) -> dict[str, tuple[int | str, ...]]:
    return {spec.name: spec.shape for spec in specs}


# What is said of the file.


def test_takes_onnx_files_only() -> None:
    assert graph.takes("net.onnx")
    assert graph.takes("a/NET.ONNX")
    assert not any(
        graph.takes(source) for source in ("net.pt2", "package.module:onnx", "crnn", "net.onnx.toml")
    )


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_inputs_outputs_and_hash_are_those_of_the_file(tmp_path: Path, opset: int) -> None:
    path = save(tmp_path, linear(opset))
    found = load(path)
    assert found.inputs == (TensorSpec("x", ("batch", 4), "float32", {"batch": (1, 64)}),)
    assert found.outputs == (TensorSpec("y", ("batch", 3), "float32", {"batch": (1, 64)}),)
    assert (found.module, found.graph, found.states) == (None, path, ())
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert any("input x=float32[batch:1..64,4]" in note for note in found.notes)


def test_output_axes_that_follow_have_the_name_and_others_one_of_their_own(tmp_path: Path) -> None:
    said = ["x=float32[batch:1..4,2,height:8..32,width:8..32]"]
    found = load(save(tmp_path, convolution()), said)
    assert shapes(found.outputs) == {"y": ("batch", 5, "y.2", "y.3"), "z": ("batch", 5)}
    assert found.inputs == parse_inputs(said)
    assert not any(note.startswith("input") for note in found.notes)


def test_dimensions_without_a_name_get_one_and_default_ranges_are_cut_to_what_runs(tmp_path: Path) -> None:
    made = convolution(shape=[None, 2, None, 0])
    del made.graph.node[0].attribute[:]
    found = load(save(tmp_path, made))
    (spec,) = found.inputs
    assert spec.shape == ("batch", 2, "x.2", "x.3")
    assert spec.ranges == {"batch": (1, 64), "x.2": (4, 1024), "x.3": (4, 1024)}
    assert any("'x.2'" in note and "4 to 1024 is taken (what runs)" in note for note in found.notes)


def test_a_name_of_the_file_stays_and_a_wrong_name_of_an_output_does_not(tmp_path: Path) -> None:
    made = convolution(shape=["N", 2, 8, "w"])
    made.graph.output[0].CopyFrom(value("y", F32, ["batch", 5, 4, "columns"]))
    made.graph.output[1].CopyFrom(value("z", F32, ["w", 5]))
    found = load(save(tmp_path, made))
    assert found.inputs[0].shape == ("batch", 2, 8, "w")
    assert shapes(found.outputs) == {"y": ("batch", 5, 4, "columns"), "z": ("batch", 5)}


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    made = linear()
    made.graph.input.append(value("w", F32, [4, 3]))
    assert [spec.name for spec in load(save(tmp_path, made)).inputs] == ["x"]


def test_types_other_than_float32_are_kept(tmp_path: Path) -> None:
    assert load(save(tmp_path, linear(kind=F16), "half.onnx")).inputs[0].dtype == "float16"
    found = load(save(tmp_path, attention()))
    assert [spec.dtype for spec in found.inputs] == ["int64", "bool"]


def test_dimensions_that_run_only_when_alike_are_taken_for_one(tmp_path: Path) -> None:
    found = load(save(tmp_path, attention()))
    assert shapes(found.inputs) == {"ids": ("batch", "ids.1"), "mask": ("batch", "ids.1")}
    assert shapes(found.outputs) == {"y": ("batch", "ids.1", 6)}
    assert found.inputs[0].ranges["ids.1"] == (1, 32)
    assert any("'mask.1' is taken for 'ids.1'" in note for note in found.notes)


def test_a_batch_that_the_graph_fixes_is_fixed(tmp_path: Path) -> None:
    made = model(
        [node("Reshape", ["x", "shape"], ["y"])], [value("x", F32, ["batch", 4])], [value("y", F32, None)],
        [weight("shape", [1, 2, 2])],
    )  # fmt: skip
    found = load(save(tmp_path, made))
    assert found.inputs[0].shape == (1, 4)
    assert any("'batch' runs at 1 only" in note for note in found.notes)


def test_an_output_whose_size_the_values_decide_has_a_dimension_of_its_own(tmp_path: Path) -> None:
    made = model(
        [node("NonZero", ["x"], ["n"]), node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"])],
        [value("x", F32, [6, 8])], [value("y", I64, None)],
    )  # fmt: skip
    assert load(save(tmp_path, made)).outputs == (TensorSpec("y", (2, "y.1"), "int64"),)


# What the user says.


def test_a_dynamic_dimension_may_be_fixed_and_renamed(tmp_path: Path) -> None:
    found = load(save(tmp_path, convolution()), ["x=float32[1,2,16,columns:8..64]"])
    assert found.inputs == (TensorSpec("x", (1, 2, 16, "columns"), "float32", {"columns": (8, 64)}),)
    assert shapes(found.outputs) == {"y": (1, 5, 8, "y.3"), "z": (1, 5)}


def test_one_input_may_be_said_and_what_it_shares_follows(tmp_path: Path) -> None:
    found = load(
        save(tmp_path, recurrent()), ["x=float32[steps:2..9,3,3]"], states=[("h0", "hn"), ("c0", "cn")]
    )
    assert found.inputs == (TensorSpec("x", ("steps", 3, 3), "float32", {"steps": (2, 9)}),)
    assert found.states == (State("h0", "hn", (1, 3, 4)), State("c0", "cn", (1, 3, 4)))


def test_inputs_of_other_names_are_matched_in_order_and_that_is_said(tmp_path: Path) -> None:
    found = load(save(tmp_path, linear()), ["features=float32[batch:1..8,4]"])
    assert found.inputs == (TensorSpec("x", ("batch", 4), "float32", {"batch": (1, 8)}),)
    assert any("--input features is the file's input 'x'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (["x=float32[batch,5]"], UsageError, ["axis 1", "5", "fixes it to 4"]),
        (["x=float32[batch,columns:1..8]"], UnsupportedError, ["fixes axis 1", "'columns'"]),
        (["x=int64[batch,4]"], UsageError, ["int64", "float32"]),
        (["x=float32[batch,4,1]"], UsageError, ["3 dimensions", "2"]),
        (["x=float32[batch,4]", "z=float32[1]"], UsageError, ["no input 'z'"]),
        (["a=float32[1]", "b=float32[1]"], UsageError, ["no input 'a'"]),
    ],
)
def test_what_contradicts_the_file_is_refused(
    tmp_path: Path, said: list[str], kind: type[EdgekitError], words: list[str]
) -> None:
    refused(kind, save(tmp_path, linear()), *words, inputs=said)


def test_a_range_that_does_not_run_is_the_users_mistake(tmp_path: Path) -> None:
    said = ["ids=int64[1,n:100..200]", "mask=bool[1,n:100..200]"]
    refused(UsageError, save(tmp_path, attention()), "none of the sizes", inputs=said)


def test_weights_beside_an_onnx_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, linear())
    with pytest.raises(UsageError, match="holds its own weights"):
        graph.load(Own(source=path.name, folder=tmp_path), tmp_path / "w.safetensors", ())


@pytest.mark.parametrize(("said", "name"), [("n", "batch"), ("rows", "batch"), ("time", "time")])
def test_another_name_for_the_batch_is_the_batch_unless_it_is_a_length(
    tmp_path: Path, said: str, name: str
) -> None:
    found = load(save(tmp_path, linear(rows="N")), [f"x=float32[{said}:1..8,4]"])
    assert found.inputs == (TensorSpec("x", (name, 4), "float32", {name: (1, 8)}),)
    assert any(f"'{said}' of --input is called 'batch'" in note for note in found.notes) == (said != name)


# Windows.


def pooled(opset: int = 18, **options: Any) -> onnx.ModelProto:
    """MaxPool by 2, then the mean over the image: ONNX Runtime runs it on one pixel too."""
    return model(
        [node("MaxPool", ["x"], ["p"], "/pool", kernel_shape=[2, 2], strides=[2, 2], **options),
         node("GlobalAveragePool", ["p"], ["g"]), node("Flatten", ["g"], ["y"])],
        [value("x", F32, ["N", 2, "h", "w"])], [value("y", F32, None)], (), opset,
    )  # fmt: skip


def test_images_smaller_than_a_window_are_no_size_that_runs(tmp_path: Path) -> None:
    (spec,) = load(save(tmp_path, pooled())).inputs
    assert (spec.ranges["h"], spec.ranges["w"]) == ((2, 1024), (2, 1024))
    (spec,) = load(save(tmp_path, pooled(pads=[1, 0, 1, 0]))).inputs
    assert (spec.ranges["h"], spec.ranges["w"]) == ((1, 1024), (2, 1024))
    (spec,) = load(save(tmp_path, pooled(auto_pad="SAME_UPPER"))).inputs
    assert (spec.ranges["h"], spec.ranges["w"]) == ((1, 1024), (1, 1024))


def test_a_file_whose_only_size_is_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    made = pooled()
    made.graph.input[0].CopyFrom(value("x", F32, [1, 2, 1, 8]))
    refused(BadFileError, save(tmp_path, made), "1 x 8", "'/pool'", "smaller than its window")


# Samples.


def image(*shape: int) -> Sample:
    return Sample(inputs=(noise(*shape),), target=None)


def test_ranges_come_from_samples_and_one_size_is_fixed(tmp_path: Path) -> None:
    found = load(save(tmp_path, convolution()), samples=[image(2, 16, 20), image(2, 16, 44)])
    assert found.inputs[0].shape == ("batch", 2, 16, "w")
    assert found.inputs[0].ranges["w"] == (20, 44)
    assert any("'h' is 16 in every sample" in note for note in found.notes)


def test_an_input_without_a_shape_needs_samples_or_a_word(tmp_path: Path) -> None:
    made = linear()
    made.graph.input[0].CopyFrom(value("x", F32, None))
    path = save(tmp_path, made)
    refused(UsageError, path, "does not say the shape", "'x'")
    assert load(path, samples=[image(4)]).inputs[0].shape == ("batch", 4)
    assert load(path, ["x=float32[batch:2..3,4]"]).inputs[0].ranges == {"batch": (2, 3)}


def test_samples_have_no_batch_wherever_it_stands(tmp_path: Path) -> None:
    path = save(tmp_path, recurrent())
    found = load(path, samples=[image(5, 3), image(9, 3)], states=[("h0", "hn"), ("c0", "cn")])
    assert found.inputs == (TensorSpec("x", ("time", "batch", 3), "float32", found.inputs[0].ranges),)
    assert found.inputs[0].ranges == {"time": (5, 9), "batch": (1, 64)}


def test_data_is_read_for_the_inputs_as_the_file_has_them_and_the_user_says(tmp_path: Path) -> None:
    path = save(tmp_path, attention())
    said = Own(source=path.name, folder=tmp_path, inputs=parse_inputs(["mask=bool[batch:1..4,n:2..9]"]))
    assert graph.data_inputs(said) == (TensorSpec("ids", ("batch", "ids.1"), "int64"), *said.inputs)
    by_place = Own(source=path.name, folder=tmp_path, inputs=parse_inputs(["a=int64[1,4]", "b=bool[1,4]"]))
    assert graph.data_inputs(by_place) == by_place.inputs
    made = linear()
    made.graph.input[0].CopyFrom(value("x", F32, None))
    assert graph.data_inputs(Own(source=save(tmp_path, made).name, folder=tmp_path)) == ()


def test_samples_that_do_not_fit_are_a_bad_file(tmp_path: Path) -> None:
    path = save(tmp_path, linear())
    refused(BadFileError, path, "(5,)", "(4)", samples=[image(5)])
    refused(BadFileError, path, "2 arrays", samples=[Sample(inputs=(noise(4), noise(4)), target=None)])


# States.


@pytest.mark.parametrize(
    ("kind", "states"), [("LSTM", (("h0", "hn"), ("c0", "cn"))), ("GRU", (("h0", "hn"),))]
)
def test_states_stand_apart(tmp_path: Path, kind: str, states: tuple[tuple[str, str], ...]) -> None:
    found = load(save(tmp_path, recurrent(kind)), states=states)
    assert found.states == tuple(State(name, output, (1, "batch", 4)) for name, output in states)
    assert shapes(found.inputs) == {"x": ("time", "batch", 3)}
    assert shapes(found.outputs) == {"s": ("time", "batch", 4)}


def test_three_states_without_sizes_are_taken_for_the_batch_they_run_with(tmp_path: Path) -> None:
    nodes, sources = [], "x"
    for place in range(3):
        nodes.append(
            node("GRU", [sources, "W", "R", "", "", f"h{place}"], [f"y{place}", f"n{place}"], hidden_size=4)
        )
        nodes.append(node("Squeeze", [f"y{place}", "one"], [f"s{place}"]))
        sources = f"s{place}"
    made = model(
        nodes,
        [value(f"h{place}", F32, [1, None, 4]) for place in range(3)] + [value("x", F32, ["time", None, 4])],
        [value(name, F32, None) for name in ("s2", "n0", "n1", "n2")],
        [weight("W", noise(1, 12, 4)), weight("R", noise(1, 12, 4)), weight("one", [1])],
    )
    found = load(save(tmp_path, made), states=[(f"h{place}", f"n{place}") for place in range(3)])
    assert shapes(found.inputs) == {"x": ("time", "x.1", 4)}
    assert {state.shape for state in found.states} == {(1, "x.1", 4)}


@pytest.mark.parametrize(
    ("pair", "word"),
    [(("h", "hn"), "no input 'h'"), (("h0", "h1"), "no output 'h1'"), (("h0", "s"), "'s' is")],
)
def test_states_that_do_not_pair_are_refused(tmp_path: Path, pair: tuple[str, str], word: str) -> None:
    refused(UsageError, save(tmp_path, recurrent()), word, states=[pair])


def test_one_output_is_left_to_be_an_answer(tmp_path: Path) -> None:
    made = model([node("Relu", ["h"], ["hn"])], [value("h", F32, [1, 4])], [value("hn", F32, None)])
    refused(UsageError, save(tmp_path, made), "every output", states=[("h", "hn")])


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
def test_sub_graphs_run(tmp_path: Path, kind: str) -> None:
    assert shapes(load(save(tmp_path, looping(kind))).outputs) == {"y": ("batch", 3)}


def test_a_loop_without_an_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx_probe, "LIMIT_S", 0.3)
    made = looping("Loop")
    made.graph.initializer[1].CopyFrom(weight("times", 2**60))
    refused(UnsupportedError, save(tmp_path, made), "longer than 0.3 s")


# Files that are not what they claim.


def test_text_that_is_no_text_is_a_bad_file(tmp_path: Path) -> None:
    content = save(tmp_path, linear()).read_bytes()
    (tmp_path / "net.onnx").write_bytes(content.replace(b"/act/Relu", b"/act\xff\xfe\xfd\xfc\xfb"))
    refused(BadFileError, tmp_path / "net.onnx", "UTF-8")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    refused(BadFileError, tmp_path / "none.onnx", "no such file")
    for content, word in (
        (b"", "is empty"), (b"not a model at all", "no ONNX model"), (b"PK\x03\x04zip", "no ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ):  # fmt: skip
        path = tmp_path / "net.onnx"
        path.write_bytes(content)
        refused(BadFileError, path, word)
    refused(BadFileError, tmp_path, "no such file")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = save(tmp_path, linear())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(BadFileError, path, "no ONNX model, or is cut short")


def test_a_weight_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    made = linear()
    made.graph.initializer[0].dims[0] = 400
    refused(BadFileError, save(tmp_path, made), "'w'", "4800 bytes", "48 bytes")
    made = linear()
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].float_data.extend([1.0, 2.0])
    refused(BadFileError, save(tmp_path, made), "'w'", "12 values", "2 values")
    made.graph.initializer[0].dims[0] = -4
    refused(BadFileError, save(tmp_path, made), "'w'", "-4")
    made.graph.initializer[0].data_type = 99
    refused(BadFileError, save(tmp_path, made), "unknown type 99")


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.COMPLEX64, BOOL, F16])
@pytest.mark.parametrize("raw", [True, False])
def test_every_way_to_hold_a_tensor_is_counted_right(tmp_path: Path, kind: int, raw: bool) -> None:
    made = linear(21)
    values = np.ones(3, helper.tensor_dtype_to_np_dtype(kind))
    tensor = helper.make_tensor("spare", kind, [3], values if raw else values.tolist(), raw=raw)
    made.graph.initializer.append(tensor)
    assert len(read_model(save(tmp_path, made)).graph.initializer) == 3


def lying(shape: Sequence[int | str], output: Sequence[int | str]) -> onnx.ModelProto:
    made = linear(value_info=[value("h", F32, shape)])
    made.graph.output[0].CopyFrom(value("y", F32, output))
    return made


@pytest.mark.parametrize(
    ("shape", "output", "words"),
    [
        (["batch", 3], ["batch", 5], ["'y'", "(batch, 5)", "(2, 3)"]),
        (["batch", 3], [1, 3], ["'y'", "(1, 3)", "(2, 3)"]),
        (["batch", 3], ["batch", 3, 1], []),
        (["batch", 7], ["batch", 3], ["'h'", "(batch, 7)"]),
        (["batch", 3, 3], ["batch", 3], ["'h'"]),
    ],
)
def test_shapes_that_do_not_hold_are_a_lie(
    tmp_path: Path, shape: list[int | str], output: list[int | str], words: list[str]
) -> None:
    refused(BadFileError, save(tmp_path, lying(shape, output)), *words)


def test_a_size_that_holds_where_it_is_used_is_no_lie(tmp_path: Path) -> None:
    found = load(save(tmp_path, lying([1, 3], [1, 3])), ["x=float32[1,4]"])
    assert found.outputs[0].shape == (1, 3)


def test_a_type_that_does_not_hold_and_a_graph_that_is_not_whole(tmp_path: Path) -> None:
    refused(BadFileError, save(tmp_path, linear(value_info=[value("h", I64, ["batch", 3])])), "int64")
    made = linear()
    made.graph.node[0].input[0] = "nowhere"
    refused(BadFileError, save(tmp_path, made), "nowhere")
    made = linear()
    made.graph.input[0].CopyFrom(value("x", F32, ["batch", 5]))
    refused(BadFileError, save(tmp_path, made), "MatMul")


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    made = linear()
    made.graph.initializer.append(weight("w", noise(4, 3, seed=1)))
    refused(BadFileError, save(tmp_path, made), "weight 'w' stands twice")
    made = linear()
    made.graph.output.append(value("y", F32, ["batch", 3]))
    refused(BadFileError, save(tmp_path, made), "output 'y' stands twice")


def test_a_network_that_answers_differently_each_time_is_refused(tmp_path: Path) -> None:
    made = model(
        [node("RandomNormalLike", ["x"], ["r"], "/noise"), node("Add", ["x", "r"], ["y"])],
        [value("x", F32, ["batch", 4])],
        [value("y", F32, None)],
    )
    refused(UnsupportedError, save(tmp_path, made), "'y' differs from run to run", "'/noise'")
    made = model(
        [node("Dropout", ["x", "half", "training"], ["y"], "/drop")],
        [value("x", F32, ["batch", 64])],
        [value("y", F32, None)],
        [weight("half", np.float32(0.5)), weight("training", np.array(True))],
    )
    refused(UnsupportedError, save(tmp_path, made), "'/drop'")


def spoilt(number: float, place: str) -> onnx.ModelProto:
    made = attention() if place == "mask" else linear()
    if place == "constant":
        array = noise(4, 3)
        array[1, 1] = number
        del made.graph.initializer[0]
        made.graph.node.insert(0, node("Constant", [], ["w"], value=weight("", array)))
    elif place == "mask":
        made.graph.initializer[-1].CopyFrom(weight("never", np.float32(number)))
    else:
        array = noise(4, 3)
        array[0, 0] = number
        made.graph.initializer[0].CopyFrom(weight("w", array))
    return made


@pytest.mark.parametrize(
    ("number", "place", "word"),
    [
        (np.nan, "weight", "'w' holds NaN"),
        (np.nan, "constant", "'w' holds NaN"),
        (np.nan, "mask", "'never' holds NaN"),
        (np.inf, "weight", "'w' holds infinite values"),
        (np.inf, "constant", "'w' holds infinite values"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path, number: float, place: str, word: str
) -> None:
    refused(BadFileError, save(tmp_path, spoilt(number, place)), word)


def test_an_infinite_mask_is_legitimate_and_an_infinite_weight_behind_a_transpose_is_not(
    tmp_path: Path,
) -> None:
    load(save(tmp_path, spoilt(-np.inf, "mask")))
    made = model(
        [node("Transpose", ["v"], ["w"]), node("MatMul", ["x", "w"], ["y"])], [value("x", F32, ["n", 4])],
        [value("y", F32, None)], [weight("v", np.full((3, 4), np.inf, np.float32))],
    )  # fmt: skip
    refused(BadFileError, save(tmp_path, made), "'v' holds infinite values")


# Operators.


def test_unknown_operators_and_domains_name_the_node(tmp_path: Path) -> None:
    made = linear()
    made.graph.node[0].op_type = "MatMull"
    refused(UnsupportedError, save(tmp_path, made), "/head/fc/MatMul", "MatMull", "opset 18")
    made.graph.node[0].domain = "my.company"
    refused(UnsupportedError, save(tmp_path, made), "/head/fc/MatMul", "my.company::MatMull")


def test_an_unknown_operator_inside_a_sub_graph_is_found(tmp_path: Path) -> None:
    made = looping("Loop")
    body: Any = next(entry.g for entry in made.graph.node[0].attribute if entry.name == "body")
    body.node[1].op_type = "Matrix"
    refused(UnsupportedError, save(tmp_path, made), "Matrix")


@pytest.mark.parametrize("opset", [9, 10, 4000])
def test_opsets_that_are_too_old_or_too_new_are_told_with_the_cure(tmp_path: Path, opset: int) -> None:
    made = linear()
    made.opset_import[0].version = opset
    assert "18" in refused(UnsupportedError, save(tmp_path, made), f"opset {opset}").hint


def test_a_file_without_opset_inputs_or_outputs(tmp_path: Path) -> None:
    made = linear()
    made.opset_import[0].domain = "somewhere"
    refused(BadFileError, save(tmp_path, made), "opset")
    made = linear()
    del made.graph.input[:]
    refused(UnsupportedError, save(tmp_path, made), "no inputs")


def test_inputs_that_are_no_tensors_or_of_a_strange_type(tmp_path: Path) -> None:
    made = linear()
    made.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", F32, None))
    refused(UnsupportedError, save(tmp_path, made), "'x' is a sequence")
    made.graph.input[0].CopyFrom(value("x", TensorProto.STRING, ["n"]))
    refused(UnsupportedError, save(tmp_path, made), "'x' is of type STRING")
    made = model(
        [node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)], [value("x", F32, [2])],
        [value("y", TensorProto.BFLOAT16, [2])],
    )  # fmt: skip
    refused(UnsupportedError, save(tmp_path, made), "'y' is of type BFLOAT16")


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    made = linear()
    values, places = weight("s", np.ones(1, np.float32)), weight("", np.zeros(1, np.int64))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    refused(UnsupportedError, save(tmp_path, made), "'s' is a sparse tensor")


# External data.


def test_external_data_is_read_and_counted_into_the_hash(tmp_path: Path) -> None:
    path = external(tmp_path, "data/net.bin", offset=8)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "net.bin").write_bytes(b"12345678" + weight_bytes())
    whole = read_model(path)
    assert whole.graph.initializer[0].raw_data == weight_bytes()
    before = load(path).sha256
    (tmp_path / "data" / "net.bin").write_bytes(b"12345678" + weight_bytes()[::-1])
    assert load(path).sha256 != before


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(weight_bytes())
    (tmp_path / "net.bin").symlink_to("real.bin")
    assert load(external(tmp_path)).outputs[0].shape == ("batch", 3)


def outside_by_dots(folder: Path, secret: Path) -> Path:
    return external(folder, f"../{secret.name}")


def outside_by_inner_dots(folder: Path, secret: Path) -> Path:
    return external(folder, f"sub/../../{secret.name}")


def outside_by_root(folder: Path, secret: Path) -> Path:
    return external(folder, str(secret))


def outside_by_link(folder: Path, secret: Path) -> Path:
    path = external(folder)
    (folder / "net.bin").symlink_to(secret)
    return path


def outside_by_linked_folder(folder: Path, secret: Path) -> Path:
    path = external(folder, f"sub/{secret.name}")
    (folder / "sub").symlink_to(secret.parent)
    return path


def outside_by_windows_words(folder: Path, secret: Path) -> Path:
    return external(folder, f"..\\{secret.name}")


def outside_by_drive(folder: Path, secret: Path) -> Path:
    return external(folder, f"C:\\{secret.name}")


@pytest.mark.parametrize(
    "make",
    [
        outside_by_dots, outside_by_inner_dots, outside_by_root, outside_by_link, outside_by_linked_folder,
        outside_by_windows_words, outside_by_drive,
    ],
)  # fmt: skip
def test_external_data_outside_the_folder_is_never_read(
    tmp_path: Path, make: Callable[[Path, Path], Path]
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weight_bytes())
    refused(BadFileError, make(tmp_path / "net", secret), "'w' points outside the file's folder")


@pytest.mark.parametrize("location", ["", " ", "a\0b"])
def test_a_place_that_is_no_name(tmp_path: Path, location: str) -> None:
    refused(BadFileError, external(tmp_path, location), "names no data file")


def test_external_data_that_is_missing_or_too_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    refused(BadFileError, path, "'net.bin'", "missing")
    refused(BadFileError, external(tmp_path, "x" * 5000), "missing")
    (tmp_path / "net.bin").write_bytes(weight_bytes()[:-1])
    refused(BadFileError, external(tmp_path), "cut short", "48", "47")
    (tmp_path / "net.bin").write_bytes(weight_bytes())
    refused(BadFileError, external(tmp_path, offset=4), "cut short")
    refused(BadFileError, external(tmp_path, offset=-4), "byte 44")
    refused(BadFileError, external(tmp_path, length=40), "needs 48 bytes", "claims 40")


def test_more_than_two_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = external(tmp_path, length=2**32)
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].dims[:] = [2**15, 2**15]
    save(tmp_path, made)
    (tmp_path / "net.bin").touch()
    os.truncate(tmp_path / "net.bin", 2**32)
    refused(UnsupportedError, path, "4.0 GB", "2 GB at most")


def test_a_file_of_more_than_two_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    path = save(tmp_path, linear())
    os.truncate(path, 2**31)
    refused(BadFileError, path, "2.0 GB", "no file of this kind")
