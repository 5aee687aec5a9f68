"""The rows of `edgekit list`: read from recipes, profiles, provenance and source files; no plug-in is run."""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import boards as profiles
from edgekit import registry


def rows(kind: str) -> list[dict[str, Any]]:
    """One row for each thing of a kind; the rows of a kind share their keys."""
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "models": models,
        "recipes": recipes,
        "targets": targets,
        "data": lambda: _described("data", "data"),
        "methods": lambda: _described("method", "quantization"),
        "boards": boards,
    }
    return listings[kind]()


def models() -> list[dict[str, Any]]:
    """Each architecture with what its own recipe's provenance says of it."""
    return [{"name": name, **_facts(name, "models")} for name in registry.names("model")]


def recipes() -> list[dict[str, Any]]:
    """Each recipe with what its provenance says of it."""
    found = []
    for name in registry.names("recipe"):
        table = _recipe(name)
        model = table.get("model", {}).get("name", "")
        found.append({"name": name, "model": model, **_provenance(name, table), "about": _comment(name)})
    return found


def targets() -> list[dict[str, Any]]:
    """Each target, whether its packages are here, and the command that brings them."""
    found = []
    for name in registry.names("target"):
        said = _constants(registry.PACKAGE / "targets" / f"{name}.py")
        missing = [package for package in said.get("REQUIRES", ()) if not registry.available(package)]
        found.append(
            {
                "name": name,
                "precisions": " ".join(said.get("PRECISIONS", ())),
                "installed": "no" if missing else "yes",
                "install": registry.install_command(missing[0]) if missing else "",
            }
        )
    return found


def boards() -> list[dict[str, Any]]:
    """Each board's profile; `sm` is the compute capability, `memory` and `dla` span the variants sold."""
    return [_board(profiles.read(name)) for name in profiles.names()]


def _board(board: profiles.Board) -> dict[str, Any]:
    versions = profiles.versions(board)
    return {
        "name": board.name,
        "title": board.title,
        "sm": board.compute_capability,
        "memory": _span(tuple(size >> 10 for size in board.memory_mb), "G"),
        "precisions": " ".join(board.precisions),
        "dla": _span(board.dla_cores),
        "tensorrt": _span(versions),
        "supported": "yes" if board.supported else "no",
    }


def _span(values: Sequence[int | str], unit: str = "") -> str:
    """The first and the last of values in order, or the one that there is."""
    if not values:
        return ""
    first, last = values[0], values[-1]
    return f"{first}{unit}" if first == last else f"{first}-{last}{unit}"


def _facts(name: str, folder: str) -> dict[str, Any]:
    about = _summary(registry.PACKAGE / folder / f"{name}.py")
    if name not in registry.names("recipe"):
        return {"task": "", "parameters": None, "input": "", "score": None, "about": about}
    return {**_provenance(name, _recipe(name)), "about": about}


def _provenance(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    path = registry.recipes_folder() / f"{name}.provenance.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores = said.get("scores", {})
    score = scores.get("test", {}).get("value")
    return {
        "task": table.get("task", {}).get("name", ""),
        "parameters": said.get("parameters"),
        "input": said.get("input", ""),
        "score": None if score is None else f"{scores['metric']} {score:.4f}",
    }


def _recipe(name: str) -> dict[str, Any]:
    return tomllib.loads((registry.recipes_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def _comment(name: str) -> str:
    first = (registry.recipes_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ")


def _described(kind: str, folder: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "about": _summary(registry.PACKAGE / folder / f"{name}.py")}
        for name in registry.names(kind)
    ]


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def _constants(path: Path) -> dict[str, Any]:
    """The module's upper-case names that are literals."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.isupper()
        ):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # computed, so not a fact that can be read
    return found
