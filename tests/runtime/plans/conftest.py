"""A GPU that the builder believes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.runtime import _cuda
from edgekit.runtime.plans import place
from edgekit.runtime.probe import Gpu, GpuProbe

ORIN = Gpu(0, "Orin", (8, 7), 8 << 30, True)
GTX = Gpu(0, "GTX", (8, 6), 8 << 30, False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Gpu | None], None]:
    """`gpu(GTX)` puts one into this machine, `gpu(None)` takes every one out."""

    class Context:
        def __init__(self, index: int) -> None:
            self.index = index

        def close(self) -> None:
            return None

    def install(found: Gpu | None) -> None:
        probe = GpuProbe((found,) if found else (), "" if found else "no NVIDIA driver here")
        for where in (_cuda, place):
            monkeypatch.setattr(where, "probe_gpus", lambda: probe)
        monkeypatch.setattr(_cuda, "Cuda", Context)
        monkeypatch.setattr(_cuda, "memory_info", lambda index: (4 << 30, 8 << 30))

    return install


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the two files that variants name; their content is nothing to the stand-in."""
    for name in ("model.onnx", "strong.onnx"):
        (tmp_path / name).write_bytes(b"graph")
    return tmp_path
