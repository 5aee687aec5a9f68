"""A cell in a process of its own: an engine that crashes ends that process, and its row says so.

The process answers with lines of JSON, see `edgekit/cli/cell.py`: what it is doing, and at last what
came of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread, current_thread, main_thread
from time import monotonic
from typing import Any

PROGRAM = "edgekit.cli.cell"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 20.0
"""A step that is inside an engine's compiler cannot tidy up before that returns."""


@dataclass(frozen=True)
class Said:
    """A line of a child; None when it has ended."""

    child: Child
    told: Mapping[str, Any] | None


class Child:
    """Starts at once, and puts what it says into `mail`; what its engine prints goes into the file `log`.

    It is in a session of its own: Ctrl-C reaches the sweep alone, which ends its children one by one.
    """

    def __init__(self, request: Mapping[str, Any], threads: int | None, log: Path, mail: Queue[Said]) -> None:
        self.since = monotonic()
        self.doing: tuple[str, int, int] = ("starting", 0, 0)
        self.outcome: Mapping[str, Any] | None = None
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
                env=_environment(threads),
            )
        self._ask(request)
        self._listener = Thread(target=self._listen, args=(mail,), daemon=True)
        self._listener.start()

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return monotonic() - self.since

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take in a line."""
        if "outcome" in told:
            self.outcome = told["outcome"]
        else:
            self.doing = (told["doing"], told["done"], told["total"])

    def ending(self) -> tuple[int, str]:
        """The exit code, as a shell gives it, and what it said last, of a child that has ended."""
        code = self._process.wait()
        how = f"ended with code {code}" if code >= 0 else f"was ended by {_signal(-code)}"
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return 128 - code if code < 0 else code, ": ".join([f"its process {how}", *last])

    def interrupt(self) -> None:
        """Ask it to tidy up and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def end(self) -> None:
        """Wait until it has ended, with what it has started; kill it when that takes long or is asked for."""
        try:
            self._process.wait(GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._kill()
        self.close()

    def close(self) -> None:
        """Let go of what belongs to a child that has ended."""
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, request: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it has ended already is read in `ending`

    def _listen(self, mail: Queue[Said]) -> None:
        try:
            for line in self._process.stdout or ():
                mail.put(Said(self, json.loads(line)))
        except ValueError:
            pass  # it died in the middle of a line, and `ending` says how
        finally:
            mail.put(Said(self, None))

    def _kill(self) -> None:
        if hasattr(os, "killpg"):
            os.killpg(self._process.pid, signal.SIGKILL)  # the session is its own, and so is the group
        else:
            self._process.kill()
        self._process.wait()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait: a process that is being started must be known before it can be ended."""
    if current_thread() is not main_thread():
        yield
        return
    caught: list[int] = []
    before = {number: signal.signal(number, lambda sent, frame: caught.append(sent)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


def _environment(threads: int | None) -> dict[str, str]:
    """PyTorch takes its number of threads from here."""
    return {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
