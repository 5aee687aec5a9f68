"""What TensorRT says while it works, kept so that a failure can be told in one sentence."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Pattern, Tuple

_LAYERS = ("LayerType: ", "Layer(")
_NODE = re.compile(r"parsing node: (.*?) \[(\w+)\]", re.IGNORECASE)
_WRAPPED = re.compile(r"Error Code \w+: [^(]*\((.*)\)", re.DOTALL)
_PLACE = re.compile(r"\.? *\bIn \S+ at \S+:\d+.*$", re.DOTALL)
_PREFIX = re.compile(r"^(\d+: )?(\[[^\]]*\] )?")
_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|bad_alloc|MemoryAllocation|cannot allocate memory", re.IGNORECASE
)
_WORKSPACE = re.compile(
    r"within workspace limit|insufficient workspace|(not have|no) sufficient workspace"
    r"|workspace( memory| size)? (is|was) (insufficient|too small)|increas\w+ (the )?(allowed )?workspace",
    re.IGNORECASE,
)
_NO_KERNEL = "Could not find any implementation"

_loggers: List[Tuple[Any, Any]] = []


class Messages:
    """The messages of one build: errors, warnings, and of the verbose ones those that name layers."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything: another build begins."""
        self.errors: List[str] = []
        self.warnings: List[str] = []
        self.layers: List[str] = []
        self.node: Tuple[str, str] = ("", "")
        """Name and operator of the ONNX node that was parsed last."""

    def add(self, severity: str, message: str) -> None:
        """Keep a message if it may be asked for; verbose ones run to hundreds of megabytes."""
        if severity == "error":
            self.errors.append(message)
        elif severity == "warning":
            self.warnings.append(message)
        elif any(mark in message for mark in _LAYERS):
            self.layers.append(message)
        elif severity == "verbose":
            found = _NODE.search(message)
            self.node = (found.group(1), found.group(2)) if found else self.node

    def last_error(self) -> str:
        """The last error as a sentence; empty when there was none.

        Errors of the CUDA runtime are passed over where there are others: without a GPU each real
        error is followed by one.
        """
        plain = [text for text in self.errors if "Cuda Runtime" not in text]
        chosen = plain or self.errors
        return sentence(chosen[-1]) if chosen else ""

    def out_of_memory(self) -> str:
        """The last error that says that memory ran out; empty when there was none.

        Kernels that are skipped for lack of memory are warnings; they count when none was left.
        """
        return self._last_of(_MEMORY)

    def out_of_workspace(self) -> str:
        """The last error that says that the workspace is too small for any kernel; else empty."""
        return self._last_of(_WORKSPACE)

    def _last_of(self, pattern: Pattern[str]) -> str:
        found = self.errors if _NO_KERNEL not in self.last_error() else self.warnings + self.errors
        short = [text for text in found if pattern.search(text)]
        return sentence(short[-1]) if short else ""


def sentence(message: str) -> str:
    """What a message says, without the place in TensorRT's source that said it."""
    wrapped = _WRAPPED.search(message)
    text = wrapped.group(1) if wrapped else _PREFIX.sub("", message)
    return " ".join(_PLACE.sub("", text).split()).rstrip(".")


def logger(trt: Any) -> Any:
    """The logger of the module `trt`; its `messages` are `Messages`.

    There is one, because TensorRT keeps the first logger of a process and ignores later ones.
    """
    for module, made in _loggers:
        if module is trt:
            return made
    made = _make(trt)
    _loggers.append((trt, made))
    return made


def _make(trt: Any) -> Any:
    names: Dict[Any, str] = {
        trt.ILogger.INTERNAL_ERROR: "error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
        trt.ILogger.VERBOSE: "verbose",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages = Messages()

        def log(self, severity: Any, message: str) -> None:
            self.messages.add(names.get(severity, "info"), message)

    return Logger()
