from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import Labels
from edgekit.runtime.proof import Check, Parity, load_pairs, paired_drop, save_pairs, summary

LABELS = Labels(("cat", "dog"))


def feed(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"logits": np.array(rows, np.float32)}


def test_relative_l2_sqnr_and_max_abs_are_what_they_are_by_definition() -> None:
    parity = Parity()
    parity.add(feed([3.0, 4.0]), feed([3.0, 4.5]))
    assert parity.rel_l2 == pytest.approx(0.1)
    assert parity.sqnr_db == pytest.approx(20)
    assert parity.max_abs == pytest.approx(0.5)


def test_errors_of_several_calls_add_up_before_the_root() -> None:
    parity = Parity()
    parity.add(feed([3.0, 4.0]), feed([3.0, 4.5]))
    parity.add(feed([0.0, 5.0]), feed([0.0, 5.0]))
    assert parity.rel_l2 == pytest.approx(math.sqrt(0.25 / 50))


@pytest.mark.parametrize(
    "target", [[[math.nan, 1.0]], [[math.inf, 1.0]], [[1.0]]], ids=["NaN", "infinity", "another shape"]
)
def test_what_is_not_even_comparable_never_passes(target: list[list[float]]) -> None:
    parity = Parity(None)
    parity.add(feed([1.0, 1.0]), feed(*target))
    assert parity.rel_l2 == math.inf
    assert not parity.checks({"rel_l2": 1e9})[0].passed


def test_agreement_counts_decoded_answers() -> None:
    parity = Parity(LABELS)
    parity.add(feed([1.0, 0.0], [1.0, 0.0]), feed([1.0, 0.9], [0.0, 1.0]))
    assert parity.agreement == 0.5
    agreement = parity.checks({"agreement": 0.6})[-1]
    assert (agreement.name, agreement.passed, agreement.told()["bound"]) == ("parity.agreement", False, "min")


def test_a_check_without_a_limit_measures_and_nan_fails() -> None:
    assert Check("x", 5.0).passed
    assert not Check("x", math.nan, 1.0).passed
    assert not Check("x", math.nan, 1.0, at_least=True).passed
    assert Check("x", math.inf, None).told()["value"] is None


def test_the_interval_of_the_drop_matches_agresti_and_min() -> None:
    reference = np.array([1.0] * 950 + [0.0] * 50)
    target = reference.copy()
    target[:10] = 0  # ten become wrong
    target[-4:] = 1  # four become right
    drop, low, high = paired_drop(reference, target)
    worse, better, total = 10.5, 4.5, 1002.0
    half = 1.96 * math.sqrt(worse + better - (worse - better) ** 2 / total) / total
    assert drop == pytest.approx(0.006)
    assert low == pytest.approx((worse - better) / total - half)
    assert high == pytest.approx((worse - better) / total + half)
    assert low < 0 < high


def test_equal_answers_still_leave_an_interval() -> None:
    drop, low, high = paired_drop(np.ones(100), np.ones(100))
    assert drop == 0
    assert low < 0 < high


def test_the_interval_covers_the_true_drop_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        kind = rng.choice(3, size=500, p=(0.96, 0.03, 0.01))  # same, worse, better
        reference, target = (kind != 2).astype(float), (kind != 1).astype(float)
        _, low, high = paired_drop(reference, target)
        covered += low <= 0.02 <= high
    assert 0.92 <= covered / 400 <= 0.985


def test_scores_that_are_not_right_or_wrong_get_the_normal_interval() -> None:
    drop, low, high = paired_drop(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.8, 0.6]))
    assert low < drop < high
    assert drop == pytest.approx(0.2 / 3)


def test_percentiles_and_throughput() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0], batch=2)
    assert found["p50_ms"] == 2.5
    assert found["throughput"] == 800


def test_golden_pairs_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    inputs = [{"image": np.full((1, index + 1), index, np.float32)} for index in range(12)]
    outputs = [{"logits": np.full((1, 2), index, np.float32)} for index in range(12)]
    save_pairs(path, inputs, outputs)
    found_inputs, found_outputs = load_pairs(path)
    assert [one["image"].shape for one in found_inputs] == [one["image"].shape for one in inputs]
    assert [one["logits"][0, 0] for one in found_outputs] == list(range(12))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"nonsense"])
def test_garbage_is_no_golden_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="holds no recorded"):
        load_pairs(path)


def test_a_pickled_array_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, **{"input/0000/image": np.array([{"an": "object"}], dtype=object)})
    with pytest.raises(BadFileError):
        load_pairs(path)


def test_each_output_has_its_own_error() -> None:
    large, small = np.full(4, 1000.0, np.float32), np.full(4, 0.01, np.float32)
    parity = Parity()
    parity.add({"large": large, "small": small}, {"large": large, "small": 2 * small})
    assert parity.rel_l2 < 1e-4
    assert parity.by_output == {"large": 0.0, "small": pytest.approx(1.0)}
    failed = [check.name for check in parity.checks({"rel_l2": 0.1}) if not check.passed]
    assert failed == ["parity.rel_l2.small"]


PAIR = {"boxes": np.full(4, 10.0, np.float32), "scores": np.full(4, 1.0, np.float32)}


def off(share: float) -> dict[str, np.ndarray]:
    return {**PAIR, "scores": PAIR["scores"] * (1 + share)}


@pytest.mark.parametrize(
    ("limits", "failed"),
    [
        ({"rel_l2": 0.1}, ["rel_l2.scores"]),
        ({"rel_l2": 0.1, "rel_l2.scores": 0.3}, []),
        ({"rel_l2": 0.5, "rel_l2.scores": 0.1}, ["rel_l2.scores"]),
        ({"rel_l2": 0.01, "rel_l2.scores": 0.3}, []),
        ({"rel_l2": 0.1, "rel_l2.boxes": 1e-9}, ["rel_l2", "rel_l2.scores"]),
        ({"rel_l2": 1e-9, "rel_l2.boxes": 1e-3, "rel_l2.scores": 0.3}, []),
    ],
)
def test_an_output_with_a_limit_of_its_own(limits: dict[str, float], failed: list[str]) -> None:
    parity = Parity()
    parity.add(PAIR, off(0.2))
    assert [check.name for check in parity.checks(limits, "p") if not check.passed] == [
        f"p.{name}" for name in failed
    ]


def test_one_output_may_have_a_limit_of_its_own() -> None:
    parity = Parity()
    parity.add(feed([3.0, 4.0]), feed([3.0, 4.5]))
    checks = {check.name: check for check in parity.checks({"rel_l2": 1e-3, "rel_l2.logits": 0.2})}
    assert checks["parity.rel_l2"].limit is None
    assert (checks["parity.rel_l2.logits"].limit, checks["parity.rel_l2.logits"].passed) == (0.2, True)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers_are_counted_and_leave_the_error_of_floats_alone(dtype: str) -> None:
    ids = np.array([0, 1, 1, 0, 1, 0, 0, 0], dtype)
    other = ids.copy()
    other[0] = 1
    parity = Parity()
    parity.add({**PAIR, "ids": ids}, {**PAIR, "ids": other})
    checks = {check.name: check for check in parity.checks({"rel_l2": 1e-6, "agreement": 0.9})}
    assert (parity.rel_l2, parity.max_abs) == (0, 0)
    assert "parity.rel_l2.ids" not in checks
    assert (checks["parity.agreement.ids"].value, checks["parity.agreement.ids"].passed) == (0.875, False)
    loose = parity.checks({"agreement": 0.9, "rel_l2.ids": 0.2})
    assert all(check.passed for check in loose)


def test_a_network_of_integers_alone_has_no_relative_error_and_no_free_pass() -> None:
    ids = {"ids": np.array([5, 7])}
    parity = Parity()
    parity.add(ids, {"ids": np.array([[5, 7]])})
    assert [(check.name, check.passed) for check in parity.checks({"rel_l2": 1, "agreement": 0.5})] == [
        ("parity.agreement.ids", False)
    ]


def test_decoded_answers_can_be_measured_without_a_gate() -> None:
    parity = Parity(LABELS)
    parity.add(feed([1.0, 0.0]), feed([0.0, 1.0]))
    last = parity.checks({"agreement": 0.9}, answers=False)[-1]
    assert (last.name, last.value, last.limit) == ("parity.agreement", 0.0, None)


def test_an_output_of_integers_that_is_empty_in_both_is_equal() -> None:
    parity = Parity()
    nothing = np.zeros((0, 3), np.int64)
    parity.add({"chosen": nothing}, {"chosen": nothing})
    assert parity.equal_by_output == {"chosen": 1.0}
    parity.add({"chosen": nothing}, {"chosen": np.zeros((1, 3), np.int64)})
    assert parity.equal_by_output == {"chosen": 0.5}
