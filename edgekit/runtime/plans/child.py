"""Builds a plan in a process of its own: a builder that crashes must not take its caller with it.

TensorRT's compiler ends the process on some graphs that its parser takes (a quantized LSTM input of
dynamic length is one), and it keeps what it has allocated. The parent passes a job as JSON, the child
answers in lines of JSON: progress, then what was built, or the error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Callable, Dict, Mapping, Optional

from ..engines import Layer
from ..errors import EdgekitError, MissingPackageError, UnsupportedError
from .builder import build
from .features import how_to_install, load
from .process import ROOT, environment
from .request import BuildRequest, Built, Variant, read_request

Progress = Callable[[str, int, int], None]

PLAN, CACHE, JOB = "plan", "timing.cache", "job.json"
INTERRUPTED = 130
_NOT_IMPORTED = re.compile(r"^(ImportError|ModuleNotFoundError)\b|No module named ")
_LARGEST_EXIT = 255
"""Python's own exit codes end here; what is above them is how Windows tells of a crash."""


def build_in_child(
    flavour: str,
    request: BuildRequest,
    root: Path,
    progress: Optional[Progress] = None,
    timing_cache: Optional[bytes] = None,
) -> Built:
    """As `builder.build` with the module `flavour`, in a child process.

    Raises:
        EdgekitError: as `builder.build`.
        UnsupportedError: the builder ended the process; says by which signal, and its last words.
        MissingPackageError: the child could not import what it needs.
        KeyboardInterrupt: the child was interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-plan-") as scratch:
        folder = Path(scratch)
        job = {"flavour": flavour, "request": request.told(), "root": str(root.resolve())}
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        if timing_cache:
            (folder / CACHE).write_bytes(timing_cache)
        return _built(folder, _answer(folder, flavour, progress))


def _answer(folder: Path, flavour: str, progress: Optional[Progress]) -> Dict[str, Any]:
    """The child's last word; whatever it prints itself goes to a file that is read when it dies."""
    with (folder / "said").open("w+", encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)],
            cwd=str(ROOT),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            found = _last(child.stdout, progress)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()
        if found:
            return found
        said.seek(0)
        words = said.read()
    raise _failure(code, flavour, words) from RuntimeError("it said:\n" + words)


def _failure(code: int, flavour: str, said: str) -> BaseException:
    """What an end without an answer means: a crash of the compiler, or a fault of this program's own."""
    if code == INTERRUPTED:
        return KeyboardInterrupt()
    told = _death(code, said)
    if not 0 <= code <= _LARGEST_EXIT:
        return UnsupportedError(told, "ask for another precision, or look at check-target")
    if _NOT_IMPORTED.search(_last_words(said)):
        return MissingPackageError(told, how_to_install(flavour))
    return EdgekitError(told, "report it")


def _last(lines: Optional[IO[str]], progress: Optional[Progress]) -> Dict[str, Any]:
    for line in lines or ():
        told: Dict[str, Any] = json.loads(line)
        if "progress" not in told:
            return told
        if progress is not None:
            progress(*told["progress"])
    return {}


def _death(code: int, said: str) -> str:
    how = "by signal {}".format(signal.Signals(-code).name) if code < 0 else "with code {}".format(code)
    last = _last_words(said)
    return "the builder's process ended {} while it built the engine{}".format(how, last and ": " + last)


def _last_words(said: str) -> str:
    words = [line.strip() for line in said.splitlines() if line.strip()]
    return words[-1][:300] if words else ""


def _built(folder: Path, told: Mapping[str, Any]) -> Built:
    if "error" in told:
        kinds = {kind.exit_code: kind for kind in EdgekitError.__subclasses__()}
        raise kinds.get(told["exit_code"], EdgekitError)(told["error"], told["hint"])
    cache = folder / "made.cache"
    variant = told["variant"]
    return Built(
        plan=(folder / PLAN).read_bytes(),
        variant=Variant(**dict(variant, needs=tuple(variant["needs"]), lowering=tuple(variant["lowering"]))),
        typing=told["typing"],
        layers=[Layer(*layer) for layer in told["layers"]],
        timing_cache=cache.read_bytes() if cache.is_file() else None,
        notes=tuple(told["notes"]),
        seconds=told["seconds"],
    )


def main(folder: Path) -> int:
    """The child's side."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever TensorRT prints must not stand between two answers

    def answer(told: Mapping[str, Any]) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    def progress(what: str, done: int, total: int) -> None:
        answer({"progress": [what, done, total]})

    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    given = folder / CACHE
    try:
        built = build(
            load(job["flavour"]),
            read_request(job["request"]),
            Path(job["root"]),
            progress,
            given.read_bytes() if given.is_file() else None,
        )
    except EdgekitError as error:
        answer({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    _hand_over(folder, built)
    answer(_told(built))
    return 0


def _hand_over(folder: Path, built: Built) -> None:
    (folder / PLAN).write_bytes(built.plan)
    if built.timing_cache:
        (folder / "made.cache").write_bytes(built.timing_cache)


def _told(built: Built) -> Dict[str, Any]:
    return {
        "variant": vars(built.variant),
        "typing": built.typing,
        "layers": [[layer.name, layer.type, layer.precision] for layer in built.layers],
        "notes": list(built.notes),
        "seconds": built.seconds,
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
