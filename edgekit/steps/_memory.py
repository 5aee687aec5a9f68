"""What is freed stays with the process."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation; other C libraries are left as they are.

    Every step of a training makes and frees the same tensors. glibc gives those above 32 MB back to the
    system and gets them anew, page by page: a third of the time that `attention_cnn` took.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, LARGEST)
