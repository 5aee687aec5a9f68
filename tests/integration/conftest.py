"""Bundles that several tests look at, each made once by the real command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Cli, Ran

SAMPLES = 300
FEWER = {"crnn": ("--set", f"data.options.test={SAMPLES}")}
"""Fewer held-out samples in these tests; the README's command proves on all of them."""

Compiled = Callable[[str, str, str], tuple[Path, Ran]]


@pytest.fixture(scope="session")
def compiled(edgekit: Cli, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """`compiled(model, target, precision)`: the bundle, and what the command printed with --json."""
    made: dict[tuple[str, str, str], tuple[Path, Ran]] = {}

    def get(model: str, target: str, precision: str) -> tuple[Path, Ran]:
        key = (model, target, precision)
        if key not in made:
            place = tmp_path_factory.mktemp("bundles") / "-".join(key)
            ran = edgekit(
                "compile", model, "--target", target, "--precision", precision, "--output", place,
                "--json", *FEWER.get(model, ()),
            )  # fmt: skip
            made[key] = (place, ran)
        return made[key]

    return get
