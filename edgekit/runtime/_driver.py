"""Calls into the CUDA driver library through ctypes; a call that fails becomes a sentence.

The driver library is on every machine that has a GPU, while the toolkit's own runtime library is
often missing or not on the loader's path. Names and signatures: CUDA Driver API. Every argument is
given as a ctypes value, because without prototypes ctypes would cut a pointer to 32 bits.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .errors import HardwareError, SystemRefusedError
from .probe import DRIVER, error_name

_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class Driver:
    """The loaded library, initialized.

    Raises:
        HardwareError: the library does not load or finds no GPU.
    """

    def __init__(self, library: str = DRIVER) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as cause:
            raise HardwareError(
                "no NVIDIA driver here ({} does not load)".format(library), "run this on the device itself"
            ) from cause
        self.call("cuInit", ctypes.c_uint(0))

    def has(self, name: str) -> bool:
        """Whether this driver knows the call."""
        return hasattr(self._library, name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that answers with a CUresult.

        Raises:
            SystemRefusedError: the GPU's memory is full.
            HardwareError: any other failure, or the driver is too old to have the function.
        """
        if not self.has(name):
            raise HardwareError("the NVIDIA driver has no {}".format(name), "install a newer driver")
        code = int(getattr(self._library, name)(*arguments))
        if code != 0:
            self._refuse(name, code)

    def release(self, name: str, *arguments: Any) -> None:
        """The same for what is given back: after a fault of the GPU that fails too, and was told already."""
        getattr(self._library, name)(*arguments)

    def _refuse(self, name: str, code: int) -> None:
        error = error_name(self._library, code)
        if error == _OUT_OF_MEMORY:
            raise SystemRefusedError(
                "the GPU's memory is full", "close other programs, or use a smaller batch"
            )
        raise HardwareError(
            "the CUDA call {} failed: {}".format(name, error),
            "see nvidia-smi (on Jetson: dmesg), then try again",
        )
