"""A cell of a sweep, and the key of everything that decides what comes of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import bundle, cache
from edgekit import recipe as recipes
from edgekit.report import sweep as report
from edgekit.runtime.manifest import sha256_of
from edgekit.runtime.probe import probe_gpus
from edgekit.runtime.timing import QUICK
from edgekit.spec import Recipe
from edgekit.steps.describe import environment
from edgekit.steps.load import weights_file


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A recipe for one target and precision, the place of its bundle, and its key.

    An empty key says that nobody knows all that the cell depends on: it is made anew each time.
    """

    recipe: Recipe
    place: Path
    key: str

    @property
    def name(self) -> str:
        """The name of the bundle's folder."""
        return self.place.name

    @property
    def spoken(self) -> str:
        """As a person would say it."""
        return f"{self.recipe.name} {self.recipe.target.name} {self.recipe.precision}"

    def row(self, **said: Any) -> report.Row:
        """A row of this cell."""
        recipe = self.recipe
        return report.Row(model=recipe.name, target=recipe.target.name, precision=recipe.precision, **said)


def cell_of(recipe: Recipe, output: Path, machine: Mapping[str, Any]) -> Cell:
    """The cell of a recipe whose bundle goes into the folder `output`.

    Raises:
        UsageError: the recipe has no weights yet, or the place is taken by something else.
        BadFileError: the weights are missing.
    """
    name = bundle.default_output(recipe.name, recipe.target.name, recipe.precision).name
    bundle.refuse_to_replace(output / name)
    return Cell(recipe=recipe, place=output / name, key=_key(recipe, machine))


def machine() -> dict[str, Any]:
    """What a latency, and whether an engine can run, depends on beside the recipe."""
    gpus = [asdict(gpu) for gpu in probe_gpus().devices]
    return {**environment(), "gpus": gpus, "quick": os.environ.get(QUICK, "")}


def _key(recipe: Recipe, machine: Mapping[str, Any]) -> str:
    if recipe.own is not None:  # no key holds all that a user's code reads: helpers, settings
        return ""
    told = {
        "recipe": recipes.told(recipe),
        "weights": sha256_of(weights_file(recipe)),
        "folders": {split: _content(place) for split, place in recipe.folders.items()},
        "code": cache.code(),
        "machine": machine,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _content(place: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a user's files: to read them all would take longer than what it saves."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [
        (path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()
    ]
