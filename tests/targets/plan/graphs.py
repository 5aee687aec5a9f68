"""Small graphs written as text, and a trial of them in TensorRT-RTX's own parser and builder."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

HAS_RTX = find_spec("tensorrt_rtx") is not None


def net(text: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """A model from ONNX's text form, `weights` as initializers; nodes named after their first output."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = parser.parse_model(f"{head} main {text}")
    if "com.microsoft" not in text:
        del model.opset_import[1:]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    for graph in all_graphs(model.graph):
        for node in graph.node:
            node.name = f"node_{node.output[0]}"
            node.metadata_props.add(key="edgekit.module", value=f"net.{node.output[0]}")
    return model


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [one.g for node in graph.node for one in node.attribute if one.HasField("g")]
    return [graph, *(deep for one in inner for deep in all_graphs(one))]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs in ONNX Runtime, the rewrite that crashes on fp16 with dynamic width left out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )
    return list(session.run(None, feeds))


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(got.astype(np.float64) - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)


def rtx_parses(model: onnx.ModelProto) -> str:
    """Empty when TensorRT-RTX's parser takes the model, else what it says."""
    return _trial(model, build=False)


def rtx_builds(model: onnx.ModelProto, **sizes: tuple[int, int, int]) -> str:
    """Empty when TensorRT-RTX builds an engine, else what stopped it; `sizes` bounds named dimensions."""
    return _trial(model, build=True, sizes=sizes)


def _trial(
    model: onnx.ModelProto, *, build: bool, sizes: dict[str, tuple[int, int, int]] | None = None
) -> str:
    import tensorrt_rtx as trt

    logger = _logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    reader = trt.OnnxParser(network, logger)
    if not reader.parse(model.SerializeToString()):
        return f"parser: {reader.get_error(0)}"
    if not build:
        return ""
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(dim.dim_param for dim in dims):
            bounds = [
                [(sizes or {}).get(dim.dim_param, (dim.dim_value,) * 3)[i] for dim in dims] for i in range(3)
            ]
            profile.set_shape(value.name, *bounds)
    config.add_optimization_profile(profile)
    return "" if builder.build_serialized_network(network, config) else "builder: no engine"


_LOGGERS: list[Any] = []


def _logger() -> Any:
    """One for the process: TensorRT keeps the first and ignores later ones."""
    import tensorrt_rtx as trt

    if not _LOGGERS:
        _LOGGERS.append(trt.Logger(trt.Logger.INTERNAL_ERROR))
    return _LOGGERS[0]
