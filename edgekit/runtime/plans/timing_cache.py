"""How long kernels took on this GPU, kept from one build to the next."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Optional
from uuid import uuid4

from .features import load
from .place import here


def read(flavour: str, gpu: int = 0) -> Optional[bytes]:
    """What the last build by this `tensorrt` on this GPU measured; None when there is nothing.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        return place(flavour, gpu).read_bytes() or None
    except OSError:
        return None


def write(flavour: str, gpu: int, content: bytes) -> Optional[Path]:
    """Keep what a build measured, whole or not at all; None where the folder cannot be written.

    Without it the next build takes longer, which is no reason to fail this one.

    Raises:
        MissingPackageError: the package is not installed.
    """
    path = place(flavour, gpu)
    fresh = path.with_name(".{}.{}.tmp".format(path.name, uuid4().hex[:8]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError:
        return None
    finally:
        if fresh.exists():
            fresh.unlink()
    return path


def place(flavour: str, gpu: int = 0) -> Path:
    """The file for this flavour, its version and GPU number `gpu`."""
    told = here(load(flavour), gpu)
    words = [told[key] for key in ("flavour", "version", "gpu", "compute_capability") if key in told]
    return _folder() / (re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(words)) + ".cache")


def _folder() -> Path:
    chosen = os.environ.get("EDGEKIT_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "edgekit") / "timing"
