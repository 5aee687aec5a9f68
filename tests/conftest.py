"""What all tests share: a cache of their own, and the real command line in a process of its own."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _no_handler_left_behind() -> Iterator[None]:
    """Torch's DataLoader leaves a SIGCHLD handler in the process.

    Engines that compute with AMX later make the frame of a signal too large for the stack that
    handlers run on here, and the next subprocess to end would take the test run with it.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


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
