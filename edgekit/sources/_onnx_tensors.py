"""The tensors of an ONNX file: whether the bytes are there, and whether the numbers are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.sources._onnx_walk import every_graph, every_node, every_tensor

if TYPE_CHECKING:
    import onnx

EXPORT_AGAIN = "copy the file again, or export it again"
_BITS = {
    "INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}
_PASSED = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "DequantizeLinear"}
"""Through these a constant is still a weight."""


def size_of(path: Path, label: str, tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's shape and type ask for.

    Raises:
        BadFileError: the type or a dimension is none.
    """
    kind = _kind(path, label, tensor)
    if min(tensor.dims, default=1) < 0:
        raise BadFileError(f"{path}: '{label}' has the shape {tuple(tensor.dims)}", EXPORT_AGAIN)
    return int(-(-math.prod(tensor.dims) * _bits(kind, tensor.data_type) // 8))


def _kind(path: Path, label: str, tensor: onnx.TensorProto) -> str:
    from onnx import TensorProto

    known: dict[int, str] = {
        number: name for name, number in TensorProto.DataType.items() if name != "UNDEFINED"
    }
    if tensor.data_type not in known:
        raise BadFileError(f"{path}: '{label}' has the unknown type {tensor.data_type}", EXPORT_AGAIN)
    return known[tensor.data_type]


def _bits(kind: str, data_type: int) -> int:
    from onnx import helper

    return _BITS.get(kind) or 8 * np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize


def refuse_cut_short(path: Path, model: onnx.ModelProto) -> None:
    """Raises BadFileError for the first tensor inside the file whose data does not fill its shape."""
    from onnx import TensorProto

    for label, tensor in every_tensor(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        needed, held = _needed(path, label, tensor)
        if needed != held:
            raise BadFileError(
                f"{path}: '{label}' of shape {tuple(tensor.dims)} needs {needed}, the file holds {held}",
                EXPORT_AGAIN,
            )


def _needed(path: Path, label: str, tensor: onnx.TensorProto) -> tuple[str, str]:
    """What the shape asks for and what is there, in the words of how it is stored."""
    from onnx import helper

    size = size_of(path, label, tensor)
    if tensor.HasField("raw_data"):
        return f"{size} bytes", f"{len(tensor.raw_data)} bytes"
    kind, count = _kind(path, label, tensor), math.prod(tensor.dims)
    values = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if kind in _BITS:
        count = size
    elif kind.startswith("COMPLEX"):
        count *= 2
    return f"{count} values", f"{values} values"


def refuse_sparse(path: Path, model: onnx.ModelProto) -> None:
    """Raises UnsupportedError for sparse tensors."""
    named = [tensor.values.name for graph in every_graph(model) for tensor in graph.sparse_initializer]
    named += [
        node.name or node.op_type
        for node in every_node(model)
        for attribute in node.attribute
        if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors)
    ]
    if named:
        raise UnsupportedError(f"{path}: '{named[0]}' is a sparse tensor", "export it with dense weights")


def refuse_not_finite(path: Path, model: onnx.ModelProto) -> None:
    """Raises BadFileError for NaN anywhere, and for infinity in the weight of a layer.

    Infinite constants elsewhere are legitimate: attention masks are made of them.
    """
    layered = _layer_weights(model)
    for label, tensor in every_tensor(model):
        nan, infinite = _oddities(tensor)
        if nan or (infinite and label in layered):
            what = "NaN" if nan else "infinite values"
            raise BadFileError(
                f"{path}: the weight '{label}' holds {what}", "train again or export another checkpoint"
            )
    for label, number in _numbers(model):
        if math.isnan(number):
            raise BadFileError(f"{path}: the node '{label}' has a setting that is NaN", EXPORT_AGAIN)


def _oddities(tensor: onnx.TensorProto) -> tuple[bool, bool]:
    """Whether there is a NaN, and whether there is an infinity."""
    from onnx import TensorProto, numpy_helper

    if not TensorProto.DataType.Name(tensor.data_type).startswith(("FLOAT", "DOUBLE", "BFLOAT")):
        return False, False
    array = numpy_helper.to_array(tensor)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    if np.isfinite(array).all():
        return False, False
    return bool(np.isnan(array).any()), bool(np.isinf(array).any())


def _numbers(model: onnx.ModelProto) -> Iterator[tuple[str, float]]:
    for node in every_node(model):
        for attribute in node.attribute:
            label = node.name or node.op_type
            yield label, attribute.f
            yield from ((label, number) for number in attribute.floats)


def _layer_weights(model: onnx.ModelProto) -> set[str]:
    """Names of everything that reaches a layer's inputs without being computed with."""
    makers = {name: node for node in every_node(model) for name in node.output}
    waiting = [name for node in every_node(model) if node.op_type in _WEIGHTED for name in node.input]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in _PASSED:
            waiting.extend(maker.input)
    return found
