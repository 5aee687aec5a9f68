"""How a command ends that does not end well: one sentence, what to do next, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import contextmanager
from typing import Any, Iterator

from .errors import EdgekitError, SystemRefusedError

INTERRUPTED = 130


@contextmanager
def cleaned_up_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupt(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the tidying short
    raise KeyboardInterrupt


def exit_code(error: BaseException, as_json: bool) -> int:
    """Say what `error` means to the user; answers with the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read standard output has gone
        _let_go_of_output()
        return 0
    told = _told(error)
    _say(told, as_json)
    return told.exit_code


def _told(error: BaseException) -> EdgekitError:
    if isinstance(error, EdgekitError):
        if error.exit_code == EdgekitError.exit_code:
            error.hint = _log(error)
        return error
    if isinstance(error, KeyboardInterrupt):
        stop = EdgekitError("interrupted: nothing half-written is left")
        stop.code, stop.exit_code = "interrupted", INTERRUPTED
        return stop
    if isinstance(error, OSError):
        said = "the system refused: {}".format(error)
        return SystemRefusedError(said, "look at the free space and the permissions")
    return EdgekitError("a bug in edgekit: {}: {}".format(type(error).__name__, error), _log(error))


def _log(error: BaseException) -> str:
    """Write the traceback of a bug to a file; what to do with it, as a hint."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="edgekit-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write("{}\n{}".format(" ".join(sys.argv), "".join(lines)))
    except OSError as cause:
        return "report it; its log could not be written: {}".format(cause)
    return "report it with the log {}".format(log.name)


def _say(error: EdgekitError, as_json: bool) -> None:
    if as_json:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        try:
            print(json.dumps({"error": body}), flush=True)
        except OSError:  # standard output may be the very thing that failed
            _let_go_of_output()
    print("error: {}".format(error.message), file=sys.stderr)
    if error.hint:
        print("  try: {}".format(error.hint), file=sys.stderr)


def _let_go_of_output() -> None:
    """What is still to be flushed to standard output must not fail when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
