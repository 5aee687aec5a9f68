"""int8 by post-training calibration: symmetric, zero point 0, per-channel weights, fp32 bias.

The one form that ONNX Runtime, OpenVINO and TensorRT all take (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, arXiv 1712.05877, in the
symmetric variant). Activations are int8 between the layers with weights; of an LSTM only the weights
are here, because each target has another way to make the rest of it smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgekit.quantization import _candidates
from edgekit.quantization._apply import Parts, apply, written_out
from edgekit.quantization._bias import channel_axis
from edgekit.quantization._calibration import Measured, measured
from edgekit.quantization._candidates import Candidate, Possible, described, planned, possible
from edgekit.quantization._placement import LAYERS, RECURRENT, Wiring, activations, ranged
from edgekit.quantization._qdq import LEVELS, REDUCED
from edgekit.quantization._samples import Feeds, refuse_bad_feeds
from edgekit.quantization._scan import OWNERS, probe
from edgekit.quantization._smooth import Factors, smooth, smoothing
from edgekit.quantization._switches import Switches, switched
from edgekit.quantization._thresholds import CALIBRATORS
from edgekit.runtime.errors import UsageError

if TYPE_CHECKING:
    import onnx

REQUIRES = ("onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`calibrator` finds the range of each activation; `percentile` belongs to the one of that name.
    `bias_correction` takes the mean of each channel's weight rounding error out of its bias.
    `equalization` brings the features that an int8 LSTM or GRU reads to one range first, and takes that back
    in its weights: a layer whose features are of very unlike size may bear int8 then. `smooth` does so, as
    far as it promises to help, with the channels that matrix products read. `reduce_range` gives weights
    seven bits, for CPUs without VNNI: there two products of eight bits each overflow."""

    calibrator: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    percentile: float = 99.99
    bias_correction: bool = True
    equalization: bool = False
    smooth: bool = False
    reduce_range: bool = False
    op_types: tuple[str, ...] = LAYERS


def measure(graph: onnx.ModelProto, calibration: Feeds, options: Options) -> Measured:
    """Run the float graph on every sample (one feed each, any sizes). Slow; serves every plan.

    With `options.smooth` it is run a second time, with its outlying channels smoothed.

    Raises:
        UsageError: no samples; an unknown calibrator or operator.
        BadFileError: a sample is not finite or does not fit the inputs; a layer's result is not finite.
    """
    _refuse_bad_options(options)
    refuse_bad_feeds(graph, calibration)
    found = _measured(_copy(graph), calibration)
    return smoothed(graph, calibration, found) if options.smooth else found


def smoothed(graph: onnx.ModelProto, calibration: Feeds, plain: Measured) -> Measured:
    """What `measure` finds with `smooth`, from what it has found without."""
    factors = smoothing(Wiring(graph.graph), plain.tallies)
    if not factors:
        return plain
    return replace(_measured(_copy(graph, factors), calibration), warnings=plain.warnings, factors=factors)


def _measured(probed: onnx.ModelProto, calibration: Feeds) -> Measured:
    """Changes `probed`."""
    every = possible(Wiring(probed.graph))
    axes = _wanted(Wiring(probed.graph), every)
    inner = probe(probed.graph, {name for layer in every.inner for name in layer.tensors})
    axes |= {stacked: set() for stacked in inner.values()}
    sized = [node.output[0] for node in every.outer()]
    return measured(probed, axes, sized, calibration).renamed({outer: name for name, outer in inner.items()})


def _copy(graph: onnx.ModelProto, factors: Factors | None = None) -> onnx.ModelProto:
    """The graph, smoothed by `factors`."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(graph)
    smooth(made.graph, factors or {})
    return made


def _wanted(wiring: Wiring, every: Possible) -> dict[str, set[int]]:
    """The tensors that any plan needs to know, each with the axes of which every channel counts."""
    axes: dict[str, set[int]] = {name: set() for name in activations(wiring, every.layers)}
    for name in ranged(wiring, every.layers):
        axes.setdefault(name, set())
    for layer in every.layers:
        axes.setdefault(layer.node.input[0], set()).add(channel_axis(layer.node))
    for node in every.recurrent:
        axes.setdefault(node.input[0], set()).add(-1)
        axes.setdefault(node.output[0], set())
    axes.pop("", None)
    return axes


def quantize(
    graph: onnx.ModelProto, measured: Measured, plan: Mapping[str, str], options: Options
) -> onnx.ModelProto:
    """A new graph with Q/DQ nodes; `measured` is what `measure` has found on the very same graph.

    `plan` maps the name of a layer to `int8`, or to a floating precision, which leaves it as it is.
    Ranges that a target may need are in the metadata of the nodes: `edgekit.output_range` of a convolution
    whose result stays float, after the activation function that alone reads it; `edgekit.result_range`
    before one that is no ReLU; `edgekit.low` and `edgekit.high` of the activation that a QuantizeLinear
    reads; `edgekit.input_range` of what an LSTM reads.

    Raises:
        UsageError: an unknown layer, precision, calibrator or operator.
        UnsupportedError: no layer of the graph, or not one that the plan asks for, can become int8.
    """
    _refuse_bad_options(options)
    result = _copy(graph, measured.factors)
    wiring = Wiring(result.graph)
    apply(_parts(wiring, measured, options), planned(wiring, plan, options.op_types))
    return result


def candidates(
    graph: onnx.ModelProto, options: Options, measured: Measured | None = None
) -> dict[str, Candidate]:
    """Every layer that can be int8, in the graph's order.

    Multiplications are those of the calibration sample of median size; without `measured` those that
    the graph's own shapes give, where a dynamic size counts as 1.
    """
    wiring = Wiring((_copy(graph, measured.factors) if measured else graph).graph)
    nodes = possible(wiring).outer()
    tensors = [name for node in nodes for name in (node.input[0], node.output[0])]
    shapes = measured.shapes if measured else _candidates.inferred_shapes(graph, tensors)
    return described(wiring, options.op_types, shapes)


def switches(graph: onnx.ModelProto, measured: Measured, options: Options) -> Switches:
    """One float graph in which every candidate can be quantized or not at run time."""
    result = _copy(graph, measured.factors)
    wiring = Wiring(result.graph)
    return switched(result, _parts(wiring, measured, options), possible(wiring))


def quantized_layers(graph: onnx.ModelProto) -> dict[str, str]:
    """The precision of every layer with weights: `int8` if its weight is, `fp32` if not."""
    loops = written_out(graph.graph)
    found = dict.fromkeys(loops, "int8")
    for inside in (graph.graph, *_bodies(graph.graph)):
        integers = {node.output[0] for node in inside.node if node.op_type == "DequantizeLinear"}
        found |= {
            node.name: "int8" if node.input[1] in integers else "fp32"
            for node in inside.node
            if node.op_type in (*LAYERS, *RECURRENT) and not node.name.startswith(tuple(loops.values()))
        }
    return found


def _bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    owners = [node for node in graph.node if node.op_type in OWNERS]
    return [each.g for node in owners for each in node.attribute if each.name == "body"]


def _parts(wiring: Wiring, measured: Measured, options: Options) -> Parts:
    largest = measured.thresholds(options.calibrator, options.percentile)
    levels = REDUCED if options.reduce_range else LEVELS
    return Parts(wiring, measured, largest, options.bias_correction, options.equalization, levels)


def _refuse_bad_options(options: Options) -> None:
    if options.calibrator not in CALIBRATORS:
        raise UsageError(f"unknown calibrator '{options.calibrator}'", f"one of {', '.join(CALIBRATORS)}")
    if not 50 < options.percentile <= 100:
        raise UsageError(f"percentile {options.percentile} is not between 50 and 100", "try 99.99")
    unknown = sorted(set(options.op_types) - set(LAYERS))
    if unknown:
        raise UsageError(
            f"operator '{unknown[0]}' cannot be quantized here", f"choose from {', '.join(LAYERS)}"
        )
