"""TensorRT: builds a plan from ONNX on the device, and runs it there. For TensorRT 8.5, 10 and 11.

Names that come and go between those versions are asked for before they are used; enumeration
members are never written as numbers, because the numbers change.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np

from .._cuda import Cuda, require_gpu
from ..errors import BadFileError, HardwareError, UnsupportedError
from ..manifest import TensorSpec
from . import EngineOptions, Layer, check_feeds, import_engine, precision_name

Profile = Tuple[Sequence[int], Sequence[int], Sequence[int]]
"""The smallest, the usual and the largest shape of an input."""

_COMPUTE = ("conv", "gemm", "matmul", "matrix", "rnn", "lstm", "loop", "fused", "kgen", "myelin", "caskconv")


class TensorRtRunner:
    """A deserialized plan, one execution context and its device buffers."""

    def __init__(self, trt: Any, engine: Any, device: int) -> None:
        self._trt = trt
        self._engine = engine
        self._context = engine.create_execution_context()
        self._cuda = Cuda(device)
        self._buffers: Dict[str, Tuple[int, int]] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = tuple(self._spec(name) for name in names if self._is_input(name))
        self.outputs = tuple(self._spec(name) for name in names if not self._is_input(name))
        self.settings: Mapping[str, Any] = {
            "device": "GPU.{}".format(device),
            "tensorrt": trt.__version__,
            "layers": engine.num_layers,
        }

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _spec(self, name: str) -> TensorSpec:
        shape = [
            size if size >= 0 else "{}.{}".format(name, axis)
            for axis, size in enumerate(self._engine.get_tensor_shape(name))
        ]
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return TensorSpec(name, tuple(shape), str(dtype), self._ranges(name, shape))

    def _ranges(self, name: str, shape: List[Any]) -> Dict[str, Tuple[int, int]]:
        if not self._is_input(name):
            return {}
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return {dim: (low[axis], high[axis]) for axis, dim in enumerate(shape) if isinstance(dim, str)}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Named arrays in, named arrays out, copies to and from the GPU included.

        Raises:
            BadFileError: a name, type or shape does not fit.
            HardwareError: the GPU refused.
        """
        check_feeds(feeds, self.inputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, array.shape):
                raise BadFileError("input {!r} has shape {}, outside the plan's".format(name, array.shape))
            self._cuda.upload(self._bind(name, array.nbytes), array)
        results = {spec.name: self._result(spec) for spec in self.outputs}
        if not self._context.execute_async_v3(self._cuda.stream):
            raise HardwareError("TensorRT could not run the plan", "its log says more")
        for name, result in results.items():
            self._cuda.download(result, self._buffers[name][0])
        self._cuda.wait()
        return results

    def _result(self, spec: TensorSpec) -> np.ndarray:
        result = np.empty(tuple(self._context.get_tensor_shape(spec.name)), spec.dtype)
        self._bind(spec.name, result.nbytes)
        return result

    def _bind(self, name: str, size: int) -> int:
        """The address of the tensor's buffer, made larger when it is too small."""
        address, held = self._buffers.get(name, (0, -1))
        if held < size:
            if address:
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address

    def layers(self) -> List[Layer]:
        """The layers that compute, as TensorRT's inspector tells them."""
        inspector = self._engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        layers = [_layer(one) for one in told["Layers"] if isinstance(one, dict)]
        return [layer for layer in layers if any(part in layer.type.lower() for part in _COMPUTE)]

    def __enter__(self) -> "TensorRtRunner":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers = {}
        self._context = self._engine = None
        self._cuda.close()


def open_engine(path: Path, options: EngineOptions) -> TensorRtRunner:
    """Open a plan on the GPU that it was built for.

    Raises:
        HardwareError: there is no GPU; nothing of TensorRT is touched then.
        MissingPackageError: tensorrt is not installed.
        BadFileError: the file is no plan, or one of another GPU, platform or TensorRT version.
    """
    device = gpu_index(options.device)
    require_gpu(device)
    trt = _tensorrt()
    plan = trt.Runtime(_logger(trt)).deserialize_cuda_engine(path.read_bytes())
    if plan is None:
        raise BadFileError(
            "{} is no plan of TensorRT {} for this GPU".format(path, trt.__version__),
            "build it here: python run.py build",
        )
    return TensorRtRunner(trt, plan, device)


def build(
    graph: Path, profiles: Mapping[str, Profile], precision: str, out: Path, workspace: int = 1 << 30
) -> Path:
    """Build the plan `out` from an ONNX file; `workspace` is in bytes, `profiles` is per input.

    Raises:
        HardwareError: there is no GPU; nothing of TensorRT is touched then.
        MissingPackageError: tensorrt is not installed.
        UnsupportedError: this TensorRT does not take the graph or the precision.
    """
    require_gpu()
    trt = _tensorrt()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, logger, graph)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in builder_flags(trt, precision):
        config.set_flag(getattr(trt.BuilderFlag, name))
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in profiles.items():
        profile.set_shape(name, tuple(low), tuple(usual), tuple(high))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError(
            "TensorRT {} built no plan of {}".format(trt.__version__, graph), "see its log"
        )
    out.write_bytes(bytes(plan))
    return out


def builder_flags(trt: Any, precision: str) -> List[str]:
    """The builder flags for a precision; none where networks are strongly typed (TensorRT 11).

    Raises:
        UnsupportedError: this version has no such flag, or takes the precision from the graph alone.
    """
    wanted = {"fp32": [], "fp16": ["FP16"], "bf16": ["BF16"], "int8": ["INT8", "FP16"]}[precision]
    if strongly_typed(trt):
        if precision in ("fp16", "bf16"):
            raise UnsupportedError(
                "TensorRT {} takes {} from the graph's own types only".format(trt.__version__, precision),
                "export the graph in that type, or ask for fp32 or int8",
            )
        return []
    absent = [name for name in wanted if not hasattr(trt.BuilderFlag, name)]
    if absent:
        raise UnsupportedError(
            "TensorRT {} has no {}".format(trt.__version__, precision), "ask for fp16, or take a newer one"
        )
    return list(wanted)


def strongly_typed(trt: Any) -> bool:
    """Whether precision is a matter of the graph alone: the flags for it are gone."""
    return not hasattr(trt.BuilderFlag, "FP16")


def gpu_index(device: str) -> int:
    """The number in `GPU`, `GPU.1`, `CUDA.1` or `1`; any other device is no device of TensorRT."""
    family, _, number = device.rpartition(".")
    number = number if family or number.isdigit() else "0"
    if (family or device).upper() not in ("GPU", "CUDA") and not device.isdigit():
        raise HardwareError(
            "TensorRT does not run on {}".format(device), "use GPU, or GPU.1 for the second one"
        )
    if not number.isdigit():
        raise HardwareError("there is no device {}".format(device), "use GPU, or GPU.1 for the second one")
    return int(number)


def _tensorrt() -> Any:
    return import_engine("tensorrt", "tensorrt", "tensorrt")


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.WARNING)


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    wanted = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if strongly_typed(trt) else [])
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def _parse(trt: Any, network: Any, logger: Any, graph: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        faults = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise UnsupportedError("TensorRT {} does not take {}: {}".format(trt.__version__, graph, faults))


def _layer(told: Mapping[str, Any]) -> Layer:
    formats = [str(tensor.get("Format/Datatype", "")) for tensor in told.get("Inputs", [])]
    return Layer(str(told.get("Name", "")), str(told.get("LayerType", "")), _precision(formats))


def _precision(formats: Sequence[str]) -> str:
    """`Channel major FP16 format` is fp16: the word that names a type."""
    words = [precision_name(word) for text in formats for word in text.replace(",", " ").split()]
    return next((word for word in words if word in ("int8", "fp16", "bf16", "fp32")), "undefined")
