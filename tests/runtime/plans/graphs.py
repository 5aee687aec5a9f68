"""Small ONNX graphs to build for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = ("batch", 8, 12, 12)


def write(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **names: Any) -> Path:
    """A graph from `x`, of shape SHAPE, to `y`."""
    kind = names.get("kind", TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, names.get("shape", SHAPE))],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def convolution(path: Path, dtype: type = np.float32) -> Path:
    """One convolution and an activation in one floating type."""
    weights: np.ndarray = np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="block.0/Conv"),
        helper.make_node("Relu", ["c"], ["y"], name="block.1/Relu"),
    ]
    return write(path, nodes, {"w": weights}, kind=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def quantized(path: Path) -> Path:
    """An int8 convolution, Q/DQ on its input and its weights, then a float one."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="x/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="x/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], name="w/DequantizeLinear"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="first/Conv"),
        helper.make_node("Relu", ["c"], ["r"], name="first/Relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], name="second/Conv"),
    ]
    weights: dict[str, Any] = {
        "wq": random.integers(-127, 127, (16, 8, 3, 3)).astype(np.int8),
        "v": random.normal(size=(16, 16, 3, 3)).astype(np.float32),
        "s": np.float32(0.02),
        "z": np.int8(0),
    }
    return write(path, nodes, {name: np.asarray(value) for name, value in weights.items()})


def unknown_operator(path: Path) -> Path:
    """A node that nobody knows, in a domain of its own."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="head/odd", domain="own")
    return write(path, [node], {})
