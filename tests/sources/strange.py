"""The strangers' package, and one call that says what a user would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.declare import parse_inputs, parse_state
from edgekit.sources import factory
from edgekit.spec import Found, Own, Sample

FOLDER = Path(__file__).parent / "strangers"


def own(source: str, inputs: Sequence[str] = (), states: Sequence[str] = (), folder: Path = FOLDER) -> Own:
    """`edgekit compile SOURCE --input ... --state ...` in the folder."""
    return Own(
        source=source,
        folder=folder,
        inputs=parse_inputs(inputs),
        states=tuple(parse_state(text) for text in states),
    )


def found(name: str, inputs: Sequence[str] = (), states: Sequence[str] = ()) -> Found:
    """A network of `shop.nets`."""
    return factory.load(own(f"shop.nets:{name}", inputs, states), None, ())


def samples(*shapes: tuple[tuple[int, ...], ...], dtype: str = "float32") -> list[Sample]:
    """One sample for each tuple of shapes."""
    random = np.random.default_rng(0)
    made: list[Any] = [[random.standard_normal(shape).astype(dtype) for shape in each] for each in shapes]
    return [Sample(tuple(arrays), None) for arrays in made]
