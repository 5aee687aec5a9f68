"""Plans that may come from elsewhere: looked at without TensorRT, then opened in a child process first.

TensorRT refuses most plans of another version or GPU with a line in its log, but some of them end
the process. A process of its own may end; whoever asked for the plan goes on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from .._cuda import Cuda, require_gpu
from ..errors import BadFileError, EdgekitError, HardwareError, SystemRefusedError
from . import log
from .features import features_of, load
from .process import ROOT, environment

BUILD = "build it here: python run.py build"
TIMEOUT_S = 300.0
"""TensorRT-RTX compiles for the GPU while it opens a plan, which takes a small board minutes."""

_HEADER = struct.Struct("<4s3IQ")
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_MAGIC = {b"ftrt": "tensorrt", b"ptrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_WITH_LENGTH = (b"vtrt", (0, 2, 0))
"""The header whose last field was measured to be the length of the file (TensorRT-RTX 1.7)."""

_CAUSES = (
    (r"incompatible device|different (gpu|device)|compute capability|compute \d", "it is for another GPU"),
    (r"version", "another version built it"),
    (r"platform|operating system", "it is for another platform"),
    (r"host code|lean runtime", "it carries a runtime library of its own"),
)


def inspect(path: Path, flavour: str) -> None:
    """Look at the first bytes of a plan for `tensorrt` or `tensorrt_rtx`; nothing of TensorRT is touched.

    Raises:
        BadFileError: it is empty, cut short, of the other flavour, or no plan at all.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
    if not header:
        raise BadFileError("{} is empty".format(path), BUILD)
    found = _MAGIC.get(header[:4])
    title = _TITLES[flavour]
    if found is None:
        raise BadFileError("{} is no plan of {}: it does not begin like one".format(path, title), BUILD)
    if found != flavour:
        raise BadFileError(
            "{} is a plan of {}, which {} cannot open".format(path, _TITLES[found], title), BUILD
        )
    expected = _stated_length(header)
    if size < expected:
        raise BadFileError(
            "{} is cut short: it has {} of {} bytes".format(path, size, expected),
            "copy it again, or " + BUILD,
        )


def _stated_length(header: bytes) -> int:
    """The length that the header tells, or that of the header itself."""
    if len(header) < _HEADER.size:
        return _HEADER.size
    magic, *layout, length = _HEADER.unpack(header)
    return int(length) if (magic, tuple(layout)) == _WITH_LENGTH else _HEADER.size


def open_plan(trt: Any, path: Path, host_code: bool = False) -> Tuple[Any, Any, Any]:
    """TensorRT's runtime, engine and execution context; they have to be let go in the opposite order.

    The GPU's context must be current. `host_code` lets a version-compatible plan load the runtime
    library that it carries.

    Raises:
        BadFileError: TensorRT refuses the plan.
        HardwareError: TensorRT does not start here.
        SystemRefusedError: the GPU's memory is full.
    """
    logger = log.logger(trt)
    logger.messages.clear()
    runtime = _runtime(trt, logger)
    if host_code and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise _refusal(trt, path, logger.messages)
    return runtime, engine, context


def _runtime(trt: Any, logger: Any) -> Any:
    try:
        return trt.Runtime(logger)
    except TypeError as cause:  # what the bindings make of a null object
        raise HardwareError(
            "{} does not start here: {}".format(
                features_of(trt).title, logger.messages.last_error() or cause
            ),
            "look whether the NVIDIA driver is new enough for it",
        ) from cause


def _refusal(trt: Any, path: Path, messages: log.Messages) -> EdgekitError:
    title = features_of(trt).title
    if messages.out_of_memory():
        return SystemRefusedError(
            "{} does not open in {}: {}".format(path, title, messages.out_of_memory()),
            "close other programs, or build with a smaller workspace",
        )
    said = log.sentence(messages.errors[0]) if messages.errors else "it does not say why"
    found = [cause for pattern, cause in _CAUSES if re.search(pattern, said, re.IGNORECASE)]
    reason = "{} ({})".format(found[0], said) if found else said
    return BadFileError("{} does not open in {}: {}".format(path, title, reason), BUILD)


def try_in_child(
    path: Path, flavour: str, gpu: int = 0, host_code: bool = False, timeout_s: float = TIMEOUT_S
) -> None:
    """Open a plan in a process of its own; returns when that went well.

    Raises:
        BadFileError: TensorRT refuses the plan, ends the process, or does not come back.
        HardwareError: the GPU is not there, or fails.
        MissingPackageError: the package is not installed.
        SystemRefusedError: the GPU's memory is full.
    """
    command = [sys.executable, "-m", __name__, str(path.resolve()), flavour, str(gpu), str(int(host_code))]
    try:
        done = subprocess.run(
            command,
            cwd=str(ROOT),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        reason = "{} did not open it within {:g} s".format(_TITLES[flavour], timeout_s)
        raise BadFileError("{} cannot be used here: {}".format(path, reason), BUILD) from cause
    if not done.stdout:
        raise BadFileError("{} cannot be used here: {}".format(path, _death(flavour, done)), BUILD)
    told: Dict[str, Any] = json.loads(done.stdout.decode("utf-8"))
    if told:
        kinds = {kind.exit_code: kind for kind in EdgekitError.__subclasses__()}
        raise kinds.get(told["exit_code"], EdgekitError)(told["error"], told["hint"])


def _death(flavour: str, done: "subprocess.CompletedProcess[bytes]") -> str:
    code = done.returncode
    how = "by signal {}".format(signal.Signals(-code).name) if code < 0 else "with code {}".format(code)
    words = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    last = ": " + words[-1][:300] if words else ""
    return "a process that opened it with {} ended {}{}".format(_TITLES[flavour], how, last)


def main(arguments: Sequence[str]) -> int:
    """The child's side: path, flavour, number of the GPU, whether code in the plan may run."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever TensorRT prints must not stand in the answer
    _leave_no_core()
    told: Dict[str, Any] = {}
    try:
        _open(list(arguments))
    except EdgekitError as error:
        told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    with answers:
        json.dump(told, answers)
    return int(told.get("exit_code", 0))


def _leave_no_core() -> None:
    """A crash is expected here: its memory must not end up as a file in somebody's bundle."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _open(arguments: List[str]) -> None:
    path, flavour, gpu, host_code = arguments
    require_gpu(int(gpu))
    trt = load(flavour)
    with closing(Cuda(int(gpu))):
        open_plan(trt, Path(path), bool(int(host_code)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
