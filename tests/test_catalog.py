from __future__ import annotations

import pytest

from edgekit import catalog, registry


@pytest.mark.parametrize("kind", ["models", "recipes", "targets", "data", "methods", "boards"])
def test_every_listing_has_rows_that_share_their_keys(kind: str) -> None:
    rows = catalog.rows(kind)
    if kind != "boards":
        assert rows
    assert len({tuple(row) for row in rows}) <= 1


def test_models_are_told_with_task_parameters_input_and_score() -> None:
    rows = {row["name"]: row for row in catalog.models()}
    assert set(rows) == set(registry.names("model"))
    crnn = rows["crnn"]
    assert crnn["task"] == "recognize"
    assert 500_000 < crnn["parameters"] <= 2_000_000
    assert "width" in crnn["input"]
    assert crnn["score"].startswith("word_accuracy 0.9")


def test_a_target_that_is_not_installed_says_how() -> None:
    rows = {row["name"]: row for row in catalog.targets()}
    assert rows["openvino"]["precisions"] == "fp32 fp16 bf16 int8"
    for row in rows.values():
        assert bool(row["install"]) == (row["installed"] == "no")
        assert "pip install edgekit" not in row["install"].replace("pip install 'edgekit-deploy", "")
