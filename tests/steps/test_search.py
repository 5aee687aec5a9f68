"""The parts of the search: the order of retreat, the verdict, the samples, the deadline."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.proof import Check
from edgekit.spec import Artifact, Search
from edgekit.steps._search.candidate import Candidate, Form
from edgekit.steps._search.deadline import Deadline, TimeIsUp
from edgekit.steps._search.judge import Verdict
from edgekit.steps._search.order import fewest, narrowed, taken_back, worst_first
from edgekit.steps._search.race import worth_timing
from edgekit.steps._search.samples import _parted
from edgekit.steps._search.verdict import chosen, sentence


def test_the_layer_with_the_most_error_for_its_work_goes_first() -> None:
    errors = {"large": 0.10, "small": 0.05, "calm": 0.001}
    costs = {"large": 1000.0, "small": 10.0, "calm": 1000.0}
    assert worst_first(errors, costs) == ["small", "large", "calm"]


@pytest.mark.parametrize("needed", [0, 1, 3, 7, 8])
def test_the_fewest_layers_are_found(needed: int) -> None:
    order = [f"layer{index}" for index in range(8)]
    assert fewest(order, lambda floats: len(floats) >= needed) == needed


def test_no_count_is_enough() -> None:
    assert fewest(["a", "b"], lambda floats: False) is None
    assert narrowed(1, 3, lambda count: False) is None


@pytest.mark.parametrize("needed", range(2, 20))
def test_few_engines_are_built_until_one_keeps_the_budget(needed: int) -> None:
    tried: list[int] = []

    def keeps(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert narrowed(2, 20, keeps) == needed
    assert len(set(tried)) == len(tried) <= 9


def test_the_dearest_layer_that_need_not_be_float_is_quantized_again() -> None:
    costs = {"a": 1.0, "b": 100.0, "c": 50.0}
    kept = taken_back(["a", "b", "c"], costs, lambda floats: "a" in floats and len(floats) >= 2)
    assert kept == ["a", "c"]


def candidate(
    precision: str, p50: float | None, error: float = 0.01, layers: int = 0, rest: str = ""
) -> Candidate:
    quantized = tuple(f"layer{index}" for index in range(layers))
    return Candidate(
        form=Form(precision=precision, quantized=quantized, rest=rest),
        graph=Artifact(kind="onnx", path=Path("g.onnx"), sha256=""),
        folder=Path("f"),
        verdict=Verdict(rel_l2=error, checks=(Check("parity.rel_l2", error, 0.05),)),
        layers={"int8": layers} if layers else {"fp32": 3},
        p50_ms=p50,
    )


def test_the_fastest_that_keeps_the_limits_is_chosen() -> None:
    fast_and_wrong = candidate("int8", 1.0, error=0.2, layers=5)
    right = candidate("int8", 2.0, layers=3)
    floating = candidate("fp32", 1.5, error=0.0)
    every = [fast_and_wrong, right, floating]
    assert chosen(every, any_precision=True) is floating
    assert chosen(every, any_precision=False) is right
    assert chosen([fast_and_wrong], any_precision=False) is fast_and_wrong


@pytest.mark.parametrize(("int8", "precision"), [(0.9, "int8"), (0.99, "fp32"), (1.1, "fp32")])
def test_what_is_shipped_is_what_the_sentence_says(int8: float, precision: str) -> None:
    every = [candidate("fp32", 1.0, error=0.0), candidate("int8", int8, layers=3)]
    best = chosen(every, any_precision=True)
    assert best.form.precision == precision
    assert sentence(every, best).startswith(f"ship {precision}")


def test_int8_that_no_layer_runs_in_does_not_count() -> None:
    empty = candidate("int8", 1.0)
    assert not empty.keeps
    assert chosen([empty, candidate("fp32", 3.0)], any_precision=True).form.precision == "fp32"


def test_a_value_close_to_the_limit_is_not_kept() -> None:
    assert candidate("int8", 1.0, error=0.047, layers=1).keeps
    assert not candidate("int8", 1.0, error=0.049, layers=1).keeps


@pytest.mark.parametrize(
    ("int8", "fp32", "said"),
    [
        (1.0, 2.0, "ship int8: 2.00 times as fast as fp32"),
        (2.0, 1.0, "ship fp32: int8 is 2.00 times as slow as it"),
        (1.0, 1.01, "ship fp32: int8 is not faster than it"),
    ],
)
def test_one_line_says_which_to_ship(int8: float, fp32: float, said: str) -> None:
    every = [candidate("int8", int8, layers=2), candidate("fp32", fp32)]
    assert sentence(every, every[0]).startswith(said)


def test_without_an_int8_plan_the_float_form_is_named() -> None:
    every = [candidate("int8", 1.0, error=0.5, layers=2), candidate("fp32", 2.0)]
    assert sentence(every, every[0]) == "no int8 plan keeps the limits: ship fp32 2.00 ms, error 1%"


def test_what_is_timed_is_every_float_and_the_best_plans_of_each_rest() -> None:
    every = [
        candidate("fp32", None),
        candidate("bf16", None, error=0.2),
        candidate("int8", None, layers=1, rest="bf16"),
        candidate("int8", None, layers=5, rest="bf16"),
        candidate("int8", None, layers=3, rest="bf16"),
        candidate("int8", None, layers=2, rest="fp32"),
    ]
    assert worth_timing(every) == [0, 3, 4, 5]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 17, 1000])
def test_samples_held_back_are_none_of_the_others(count: int) -> None:
    some, rest = _parted(count, 4, seed=0)
    assert sorted([*some, *rest]) == list(range(count))
    assert 1 <= len(some) <= 512
    assert (some, rest) == _parted(count, 4, seed=0)
    assert count < 20 or some != _parted(count, 4, seed=1)[0]


def test_a_search_ends_with_its_trials_and_with_its_time() -> None:
    said: list[tuple[str, int, int]] = []
    deadline = Deadline(Search(seconds=1000, trials=2), lambda *told: said.append(told))
    deadline.spend("one")
    deadline.spend("two")
    with pytest.raises(TimeIsUp):
        deadline.spend("three")
    assert said[-1][1:] == (2, 2)
    assert " s left" in said[0][0]
    late = Deadline(Search(seconds=1), lambda *told: None)
    late.start -= 2
    with pytest.raises(TimeIsUp):
        late.spend("one")
