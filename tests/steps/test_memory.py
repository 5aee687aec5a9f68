"""Memory that was freed is there for the next tensor."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from edgekit.steps._memory import keep_freed_memory

if {kept}:
    keep_freed_memory()
torch.set_num_threads(1)

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        tensors = [torch.ones(12 << 20) for _ in range(4)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touched()
print(touched())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_large_tensors_cost_their_pages_once() -> None:
    def faults(kept: bool) -> int:
        program = PROGRAM.format(kept=kept)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    assert faults(True) < faults(False) / 10
