"""Assembles the folder that ships: written whole beside its place, then exchanged in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from edgekit.report import Report, html
from edgekit.runtime.errors import SystemRefusedError, UsageError
from edgekit.runtime.manifest import FILE_NAME, Manifest, hashes, write_manifest

RUNTIME = Path(__file__).parent / "runtime"
FACE = '''#!/usr/bin/env python3
"""A compiled network that proves itself: python run.py check|bench|infer|build"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

from runtime.face import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(HERE))
'''

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def default_output(model: str, target: str, precision: str) -> Path:
    """`build/MODEL-TARGET-PRECISION`."""
    return Path("build") / f"{model}-{target}-{precision}"


@contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """A fresh folder beside `output` to put a bundle together in; gone afterwards, whatever happens.

    Raises:
        UsageError: `output` exists and is no bundle.
        SystemRefusedError: the folder cannot be written.
    """
    refuse_to_replace(output)
    work = output.parent / f".{output.name}.{uuid4().hex[:8]}.tmp"
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise SystemRefusedError(
            f"{output.parent} cannot be written: {error.strerror}", "give another folder with --output"
        ) from error
    try:
        yield work
    except OSError as error:
        raise SystemRefusedError(
            f"the system refused: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            "look at the free space and the permissions there",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def refuse_to_replace(output: Path) -> None:
    """Raise UsageError unless `output` is free, empty or a bundle."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and not output.is_symlink():
        if (output / FILE_NAME).is_file() or not any(output.iterdir()):
            return
        what = "a folder that is no bundle"
    else:
        what = "a symbolic link" if output.is_symlink() else "a file"
    raise UsageError(
        f"{output} exists and is {what}: it is not replaced", "give another folder with --output"
    )


def file_place(output: Path | None, name: str) -> Path:
    """Where a single file goes: `output`, or `name` in the folder `output`, or `build/NAME`.

    Raises:
        SystemRefusedError: the folder cannot be written.
    """
    place = Path("build") / name if output is None else output / name if output.is_dir() else output
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemRefusedError(f"{place.parent} cannot be written: {error.strerror}") from error
    return place


def furnish(work: Path) -> None:
    """Put the runtime and its command line into a bundle."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(RUNTIME, work / "runtime", ignore=ignored)
    (work / "run.py").write_text(FACE, encoding="utf-8")


def sign_off(work: Path, output: Path, manifest: Manifest, report: Report) -> Manifest:
    """Write report and manifest, then put the bundle in its place."""
    (work / "report.json").write_text(report.json() + "\n", encoding="utf-8")
    (work / "report.html").write_text(html(report), encoding="utf-8")
    signed = replace(manifest, state=report.state, passed=report.passed, files=hashes(work))
    write_manifest(signed, work)
    refuse_to_replace(output)
    exchange(work, output)
    return signed


def exchange(fresh: Path, place: Path) -> None:
    """Put `fresh` where `place` is; what was there goes where `fresh` was."""
    if not place.exists():
        fresh.rename(place)
        return
    if not _swap(fresh, place):
        aside = place.with_name(f".{place.name}.{uuid4().hex[:8]}.old")
        place.rename(aside)
        fresh.rename(place)
        shutil.rmtree(aside, ignore_errors=True)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders atomically with Linux' renameat2; answers whether it could."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    answer: int = renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return answer == 0
