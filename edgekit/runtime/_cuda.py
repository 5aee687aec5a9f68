"""What running an engine needs of CUDA: memory, one stream, events, graphs.

A thread has one current context; whatever works on the device first calls `Cuda.activate`.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Dict, Tuple

import numpy as np

from ._driver import Driver
from .errors import HardwareError
from .probe import DRIVER, probe_gpus

_NON_BLOCKING_STREAM = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL_CAPTURE = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_DEVICE, _HOST, _EVENT, _GRAPH = "cuMemFree_v2", "cuMemFreeHost", "cuEventDestroy_v2", "cuGraphExecDestroy"


def require_gpu(index: int = 0) -> None:
    """Raise HardwareError unless GPU number `index` is here. TensorRT itself crashes instead."""
    found = probe_gpus()
    if index >= len(found.devices):
        reason = found.reason or "there is no GPU number {}".format(index)
        raise HardwareError(reason, "run this on the device itself")


def memory_info(gpu: int = 0, driver: str = DRIVER) -> Tuple[int, int]:
    """Free and total bytes of a GPU's memory; an integrated GPU's is the board's.

    On an integrated GPU the driver does not count as free what the system keeps as file cache, though
    it can be had.

    Raises:
        HardwareError: there is no such GPU.
    """
    library = Driver(driver)
    device, context = _device(library, gpu), ctypes.c_void_p()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    library.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        library.call("cuCtxPushCurrent_v2", context)
        try:
            library.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            library.release("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        library.release("cuDevicePrimaryCtxRelease_v2", device)
    return free.value, total.value


def _device(library: Driver, gpu: int) -> ctypes.c_int:
    device = ctypes.c_int(0)
    library.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(gpu))
    return device


class Cuda:
    """A device's primary context, one stream of work on it, and everything allocated there.

    What was not given back before is given back by `close`, also when opening fails half-way.

    Raises:
        HardwareError: there is no such GPU, or it fails.
        SystemRefusedError: its memory is full.
    """

    def __init__(self, index: int = 0, driver: str = DRIVER) -> None:
        self._driver = Driver(driver)
        self._held: Dict[Tuple[str, int], Any] = {}
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._device, before = _device(self._driver, index), ctypes.c_void_p()
        try:
            self._call("cuCtxGetCurrent", ctypes.byref(before))
            self._hold("cuCtxSetCurrent", before)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
            self._hold("cuDevicePrimaryCtxRelease_v2", self._device)
            self.activate()
            self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING_STREAM))
            self._hold("cuStreamDestroy_v2", self._stream)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The GPU's name as its maker gives it."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), self._device)
        return name.value.decode("utf-8", "replace")

    @property
    def stream(self) -> int:
        """The stream as TensorRT wants it: a number."""
        return self._stream.value or 0

    def activate(self) -> None:
        """Make the context the calling thread's current one."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory (at least one)."""
        address = ctypes.c_uint64(0)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return self._hold(_DEVICE, address)

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._give_back(_DEVICE, address)

    def allocate_host(self, size: int) -> np.ndarray:
        """`size` bytes of page-locked host memory (at least one) as uint8: copies from it need no staging."""
        address = ctypes.c_void_p()
        size = max(size, 1)
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        start = self._hold(_HOST, address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))

    def free_host(self, array: np.ndarray) -> None:
        """Give back what `allocate_host` gave; the array must not be used again."""
        self._give_back(_HOST, array.ctypes.data)

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

    def event(self) -> int:
        """A point in the stream's work that `record` sets."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return self._hold(_EVENT, event)

    def record(self, event: int) -> None:
        """Set the event behind all that the stream was given so far."""
        self._call("cuEventRecord", ctypes.c_void_p(event), self._stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that the stream has passed; resolution 0.5 microseconds."""
        milliseconds = ctypes.c_float(0.0)
        self._call(
            "cuEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(start), ctypes.c_void_p(end)
        )
        return milliseconds.value

    def capture(self, work: Callable[[], None]) -> int:
        """A graph of what `work` puts on the stream; nothing of it runs before `launch`.

        Raises:
            HardwareError: what `work` does cannot be captured.
        """
        graph = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL_CAPTURE))
        try:
            work()
        except BaseException:
            self._driver.release("cuStreamEndCapture", self._stream, ctypes.byref(graph))
            self._drop(graph)
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            return self._instantiate(graph)
        finally:
            self._drop(graph)

    def _instantiate(self, graph: ctypes.c_void_p) -> int:
        executable, none = ctypes.c_void_p(), ctypes.c_void_p()
        if self._driver.has("cuGraphInstantiateWithFlags"):  # CUDA 11.4
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        else:
            self._call(
                "cuGraphInstantiate_v2", ctypes.byref(executable), graph, none, none, ctypes.c_size_t(0)
            )
        return self._hold(_GRAPH, executable)

    def _drop(self, graph: ctypes.c_void_p) -> None:
        if graph.value:
            self._driver.release("cuGraphDestroy", graph)

    def launch(self, graph: int) -> None:
        """Put what was captured on the stream again: same shapes, same addresses, today's data."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream)

    def free_graph(self, graph: int) -> None:
        """Give back what `capture` gave."""
        self._give_back(_GRAPH, graph)

    def close(self) -> None:
        """Give back everything, the context last. A second call does nothing."""
        if self._context.value and self._held:
            self._driver.release("cuCtxSetCurrent", self._context)
        while self._held:
            (call, _), handle = self._held.popitem()
            self._driver.release(call, handle)

    def _hold(self, release: str, handle: Any) -> int:
        value: int = handle.value or 0
        self._held[release, value] = handle
        return value

    def _give_back(self, release: str, value: int) -> None:
        self._driver.release(release, self._held.pop((release, value)))

    def _call(self, name: str, *arguments: Any) -> None:
        self._driver.call(name, *arguments)
