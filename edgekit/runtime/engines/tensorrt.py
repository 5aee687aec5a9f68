"""TensorRT plans. A plan is tied to its GPU, its platform and its version of TensorRT."""

from __future__ import annotations

from pathlib import Path

from . import EngineOptions
from . import _tensorrt as shared
from ._tensorrt import TensorRtRunner, gpu_index

__all__ = ["gpu_index", "open_engine"]


def open_engine(path: Path, options: EngineOptions) -> TensorRtRunner:
    """Open a plan on the GPU that `options.device` names.

    Raises:
        HardwareError: there is no such GPU; nothing of TensorRT is touched then.
        MissingPackageError: tensorrt is not installed.
        BadFileError: the file is no plan, or one of another GPU, platform or version.
        SystemRefusedError: the GPU's memory is full.
    """
    return shared.open_engine("tensorrt", path, options)
