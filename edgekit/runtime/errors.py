"""Every way edgekit can say no, each with its exit code.

An error carries what happened and where (`message`) and what to do next (`hint`).
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Base of all errors that are shown to the user as one sentence and a hint."""

    code = "bug"
    exit_code = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgekitError):
    """An unknown name, a bad recipe or a bad option."""

    code = "usage"
    exit_code = 2


class MissingPackageError(EdgekitError):
    """A package is not installed; the hint is the pip command that brings it."""

    code = "missing-package"
    exit_code = 3


class UnsupportedError(EdgekitError):
    """The model cannot go there: an operator, a type or a precision the target does not take."""

    code = "unsupported"
    exit_code = 4


class HardwareError(EdgekitError):
    """The hardware to build or to prove the engine is not here."""

    code = "hardware"
    exit_code = 5


class BadFileError(EdgekitError):
    """A file is missing, truncated, altered, of the wrong shape or not what it claims."""

    code = "bad-file"
    exit_code = 6


class SystemRefusedError(EdgekitError):
    """The operating system refused: disk full, permission, a lock that is held."""

    code = "system"
    exit_code = 7
