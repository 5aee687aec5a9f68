"""Is there an NVIDIA GPU? Asked of the driver itself, because TensorRT crashes where there is none."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import List, Tuple

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, CUDA Driver API
_INTEGRATED = 18  # CU_DEVICE_ATTRIBUTE_INTEGRATED
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; `compute_capability` is (8, 7) for a Jetson Orin.

    An integrated GPU's memory (`total_bytes`) is the board's, shared with everything else.
    """

    index: int
    name: str
    compute_capability: Tuple[int, int]
    total_bytes: int = 0
    integrated: bool = False


@dataclass(frozen=True)
class GpuProbe:
    """The devices found, or the one-sentence reason why there are none.

    `cuda` is the newest CUDA that the driver serves, such as `12.6`; empty where there is no driver.
    """

    devices: Tuple[Gpu, ...]
    reason: str = ""
    cuda: str = ""


def probe_gpus(driver: str = DRIVER) -> GpuProbe:
    """Ask the CUDA driver library `driver` for its devices. Never raises."""
    try:
        library = ctypes.CDLL(driver)
        code = library.cuInit(0)
    except (OSError, AttributeError):
        return GpuProbe((), "no NVIDIA driver here ({} does not load)".format(driver))
    if code != 0:
        answer = error_name(library, code)
        return GpuProbe((), "the NVIDIA driver finds no usable GPU (cuInit answers {})".format(answer))
    devices = _devices(library)
    reason = "" if devices else "the NVIDIA driver is here, but no GPU"
    return GpuProbe(tuple(devices), reason, _cuda_version(library))


def error_name(library: ctypes.CDLL, code: int) -> str:
    """`CUDA_ERROR_NO_DEVICE` for 100; the number where the driver has no name for it."""
    name = ctypes.c_char_p()
    if library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name)) != 0 or not name.value:
        return "code {}".format(code)
    return name.value.decode("ascii", "replace")


def _cuda_version(library: ctypes.CDLL) -> str:
    """12060, which is 1000 x major + 10 x minor, is 12.6."""
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    return "{}.{}".format(version.value // 1000, version.value % 1000 // 10)


def _devices(library: ctypes.CDLL) -> List[Gpu]:
    count = ctypes.c_int(0)
    if library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(library, index) for index in range(count.value)]


def _device(library: ctypes.CDLL, index: int) -> Gpu:
    handle, name, total = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    capability = (_attribute(library, handle, _MAJOR), _attribute(library, handle, _MINOR))
    integrated = bool(_attribute(library, handle, _INTEGRATED))
    return Gpu(index, name.value.decode("utf-8", "replace"), capability, total.value, integrated)


def _attribute(library: ctypes.CDLL, handle: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int(0)
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value
