"""What every tensor that int8 may touch was like on real samples: one pass, memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._placement import module_of
from edgekit.quantization._samples import Feeds, about_samples
from edgekit.quantization._tally import Tally
from edgekit.quantization._thresholds import threshold
from edgekit.runtime.errors import BadFileError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What calibration has found: any plan and any calibrator can be had from it without another pass.

    `tallies` are by tensor; `shapes` are those of tensors in the sample of median size; `warnings` are
    sentences for the user. It holds for the graph that it was measured on, and for no other. `factors` are
    those by which outlying channels were made smaller first, by tensor: see `_smooth`.
    """

    samples: int
    tallies: Mapping[str, Tally]
    shapes: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...] = ()
    factors: Mapping[str, Array] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """Results that cost time and that every plan has in common."""

    def thresholds(self, method: str, percentile: float = 99.99) -> dict[str, float]:
        """The largest magnitude that int8 must hold, for each tensor; see `_thresholds.threshold`."""
        key = ("thresholds", method, percentile)
        if key not in self.kept:
            self.kept[key] = {
                name: threshold(tally.counts, tally.top, tally.largest, method, percentile)
                for name, tally in self.tallies.items()
            }
        found: dict[str, float] = self.kept[key]
        return found

    def renamed(self, names: Mapping[str, str]) -> Measured:
        """The same with other names for some tensors."""
        return replace(
            self,
            tallies={names.get(name, name): tally for name, tally in self.tallies.items()},
            shapes={names.get(name, name): shape for name, shape in self.shapes.items()},
        )

    def largest(self, tensor: str) -> float:
        """The largest magnitude that a tensor had."""
        return self.tallies[tensor].largest


def measured(
    graph: onnx.ModelProto,
    tensors: Mapping[str, Iterable[int]],
    sized: Iterable[str],
    feeds: Feeds,
) -> Measured:
    """Run every sample once. `tensors` to measure, each with the axes whose channels are asked for;
    `sized` are those whose shape alone is wanted.

    Raises:
        BadFileError: a layer computes NaN or infinite values; names it and the sample.
    """
    tallies = {name: Tally(axes) for name, axes in tensors.items()}
    lengths = [name for name in dict.fromkeys(sized) if name not in tallies]
    session = _session(graph, list(tallies), lengths)
    median = _median(feeds)
    shapes: dict[str, tuple[int, ...]] = {}
    for index, feed in enumerate(feeds):
        if session is None:
            break
        results = session.run(None, dict(feed))
        for (name, tally), values in zip(tallies.items(), results, strict=False):
            if not tally.add(values, index):
                raise _not_finite(graph, name, feed, index)
        if index == median:
            shapes = {name: tuple(values.shape) for name, values in zip(tallies, results, strict=False)}
            found = results[len(tallies) :]
            shapes |= {name: tuple(map(int, shape)) for name, shape in zip(lengths, found, strict=True)}
    warnings = (*about_samples(graph, feeds), *_about_activations(graph, tallies))
    return Measured(samples=len(feeds), tallies=tallies, shapes=shapes, warnings=warnings)


def _median(feeds: Feeds) -> int:
    sizes = [sum(array.size for array in feed.values()) for feed in feeds]
    return sorted(range(len(sizes)), key=sizes.__getitem__)[len(sizes) // 2]


def _about_activations(graph: onnx.ModelProto, tallies: Mapping[str, Tally]) -> list[str]:
    makers = {name: node for node in graph.graph.node for name in node.output}
    return [
        f"the result of {_called(makers[name])} is {tally.low:g} everywhere, in every calibration sample"
        for name, tally in tallies.items()
        if name in makers and tally.is_constant
    ]


def _called(node: onnx.NodeProto) -> str:
    module = module_of(node)
    return f"node '{node.name}'" + (f" of module '{module}'" if module else "")


def _not_finite(graph: onnx.ModelProto, tensor: str, feed: Mapping[str, Array], index: int) -> BadFileError:
    """The error that names the first layer before `tensor` whose result is not finite."""
    node, what = _first_not_finite(graph, tensor, feed)
    return BadFileError(
        f"{_called(node)} ({node.op_type}) computes {what} on calibration sample {index}",
        "look at this sample and at the weights of this layer",
    )


def _first_not_finite(
    graph: onnx.ModelProto, tensor: str, feed: Mapping[str, Array]
) -> tuple[onnx.NodeProto, str]:
    before = _before(graph.graph, tensor)
    session = _session(graph, [*(node.output[0] for node in before[:-1]), tensor], [])
    results = session.run(None, dict(feed)) if session else []
    kinds = ((np.isnan, "NaN"), (_infinite, "infinite values"))
    test, what = next((test, what) for test, what in kinds if test(results[-1]).any())
    return next(
        (node, what)
        for node, values in zip(before, results, strict=True)
        if np.issubdtype(values.dtype, np.floating) and test(values).any()
    )


def _infinite(values: Array) -> Array:
    found: Array = np.isinf(values)
    return found


def _before(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """The nodes that `tensor` is computed from, in order; the last one makes it."""
    wanted, found = {tensor}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _session(
    graph: onnx.ModelProto, values: Sequence[str], shapes: Sequence[str]
) -> onnxruntime.InferenceSession | None:
    """The graph with `values`, then the shapes of others, as its only outputs; None if that is nothing."""
    import onnx
    import onnxruntime
    from onnx import helper

    if not values and not shapes:
        return None
    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    del probe.graph.output[:]
    for name in values:
        probe.graph.output.append(helper.make_empty_tensor_value_info(name))
    for name in shapes:
        result = f"{name}/edgekit.shape"
        probe.graph.node.append(helper.make_node("Shape", [name], [result]))
        probe.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
