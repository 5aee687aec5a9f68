from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import _typefaces, text_lines
from edgekit.runtime.errors import MissingPackageError, UsageError

OPTIONS = text_lines.Options(train=40, validation=40, calibration=40, test=40)


def load(split: str, options: text_lines.Options = OPTIONS) -> text_lines.TextLines:
    return text_lines.load(split, options, Path())


def test_no_word_and_no_font_of_the_test_is_seen_in_training() -> None:
    words = {split: set(_typefaces.words(split)) for split in ("train", "validation", "test")}
    fonts = {
        split: {path for f in _typefaces.families(split) for path in _typefaces.faces(f)} for split in words
    }
    for parts in (words, fonts):
        assert all(parts.values())
        assert sum(map(len, parts.values())) == len(set().union(*parts.values()))
    assert len(words["test"]) > 2000


def test_test_split_is_2000_words_by_default() -> None:
    assert len(load("test", text_lines.Options())) == 2000
    known = set(_typefaces.words("test"))
    assert all(load("test")[index].target in known for index in range(40))


@pytest.mark.parametrize("split", text_lines.SPLITS)
def test_samples_fit_the_network_and_the_alphabet(split: str) -> None:
    lines = load(split)
    for index in range(len(lines)):
        sample = lines[index]
        channels, height, width = sample.inputs[0].shape
        assert (channels, height, width % 16) == (1, 32, 0)
        assert sample.inputs[0].dtype == np.float32
        assert np.abs(sample.inputs[0]).max() <= 1.0 + 1e-5
        assert sample.target
        assert set(sample.target) <= set(text_lines.ALPHABET)


def test_training_has_words_lines_and_numbers() -> None:
    texts = [load("train", replace(OPTIONS, train=200)).image(index)[0] for index in range(200)]
    assert any(" " in text for text in texts)
    assert any(text.isdigit() for text in texts)
    assert any(text.isupper() for text in texts)
    assert any(text.islower() for text in texts)


def test_a_sample_depends_on_seed_split_epoch_and_index_alone() -> None:
    lines, again = load("train"), load("train")
    again[7]
    np.testing.assert_array_equal(lines[3].inputs[0], again[3].inputs[0])
    again.set_epoch(1)
    assert again.image(3)[0] != lines.image(3)[0]
    again.set_epoch(0)
    assert again.image(3)[0] == lines.image(3)[0]
    assert load("train", replace(OPTIONS, seed=1)).image(3)[0] != lines.image(3)[0]
    assert load("calibration").image(3)[0] != lines.image(3)[0]


def test_only_training_changes_with_the_epoch() -> None:
    lines = load("test")
    before = lines.image(0)[1]
    lines.set_epoch(5)
    np.testing.assert_array_equal(lines.image(0)[1], before)


def test_iteration_ends() -> None:
    assert len(list(load("validation"))) == 40


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        text_lines.Options(test=0)
    with pytest.raises(ValueError, match="0 to 1"):
        text_lines.Options(strength=1.5)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="holdout"):
        load("holdout")


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "font_caladea", None)
    _typefaces.faces.cache_clear()
    with pytest.raises(MissingPackageError, match="font-caladea") as caught:
        load("test")
    assert "edgekit-deploy[train]" in caught.value.hint


def test_every_source_has_a_licence() -> None:
    assert len(text_lines.SOURCES) > 5
    assert all(source.licence and source.package for source in text_lines.SOURCES)
