"""Boxes as Pascal VOC has them: one XML file for each image.

Coordinates are taken as they stand. What VOC calls `difficult` need not be found. A file that declares
a document type is refused: that is where XML hides files of others and entities that grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgekit.data._marks import Corners, Mark, Marked, located, numbers
from edgekit.runtime.errors import BadFileError

FOLDERS = ("", "Annotations", "annotations")
IMAGES = ("", "JPEGImages", "images")
SIDES = ("xmin", "ymin", "xmax", "ymax")
DEEPEST = 32


def files(folder: Path) -> list[Path]:
    """The XML files of a folder laid out as Pascal VOC is; none if it is not."""
    listed = (sorted((folder / name).glob("*.xml")) for name in FOLDERS)
    return next((found for found in listed if found), [])


def read(folder: Path) -> list[Marked]:
    """Every image of a VOC folder with its objects.

    Raises:
        BadFileError: a file is no such XML, or names an image that is not there; names file and line.
    """
    return [_marked(path, folder) for path in files(folder)]


def _marked(path: Path, folder: Path) -> Marked:
    name, marks = parse(path.read_bytes(), str(path))
    places = [path.parent, *(folder / inside for inside in IMAGES)]
    name = name.replace("\\", "/").rpartition("/")[2] or path.with_suffix("").name
    return Marked(image=located(name, places, folder, str(path)), marks=marks)


def parse(content: bytes, where: str) -> tuple[str, tuple[Mark, ...]]:
    """The name of the image, empty if it is not said, and the objects in one XML file.

    Raises:
        BadFileError: it is no XML, declares a document type, or an object has no name or box.
    """
    root = _tree(content, where)
    if root.tag != "annotation":
        raise BadFileError(
            f"{where}, line {root.line}: <{root.tag}> is no annotation of Pascal VOC",
            "its root is <annotation>, and each <object> in it has <name> and <bndbox>",
        )
    marks = tuple(_mark(node, where) for node in root.children if node.tag == "object")
    return root.said("filename"), marks


@dataclass
class _Node:
    """An element: its text and children, and the line that it begins on."""

    tag: str
    line: int
    text: str = ""
    children: list[_Node] = field(default_factory=list)

    def first(self, tag: str) -> _Node | None:
        return next(self._named(tag), None)

    def _named(self, tag: str) -> Iterator[_Node]:
        return (child for child in self.children if child.tag == tag)

    def said(self, tag: str) -> str:
        """The text of a child; empty if there is none."""
        found = self.first(tag)
        return found.text.strip() if found else ""


def _mark(node: _Node, where: str) -> Mark:
    place = f"{where}, line {node.line}"
    label, box = node.said("name"), node.first("bndbox")
    if not label or box is None:
        missing = "bndbox" if label else "name"
        raise BadFileError(f"{place}: the object has no <{missing}>", "complete it or take it out")
    place = f"{where}, line {box.line}"
    x1, y1, x2, y2 = numbers([box.said(side) for side in SIDES], place, f"a box of {', '.join(SIDES)}")
    corners: Corners = (x1, y1, x2, y2)
    return Mark(corners=corners, label=label, where=place, ignored=node.said("difficult") == "1")


def _tree(content: bytes, where: str) -> _Node:
    """The root element. Nothing outside the file is read, and nothing in it is expanded."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    top = _Node("", 0)
    open_nodes = [top]

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(open_nodes) > DEEPEST:
            raise BadFileError(
                f"{where}, line {parser.CurrentLineNumber}: elements too deep in each other",
                "an annotation has three levels",
            )
        node = _Node(tag, parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(tag: str) -> None:
        open_nodes.pop()

    def text(said: str) -> None:
        open_nodes[-1].text += said

    def refuse(*declared: object) -> None:
        raise BadFileError(
            f"{where}, line {parser.CurrentLineNumber}: it declares a document type, which is refused",
            "take <!DOCTYPE ...> out: annotations of Pascal VOC need none",
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, str(error))
        raise BadFileError(f"{where}, line {error.lineno}: this is no XML: {reason}", "correct it") from error
    return top.children[0]
