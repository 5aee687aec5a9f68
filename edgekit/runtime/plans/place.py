"""Where a plan is built: a plan runs only where all of this is the same."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, Optional

from ..probe import Gpu, probe_gpus
from .features import features_of

_DRIVER = Path("/sys/module/nvidia/version")


def here(trt: Any, gpu_index: int = 0) -> Dict[str, str]:
    """The builder's version, the machine and, where there is one, the GPU and its driver."""
    features = features_of(trt)
    told = {"flavour": features.flavour, "version": features.version, "machine": platform.machine()}
    gpu = find_gpu(gpu_index)
    if gpu is not None:
        told.update(gpu=gpu.name, compute_capability="{}.{}".format(*gpu.compute_capability))
        told.update(_driver())
    return told


def find_gpu(index: int) -> Optional[Gpu]:
    """GPU number `index`, or None where it is not here."""
    return next((gpu for gpu in probe_gpus().devices if gpu.index == index), None)


def _driver() -> Dict[str, str]:
    try:
        return {"driver": _DRIVER.read_text(encoding="utf-8").strip()}
    except OSError:
        return {}
