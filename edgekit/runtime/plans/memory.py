"""Is there memory for the build? Asked before, because the kernel kills the process otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

from .. import _cuda
from ..errors import SystemRefusedError
from .place import find_gpu

MEMINFO = Path("/proc/meminfo")
BASE = 256 << 20
"""The builder itself: its libraries and the context on the device."""

COPIES = 4
"""The graph as parsed, as optimized, as serialized, and its weights on the device while timing."""

SMALLEST_WORKSPACE = 16 << 20
MB = 10**6


@dataclass(frozen=True)
class Room:
    """Bytes that are free, and where: `the GPU` or `this machine`."""

    free: int
    where: str


def preflight(graph: Path, workspace: int, gpu: Optional[int]) -> Tuple[int, Tuple[str, ...]]:
    """The workspace that fits, in bytes, and what has to be said about it.

    `gpu` None means that nothing runs on a GPU: the workspace is then a limit for another machine
    and left as it is.

    Raises:
        SystemRefusedError: the graph alone does not fit.
    """
    room = _room(gpu)
    if room is None:
        return workspace, ()
    needed = BASE + COPIES * graph_bytes(graph)
    least = needed + (SMALLEST_WORKSPACE if gpu is not None else 0)
    if least > room.free:
        raise SystemRefusedError(
            "building {} needs about {} MB, and {} has {} MB free".format(
                graph.name, least // MB, room.where, room.free // MB
            ),
            "stop other programs, add swap, or build a smaller network",
        )
    if gpu is None or needed + workspace <= room.free:
        return workspace, ()
    lowered = room.free - needed
    return lowered, (
        "the workspace was lowered from {} to {} MB: {} has {} MB free".format(
            workspace // MB, lowered // MB, room.where, room.free // MB
        ),
    )


def graph_bytes(graph: Path) -> int:
    """Size of an ONNX file and of the files beside it that hold its weights."""
    return sum(path.stat().st_size for path in graph.parent.glob(graph.name + "*") if path.is_file())


def _room(gpu: Optional[int]) -> Optional[Room]:
    chip = find_gpu(gpu) if gpu is not None else None
    if gpu is not None and not (chip and chip.integrated):
        return Room(_cuda.memory_info(gpu)[0], "the GPU")
    available = _available()
    return None if available is None else Room(available, "this machine")


def _available() -> Optional[int]:
    """MemAvailable in bytes; None where there is no such file."""
    try:
        text = MEMINFO.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
