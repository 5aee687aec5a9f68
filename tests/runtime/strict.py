"""A stand-in for one version of TensorRT that has that version's public names and no other.

The tables in `tensorrt_api/` were read from the real Python modules. A class of the stand-in
refuses every attribute that its table lacks, so code that uses a name in a version without it fails.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path(__file__).parent / "tensorrt_api"
VERSIONS = tuple(
    sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: (name[0] == "r", name))
)


@cache
def table(version: str) -> dict[str, Any]:
    """Public names of a version: class to `attributes` and `members`; functions have neither."""
    told: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    return told


class Strict:
    """An object of the class `name`: what `behaviour` gives, within what the version's class has."""

    def __init__(self, version: str, name: str, behaviour: dict[str, Any]) -> None:
        known = set(table(version)[name]["attributes"])
        if strange := set(behaviour) - known:
            raise LookupError(f"{name} of {version} has no {sorted(strange)}: the test is wrong")
        object.__setattr__(self, "_version", version)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_known", known)
        object.__setattr__(self, "_behaviour", dict(behaviour))
        object.__setattr__(self, "set_to", {})

    def __getattr__(self, attribute: str) -> Any:
        if attribute not in self._known:
            raise AttributeError(f"{self._name} of TensorRT {self._version} has no {attribute!r}")
        if attribute in self.set_to:
            return self.set_to[attribute]
        if attribute in self._behaviour:
            return self._behaviour[attribute]
        raise LookupError(f"the test does not say how {self._name}.{attribute} behaves")

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute not in self._known:
            raise AttributeError(f"{self._name} of TensorRT {self._version} has no {attribute!r}")
        self.set_to[attribute] = value


def enumeration(version: str, name: str) -> SimpleNamespace:
    """The members of an enumeration, numbered in this version's alphabetical order."""
    members = table(version)[name]["members"]
    return SimpleNamespace(**{member: place for place, member in enumerate(members)})


def module(version: str, **classes: Any) -> SimpleNamespace:
    """A module with every enumeration of the version, and the given classes and functions.

    A class that the version lacks is a fault of the test and refused.
    """
    known = table(version)
    if strange := set(classes) - set(known) - {"__version__"}:
        raise LookupError(f"TensorRT {version} has no {sorted(strange)}: the test is wrong")
    enumerations = {
        name: enumeration(version, name)
        for name, entry in known.items()
        if isinstance(entry, dict) and entry.get("members")
    }
    said = version.partition("-")[2] or version
    return SimpleNamespace(**{"__version__": said, **enumerations, **classes})
