"""Networks that are exported and measured once for all tests."""

from __future__ import annotations

import pytest

from edgekit.quantization import ptq
from tests.quantization.nets import KINDS, Measurements, net


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Measurements:
    """Every one of `KINDS` with what its samples have shown."""
    made = {kind: net(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    return {kind: (one, ptq.measure(one.graph, one.samples, ptq.Options())) for kind, one in made.items()}
