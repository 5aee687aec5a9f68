"""One engine a file. Each has `open_engine(path, options) -> Runner`."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np

from ..errors import BadFileError, MissingPackageError
from ..manifest import TensorSpec

try:
    from typing import Protocol
except ImportError:  # pragma: no cover
    Protocol = object  # type: ignore[assignment]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened.

    `precision` is the floating precision of what the graph leaves in float (`fp32`, `fp16`,
    `bf16`), `threads` 0 means one per usable core, `shapes` fixes dynamic dimensions by name.
    The rest is TensorRT's: `cuda_graph` replays a captured run while shapes stay the same,
    `built_on` says where a plan was built (`plans/place.py`; a plan from elsewhere is tried in a
    child process first), `host_code` lets a version-compatible plan load the library it carries.
    """

    device: str = "CPU"
    precision: str = "fp32"
    threads: int = 0
    shapes: Mapping[str, int] = field(default_factory=dict)
    cuda_graph: bool = False
    built_on: Mapping[str, str] = field(default_factory=dict)
    host_code: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer as the engine really runs it."""

    name: str
    type: str
    precision: str


class Runner(Protocol):
    """Anything that turns named arrays into named arrays. A context manager."""

    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    settings: Mapping[str, Any]
    """What the engine says it was set to, read back from it: device, precision, threads."""

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]: ...

    def layers(self) -> List[Layer]: ...

    def __enter__(self) -> "Runner": ...

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...


_PRECISIONS = {
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "f16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "i8": "int8",
    "u8": "int8",
    "int4": "int4",
    "uint4": "int4",
    "i4": "int4",
    "u4": "int4",
}


def precision_name(dtype: str) -> str:
    """The name that edgekit uses for an engine's element type: `u8` is `int8`, `f32` is `fp32`."""
    return _PRECISIONS.get(dtype.lower(), dtype.lower())


def usable_cores() -> int:
    """Cores that this process may use: its affinity mask, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def engine_kinds() -> List[str]:
    """Names of the engines, one for each file of this folder."""
    return sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))


def load_engine(kind: str, path: Path, options: Optional[EngineOptions] = None) -> Runner:
    """Open the engine file `path` of the kind `openvino`, `onnxruntime`, ...

    Raises:
        BadFileError: there is no such kind, or the file is missing or not what it claims.
        MissingPackageError: the engine's package is not installed.
        HardwareError: the device is not here.
        UnsupportedError: the engine does not take the model.
    """
    if kind not in engine_kinds():
        raise BadFileError(
            "there is no engine {!r}".format(kind), "the engines are: {}".format(", ".join(engine_kinds()))
        )
    if not path.is_file():
        raise BadFileError("{}: there is no such engine file".format(path), "compile the model again")
    module = importlib.import_module("." + kind, __name__)
    runner: Runner = module.open_engine(path, options or EngineOptions())
    return runner


def import_engine(module: str, package: str, extra: str) -> ModuleType:
    """Import an engine's Python package.

    Raises:
        MissingPackageError: it is not installed or does not load; the hint is the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise MissingPackageError(
            "the Python package {} cannot be imported ({})".format(package, cause),
            "pip install {}; on a workstation: pip install 'edgekit-deploy[{}]'".format(package, extra),
        ) from cause


def last_line(error: BaseException) -> str:
    """The line of an engine's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_feeds(feeds: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> None:
    """Hold named arrays against the inputs they are for.

    Raises:
        BadFileError: a name is missing or unknown, or a type, a rank or a size does not fit.
    """
    wanted = ", ".join(spec.name for spec in specs)
    for name in feeds:
        if name not in {spec.name for spec in specs}:
            raise BadFileError("there is no input {!r}".format(name), "the inputs are: {}".format(wanted))
    sizes: Dict[str, int] = {}
    for spec in specs:
        if spec.name not in feeds:
            raise BadFileError("input {!r} is missing".format(spec.name), "the inputs are: {}".format(wanted))
        fault = _fault(np.asarray(feeds[spec.name]), spec, sizes)
        if fault:
            raise BadFileError(
                "input {!r} {}".format(spec.name, fault), "it takes {}".format(_describe(spec))
            )


def _fault(array: np.ndarray, spec: TensorSpec, sizes: Dict[str, int]) -> str:
    if str(array.dtype) != spec.dtype:
        return "is {}, not {}".format(array.dtype, spec.dtype)
    if array.ndim != len(spec.shape):
        return "has shape {}, not {} dimensions".format(array.shape, len(spec.shape))
    for axis, (dim, size) in enumerate(zip(spec.shape, array.shape)):
        if isinstance(dim, int):
            if size != dim:
                return "has {} at axis {}, not {}".format(size, axis, dim)
            continue
        if sizes.setdefault(dim, size) != size:
            return "has {} = {}, another input {}".format(dim, size, sizes[dim])
        low, high = spec.ranges.get(dim, (1, size))
        if not low <= size <= high:
            return "has {} = {}, outside {} to {}".format(
                dim, size, low, high if dim in spec.ranges else "any"
            )
    return ""


def _describe(spec: TensorSpec) -> str:
    dims = ", ".join(
        "{} {}-{}".format(dim, *spec.ranges[dim]) if isinstance(dim, str) and dim in spec.ranges else str(dim)
        for dim in spec.shape
    )
    return "{} of shape ({})".format(spec.dtype, dims)
