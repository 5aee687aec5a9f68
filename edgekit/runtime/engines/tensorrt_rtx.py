"""Plans of TensorRT-RTX, which builds them ahead of time for several GPUs and finishes them on each."""

from __future__ import annotations

from pathlib import Path

from . import EngineOptions
from . import _tensorrt as shared
from ._tensorrt import TensorRtRunner


def open_engine(path: Path, options: EngineOptions) -> TensorRtRunner:
    """Open a plan on the GPU that `options.device` names.

    Raises:
        HardwareError: there is no such GPU; nothing of TensorRT-RTX is touched then.
        MissingPackageError: tensorrt_rtx is not installed.
        BadFileError: the file is no plan of TensorRT-RTX, or its version refuses it.
        SystemRefusedError: the GPU's memory is full.
    """
    return shared.open_engine("tensorrt_rtx", path, options)
