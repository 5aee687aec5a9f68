"""Calibration samples: what is refused, and what is warned of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import RECURRENT
from edgekit.runtime.errors import BadFileError, UsageError

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]
ENOUGH_SAMPLES = 32
_FIRST_STATE = 5
"""The place of the initial h among the inputs of LSTM, GRU and RNN."""
_PARTS = ("Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Identity")


def refuse_bad_feeds(graph: onnx.ModelProto, feeds: Feeds) -> None:
    """Raises UsageError without samples, BadFileError for one that is not finite or does not fit."""
    from onnx import helper

    if not feeds:
        raise UsageError(
            "no calibration samples were given, and random data is never used instead",
            "give real samples with --calibration, or a data set that has a calibration split",
        )
    inputs = {value.name: value.type.tensor_type for value in graph.graph.input}
    for index, feed in enumerate(feeds):
        if set(feed) != set(inputs):
            raise BadFileError(
                f"calibration sample {index} has the inputs {sorted(feed)}, the graph takes {sorted(inputs)}",
                "name the arrays as the graph's inputs",
            )
        for name, array in feed.items():
            wanted = inputs[name]
            shape = [dim.dim_param or dim.dim_value for dim in wanted.shape.dim]
            _refuse_bad_array(f"calibration sample {index}, input '{name}'", array, shape)
            dtype = helper.tensor_dtype_to_np_dtype(wanted.elem_type)
            if array.dtype != dtype:
                raise BadFileError(
                    f"calibration sample {index}, input '{name}' is {array.dtype}, not {dtype}"
                )


def _refuse_bad_array(what: str, array: Array, shape: Sequence[int | str]) -> None:
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise BadFileError(f"{what} has shape {array.shape}, the graph takes {tuple(shape)}")
    if not array.size:
        raise BadFileError(f"{what} is empty")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise BadFileError(f"{what} holds NaN or infinite values", "remove this sample")


def about_samples(graph: onnx.ModelProto, feeds: Feeds) -> list[str]:
    """Warnings of samples that are few, equal or constant."""
    told = []
    if len(feeds) < ENOUGH_SAMPLES:
        told.append(
            f"int8 was calibrated on {len(feeds)} sample{'s' * (len(feeds) > 1)}: 100 to 500 are usual, "
            f"fewer than {ENOUGH_SAMPLES} often miss the largest activations"
        )
    hashes = [{name: _hash(feed[name]) for name in feed} for feed in feeds]
    if len(feeds) > 1 and all(each == hashes[0] for each in hashes):
        return [*told, f"all {len(feeds)} calibration samples are equal"]
    return told + [
        f"the input '{name}' is constant: {float(feeds[0][name].flat[0]):g} in every calibration sample"
        for name, first in feeds[0].items()
        if np.issubdtype(first.dtype, np.floating) and not _is_state(graph.graph, name)
        if all(feed[name].min() == feed[name].max() == first.flat[0] for feed in feeds)
    ]


def _hash(array: Array) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _is_state(graph: onnx.GraphProto, name: str) -> bool:
    """Whether nothing but recurrent layers starts from it: zero in every sample is no fault then."""
    readers = [node for node in graph.node if name in node.input]
    return bool(readers) and all(_starts_from(graph, node, name) for node in readers)


def _starts_from(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> bool:
    if node.op_type in _PARTS:
        return all(_is_state(graph, part) for part in node.output)
    return node.op_type in ("Scan", "Loop") or (
        node.op_type in RECURRENT and list(node.input).index(name) >= _FIRST_STATE
    )
