"""Boxes as COCO has them: one JSON file with the tables `images`, `annotations` and `categories`.

An annotation with `iscrowd` need not be found. Masks and key points are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data._marks import Corners, Mark, Marked, located, numbers, text_of
from edgekit.runtime.errors import BadFileError

TABLES = ("images", "annotations", "categories")
FOLDERS = ("", "annotations")
FORM = "COCO's form is an object with the lists images, annotations and categories"


def file(place: Path) -> Path | None:
    """The JSON file of a folder laid out as COCO is, or the file itself; None if it is not.

    Raises:
        BadFileError: there are several that could be meant.
    """
    if place.is_file():
        return place if place.suffix.lower() == ".json" else None
    listed = [path for name in FOLDERS for path in sorted((place / name).glob("*.json"))]
    likely = [path for path in listed if path.name.startswith("instances")] or listed
    if len(likely) > 1:
        names = ", ".join(path.name for path in likely[:4])
        raise BadFileError(
            f"{place} holds several JSON files: {names}", "give the one that is meant: --data FILE"
        )
    return likely[0] if likely else None


def read(path: Path) -> list[Marked]:
    """Every image of a COCO file with its objects.

    Raises:
        BadFileError: it is not of COCO's form, or names an image that is not there; names the object.
    """
    tables = _tables(path)
    names = dict(_names(tables["categories"], path))
    folders, root = _folders(path), _root(path)
    files: dict[Any, Path] = {}
    for where, row in _rows(tables["images"], "images", path):
        name = _field(row, "file_name", str, where)
        files[_field(row, "id", (int, str), where)] = located(name, folders, root, where)
    marks: dict[Any, list[Mark]] = {key: [] for key in files}
    for where, row in _rows(tables["annotations"], "annotations", path):
        key = _field(row, "image_id", (int, str), where)
        if key not in files:
            raise BadFileError(f"{where}: there is no image with the id {key!r}", "correct its image_id")
        marks[key].append(_mark(row, names, where))
    return [Marked(image=image, marks=tuple(marks[key])) for key, image in files.items()]


def _tables(path: Path) -> dict[str, list[Any]]:
    try:
        told = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise BadFileError(f"{path}{line}: this is no JSON: {reason}", "correct it") from error
    for name in TABLES:
        if not isinstance(told, dict) or not isinstance(told.get(name), list):
            raise BadFileError(f"{path} has no list {name!r}", FORM)
    return {name: told[name] for name in TABLES}


def _rows(table: list[Any], name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a list with its place."""
    for index, row in enumerate(table):
        where = f"{path}, {name}[{index}]"
        if not isinstance(row, dict):
            raise BadFileError(f"{where} is no object", FORM)
        yield where, row


def _field(row: dict[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise BadFileError(f"{where}: it has no proper {key!r}", FORM)
    return value


def _names(categories: list[Any], path: Path) -> Iterator[tuple[Any, str]]:
    for where, row in _rows(categories, "categories", path):
        yield _field(row, "id", (int, str), where), _field(row, "name", str, where)


def _mark(row: dict[str, Any], names: dict[Any, str], where: str) -> Mark:
    kind = _field(row, "category_id", (int, str), where)
    if kind not in names:
        raise BadFileError(f"{where}: there is no category with the id {kind!r}", "correct its category_id")
    box, what = row.get("bbox"), "bbox [x, y, width, height]"
    if not isinstance(box, list) or len(box) != 4:
        raise BadFileError(f"{where}: it has no {what}", "give four numbers in pixels")
    x, y, width, height = numbers(box, where, f"a {what}")
    corners: Corners = (x, y, x + width, y + height)
    return Mark(corners=corners, label=names[kind], where=where, ignored=bool(row.get("iscrowd")))


def _root(path: Path) -> Path:
    """The folder that images must be in: above `annotations` where the file is in such a folder."""
    return (
        path.resolve().parent.parent if path.resolve().parent.name == "annotations" else path.resolve().parent
    )


def _folders(path: Path) -> list[Path]:
    """Where images are looked for: beside the file, in `images`, and in the folder of the split."""
    root, split = _root(path), path.stem.rpartition("_")[2]
    return [root, root / "images", root / split, root / "images" / split]
