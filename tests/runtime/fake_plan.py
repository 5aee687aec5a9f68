"""A plan that really computes, on the memory of the fake driver, behind the names of one TensorRT.

The network: `y = 3 * sum(x, axis=1) + shift`; `x` is (batch, 4, width), `shift` one whole number,
`y` (batch, width).
"""

from __future__ import annotations

import ctypes
import json
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.strict import Strict, module, table

NARROW = {"x": ((1, 4, 8), (1, 4, 16), (2, 4, 32))}
WIDE = {"x": ((1, 4, 64), (1, 4, 96), (8, 4, 128))}
LAYERS = {
    "Layers": [
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}
    ]
}


@dataclass
class FakePlan:
    """What the stand-in does, and what it was told; `failing` and `told` are for the tests to set."""

    version: str
    fake: FakeCuda
    profiles: tuple[dict[str, Any], ...] = (NARROW, WIDE)
    kind: str = "FLOAT"
    unknown_shape: bool = False
    host_shift: bool = False
    capturable: bool = True
    failing: str = ""
    log: str = ""
    executions: int = 0
    profile: int = 0
    switches: list[int] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    allocators: dict[str, Any] = field(default_factory=dict)
    outlived: list[bool] = field(default_factory=list)
    """Of each execution context that has gone: whether CUDA's had gone before it."""
    logger: Any = None
    runtime: Any = None

    def __post_init__(self) -> None:
        self.rtx = self.version.startswith("rtx")
        self.trt = self._module()
        whole = "INT64" if hasattr(self.trt.DataType, "INT64") else "INT32"
        self.kinds = {"x": self.kind, "shift": whole, "y": self.kind}
        self.engine = self._engine()

    @property
    def whole(self) -> str:
        return self.kinds["shift"].lower()

    def _module(self) -> Any:
        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        classes: dict[str, Any] = {"ILogger": ILogger, "Runtime": self._runtime, "Builder": None}
        classes["IOutputAllocator"] = type("IOutputAllocator", (), {})
        return module(self.version, **classes)

    def says(self, message: str) -> None:
        self.logger.log(self.trt.ILogger.ERROR, message)

    def _runtime(self, logger: Any) -> Strict:
        self.logger = logger

        def deserialize(plan: bytes) -> Any:
            if self.log:
                self.says(self.log)
            return None if self.failing == "deserialize" else self.engine

        behaviour: dict[str, Any] = {"deserialize_cuda_engine": deserialize}
        if "engine_host_code_allowed" in table(self.version)["Runtime"]["attributes"]:
            behaviour["engine_host_code_allowed"] = False
        made = self.runtime = Strict(self.version, "Runtime", behaviour)
        return made

    def _engine(self) -> Strict:
        trt = self.trt
        shapes = {"x": (-1, 4, -1), "shift": (1,), "y": (-1, -1)}
        modes = {"x": "INPUT", "shift": "INPUT", "y": "OUTPUT"}
        if not self.profiles:
            shapes = {"x": (1, 4, 16), "shift": (1,), "y": (1, 16)}
        inspector = Strict(
            self.version, "EngineInspector", {"get_engine_information": lambda form: json.dumps(LAYERS)}
        )
        return Strict(
            self.version,
            "ICudaEngine",
            {
                "num_io_tensors": 3,
                "num_optimization_profiles": max(len(self.profiles), 1),
                "get_tensor_name": lambda index: list(shapes)[index],
                "get_tensor_mode": lambda name: getattr(trt.TensorIOMode, modes[name]),
                "get_tensor_shape": lambda name: shapes[name],
                "get_tensor_dtype": lambda name: getattr(trt.DataType, self.kinds[name]),
                "get_tensor_location": lambda name: getattr(
                    trt.TensorLocation, "HOST" if self.host_shift and name == "shift" else "DEVICE"
                ),
                "get_tensor_profile_shape": lambda name, number: self.profiles[number][name],
                "create_execution_context": self._context,
                "create_engine_inspector": lambda: inspector,
            },
        )

    def _context(self) -> Strict | None:
        if self.failing == "context":
            return None
        behaviour: dict[str, Any] = {
            "set_optimization_profile_async": self._switch,
            "set_input_shape": self._set_shape,
            "get_tensor_shape": self._shape_of,
            "set_tensor_address": lambda name, address: self.addresses.update({name: address}) or True,
            "set_output_allocator": lambda name, one: self.allocators.update({name: one}) or True,
            "execute_async_v3": self._execute,
        }
        if self.rtx:
            behaviour["is_stream_capturable"] = lambda stream: self.capturable
        made = Strict(self.version, "IExecutionContext", behaviour)
        weakref.finalize(made, lambda: self.outlived.append(not self.fake.live().get("context")))
        return made

    def _switch(self, number: int, stream: int) -> bool:
        assert stream
        self.profile = number
        self.shapes = {}
        self.switches.append(number)
        return self.failing != "switch"

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.profiles and name in self.profiles[self.profile]:
            low, _, high = self.profiles[self.profile][name]
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return False
        self.shapes[name] = tuple(shape)
        return self.failing != "shape"

    def _shape_of(self, name: str) -> tuple[int, ...]:
        assert set(self.shapes) == {"x", "shift"}, "a shape was not set after the profile was"
        assert name == "y"
        batch, _, width = self.shapes["x"]
        return (batch, -1 if self.unknown_shape else width)

    def _execute(self, stream: int) -> bool:
        self.executions += 1
        if self.failing == "synchronizes":
            self.fake.synchronize(stream)
        if self.failing == "execute":
            self.says("Error Code 1: Cask (an illegal memory access was encountered)")
            return False
        batch, rows, width = self.shapes["x"]
        out = self.addresses.get("y", 0)
        if "y" in self.allocators:
            out = self._allocate(batch * width * self._stored("y").itemsize, stream)
            self.allocators["y"].notify_shape("y", (batch, width))
        if not out:
            return False
        x_at, shift_at = self.addresses["x"], self.addresses["shift"]

        def work() -> None:
            x = self._loaded("x", x_at, (batch, rows, width))
            shift = self._loaded("shift", shift_at, (1,))
            self._store("y", out, 3 * x.sum(axis=1) + shift)

        self.fake.enqueue(stream, work)
        return True

    def _allocate(self, size: int, stream: int) -> int:
        allocator = self.allocators["y"]
        if "reallocate_output" in table(self.version)["IOutputAllocator"]["attributes"]:
            return int(allocator.reallocate_output("y", 0, size, 256))
        return int(allocator.reallocate_output_async("y", 0, size, 256, stream))

    def _stored(self, name: str) -> np.dtype[Any]:
        kinds = {"FLOAT": "float32", "HALF": "float16", "BF16": "uint16", "INT32": "int32", "INT64": "int64"}
        return np.dtype(kinds[self.kinds[name]])

    def _loaded(self, name: str, address: int, shape: tuple[int, ...]) -> np.ndarray:
        dtype = self._stored(name)
        raw = ctypes.string_at(address, int(np.prod(shape)) * dtype.itemsize)
        held: np.ndarray = np.frombuffer(raw, dtype).reshape(shape)
        if self.kinds[name] == "BF16":
            held = (held.astype(np.uint32) << 16).view(np.float32)
        return held.astype(np.float32)

    def _store(self, name: str, address: int, array: np.ndarray) -> None:
        if self.kinds[name] == "BF16":
            array = (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        data = array.astype(self._stored(name)).tobytes()
        ctypes.memmove(address, data, len(data))


def expected(x: np.ndarray, shift: int) -> np.ndarray:
    """What the network gives, in the type of `x`."""
    found: np.ndarray = (3 * x.astype(np.float32).sum(axis=1) + shift).astype(x.dtype)
    return found
