"""One small network as an ONNX file in every form that a user's exporter or quantizer may leave it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = 4
"""Convolutions and matrix products of the network."""
Array = np.ndarray[Any, Any]
Dims = tuple[int | str | None, ...] | None

_BATCH: Dims = ("batch", 3, "height", "width")


def noise(*shape: int, seed: int = 0) -> Array:
    """Seeded numbers whose size suits a weight of this shape."""
    random = np.random.default_rng((seed, *shape))
    scale = np.sqrt(2 / max(np.prod(shape[1:]), 1))
    return (scale * random.standard_normal(shape)).astype(np.float32)


def network(opset: int = 17, entry: Dims = _BATCH, result: Dims = ("batch", 10)) -> onnx.ModelProto:
    """Convolutions, two of them joined by a Concat, pooling and a matrix product: (batch, 3, h, w) to 10."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k1", "b1"], ["c1"], "/stem/conv/Conv", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], "/stem/act/Relu"),
        node("Conv", ["r1", "k2", "b2"], ["c2"], "/body/conv/Conv", pads=[1] * 4),
        node("Relu", ["c2"], ["r2"], "/body/act/Relu"),
        node("Concat", ["r1", "r2"], ["joined"], "/body/Concat", axis=1),
        node("MaxPool", ["joined"], ["p"], "/body/pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "k3", "b3"], ["c3"], "/head/conv/Conv", pads=[1] * 4),
        node("Relu", ["c3"], ["r3"], "/head/act/Relu"),
        node("GlobalAveragePool", ["r3"], ["g"], "/head/pool/GlobalAveragePool"),
        node("Flatten", ["g"], ["f"], "/head/Flatten"),
        node("Gemm", ["f", "fc", "fb"], ["y"], "/head/fc/Gemm"),
    ]
    arrays = {
        "k1": noise(16, 3, 3, 3), "b1": noise(16), "k2": noise(16, 16, 3, 3), "b2": noise(16, seed=1),
        "k3": noise(24, 32, 3, 3), "b3": noise(24), "fc": noise(24, 10), "fb": noise(10),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, entry)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _shapeless(path: Path) -> None:
    onnx.save(network(entry=None, result=None), path)


def _unnamed(path: Path) -> None:
    onnx.save(network(entry=(None, 3, None, None), result=(None, 10)), path)


def _constants(path: Path) -> None:
    made = network()
    weights = [helper.make_node("Constant", [], [one.name], value=one) for one in made.graph.initializer]
    nodes = [*weights, *made.graph.node]
    del made.graph.initializer[:]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.save(made, path)


def _external(path: Path) -> None:
    onnx.save(network(), path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)


def _of_opset(opset: int) -> Callable[[Path], None]:
    return lambda path: onnx.save(network(opset), path)


def _half(path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(network()), path)


class _Calibration:
    """Pictures for onnxruntime's quantizer."""

    def __init__(self) -> None:
        self._left = [noise(1, 3, 16, 16, seed=seed) * np.float32(np.sqrt(384)) for seed in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return {"x": self._left.pop()} if self._left else None


def _quantized(**options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from onnxruntime import quantization

        quantization.quantize_static(network(13), path, _Calibration(), **options)

    return make


def _dynamic(path: Path) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(network(13), path)


def _forms() -> dict[str, Callable[[Path], None]]:
    from onnxruntime.quantization import QuantFormat, QuantType

    both = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    exact = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    unsigned = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
    return {
        "shapeless": _shapeless,
        "unnamed": _unnamed,
        "constants": _constants,
        "external": _external,
        "opset11": _of_opset(11),
        "opset21": _of_opset(21),
        "half": _half,
        "qdq_default": _quantized(),
        "qdq_uint8": _quantized(**unsigned),
        "qdq_symmetric": _quantized(**both, per_channel=True, extra_options=exact),
        "qoperator": _quantized(quant_format=QuantFormat.QOperator),
        "dynamic": _dynamic,
    }


def write(folder: Path) -> None:
    """`FORM.onnx` for every form, `pictures.npz` of one size, and a folder `photos` of many."""
    for name, make in _forms().items():
        make(folder / f"{name}.onnx")
    np.savez(folder / "pictures.npz", x=np.random.default_rng(0).standard_normal((32, 3, 16, 16), np.float32))
    (folder / "photos").mkdir()
    for index in range(32):
        photo = np.random.default_rng(index).standard_normal((1, 3, 16 + index, 48 - index), np.float32)
        np.savez(folder / "photos" / f"{index:02d}.npz", x=photo)
