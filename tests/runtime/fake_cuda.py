"""The CUDA driver of `fake_cuda.c`, compiled once a session; what lives in it can be counted."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

KINDS = ("device", "host", "stream", "event", "graph", "graph_exec")
OUT_OF_MEMORY, LAUNCH_FAILED, NO_NAME = 2, 719, 4242


@cache
def library(*macros: str) -> Path:
    """The compiled driver; the test is skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("the fake CUDA driver needs a C compiler")
    folder = Path(tempfile.mkdtemp(prefix="edgekit-fake-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "libcuda.so.1"
    source = Path(__file__).with_name("fake_cuda.c")
    defines = [f"-D{macro}" for macro in macros]
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", *defines, "-o", path, source], check=True)
    return path


class FakeCuda:
    """The fake driver, as if the machine had just started."""

    def __init__(self, *macros: str) -> None:
        self.path = str(library(*macros))
        self._library: Any = ctypes.CDLL(self.path)
        self._library.fake_enqueue.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._library.cuStreamSynchronize.argtypes = [ctypes.c_void_p]
        self._work: list[Any] = []
        self._library.fake_reset()

    def live(self) -> dict[str, int]:
        """How many objects of each kind live; kinds without any are left out."""
        found = {kind: self._library.fake_live(place) for place, kind in enumerate(KINDS)}
        found["context"] = self._library.fake_contexts()
        return {kind: count for kind, count in found.items() if count}

    def fail(self, name: str, code: int, after: int = 0) -> None:
        """The call `name` answers `code` once, after it went well `after` times."""
        self._library.fake_fail(name.encode(), code, after)

    def limit(self, size: int) -> None:
        """Total device memory in bytes."""
        self._library.fake_memory(ctypes.c_size_t(size))

    def gpus(self, count: int) -> None:
        self._library.fake_gpus(count)

    def take_context(self) -> None:
        """Another library makes no context current, or this is another thread."""
        self._library.fake_take_context()

    @property
    def has_context(self) -> bool:
        """Whether a context is current."""
        return bool(self._library.fake_current())

    def synchronize(self, stream: int) -> None:
        """Wait for a stream, as TensorRT does inside some layers; that voids a capture."""
        self._library.cuStreamSynchronize(stream)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on a stream: done at once, or kept in the graph that is captured."""
        call = ctypes.CFUNCTYPE(None)(work)
        self._work.append(call)
        assert self._library.fake_enqueue(stream, ctypes.cast(call, ctypes.c_void_p)) == 0
