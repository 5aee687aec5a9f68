"""How far a build is, and how to stop it: an exception must not pass through TensorRT's own frames."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any, Callable, Dict, Optional, Type

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class Watch:
    """Passes progress on and remembers why the build must stop; raises it when the build is over.

    The first Ctrl-C asks TensorRT to stop (before TensorRT 10 the build ends first), a second one
    ends the process.
    """

    def __init__(self, progress: Optional[Progress] = None) -> None:
        self._progress = progress
        self._before: Any = None
        self._reason: Optional[BaseException] = None

    def tell(self, what: str, done: int, total: int) -> bool:
        """Pass on how far something is; False means that the build must stop."""
        if self._progress is not None and self._reason is None:
            try:
                self._progress(what, done, total)
            except BaseException as error:  # noqa: BLE001 (raised again in __exit__)
                self._reason = error
        return self._reason is None

    def _interrupted(self, number: int, frame: Any) -> None:
        if isinstance(self._reason, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._reason = KeyboardInterrupt()

    def __enter__(self) -> "Watch":
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self._reason is not None and error is None:
            raise self._reason


def monitor(trt: Any, watch: Watch) -> Any:
    """A progress monitor of the module `trt` that answers to `watch`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: Dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self.totals[phase_name] = num_steps
            watch.tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.tell(phase_name, step + 1, self.totals.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            total = self.totals.pop(phase_name, 0)
            watch.tell(phase_name, total, total)

    return Monitor()
