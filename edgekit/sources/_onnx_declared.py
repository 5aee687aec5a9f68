"""What an ONNX file says of its inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.declare import TYPES
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._onnx_walk import real_inputs

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str, ...]
_LENGTH = re.compile(r"time|seq|len|frame|step|token|point|width|height|sample|^[tlshw]$", re.IGNORECASE)
_UNNAMED = ("", "?", "None", "none", "-1", "unknown")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One input as the file has it; `shape` None means that the file does not say."""

    name: str
    dtype: str
    shape: Shape | None


def declared_inputs(path: Path, model: onnx.ModelProto) -> list[Declared]:
    """The inputs that are fed; a dimension without a name gets one.

    Raises:
        UnsupportedError: one is no tensor, or of a type that edgekit does not feed.
    """
    return [_declared(path, value) for value in real_inputs(model.graph)]


def spec_of(one: Declared) -> TensorSpec | None:
    """The input as the file has it, without ranges; None where it has no shape."""
    return None if one.shape is None else TensorSpec(one.name, one.shape, one.dtype)


def is_batch(dim: str) -> bool:
    """Whether a dimension counts samples, by its name."""
    return "batch" in dim.lower() or dim in ("N", "B", "n", "b", "bs")


def is_length(dim: str) -> bool:
    """Whether a dimension is the length of something, by its name."""
    return _LENGTH.search(dim) is not None


def batch_place(shape: Shape) -> int | None:
    """The axis of the batch: the dimension of that name, else a leading 1, else none."""
    if "batch" in shape:
        return shape.index("batch")
    return 0 if shape[:1] == (1,) else None


def with_batch(declared: Sequence[Declared]) -> tuple[list[Declared], str]:
    """The inputs with their batch called `batch`, and the file's own name for it; empty if none changes.

    That is a dimension with such a name, else the first axis of the first input, unless it is a length.
    The whole house knows the batch by that name: it stays small where sizes are large.
    """
    axes = [dim for rank in (0, 1, 2) for one in declared for dim in (one.shape or ())[rank : rank + 1]]
    names = [dim for dim in axes if isinstance(dim, str) and is_batch(dim)]
    first = declared[0].shape[0] if declared[0].shape else 0
    if not names and isinstance(first, str) and not is_length(first):
        names = [first]
    if not names or "batch" in names:
        return list(declared), ""
    return [renamed(one, names[0], "batch") for one in declared], names[0]


def renamed(one: Declared, old: str, new: str) -> Declared:
    """The input with another name for one of its dimensions."""
    shape = tuple(new if dim == old else dim for dim in one.shape) if one.shape is not None else None
    return replace(one, shape=shape)


def _declared(path: Path, value: onnx.ValueInfoProto) -> Declared:
    if not value.type.HasField("tensor_type"):
        kind = (value.type.WhichOneof("value") or "unknown").removesuffix("_type")
        raise UnsupportedError(
            f"{path}: the input '{value.name}' is a {kind}, not a tensor", "export it with tensors"
        )
    tensor = value.type.tensor_type
    return Declared(
        name=value.name,
        dtype=input_dtype(path, value),
        shape=named_shape(value) if tensor.HasField("shape") else None,
    )


def input_dtype(path: Path, value: onnx.ValueInfoProto) -> str:
    """The type of an input, one of those that `--input` knows."""
    kind, dtype = _kind(value)
    if dtype is None or dtype.name not in TYPES:
        raise UnsupportedError(
            f"{path}: the input '{value.name}' is of type {kind}",
            f"export it with an input of one of {', '.join(TYPES)}",
        )
    return dtype.name


def refuse_strange_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Raises UnsupportedError for an output that NumPy has no type for."""
    for value in model.graph.output:
        kind, dtype = _kind(value)
        tensor = value.type.WhichOneof("value") in ("tensor_type", None)
        if not tensor or (kind != "UNDEFINED" and (dtype is None or dtype.kind not in "fiub")):
            raise UnsupportedError(
                f"{path}: the output '{value.name}' is of type {kind}", "export it with tensors of numbers"
            )


def _kind(value: onnx.ValueInfoProto) -> tuple[str, np.dtype[Any] | None]:
    """ONNX's name of a tensor's type, and NumPy's type where it has one."""
    from onnx import TensorProto, helper

    number = value.type.tensor_type.elem_type
    if number not in TensorProto.DataType.values():
        return f"number {number}", None
    kind = TensorProto.DataType.Name(number)
    if kind in ("UNDEFINED", "STRING"):
        return kind, None
    return kind, np.dtype(helper.tensor_dtype_to_np_dtype(number))


def named_shape(value: onnx.ValueInfoProto) -> Shape:
    """The dimensions of an input; one without a size is `batch` at the first axis, else `<input>.<axis>`."""
    return tuple(
        dim.dim_value
        if dim.dim_value > 0
        else dim.dim_param.strip()
        if dim.dim_param.strip() not in _UNNAMED
        else "batch"
        if axis == 0
        else f"{value.name}.{axis}"
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    )
