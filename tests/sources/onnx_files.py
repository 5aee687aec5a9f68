"""Small ONNX files as strangers write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, F16, I64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
Array = np.ndarray[Any, Any]

value = helper.make_tensor_value_info
node = helper.make_node


def noise(*shape: int, seed: int = 0) -> Array:
    """Seeded float32 weights."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def weight(name: str, array: Any) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
    **options: Any,
) -> onnx.ModelProto:
    """A model of one graph."""
    graph = helper.make_graph(
        list(nodes), "strangers", list(inputs), list(outputs), list(weights),
        value_info=options.pop("value_info", None),
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), *options.pop("imports", ())]
    return helper.make_model(graph, opset_imports=imports, **options)


def linear(
    opset: int = 18, rows: int | str | None = "batch", kind: int = F32, **options: Any
) -> onnx.ModelProto:
    """`y = relu(x @ w + b)`, x of shape (rows, 4), y of shape (rows, 3)."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return model(
        [node("MatMul", ["x", "w"], ["h"], "/head/fc/MatMul"), node("Add", ["h", "b"], ["a"], "/head/fc/Add"),
         node("Relu", ["a"], ["y"], "/act/Relu")],
        [value("x", kind, [rows, 4])], [value("y", kind, [rows, 3])],
        [weight("w", noise(4, 3).astype(dtype)), weight("b", noise(3).astype(dtype))], opset, **options,
    )  # fmt: skip


def convolution(opset: int = 18, shape: Sequence[int | str | None] = ("N", 2, "h", "w")) -> onnx.ModelProto:
    """Conv + Relu + MaxPool by 2, then the mean over the image: y of shape (N, 5, ...), z of shape (N, 5)."""
    return model(
        [node("Conv", ["x", "k"], ["c"], "/stem/stem.0/Conv", pads=[1, 1, 1, 1]),
         node("Relu", ["c"], ["r"], "/stem/stem.1/Relu"),
         node("MaxPool", ["r"], ["y"], "/stem/stem.2/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
         node("GlobalAveragePool", ["y"], ["g"], "/pool/GlobalAveragePool"),
         node("Flatten", ["g"], ["z"], "/Flatten")],
        [value("x", F32, shape)], [value("y", F32, None), value("z", F32, None)],
        [weight("k", noise(5, 2, 3, 3))], opset,
    )  # fmt: skip


def recurrent(kind: str = "LSTM") -> onnx.ModelProto:
    """One layer over (time, N, 3) with states in and out, hidden size 4."""
    gates = {"LSTM": 4, "GRU": 3}[kind]
    entries = ["h0", "c0"] if kind == "LSTM" else ["h0"]
    results = ["hn", "cn"] if kind == "LSTM" else ["hn"]
    return model(
        [node(kind, ["x", "W", "R", "", "", *entries], ["y", *results], f"/rnn/{kind}", hidden_size=4),
         node("Squeeze", ["y", "one"], ["s"], "/rnn/Squeeze")],
        [value(entry, F32, [1, "N", 4]) for entry in entries] + [value("x", F32, ["time", "N", 3])],
        [value(result, F32, None) for result in results] + [value("s", F32, None)],
        [weight("W", noise(1, 4 * gates, 3)), weight("R", noise(1, 4 * gates, 4)), weight("one", [1])],
    )  # fmt: skip


def looping(kind: str, opset: int = 18) -> onnx.ModelProto:
    """A network whose work is in a sub-graph that reads a weight from around it; x of shape (n, 3)."""
    outer = [weight("w", noise(3, 3))]
    if kind == "If":
        both = [
            helper.make_graph([node(op, ["x", "w"], ["o"], "twin")], op, [], [value("o", F32, None)])
            for op in ("MatMul", "Gemm")
        ]
        nodes = [
            node("ReduceSum" if opset >= 13 else "ReduceMax", ["x"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=both[0], else_branch=both[1]),
        ]
        return model(
            nodes, [value("x", F32, ["n", 3])], [value("y", F32, None)],
            [*outer, weight("zero", np.float32(0))], opset,
        )  # fmt: skip
    if kind == "Loop":
        body = helper.make_graph(
            [node("Identity", ["go"], ["again"]), node("MatMul", ["v", "w"], ["next"])],
            "steps", [value("i", I64, []), value("go", BOOL, []), value("v", F32, None)],
            [value("again", BOOL, []), value("next", F32, None)],
        )  # fmt: skip
        return model(
            [node("Loop", ["times", "", "x"], ["y"], body=body)],
            [value("x", F32, ["n", 3])], [value("y", F32, None)], [*outer, weight("times", 3)], opset,
        )  # fmt: skip
    body = helper.make_graph(
        [node("MatMul", ["f", "w"], ["p"]), node("Add", ["p", "s"], ["next"]),
         node("Identity", ["next"], ["o"])],
        "steps", [value("s", F32, [3]), value("f", F32, [3])],
        [value("next", F32, [3]), value("o", F32, [3])],
    )  # fmt: skip
    return model(
        [node("Scan", ["s0", "x"], ["last", "y"], num_scan_inputs=1, body=body)],
        [value("x", F32, ["n", 3])], [value("y", F32, None)],
        [*outer, weight("s0", np.zeros(3, np.float32))], opset,
    )  # fmt: skip


def attention() -> onnx.ModelProto:
    """ids and mask without sizes: 50 rows embedded, 40 positions, scores masked with minus infinity."""
    return model(
        [node("Gather", ["table", "ids"], ["e"], "/embed/Gather"),
         node("Shape", ["ids"], ["length"], start=1, end=2), node("Slice", ["place", "nil", "length"], ["p"]),
         node("Add", ["e", "p"], ["ep"]), node("Transpose", ["ep"], ["t"], perm=[0, 2, 1]),
         node("MatMul", ["ep", "t"], ["scores"]), node("Unsqueeze", ["mask", "one"], ["m"]),
         node("Where", ["m", "scores", "never"], ["masked"]), node("Softmax", ["masked"], ["weights"]),
         node("MatMul", ["weights", "ep"], ["y"])],
        [value("ids", I64, [None, None]), value("mask", BOOL, [None, None])], [value("y", F32, None)],
        [weight("table", noise(50, 6)), weight("place", noise(40, 6)), weight("nil", [0]), weight("one", [1]),
         weight("never", np.float32(-np.inf))],
    )  # fmt: skip


def save(folder: Path, made: onnx.ModelProto, name: str = "net.onnx") -> Path:
    """The file of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def external(folder: Path, location: str = "net.bin", offset: int = 0, length: int | None = None) -> Path:
    """`linear` with the weight `w` said to be in another file, which is not written."""
    made = linear()
    tensor = made.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in (
        ("location", location),
        ("offset", offset),
        ("length", size if length is None else length),
    ):
        tensor.external_data.add(key=key, value=str(said))
    return save(folder, made)


def weight_bytes() -> bytes:
    """The data of `linear`'s weight."""
    return noise(4, 3).tobytes()


def run(made: onnx.ModelProto | Path, feeds: dict[str, Array]) -> list[Array]:
    """The answers of ONNX Runtime."""
    import onnxruntime

    whole = onnx.load(made) if isinstance(made, Path) else made
    copy = onnx.ModelProto()
    copy.CopyFrom(whole)
    copy.ir_version = min(copy.ir_version, 10)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
