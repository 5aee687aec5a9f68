"""Is there an NVIDIA GPU? Asked of the driver itself, because TensorRT crashes where there is none."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import List, Tuple

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, CUDA Driver API
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; `compute_capability` is (8, 7) for a Jetson Orin."""

    index: int
    name: str
    compute_capability: Tuple[int, int]


@dataclass(frozen=True)
class GpuProbe:
    """The devices found, or the one-sentence reason why there are none."""

    devices: Tuple[Gpu, ...]
    reason: str = ""


def probe_gpus(driver: str = DRIVER) -> GpuProbe:
    """Ask the CUDA driver library `driver` for its devices. Never raises."""
    try:
        library = ctypes.CDLL(driver)
        code = library.cuInit(0)
    except (OSError, AttributeError):
        return GpuProbe((), "no NVIDIA driver here ({} does not load)".format(driver))
    if code != 0:
        return GpuProbe((), "the NVIDIA driver finds no usable GPU (cuInit answers {})".format(code))
    devices = _devices(library)
    return GpuProbe(tuple(devices), "" if devices else "the NVIDIA driver is here, but no GPU")


def _devices(library: ctypes.CDLL) -> List[Gpu]:
    count = ctypes.c_int(0)
    if library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(library, index) for index in range(count.value)]


def _device(library: ctypes.CDLL, index: int) -> Gpu:
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    capability = (_attribute(library, handle, _MAJOR), _attribute(library, handle, _MINOR))
    return Gpu(index, name.value.decode("utf-8", "replace"), capability)


def _attribute(library: ctypes.CDLL, handle: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int(0)
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value
