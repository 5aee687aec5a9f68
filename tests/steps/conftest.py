from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_handler_left_behind() -> Iterator[None]:
    """Torch's DataLoader leaves a SIGCHLD handler in the process.

    Engines that compute with AMX later make the frame of a signal too large for the stack that
    handlers run on here, and the next subprocess to end would take the test run with it.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
