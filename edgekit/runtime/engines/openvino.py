"""OpenVINO IR (`model.xml` with `model.bin` beside it) on CPU, GPU or NPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np

from ..errors import BadFileError, HardwareError, UnsupportedError
from ..manifest import TensorSpec
from . import EngineOptions, Layer, check_feeds, import_engine, last_line, precision_name, usable_cores

TENSORS = ["edgekit", "tensors"]
"""Where the IR keeps the names of its dynamic dimensions, which the format itself forgets."""

_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_COMPUTE = {
    "convolution",
    "deconvolution",
    "fullyconnected",
    "fully_connected",
    "gemm",
    "matmul",
    "rnnseq",
    "rnncell",
    "lstmsequence",
    "lstm_seq",
    "lstmcell",
    "grusequence",
    "grucell",
    "scaleddotproductattention",
}
_LOOPS = {"tensoriterator", "loop"}
"""They compute too, but OpenVINO does not tell in which precision: only of what is outside of them."""


class OpenVinoRunner:
    """A compiled OpenVINO model and one inference request."""

    def __init__(
        self, compiled: Any, inputs: Tuple[TensorSpec, ...], outputs: Tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.settings: Mapping[str, Any] = _settings(compiled)
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Named arrays in, named arrays out.

        Raises:
            BadFileError: a name, type or shape does not fit.
        """
        check_feeds(feeds, self.inputs)
        try:
            results = self._request.infer({name: np.ascontiguousarray(feeds[name]) for name in feeds})
        except RuntimeError as cause:
            shapes = ", ".join("{} {}".format(name, np.shape(feeds[name])) for name in feeds)
            raise BadFileError("OpenVINO cannot run with {}: {}".format(shapes, last_line(cause))) from cause
        return {spec.name: results[index] for index, spec in enumerate(self.outputs)}

    def layers(self) -> List[Layer]:
        """The layers that compute, from OpenVINO's runtime model, in execution order."""
        found = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "layerType" in info and info["layerType"].value.lower() in _COMPUTE | _LOOPS:
                found.append(_layer(node, info))
        return found

    def __enter__(self) -> "OpenVinoRunner":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        del self._request, self._compiled


def open_engine(path: Path, options: EngineOptions) -> OpenVinoRunner:
    """Open an IR file.

    Raises:
        MissingPackageError: openvino is not installed.
        BadFileError: the file is no IR, or `shapes` does not fit it.
        HardwareError: the device is not here.
        UnsupportedError: the device does not take the model.
    """
    openvino = import_engine("openvino", "openvino", "openvino")
    core = openvino.Core()
    _check_device(core, options.device)
    model = _read(core, path)
    names = _dimension_names(model)
    _fix_shapes(model, names, options.shapes)
    try:
        compiled = core.compile_model(model, options.device, _properties(openvino, core, options))
    except RuntimeError as cause:
        raise UnsupportedError(
            "OpenVINO on {} does not take {}: {}".format(options.device, path, last_line(cause)),
            "compile it for another target or precision",
        ) from cause
    return OpenVinoRunner(compiled, _specs(compiled.inputs, names), _specs(compiled.outputs, names))


def _read(core: Any, path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(5)
    if start != b"<?xml":  # OpenVINO would try a dozen other formats on it, each with a complaint
        raise BadFileError(
            "{} is not an OpenVINO model: it is no XML".format(path), "compile the model again"
        )
    try:
        return core.read_model(str(path))
    except RuntimeError as cause:
        raise BadFileError(
            "{} is not an OpenVINO model: {}".format(path, last_line(cause)), "compile the model again"
        ) from cause


def _check_device(core: Any, device: str) -> None:
    """A device is a name of the list, an indexed one (`GPU.0`), or a virtual one over such (`AUTO:CPU`)."""
    here = core.available_devices
    virtual, _, members = device.partition(":")
    wanted = members.split(",") if members else [] if virtual in ("AUTO", "HETERO", "MULTI") else [virtual]
    families = {name.split(".")[0] for name in here}
    for name in wanted:
        if name not in here and name not in families:
            raise HardwareError(
                "OpenVINO finds no device {} here".format(name), "the devices are: {}".format(", ".join(here))
            )


def _properties(openvino: Any, core: Any, options: EngineOptions) -> Dict[str, Any]:
    hint = getattr(openvino.Type, _TYPES[options.precision])
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": options.threads or usable_cores(),
        "ENABLE_HYPER_THREADING": True,
    }
    if ":" in options.device or options.device == "AUTO":
        return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    known = core.get_property(options.device, "SUPPORTED_PROPERTIES")
    return {key: value for key, value in wanted.items() if key in known}


def _settings(compiled: Any) -> Dict[str, Any]:
    known = compiled.get_property("SUPPORTED_PROPERTIES")

    def read(key: str) -> Any:
        return compiled.get_property(key) if key in known else None

    hint = read("INFERENCE_PRECISION_HINT")
    return {
        "device": ", ".join(read("EXECUTION_DEVICES") or []),
        "precision": precision_name(hint.get_type_name()) if hint is not None else None,
        "threads": read("INFERENCE_NUM_THREADS"),
        "hyper_threading": read("ENABLE_HYPER_THREADING"),
        "streams": read("NUM_STREAMS"),
        "performance_hint": str(read("PERFORMANCE_HINT")),
    }


def _dimension_names(model: Any) -> Dict[str, List[Any]]:
    if not model.has_rt_info(TENSORS):
        return {}
    try:
        names = json.loads(model.get_rt_info(TENSORS).value)
    except ValueError as cause:
        raise BadFileError("the model's list of tensors is damaged", "compile the model again") from cause
    return dict(names)


def _name(port: Any, names: Mapping[str, List[Any]]) -> str:
    """The name that was exported; a tensor may have aliases."""
    aliases: List[str] = sorted(port.get_names())
    known: List[str] = [alias for alias in aliases if alias in names]
    return (known or aliases)[0]


def _specs(ports: Any, names: Mapping[str, List[Any]]) -> Tuple[TensorSpec, ...]:
    return tuple(_spec(port, _name(port, names), names) for port in ports)


def _spec(port: Any, name: str, names: Mapping[str, List[Any]]) -> TensorSpec:
    dims = port.get_partial_shape()
    kept = names.get(name, [])
    shape = [
        dim.get_length() if dim.is_static else _dynamic(kept, axis, name) for axis, dim in enumerate(dims)
    ]
    return TensorSpec(name, tuple(shape), str(np.dtype(port.get_element_type().to_dtype())))


def _dynamic(kept: List[Any], axis: int, name: str) -> str:
    known = kept[axis] if axis < len(kept) else None
    return str(known) if isinstance(known, str) else "{}.{}".format(name, axis)


def _fix_shapes(model: Any, names: Mapping[str, List[Any]], shapes: Mapping[str, int]) -> None:
    if not shapes:
        return
    specs = _specs(model.inputs, names)
    known = {dim for spec in specs for dim in spec.dynamic}
    unknown = sorted(set(shapes) - known)
    if unknown:
        raise BadFileError(
            "there is no dynamic dimension {}".format(", ".join(unknown)),
            "the dynamic dimensions are: {}".format(", ".join(sorted(known)) or "none"),
        )
    fixed = {
        port: [dim if isinstance(dim, int) else shapes.get(dim, -1) for dim in spec.shape]
        for port, spec in zip(model.inputs, specs)
    }
    try:
        model.reshape(fixed)
    except RuntimeError as cause:
        raise BadFileError("the model does not take {}: {}".format(dict(shapes), last_line(cause))) from cause


def _layer(node: Any, info: Any) -> Layer:
    origin = info["originalLayersNames"].value if "originalLayersNames" in info else ""
    kind = info["layerType"].value
    known = "runtimePrecision" in info and kind.lower() not in _LOOPS
    return Layer(
        origin.split(",")[0] or node.get_friendly_name(),
        kind,
        precision_name(info["runtimePrecision"].value) if known else "undefined",
    )
