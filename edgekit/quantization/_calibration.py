"""How large each activation gets on real samples. Memory does not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.errors import BadFileError, UsageError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]
BINS = 2048
LEVELS = 127
_SUFFIX = "/edgekit.calibrated"


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


def thresholds(
    graph: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds, method: str, percentile: float
) -> dict[str, float]:
    """The largest magnitude that int8 must hold, for each of `tensors`.

    `minmax` takes the largest ever seen, `percentile` the one that so many percent stay below, `mse`
    the one with the least squared error (Nagel et al., A White Paper on Neural Network Quantization,
    arXiv 2106.08295, section 3.1.2).
    """
    largest = _largest(graph, tensors, feeds)
    if method == "minmax":
        return largest
    counts = _histograms(graph, largest, feeds)
    choose = _by_percentile(percentile) if method == "percentile" else _by_error
    return {name: largest[name] * choose(counts[name]) for name in tensors}


def _largest(graph: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds) -> dict[str, float]:
    session = _probing_session(graph, tensors, reduce=True)
    found = np.zeros(len(tensors))
    for feed in feeds:
        found = np.maximum(found, [float(value) for value in session.run(None, dict(feed))])
    bad = [name for name, value in zip(tensors, found, strict=True) if not np.isfinite(value)]
    if bad:
        raise BadFileError(
            f"the graph computes NaN or infinite values on the calibration samples at {bad[0]}"
        )
    return dict(zip(tensors, found.tolist(), strict=True))


def _histograms(graph: onnx.ModelProto, largest: Mapping[str, float], feeds: Feeds) -> dict[str, Array]:
    """How often each of `BINS` equal parts of 0..largest was met."""
    session = _probing_session(graph, list(largest), reduce=False)
    counts = {name: np.zeros(BINS, np.int64) for name in largest}
    for feed in feeds:
        for (name, top), values in zip(largest.items(), session.run(None, dict(feed)), strict=True):
            counts[name] += np.histogram(values, bins=BINS, range=(0.0, top or 1.0))[0]
    return counts


def _by_percentile(percentile: float) -> Any:
    def choose(counts: Array) -> float:
        share = np.cumsum(counts) / counts.sum()
        return float(np.searchsorted(share, percentile / 100) + 1) / BINS

    return lambda counts: min(choose(counts), 1.0)


def _by_error(counts: Array) -> float:
    """The share of the largest magnitude that gives the least squared rounding and clipping error."""
    centres = (np.arange(BINS) + 0.5) / BINS
    shares = np.linspace(0.2, 1.0, 81)
    errors = [float(counts @ (centres - _rounded(centres, share)) ** 2) for share in shares]
    return float(shares[int(np.argmin(errors))])


def _rounded(values: Array, top: float) -> Array:
    step = top / LEVELS
    rounded: Array = np.minimum(np.round(values / step), LEVELS) * step
    return rounded


def _probing_session(
    graph: onnx.ModelProto, tensors: Iterable[str], *, reduce: bool
) -> onnxruntime.InferenceSession:
    """The graph with the magnitudes of `tensors` as its only outputs, or only the largest of each."""
    import onnx
    import onnxruntime
    from onnx import helper

    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    del probe.graph.output[:]
    for name in tensors:
        magnitude = name + _SUFFIX
        probe.graph.node.append(helper.make_node("Abs", [name], [magnitude]))
        if reduce:
            probe.graph.node.append(
                helper.make_node("ReduceMax", [magnitude], [magnitude + ".max"], keepdims=0)
            )
            magnitude += ".max"
        probe.graph.output.append(helper.make_tensor_value_info(magnitude, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
