"""The inputs and outputs of a TensorRT plan: types, profiles, and the buffers behind them."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .._cuda import Cuda
from ..errors import BadFileError, EdgekitError, UnsupportedError
from ..manifest import TensorSpec

Ranges = Mapping[str, Tuple[Sequence[int], Sequence[int]]]
"""Of one optimization profile: the smallest and the largest shape of each input."""

_BF16 = "BF16"
_STORED = {
    "FLOAT": "float32",
    "HALF": "float16",
    _BF16: "uint16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Port:
    """One input or output: page-locked host memory and, unless TensorRT wants it on the host, device memory.

    A bfloat16 tensor is float32 to the caller, because NumPy has no bfloat16. The buffers grow, and
    never shrink.
    """

    def __init__(self, trt: Any, engine: Any, name: str, cuda: Cuda) -> None:
        self.name = name
        self.is_input = bool(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self.shape = tuple(engine.get_tensor_shape(name))
        self._kind = _kind(trt, engine.get_tensor_dtype(name), name)
        self._stored = np.dtype(_STORED[self._kind])
        self.on_host = bool(engine.get_tensor_location(name) == trt.TensorLocation.HOST)
        self._cuda = cuda
        self._device: Optional[int] = None
        self._host: Optional[np.ndarray] = None
        self._capacity = -1

    @property
    def dtype(self) -> str:
        """What the caller gives or gets."""
        return "float32" if self._kind == _BF16 else str(self._stored)

    @property
    def address(self) -> int:
        """What TensorRT is told; 0 before anything was reserved."""
        if self.on_host:
            return 0 if self._host is None else int(self._host.ctypes.data)
        return self._device or 0

    def spec(self, profiles: Sequence[Ranges]) -> TensorSpec:
        """Dynamic dimensions are called after the tensor and the axis: a plan does not keep their names."""
        shape = tuple(
            size if size >= 0 else "{}.{}".format(self.name, axis) for axis, size in enumerate(self.shape)
        )
        held = [profile[self.name] for profile in profiles if self.name in profile]
        ranges = {
            dim: (min(low[axis] for low, _ in held), max(high[axis] for _, high in held))
            for axis, dim in enumerate(shape)
            if isinstance(dim, str) and held
        }
        return TensorSpec(self.name, shape, self.dtype, ranges)

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes."""
        if size <= self._capacity:
            return
        self._give_back()
        self._host = self._cuda.allocate_host(size)
        if not self.on_host:
            self._device = self._cuda.allocate(size)
        self._capacity = size

    def _give_back(self) -> None:
        self._capacity = -1
        if self._host is not None:
            self._cuda.free_host(self._host)
            self._host = None
        if self._device is not None:
            self._cuda.free(self._device)
            self._device = None

    def size_of(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of that shape."""
        return math.prod(shape) * self._stored.itemsize

    def _view(self, shape: Sequence[int]) -> np.ndarray:
        size = self.size_of(shape)
        self.reserve(size)
        held = self._host if self._host is not None else np.empty(0, np.uint8)
        return held[:size].view(self._stored).reshape(tuple(shape))

    def fill(self, array: np.ndarray) -> None:
        """Copy the caller's array into the host buffer."""
        self._view(array.shape)[...] = _to_bf16(array) if self._kind == _BF16 else array

    def upload(self, shape: Sequence[int]) -> None:
        """Copy to the device, in the order of the stream."""
        if self._device is not None:
            self._cuda.upload(self._device, self._view(shape))

    def download(self, shape: Sequence[int]) -> None:
        """Copy from the device, in the order of the stream."""
        if self._device is not None:
            self._cuda.download(self._view(shape), self._device)

    def read(self, shape: Sequence[int]) -> np.ndarray:
        """A copy of the host buffer that is the caller's own."""
        held = self._view(shape)
        return _from_bf16(held) if self._kind == _BF16 else held.copy()


def _kind(trt: Any, dtype: Any, name: str) -> str:
    """TensorRT's own `nptype` knows no bfloat16, and in old versions breaks on a new NumPy."""
    for kind in _STORED:
        if hasattr(trt.DataType, kind) and getattr(trt.DataType, kind) == dtype:
            return kind
    raise UnsupportedError(
        "tensor {!r} of the plan is {}, which NumPy cannot hold".format(name, dtype),
        "build it with inputs and outputs of fp32, fp16, bf16 or whole numbers",
    )


def _to_bf16(array: np.ndarray) -> np.ndarray:
    """The upper half of each float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_profiles(engine: Any, ports: Sequence[Port]) -> List[Ranges]:
    """What each optimization profile takes, for the inputs of dynamic shape."""
    dynamic = [port.name for port in ports if port.is_input and min(port.shape, default=0) < 0]
    profiles: List[Ranges] = []
    for number in range(max(engine.num_optimization_profiles, 1)):
        shapes = {name: engine.get_tensor_profile_shape(name, number) for name in dynamic}
        profiles.append({name: (tuple(low), tuple(high)) for name, (low, _, high) in shapes.items()})
    return profiles


def choose_profile(profiles: Sequence[Ranges], shapes: Mapping[str, Sequence[int]]) -> int:
    """The first profile that holds the shapes; plans have the narrow ones first.

    Raises:
        BadFileError: there is none.
    """
    for number, profile in enumerate(profiles):
        if all(_holds(bounds, shapes[name]) for name, bounds in profile.items()):
            return number
    given = ", ".join("{!r} {}".format(name, tuple(shapes[name])) for name in profiles[0])
    held = "; ".join(
        ", ".join("{} {} to {}".format(name, *bounds) for name, bounds in profile.items())
        for profile in profiles
    )
    raise BadFileError(
        "no optimization profile of the plan takes {}".format(given), "the profiles take: " + held
    )


def _holds(bounds: Tuple[Sequence[int], Sequence[int]], shape: Sequence[int]) -> bool:
    return all(low <= size <= high for low, size, high in zip(bounds[0], shape, bounds[1]))


def narrowed(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """An int64 array as int32 where the plan wants that: TensorRT before 10 has no int64.

    Raises:
        BadFileError: a number does not fit.
    """
    if spec.dtype != "int32" or array.dtype != np.int64:
        return array
    bounds = np.iinfo(np.int32)
    if array.size and not bounds.min <= array.min() <= array.max() <= bounds.max:
        raise BadFileError(
            "input {!r} holds numbers beyond int32".format(spec.name), "this plan takes int32 only"
        )
    return array.astype(np.int32)


def output_allocator(trt: Any, ports: Mapping[str, Port]) -> Any:
    """Gives memory to outputs whose shape is known only after the run, and is told that shape.

    TensorRT calls it from C++, where an exception would end the process: `fault` keeps it.
    """

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shapes: Dict[str, Tuple[int, ...]] = {}
            self.fault: Optional[EdgekitError] = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            try:
                ports[tensor_name].reserve(size)
            except EdgekitError as error:
                self.fault = error
                return 0
            return ports[tensor_name].address

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
            self.shapes[tensor_name] = tuple(shape)

    return OutputAllocator()
