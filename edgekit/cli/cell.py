"""One cell of a sweep in a process of its own: `python -m edgekit.cli.cell`.

Reads a line of JSON: `step` (`building` or `timing`), `recipe`, `place`, `threads`, `argv`. Answers with
lines of JSON: `doing`, `done`, `total` as it goes on, and at last `outcome`: empty, or with the `error` that
it came to. The bundle is the rest of the answer. A bug ends it without an outcome: the traceback is on
standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, TextIO

from edgekit.runtime.errors import EdgekitError, SystemRefusedError

INTERRUPTED = 130
EVERY_S = 0.2


def main() -> int:
    """Do what standard input asks for; answers with the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever an engine prints must not stand between two answers
    request = json.loads(sys.stdin.readline())
    sys.argv = request["argv"]  # what is made names the command that the user gave
    try:
        _do(request, _Progress(answers))
        outcome: dict[str, Any] = {}
    except KeyboardInterrupt:
        return INTERRUPTED
    except EdgekitError as error:
        outcome = {"error": _told(error)}
    except OSError as error:
        outcome = {
            "error": _told(SystemRefusedError(f"the system refused: {error}", "look at the free space"))
        }
    except Exception:  # noqa: BLE001  the last line of defence: every bug becomes exit 70
        traceback.print_exc()
        return EdgekitError.exit_code
    _say(answers, {"outcome": outcome})
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the tidying short
    raise KeyboardInterrupt


def _do(request: Mapping[str, Any], progress: _Progress) -> None:
    from edgekit import pipeline
    from edgekit import recipe as recipes

    place = Path(request["place"])
    if request["step"] == "timing":
        pipeline.timed(place, progress)
        return
    recipe = recipes.parse(request["recipe"], "of the sweep", Path.cwd())
    pipeline.compile(recipe, place, progress, ("parity", "accuracy"), request["threads"])


def _told(error: EdgekitError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


class _Progress:
    """Says a new step at once, and how far it is now and then."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._last = ("", 0.0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == self._last[0] and monotonic() - self._last[1] < EVERY_S:
            return
        self._last = (what, monotonic())
        _say(self._answers, {"doing": what, "done": done, "total": total})


def _say(answers: TextIO, told: Mapping[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
