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

from edgekit.report import FILE, Report, html
from edgekit.runtime.errors import BadFileError, SystemRefusedError, UsageError
from edgekit.runtime.manifest import Manifest, file_names, hashes, read_manifest, write_manifest

RUNTIME = Path(__file__).parent / "runtime"
FACE = '''#!/usr/bin/env python3
"""A compiled network that proves itself: python run.py check|bench|infer|build"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

try:
    from runtime.face import main
except ModuleNotFoundError as error:
    print("error: the package {} is not installed".format(error.name), file=sys.stderr)
    print("  try: pip install {}".format(error.name), file=sys.stderr)
    sys.exit(3)

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
    output = output.resolve()
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
    if output.is_symlink():
        what = "a symbolic link"
    elif not output.is_dir():
        what = "a file"
    else:
        what = _strange(output)
        if not what:
            return
    raise UsageError(
        f"{output} exists and is {what}: it is not replaced", "give another folder with --output"
    )


def _strange(output: Path) -> str:
    """Why a folder is not a bundle that may be replaced; empty when it is one, or holds nothing."""
    if not any(output.iterdir()):
        return ""
    try:
        known = read_manifest(output).files
    except BadFileError:
        return "a folder that is no bundle"
    strangers = sorted(set(file_names(output)) - set(known))
    return f"a bundle with a file that is not its own, {strangers[0]}" if strangers else ""


@contextmanager
def whole_file(output: Path | None, name: str) -> Iterator[tuple[Path, Path]]:
    """A temporary path to write a single file to, and the place it then gets.

    The place is `output`, or `name` in the folder `output`, or `build/NAME`.

    Raises:
        UsageError: the place is taken by a file of another kind.
        SystemRefusedError: the folder cannot be written.
    """
    place = Path("build") / name if output is None else output / name if output.is_dir() else output
    if place.exists() and (place.suffix != Path(name).suffix or not place.is_file()):
        raise UsageError(f"{place} exists: it is not replaced", "give another file with --output")
    fresh = place.with_name(f".{place.name}.{uuid4().hex[:8]}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield fresh, place
        fresh.replace(place)
    except OSError as error:
        raise SystemRefusedError(
            f"{place} cannot be written: {error.strerror or error}", "give another place with --output"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def furnish(work: Path) -> None:
    """Put the runtime and its command line into a bundle."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(RUNTIME, work / "runtime", ignore=ignored)
    (work / "run.py").write_text(FACE, encoding="utf-8")


def sign_off(work: Path, output: Path, manifest: Manifest, report: Report) -> Manifest:
    """Write report and manifest, then put the bundle in its place."""
    (work / FILE).write_text(report.json() + "\n", encoding="utf-8")
    (work / "report.html").write_text(html(report), encoding="utf-8")
    signed = replace(manifest, state=report.state, passed=report.passed, files=hashes(work))
    write_manifest(signed, work)
    refuse_to_replace(output)
    exchange(work, output.resolve())
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
