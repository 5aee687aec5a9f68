"""Recurrent layers as the exporter writes them, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.quantization._recurrent import gru_candidates, lstm_candidates, quantize_gru, quantize_lstm

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Feeds = dict[str, np.ndarray[Any, Any]]


def network(
    kind: str,
    hidden: int = 24,
    size: int = 10,
    *,
    sides: int = 1,
    layers: int = 1,
    initial: bool = False,
    lasts: bool = True,
    biased: bool = True,
    scale: np.ndarray[Any, Any] | float = 1.0,
    **settings: Any,
) -> onnx.ModelProto:
    """`x` (time, batch, size) through layers as PyTorch has them; `scale` multiplies the columns of W0."""
    random = np.random.default_rng(hidden)
    nodes: list[onnx.NodeProto] = []
    weights = [numpy_helper.from_array(np.array([0, 0, -1]), "flat")]
    inputs, outputs = [value("x", ["time", "batch", size])], []
    defaults: dict[str, Any] = {"hidden_size": hidden}
    defaults |= {"direction": "bidirectional"} if sides == 2 else {}
    defaults |= {"linear_before_reset": 1} if kind == "GRU" else {}
    x, width = "x", size
    for layer in range(layers):
        rows = GATES[kind] * hidden
        shapes = {"W": (sides, rows, width), "R": (sides, rows, hidden), "B": (sides, 2 * rows)}
        arrays = {part: random.uniform(-1, 1, shape) / np.sqrt(hidden) for part, shape in shapes.items()}
        arrays["W"] *= np.asarray(scale) if layer == 0 else 1
        weights += [
            numpy_helper.from_array(array.astype(np.float32), f"{part}{layer}")
            for part, array in arrays.items()
            if biased or part != "B"
        ]
        states = [f"{state}{layer}" for state in ("h", "c")[: 2 if kind == "LSTM" else 1]]
        taken = [x, f"W{layer}", f"R{layer}", *([f"B{layer}"] if biased else [])]
        if initial:
            inputs += [value(state, [sides, "batch", hidden]) for state in states]
            taken = [*taken, *[""] * (5 - len(taken)), *states]
        given = [f"y{layer}", *(f"{state}.last" for state in states)] if lasts else [f"y{layer}"]
        outputs += [value(name, [sides, "batch", hidden]) for name in given[1:]]
        made = helper.make_node(kind, taken, given, f"rnn.{layer}/{kind}", **(defaults | settings))
        made.metadata_props.add(key="edgekit.module", value=f"rnn.{layer}")
        moved = helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], f"t{layer}", perm=[0, 2, 1, 3])
        flat = helper.make_node("Reshape", [f"t{layer}", "flat"], [f"z{layer}"], f"z{layer}")
        nodes += [made, moved, flat]
        x, width = f"z{layer}", sides * hidden
    graph = helper.make_graph(nodes, "g", inputs, [value(x, ["time", "batch", width]), *outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def feeds(model: onnx.ModelProto, time: int = 30, batch: int = 3, seed: int = 7) -> Feeds:
    """Normal x, states within -1..1."""
    random, sizes, found = np.random.default_rng(seed), {"time": time, "batch": batch}, {}
    for one in model.graph.input:
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in one.type.tensor_type.shape.dim]
        array = random.standard_normal(shape).astype(np.float32)
        found[one.name] = array if one.name == "x" else np.tanh(array)
    return found


def run(model: onnx.ModelProto, feed: Feeds, *, optimized: bool = True) -> list[np.ndarray[Any, Any]]:
    """All outputs, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, feed))


def error(got: Sequence[np.ndarray[Any, Any]], wanted: Sequence[np.ndarray[Any, Any]]) -> float:
    """The largest relative L2 error of any output."""
    return max(
        float(np.linalg.norm(one - other)) / float(np.linalg.norm(other))
        for one, other in zip(got, wanted, strict=True)
    )


def quantized(model: onnx.ModelProto, feed: Feeds, **ranges: float) -> onnx.ModelProto:
    """A copy whose recurrent layers are int8."""
    made = copied(model)
    for node in lstm_candidates(made.graph):
        quantize_lstm(made.graph, node, largest(node, feed), **ranges)
    for node in gru_candidates(made.graph):
        quantize_gru(made.graph, node, largest(node, feed))
    return made


def largest(node: onnx.NodeProto, feed: Feeds) -> float:
    """Of the input of a layer: given, or what a layer before it cannot exceed."""
    return float(np.abs(feed["x"]).max()) if node.input[0] == "x" else 1.0


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made
