"""What is already made, kept by a key of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache as once
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgekit.runtime.errors import SystemRefusedError
from edgekit.runtime.manifest import sha256_of

LOCK_SECONDS = 600


def folder() -> Path:
    """`$EDGEKIT_CACHE`, else `$XDG_CACHE_HOME/edgekit`, else `~/.cache/edgekit`."""
    if chosen := os.environ.get("EDGEKIT_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgekit"


def key(step: str, parts: Mapping[str, Any], packages: tuple[str, ...]) -> str:
    """A name for what `step` makes of `parts` with this code and these versions of `packages`."""
    told = {"step": step, "parts": parts, "code": code(), "versions": {p: installed(p) for p in packages}}
    text = json.dumps(told, sort_keys=True, default=str)
    return f"{step}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


@once
def code() -> str:
    """A hash of edgekit's own sources: other code never reuses what this code has made."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def installed(package: str) -> str:
    """The version of a distribution, or an empty string when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def fetch(name: str, make: Callable[[Path], None]) -> Path:
    """The file kept under `name`; made by `make(path)` when it is not there or was altered.

    Each name has a lock of its own: who needs the same thing waits for it, and nobody else does.

    Raises:
        SystemRefusedError: the cache folder cannot be written, or the name's lock is held for ten minutes.
    """
    from filelock import FileLock, Timeout

    root = folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock", timeout=LOCK_SECONDS):
            return _kept(root / name) or _make(root / name, make)
    except Timeout as error:
        raise SystemRefusedError(
            f"another edgekit has been making {root / name} for {LOCK_SECONDS} s",
            "wait for it, or set EDGEKIT_CACHE to another folder",
        ) from error
    except OSError as error:
        raise SystemRefusedError(
            f"the cache {root} cannot be used: {error.strerror or error}",
            "free some space, or set EDGEKIT_CACHE to a folder that can be written",
        ) from error


def _kept(place: Path) -> Path | None:
    file, seal = place / "artifact", place / "sha256"
    if not (file.is_file() and seal.is_file()):
        return None
    return file if seal.read_text() == sha256_of(file) else None


def _make(place: Path, make: Callable[[Path], None]) -> Path:
    fresh = place.with_name(f"{place.name}.{uuid4().hex}.tmp")
    fresh.mkdir()
    try:
        make(fresh / "artifact")
        (fresh / "sha256").write_text(sha256_of(fresh / "artifact"))
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place / "artifact"
