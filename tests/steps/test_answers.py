"""What a user says of the outputs: names of classes, and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Detection, TensorSpec
from edgekit.spec import Found, Own
from edgekit.steps._answers import detection_of, labels_of, read_labels


def found(detection: Detection | None = None, **outputs: tuple[int | str, ...]) -> Found:
    specs = tuple(TensorSpec(name, shape) for name, shape in outputs.items())
    return Found(
        module=None, graph=None, inputs=specs, outputs=specs, states=(), sha256="", detection=detection
    )


def own(labels: Path | None = None, **decode: Any) -> Own:
    return Own(source="net.onnx", folder=Path(), labels=labels, decode=decode)


HEADS = {"boxes": ("batch", 400, 4), "scores": ("batch", 400, 3)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\ndog\nstop sign\n\n"),
        ("names.txt", "\ufeffcat\r\ndog\r\nstop sign"),
        ("names.json", '["cat", "dog", "stop sign"]'),
        ("names.json", '{"dog": 1, "cat": 0, "stop sign": 2}'),
        ("names.json", '{"2": "stop sign", "0": "cat", "1": "dog"}'),
    ],
)
def test_files_of_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / name) == ("cat", "dog", "stop sign")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("names.txt", "", "no names"),
        ("names.txt", "cat\n\ndog\n", "line 2 is empty"),
        ("names.json", '["cat", 3]', "no names of classes"),
        ("names.json", '{"cat": 1, "dog": 2}', "no names of classes"),
        ("names.json", "[", "no JSON"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadFileError, match=said):
        read_labels(tmp_path / name)


def test_a_file_that_is_missing() -> None:
    with pytest.raises(BadFileError, match="no such file of labels"):
        read_labels(Path("nowhere.txt"))


def names(folder: Path, count: int) -> Path:
    path = folder / "names.txt"
    path.write_text("\n".join(f"class {index}" for index in range(count)))
    return path


@pytest.mark.parametrize(
    ("outputs", "decode", "classes"),
    [
        ({"logits": ("batch", 3)}, {}, 3),
        (HEADS, {"boxes": "boxes", "scores": "scores"}, 3),
        ({"boxes": ("batch", 4, 400), "scores": ("batch", 3, 400)},
         {"boxes": "boxes", "scores": "scores", "layout": "columns"}, 3),
        ({"boxes": (1, 400, 4), "scores": (1, 400)}, {"boxes": "boxes", "scores": "scores"}, 1),
        ({"output0": ("batch", 7, 400)}, {"layout": "columns"}, 3),
        ({"output0": ("batch", 400, 8)}, {"objectness": "output0"}, 3),
    ],
)  # fmt: skip
def test_there_is_one_name_for_each_class(
    tmp_path: Path, outputs: dict[str, tuple[int | str, ...]], decode: dict[str, str], classes: int
) -> None:
    right, wrong = names(tmp_path, classes), tmp_path / "other.txt"
    wrong.write_text("only\n" * (classes + 1))
    network = found(**outputs)
    labels = labels_of(own(right), network, detection_of(own(**decode), network))
    assert labels is not None
    assert (len(labels.values), labels.decoder) == (classes, "boxes" if decode else "argmax")
    with pytest.raises(
        UsageError, match=rf"other.txt has {classes + 1} names, and the output .* {classes} classes"
    ):
        labels_of(own(wrong), network, detection_of(own(**decode), network))


def test_classes_are_counted_in_a_row_of_scores_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not \(batch, classes\)") as refused:
        labels_of(own(names(tmp_path, 3)), found(**HEADS), None)
    assert "--decode" in refused.value.hint


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        ({"boxes": "box", "scores": "scores"}, "no output 'box'"),
        ({"scores": "scores"}, "which output holds the boxes"),
        ({"boxes": "scores", "scores": "boxes"}, "does not hold boxes"),
        ({"boxes": "boxes"}, "4 coordinates, then the scores"),
        ({"boxes": "boxes", "scores": "scores", "layout": "columns"}, "does not hold boxes"),
    ],
)
def test_outputs_that_hold_no_boxes_are_refused(decode: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        detection_of(own(**decode), found(**HEADS))


def test_what_is_said_is_laid_over_what_the_file_says() -> None:
    file = Detection("boxes", "scores", format="yxyx", iou=0.6)
    network = found(file, **HEADS)
    assert detection_of(own(), network) == file
    assert detection_of(own(format="xyxy"), network) == Detection("boxes", "scores", format="xyxy", iou=0.6)
    assert detection_of(own(), found(**HEADS)) is None
