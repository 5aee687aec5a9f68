"""What the outputs of a user's own network mean: the names of its classes, and how they become boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import BOXES, Detection, Labels, TensorSpec
from edgekit.spec import Found, Own

FORMS = "one name a line, a JSON list of names, or a JSON table of names with numbers from 0"


def detection_of(own: Own, found: Found) -> Detection | None:
    """How the outputs become boxes: what the file says, with what the user says laid over it.

    Raises:
        UsageError: an output is named that is not there, or cannot hold boxes.
    """
    if found.detection is None and not own.decode:
        return None
    names = [spec.name for spec in found.outputs]
    said = {**(vars(found.detection) if found.detection else {}), **own.decode}
    if "boxes" not in said and len(names) > 1:
        raise UsageError(
            "--decode does not say which output holds the boxes", f"one of {', '.join(names)}: boxes=NAME"
        )
    made = Detection(**{"boxes": names[0], **said})
    for name in (made.boxes, made.scores, made.objectness):
        if name and name not in names:
            raise UsageError(f"--decode: there is no output {name!r}", f"the outputs: {', '.join(names)}")
    _refuse_shape(made, found.outputs)
    return made


def _refuse_shape(detection: Detection, outputs: Sequence[TensorSpec]) -> None:
    boxes = next(spec for spec in outputs if spec.name == detection.boxes)
    values = boxes.shape[_axis(detection.layout, boxes=True)] if len(boxes.shape) in (2, 3) else 0
    combined = not detection.scores
    if isinstance(values, str) or (values > 4 if combined else values == 4):
        return
    wanted = "4 coordinates, then the scores" if combined else "4 coordinates"
    raise UsageError(
        f"--decode: the output {boxes.name!r} of shape {boxes.shape} does not hold boxes: in "
        f"{detection.layout} they are (batch, N, {wanted}), in columns with the last two axes exchanged",
        "say layout=rows or layout=columns, or the output with the scores: scores=NAME",
    )


def _axis(layout: str, boxes: bool) -> int:
    """The axis of coordinates or classes."""
    return -2 if layout == "columns" or (layout == "nms" and not boxes) else -1


def labels_of(own: Own, found: Found, detection: Detection | None) -> Labels | None:
    """The names in the user's file, for boxes or for the classes of the first output.

    Raises:
        UsageError: there are more or fewer names than classes, or the output has no classes.
        BadFileError: the file cannot be read.
    """
    if own.labels is None:
        return None
    names = read_labels(own.labels)
    output, classes = _boxes_classes(detection, found) if detection else _classes(own, found.outputs[0])
    if classes is not None and classes != len(names):
        raise UsageError(
            f"{own.labels} has {len(names)} names, and the output {output!r} has {classes} classes",
            "give one name for each class, in their order",
        )
    return Labels(names, BOXES if detection else "argmax")


def _classes(own: Own, output: TensorSpec) -> tuple[str, int | None]:
    if len(output.shape) != 2:
        raise UsageError(
            f"{own.labels} names classes, and the first output {output.name!r} of shape {output.shape} "
            "is not (batch, classes)",
            "leave --labels out; for a detector give --decode too",
        )
    return output.name, output.shape[1] if isinstance(output.shape[1], int) else None


def _boxes_classes(detection: Detection, found: Found) -> tuple[str, int | None]:
    """The output with the scores, and how many classes it has; None where only running it tells."""
    specs = {spec.name: spec for spec in found.outputs}
    if detection.scores:
        shape = specs[detection.scores].shape
        if len(shape) < len(specs[detection.boxes].shape):
            return detection.scores, 1
        count = shape[_axis(detection.layout, boxes=False)]
        return detection.scores, count if isinstance(count, int) else None
    count = specs[detection.boxes].shape[_axis(detection.layout, boxes=True)]
    others = 5 if detection.objectness == detection.boxes else 4
    return detection.boxes, count - others if isinstance(count, int) else None


def read_labels(path: Path) -> tuple[str, ...]:
    """The names of classes in a file: one a line, or JSON: a list, or a table between names and numbers.

    Raises:
        BadFileError: the file is missing or holds no such names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadFileError(f"{path}: there is no such file of labels", f"write {FORMS}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(f"{path} cannot be read: {error}", f"write {FORMS}") from error
    names = _from_json(path, text) if path.suffix.lower() == ".json" else _from_lines(path, text)
    if not names:
        raise BadFileError(f"{path} holds no names", f"write {FORMS}")
    return names


def _from_lines(path: Path, text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            raise BadFileError(f"{path}: line {number} is empty", "write one name a line, none left out")
    return tuple(lines)


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise BadFileError(f"{path} is no JSON: {error}", f"write {FORMS}") from error
    names = _in_order(told) if isinstance(told, dict) else told
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadFileError(f"{path} holds no names of classes", f"write {FORMS}")
    return tuple(names)


def _in_order(told: dict[str, Any]) -> Any:
    """The names of `{"cat": 0, "dog": 1}`, of `{"0": "cat", "1": "dog"}`, or None."""
    numbers = list(range(len(told)))
    if all(type(value) is int for value in told.values()) and sorted(told.values()) == numbers:
        return sorted(told, key=lambda name: int(told[name]))
    if set(told) == set(map(str, numbers)):
        return [told[str(number)] for number in numbers]
    return None
