"""An ONNX file run by ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple, Type

import numpy as np

from ..errors import BadFileError, HardwareError, UnsupportedError
from ..manifest import TensorSpec
from . import EngineOptions, Layer, check_feeds, import_engine, precision_name, usable_cores

_PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider", "CUDA": "CUDAExecutionProvider"}
_DTYPES = {"float": "float32", "double": "float64"}
_COMPUTE = ("Conv", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention")
_TRIAL_SIZES = (1, 8, 16, 32, 64, 128, 256)
_LOG_FATAL, _LOG_ERROR = 4, 3


class OnnxRunner:
    """An ONNX Runtime session."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._path = path
        self._options = options
        self._session = _session(path, options)
        self.inputs = _specs(self._session.get_inputs(), options.shapes)
        self.outputs = _specs(self._session.get_outputs(), options.shapes)
        self.settings: Mapping[str, Any] = _settings(self._session, options)
        self._seen: Dict[str, Tuple[int, ...]] = {}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Named arrays in, named arrays out.

        Raises:
            BadFileError: a name, type or shape does not fit.
        """
        check_feeds(feeds, self.inputs)
        self._seen = {name: feeds[name].shape for name in feeds}
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds))))
        except _faults() as cause:
            raise BadFileError("ONNX Runtime cannot run with {}: {}".format(self._seen, cause)) from cause

    def layers(self) -> List[Layer]:
        """The layers that compute, from the profile of one run in a session of its own."""
        with tempfile.TemporaryDirectory() as folder:
            session = _session(self._path, self._options, str(Path(folder, "profile")))
            self._run_once(session)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = {event["name"]: event["args"] for event in events if "op_name" in event.get("args", {})}
        return [
            Layer(name.replace("_kernel_time", ""), args["op_name"], _ran_in(args))
            for name, args in nodes.items()
            if name.endswith("_kernel_time") and any(part in args["op_name"] for part in _COMPUTE)
        ]

    def _run_once(self, session: Any) -> None:
        """Run on zeros: the shapes last seen, else the first size that every dynamic dimension can have."""
        faults = _faults()
        for size in _TRIAL_SIZES:
            feeds = {
                spec.name: np.zeros(
                    self._seen.get(spec.name)
                    or [dim if isinstance(dim, int) else 1 if dim == "batch" else size for dim in spec.shape],
                    spec.dtype,
                )
                for spec in self.inputs
            }
            try:
                session.run(None, feeds)
                return
            except faults as cause:
                if self._seen or size == _TRIAL_SIZES[-1]:
                    raise BadFileError("{}: no size runs: {}".format(self._path, cause)) from cause

    def __enter__(self) -> "OnnxRunner":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        del self._session


def open_engine(path: Path, options: EngineOptions) -> OnnxRunner:
    """Open an ONNX file.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        BadFileError: the file is no ONNX model, or `shapes` names no dimension of it.
        HardwareError: the device is not here.
        UnsupportedError: ONNX Runtime has no kernel for one of its nodes.
    """
    runner = OnnxRunner(path, options)
    unknown = sorted(set(options.shapes) - _dynamic_names(path, options))
    if unknown:
        raise BadFileError("{}: there is no dynamic dimension {}".format(path, ", ".join(unknown)))
    return runner


def _runtime() -> Any:
    return import_engine("onnxruntime", "onnxruntime", "onnxruntime")


def _faults() -> Tuple[Type[BaseException], ...]:
    """ONNX Runtime's exceptions; they share no base class but Exception."""
    state = _runtime().capi.onnxruntime_pybind11_state
    classes = [getattr(state, name) for name in dir(state)]
    return tuple(kind for kind in classes if isinstance(kind, type) and issubclass(kind, Exception))


def _provider(device: str) -> str:
    here = _runtime().get_available_providers()
    provider = _PROVIDERS.get(device, device)
    if provider not in here:
        known = [name for name, value in _PROVIDERS.items() if value in here]
        raise HardwareError(
            "ONNX Runtime finds no device {} here".format(device),
            "the devices are: {}".format(", ".join(known)),
        )
    return provider


def _session(path: Path, options: EngineOptions, profile: str = "") -> Any:
    runtime = _runtime()
    provider = _provider(options.device)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = _LOG_FATAL if profile else _LOG_ERROR
    for name, size in options.shapes.items():
        settings.add_free_dimension_override_by_name(name, size)
    if profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile
    # Its fp16 kernels crash the process when a width is dynamic.
    disabled = ["NchwcTransformer"] if options.precision == "fp16" else []
    state = runtime.capi.onnxruntime_pybind11_state
    try:
        return runtime.InferenceSession(
            str(path), settings, providers=[provider], disabled_optimizers=disabled
        )
    except state.NotImplemented as cause:
        raise UnsupportedError(
            "ONNX Runtime does not take {}: {}".format(path, cause), "compile it for another precision"
        ) from cause
    except _faults() as cause:
        raise BadFileError(
            "{} is not a model that ONNX Runtime opens: {}".format(path, cause), "compile the model again"
        ) from cause


def _settings(session: Any, options: EngineOptions) -> Dict[str, Any]:
    used = session.get_session_options()
    return {
        "device": session.get_providers()[0],
        "precision": options.precision,
        "threads": used.intra_op_num_threads,
        "execution_mode": used.execution_mode.name,
        "graph_optimization_level": used.graph_optimization_level.name,
    }


def _specs(values: Any, fixed: Mapping[str, int]) -> Tuple[TensorSpec, ...]:
    return tuple(_spec(value, fixed) for value in values)


def _spec(value: Any, fixed: Mapping[str, int]) -> TensorSpec:
    shape = tuple(
        fixed.get(dim, dim)
        if isinstance(dim, str)
        else "{}.{}".format(value.name, axis)
        if dim is None
        else dim
        for axis, dim in enumerate(value.shape)
    )
    kind = value.type[len("tensor(") : -1]
    return TensorSpec(value.name, shape, _DTYPES.get(kind, kind))


def _dynamic_names(path: Path, options: EngineOptions) -> Set[str]:
    if not options.shapes:
        return set()
    free = EngineOptions(options.device, options.precision, options.threads)
    values = _session(path, free).get_inputs()
    return {dim for value in values for dim in value.shape if isinstance(dim, str)}


def _ran_in(args: Mapping[str, Any]) -> str:
    """int8 when any operand is, else the type of the first one."""
    types = [precision_name(kind) for entry in args.get("input_type_shape", []) for kind in entry]
    return "int8" if "int8" in types else types[0] if types else "undefined"
