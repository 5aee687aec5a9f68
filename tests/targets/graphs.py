"""Small canonical graphs: what the exporter and the quantizer hand to a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, HIDDEN = 11, 16
Feeds = dict[str, np.ndarray]


class Maker:
    """Collects nodes and weights; every weight comes from one seeded generator."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: object, dtype: str = "float32") -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.2
        return self.constant(name, self.random.standard_normal(shape) * scale)

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        made = helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes)
        made.metadata_props.add(key="edgekit.module", value=f"net.{name}")
        self.nodes.append(made)
        return name

    def convolution(self, x: str, name: str, channels: int, width: int) -> str:
        weights = [self.weight(f"{name}.weight", width, channels, 3, 3), self.weight(f"{name}.bias", width)]
        return self.node("Conv", [x, *weights], name, pads=[1] * 4, kernel_shape=[3, 3])

    def quantized(self, x: str, name: str, scale: float) -> str:
        """Q/DQ of an activation, int8 with zero point 0."""
        more = [self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", 0, "int8")]
        self.node("QuantizeLinear", [x, *more], f"{name}.q")
        return self.node("DequantizeLinear", [f"{name}.q", *more], f"{name}.dq")

    def quantized_convolution(self, x: str, name: str, channels: int, width: int) -> str:
        """Per-channel int8 weights, fp32 bias."""
        weight = self.random.standard_normal((width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        scale = np.abs(weight).max((1, 2, 3)) / 127
        self.constant(f"{name}.w", np.round(weight / scale[:, None, None, None]), "int8")
        self.constant(f"{name}.s", scale)
        self.constant(f"{name}.z", np.zeros(width), "int8")
        self.node("DequantizeLinear", [f"{name}.w", f"{name}.s", f"{name}.z"], f"{name}.wdq", axis=0)
        bias = self.weight(f"{name}.b", width)
        return self.node("Conv", [x, f"{name}.wdq", bias], name, pads=[1] * 4, kernel_shape=[3, 3])

    def lstm(self, x: str, name: str, size: int) -> str:
        """Bidirectional, (time, batch, size) to (time, batch, 2 * HIDDEN)."""
        weights = [
            self.constant(f"{name}.{part}", self.random.uniform(-0.25, 0.25, (2, *shape)))
            for part, shape in (("W", (4 * HIDDEN, size)), ("R", (4 * HIDDEN, HIDDEN)), ("B", (8 * HIDDEN,)))
        ]
        self.node("LSTM", [x, *weights], name, hidden_size=HIDDEN, direction="bidirectional")
        moved = self.node("Transpose", [name], f"{name}.moved", perm=[0, 2, 1, 3])
        return self.node("Reshape", [moved, self.constant(f"{name}.to", [0, 0, -1], "int64")], f"{name}.flat")

    def model(self, inputs: Sequence[object], outputs: Sequence[object]) -> onnx.ModelProto:
        def value(shape: Sequence[object], name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

        graph = helper.make_graph(
            self.nodes, "graph", [value(inputs, "image")], [value(outputs, "logits")], self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def crnn(*, int8: bool = False) -> onnx.ModelProto:
    """Two convolutions, a 2-layer bidirectional LSTM, scores per step; dynamic batch and width.

    In int8 the first convolution's own output is quantized, the second's after its ReLU.
    """
    make = Maker()
    convolution = make.quantized_convolution if int8 else make.convolution
    x = make.quantized("image", "input", 4 / 127) if int8 else "image"
    x = convolution(x, "conv0", 1, 8)
    x = make.quantized(x, "between", 6 / 127) if int8 else x
    x = make.node("Relu", [x], "relu0")
    x = make.node("MaxPool", [x], "pool0", kernel_shape=[2, 2], strides=[2, 2])
    x = make.quantized(x, "pooled", 6 / 127) if int8 else x
    x = make.node("Relu", [convolution(x, "conv1", 8, 16)], "relu1")
    x = make.quantized(x, "features", 6 / 127) if int8 else x
    x = make.node("MaxPool", [x], "pool1", kernel_shape=[8, 1], strides=[8, 1])
    x = make.node("Squeeze", [x, make.constant("axes", [2], "int64")], "columns")
    x = make.node("Transpose", [x], "steps", perm=[2, 0, 1])
    x = make.lstm(make.lstm(x, "lstm0", 16), "lstm1", 2 * HIDDEN)
    x = make.node("MatMul", [x, make.weight("head.weight", 2 * HIDDEN, CLASSES)], "scores")
    x = make.node("Add", [x, make.weight("head.bias", CLASSES)], "biased")
    make.node("Transpose", [x], "logits", perm=[1, 0, 2])
    return make.model(["batch", 1, 16, "width"], ["batch", "time", CLASSES])


def concatenated() -> onnx.ModelProto:
    """int8: the outputs of two convolutions, concatenated and quantized, into a third."""
    make = Maker()
    x = make.quantized("image", "input", 4 / 127)
    first = make.quantized(
        make.node("Relu", [make.quantized_convolution(x, "c0", 3, 16)], "r0"), "q0", 5 / 127
    )
    second = make.node("Relu", [make.quantized_convolution(first, "c1", 16, 16)], "r1")
    both = make.node("Concat", [first, make.quantized(second, "q1", 3 / 127)], "both", axis=1)
    both = make.quantized(both, "q2", 5 / 127)
    make.node("Relu", [make.quantized_convolution(both, "c2", 32, 8)], "logits")
    return make.model(["batch", 3, 16, 16], ["batch", 8, 16, 16])


def image(batch: int, width: int) -> Feeds:
    random = np.random.default_rng(batch * 1000 + width)
    return {"image": random.standard_normal((batch, 1, 16, width)).astype(np.float32)}


def reference(path: Path, feeds: Feeds) -> np.ndarray:
    """What ONNX Runtime makes of the canonical graph, with no optimisation that could err."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], feeds)[0])


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
