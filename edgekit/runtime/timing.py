"""Latency: one worker process per runner, blocks of calls in turn.

Engines in one process fight over their thread pools, so each runner is timed in a process of its
own, and the processes take turns, so that a change of clock speed or load meets all of them alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type

import numpy as np

from .engines import Runner
from .errors import EdgekitError, SystemRefusedError
from .proof import load_pairs

SETTLE_S = 0.25
"""Thread pools of the process that had its turn spin for up to 200 ms before they sleep."""
QUICK = "EDGEKIT_QUICK_TIMING"
"""Set to 1 where only the way through matters, as in tests: the times then say nothing."""


class Worker:
    """A process that times one runner when it is asked to. A context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.settings: Dict[str, Any] = {}
        self.peak_mb: Optional[float] = None
        self.parts: Dict[str, List[float]] = {}
        """Milliseconds of the parts of each call (copies, compute), from a runner that has `timings`.

        As in `alternate`, the first call of a block is not counted.
        """

    def ready(self) -> None:
        """Wait until the runner is open and warm."""
        self.settings = self._answer()["settings"]

    def block(self, calls: int, feed: Optional[int] = None) -> List[float]:
        """Milliseconds of `calls` calls, over all feeds in turn or over feed number `feed` alone."""
        self._ask({"calls": calls, "feed": feed})
        answer = self._answer()
        for name, part in answer.get("parts", {}).items():
            self.parts.setdefault(name, []).extend(part[1:])
        times: List[float] = answer["ms"]
        return times

    def close(self) -> None:
        """End the process and read its peak memory."""
        self._ask({"calls": 0})
        self.peak_mb = self._answer()["peak_mb"]
        self._process.communicate()

    def _ask(self, question: Mapping[str, Any]) -> None:
        try:
            stdin = self._process.stdin
            if stdin is None:
                return
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # what the worker said before it ended is read in _answer

    def _answer(self) -> Dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            _, said = self._process.communicate()
            last = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
            raise SystemRefusedError(
                "the process that times the engine ended with code {}: {}".format(
                    self._process.returncode, last
                ),
                "run the same command with -v, or look for a lack of memory",
            )
        answer: Dict[str, Any] = json.loads(line)
        if "error" in answer:
            kinds = {kind.exit_code: kind for kind in EdgekitError.__subclasses__()}
            kind = kinds.get(answer["exit_code"], EdgekitError)
            raise kind("it could not be timed: " + answer["error"], answer["hint"])
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def alternate(
    turns: Mapping[str, Callable[[int], List[float]]],
    blocks: int,
    calls: int,
    progress: Optional[Callable[[int, int], None]] = None,
) -> Dict[str, List[float]]:
    """Time `blocks` blocks of `calls` calls of each, in turn; the first call of a block is not counted."""
    settle = SETTLE_S
    if os.environ.get(QUICK):
        blocks, calls, settle = min(blocks, 2), min(calls, 4), 0.0
    times: Dict[str, List[float]] = {name: [] for name in turns}
    for block in range(blocks):
        for name, turn in turns.items():
            time.sleep(settle)
            times[name] += turn(calls + 1)[1:]
        if progress is not None:
            progress(block + 1, blocks)
    return times


def serve(open_runner: Callable[[], Runner], feeds_file: Path, warm_up: int = 2) -> int:
    """The worker's side: open a runner, then answer questions from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an engine prints must not stand between two answers

    def answer(told: Mapping[str, Any]) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    try:
        feeds, _ = load_pairs(feeds_file)
        with open_runner() as runner:
            for _ in range(warm_up):
                for feed in feeds:
                    runner.infer(feed)
            answer({"settings": dict(runner.settings)})
            for line in sys.stdin:
                question = json.loads(line)
                if question["calls"] == 0:
                    break
                answer(_block(runner, _chosen(feeds, question["feed"]), question["calls"]))
            answer({"peak_mb": peak_mb()})
    except EdgekitError as error:
        answer({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        return error.exit_code
    return 0


def _chosen(feeds: List[Dict[str, np.ndarray]], number: Optional[int]) -> List[Dict[str, np.ndarray]]:
    return feeds if number is None else [feeds[number]]


def _block(runner: Runner, feeds: Sequence[Mapping[str, np.ndarray]], calls: int) -> Dict[str, Any]:
    parts: Dict[str, List[float]] = {}
    times = time_calls(runner, feeds, calls, parts)
    return {"ms": times, "parts": parts} if parts else {"ms": times}


def time_calls(
    runner: Runner,
    feeds: Sequence[Mapping[str, np.ndarray]],
    calls: int,
    parts: Optional[Dict[str, List[float]]] = None,
) -> List[float]:
    """Milliseconds of each call: NumPy arrays in, NumPy arrays out.

    `parts` collects what a runner's `timings` say of each call, where it has them.
    """
    times = []
    for number in range(calls):
        feed = feeds[number % len(feeds)]
        start = time.perf_counter()
        runner.infer(feed)
        times.append((time.perf_counter() - start) * 1000)
        if parts is not None:
            for name, part in getattr(runner, "timings", {}).items():
                parts.setdefault(name, []).append(part)
    return times


def peak_mb() -> Optional[float]:
    """Peak resident memory of this process in MB (10^6 bytes).

    From /proc, because the figure of getrusage begins with that of the process that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return None
