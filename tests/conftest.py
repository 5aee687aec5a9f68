"""What all tests share: a cache of their own, and the real command line in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that begins empty and that the tests share."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("EDGEKIT_CACHE")
    os.environ["EDGEKIT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["EDGEKIT_CACHE"]
    else:
        os.environ["EDGEKIT_CACHE"] = before


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


NO_SIGNAL_STACK = SignalStack(None, 2, 0)
"""2 is SS_DISABLE."""


@pytest.fixture(autouse=True)
def _no_signal_handling_left_behind() -> Iterator[None]:
    """What a library leaves in the process would end the test run at the next signal.

    Torch's DataLoader leaves a handler of SIGCHLD. OpenVINO, asked for a device that is absent, leaves the
    thread with a signal stack whose memory is gone.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
    ctypes.CDLL(None).sigaltstack(ctypes.byref(NO_SIGNAL_STACK), None)


@pytest.fixture(scope="session")
def edgekit() -> Cli:
    """`edgekit ARGUMENTS` as a user runs it."""

    def run(*arguments: str | Path, cwd: Path | None = None, seconds: float = 600, **environment: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=cwd,
            env={**os.environ, "EDGEKIT_QUICK_TIMING": "1", **environment},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
