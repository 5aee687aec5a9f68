"""The few CUDA driver calls that running an engine needs, through ctypes.

Names and signatures: CUDA Driver API. The driver library is on every machine that has a GPU, while
the toolkit's own runtime library is often missing or not on the loader's path.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .errors import HardwareError, SystemRefusedError
from .probe import DRIVER, probe_gpus

_OUT_OF_MEMORY = 2


def require_gpu(index: int = 0) -> None:
    """Raise HardwareError unless GPU number `index` is here. TensorRT itself crashes instead."""
    found = probe_gpus()
    if index >= len(found.devices):
        reason = found.reason or "there is no GPU number {}".format(index)
        raise HardwareError(reason, "run this on the device itself")


class Cuda:
    """A device's primary context and one stream of work on it."""

    def __init__(self, index: int = 0, driver: str = DRIVER) -> None:
        self._library = ctypes.CDLL(driver)
        self._call("cuInit", 0)
        device, self._context, stream = ctypes.c_int(0), ctypes.c_void_p(), ctypes.c_void_p()
        self._device = device
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self._stream = stream

    @property
    def stream(self) -> int:
        """The stream as TensorRT wants it: a number."""
        return self._stream.value or 0

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory (at least one)."""
        address = ctypes.c_uint64(0)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device, in the order of the stream."""
        self._copy(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), array
        )

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into a contiguous array, in the order of the stream."""
        self._copy(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), array
        )

    def _copy(self, name: str, target: Any, source: Any, array: np.ndarray) -> None:
        self._call(name, target, source, ctypes.c_size_t(array.nbytes), self._stream)

    def wait(self) -> None:
        """Return when the stream has done all its work."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give back the stream and the context."""
        self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise SystemRefusedError(
                "the GPU's memory is full", "close other programs, or use a smaller batch"
            )
        if code != 0:
            raise HardwareError("the CUDA call {} failed with code {}".format(name, code), "see nvidia-smi")
