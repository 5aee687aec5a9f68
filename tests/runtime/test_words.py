from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Labels, Manifest, TensorSpec, Words, read_manifest, write_manifest
from edgekit.runtime.session import Session
from edgekit.runtime.words import entries, ids, is_derived, read_text

WORDS = Words("good\nnot\nfilm\nnot good\nbrill*", r"[a-z]+|[^\w\s]", stem=5, pairs=True)


def of(text: str, words: Words = WORDS) -> list[int]:
    return list(ids(text, words)[0])


def test_words_become_the_lines_of_the_vocabulary() -> None:
    found = ids("Good film", WORDS)
    assert (found.shape, found.dtype) == ((1, 2), np.int64)
    assert of("Good film") == [2, 4]


def test_pairs_and_stems_stand_behind_their_word_and_are_left_out_if_unknown() -> None:
    assert entries("not good!", WORDS) == ["not", "good", "not good", "!", "good !"]
    assert of("not good") == [3, 2, 5]
    assert of("brilliant") == [1, 6]
    assert of("brilliantly brief") == [1, 6, 1]


def test_what_is_not_asked_for_is_not_there() -> None:
    assert entries("not brilliant", replace(WORDS, stem=0, pairs=False)) == ["not", "brilliant"]
    assert of("Good", replace(WORDS, lower=False)) == [1]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_a_text_without_words_is_one_unknown_word(text: str) -> None:
    assert of(text) == [1]


def test_a_long_text_is_cut() -> None:
    assert of("good film " * 9, replace(WORDS, longest=3)) == [2, 4, 2]


def test_a_star_alone_is_a_word() -> None:
    assert [is_derived(entry) for entry in ("*", "good", "brill*", "not good")] == [False, False, True, True]


def test_a_pattern_that_is_none_is_a_bad_bundle() -> None:
    with pytest.raises(BadFileError, match="no regular expression"):
        ids("good", replace(WORDS, pattern="["))


def test_a_text_is_itself_or_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "review.txt"
    path.write_bytes("\ufeffa fine café".encode())
    assert read_text(path) == "a fine café"
    assert read_text("a fine film") == "a fine film"
    with pytest.raises(BadFileError, match=r"absent\.txt"):
        read_text("absent.txt")
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadFileError, match=r"review\.txt"):
        read_text(path)


def manifest(**changes: Any) -> Manifest:
    said: dict[str, Any] = {
        "model": "reader", "target": "pytorch", "precision": "fp32", "device": "CPU", "state": "deferred",
        "passed": None, "engine": {"kind": "pytorch"}, "words": WORDS,
        "inputs": (TensorSpec("tokens", ("batch", "time"), "int64", {"time": (1, 9)}),),
        "outputs": (TensorSpec("logits", ("batch", 2)),), "labels": Labels(("negative", "positive")),
    }  # fmt: skip
    return Manifest(**{**said, **changes})


class Counter:
    """Positive where `good` is more than half of the ids."""

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        share = (feeds["tokens"] == 2).mean(1)
        return {"logits": np.stack([1 - share, share], 1)}


def test_a_bundle_answers_a_text() -> None:
    session = Session(manifest(), Counter())  # type: ignore[arg-type]
    assert session.predict("Good good!") == "positive"
    assert session.predict("film") == "negative"
    with pytest.raises(BadFileError, match="the text is empty"):
        session.predict("  ")
    with pytest.raises(UsageError, match="reads texts"):
        session.predict(np.zeros((4, 4), np.uint8))


def test_words_travel_in_the_manifest(tmp_path: Path) -> None:
    write_manifest(manifest(), tmp_path)
    assert read_manifest(tmp_path).words == WORDS
    write_manifest(manifest(words=replace(WORDS, longest=0)), tmp_path)
    with pytest.raises(BadFileError, match="its words"):
        read_manifest(tmp_path)
