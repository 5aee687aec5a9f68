"""What is inferred from samples and declarations, and said."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.sources import factory
from edgekit.spec import Sample
from tests.sources.strange import found, own, samples


def described(name: str, given: list[Sample], names: tuple[str, ...] = ()) -> factory.Found:
    said = own(f"shop.nets:{name}")
    return factory.describe(said, factory.make(said), given, names)


def test_samples_of_varying_width_make_the_width_dynamic_and_it_is_said() -> None:
    made = described("Reader", samples(((1, 16, 40),), ((1, 16, 57),), ((1, 16, 64),)))
    assert made.inputs == (
        TensorSpec("image", ("batch", 1, 16, "width"), "float32", {"batch": (1, 64), "width": (32, 64)}),
    )
    assert made.outputs[0].shape == ("output.0", "batch", 11)
    assert any(
        "image=float32[batch:1..64,1,16,width:32..64] was inferred from 3 samples; they have width 40..64"
        in note
        for note in made.notes
    )


def test_a_range_is_not_widened_beyond_what_the_network_takes() -> None:
    made = described("Encoder", [Sample((np.ones(n, "int64"), np.ones(n, "int32")), None) for n in (5, 9)])
    assert [spec.shape for spec in made.inputs] == [("batch", "time"), ("batch", "time")]
    assert made.inputs[0].ranges["time"] == (4, 16)
    assert [spec.dtype for spec in made.inputs] == ["int64", "int32"]
    assert [spec.shape for spec in made.outputs] == [("batch", "time", 16), ("batch", 16)]
    small = described("Pooling", samples(((1, 9),), ((1, 12),)))
    assert small.inputs[0].ranges["time"] == (9, 16)


def test_one_size_is_a_fixed_size_and_float64_becomes_float32() -> None:
    made = described("Fixed", samples(((1, 8, 8),), dtype="float64"))
    assert made.inputs == (TensorSpec("image", ("batch", 1, 8, 8), "float32", {"batch": (1, 64)}),)


def test_the_names_of_the_data_are_used() -> None:
    arrays = [Sample((np.ones(4, "int64"), np.ones(4, "int64")), None)]
    made = described("Encoder", arrays, ("attention_mask", "tokens"))
    assert [spec.name for spec in made.inputs] == ["attention_mask", "tokens"]


def test_a_network_for_one_at_a_time_gets_a_batch_of_one() -> None:
    made = described("Single", samples(((4,),)))
    assert made.inputs[0].shape == (1, 4)
    assert any("one at a time" in note for note in made.notes)


def test_the_factory_declares_its_inputs_and_states() -> None:
    made = found("denoiser")
    assert [spec.name for spec in made.inputs] == ["feats"]
    assert [spec.name for spec in made.outputs] == ["gains"]
    assert made.outputs[0].shape == ("batch", "time", 10)
    assert made.states == (
        State("h1", "h1n", (1, "batch", 8)),
        State("h2", "h2n", (1, "batch", 16)),
        State("h3", "h3n", (1, "batch", 12)),
    )
    assert any(note.startswith("inputs as the factory declares them: feats=") for note in made.notes)


def test_with_nothing_to_go_by_the_hint_shows_what_to_write() -> None:
    with pytest.raises(UsageError) as caught:
        found("Detector")
    assert "Detector.forward(x: torch.Tensor)" in caught.value.message
    assert "--input x=float32[batch,3,224,224]" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (samples(((1, 8, 8),), ((8, 8),)), "have 2 to 3 dimensions"),
        (samples(((1, 8, 8),), ((1, 8, 8), (2,))), "same number of arrays"),
        ([Sample((np.zeros((1, 8, 8), "uint16"),), None)], "are uint16"),
        (samples(((1, 9, 9),)), "Fixed fails when fed image float32\\[2, 1, 9, 9\\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused(given: list[Sample], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        described("Fixed", given)


def test_a_failing_forward_names_the_users_line_and_what_was_fed() -> None:
    with pytest.raises(UsageError) as caught:
        found("Fixed", ["image=[batch,1,8,9]"])
    assert "Fixed fails when fed image float32[2, 1, 8, 9]" in caught.value.message
    assert "nets.py:" in caught.value.message
    assert "return self.fc(image.flatten(1))" in caught.value.message


def test_a_size_in_the_range_that_fails_is_named() -> None:
    with pytest.raises(UsageError, match="though it takes width 24") as caught:
        found("Choosy", ["image=[batch,1,8,width:4..128]"])
    assert "'width'" in caught.value.hint


@pytest.mark.parametrize("name", ["Random", "Remembering"])
def test_a_network_that_is_no_function_of_its_inputs_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="gives another 'output' for the same input") as caught:
        found(name, ["x=[batch,4]"])
    assert "training=self.training" in caught.value.hint
    assert "--state" in caught.value.hint


@pytest.mark.parametrize(
    ("states", "message", "hint"),
    [
        (["hx.0=hh"], "there is no output 'hh'", "did you mean h?"),
        (["hy.0=h"], "there is no input 'hy.0'", "did you mean hx.0?"),
        (["hx.0=h", "hx.0=c"], "'hx.0' stands twice", ""),
        (
            ["hx.0=output.0"],
            "'hx.0' is \\[batch, 10\\] and comes back as \\[batch, 5, 3\\]",
            "keeps its shape",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(states: list[str], message: str, hint: str) -> None:
    inputs = ["x=[batch:1..8,5,6]", "hx.0=[batch:1..8,10]", "hx.1=[batch:1..8,10]"]
    with pytest.raises((UsageError, UnsupportedError), match=message) as caught:
        found("Stepper", inputs, states)
    assert hint in caught.value.hint


def test_an_output_with_an_inputs_name_gets_another() -> None:
    made = found("Echo", ["x=[batch,4]", "h=[batch,4]"], ["h=h"])
    assert [spec.name for spec in made.outputs] == ["x.out"]
    assert made.states == (State("h", "h.out", ("batch", 4)),)


def test_outputs_keep_their_types() -> None:
    made = found("Detector", ["x=[batch:1..4,3,height:16..64,width:16..96]"])
    assert [(spec.name, spec.shape, spec.dtype) for spec in made.outputs] == [
        ("boxes", ("batch", "boxes.1", 4), "float32"),
        ("scores", ("batch", "scores.1"), "float32"),
        ("labels", ("batch", "labels.1"), "int64"),
    ]
