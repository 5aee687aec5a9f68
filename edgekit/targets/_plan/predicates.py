"""What a rule looks for in a node. Each gives the words that go into the rule's reason, empty for no."""

from __future__ import annotations

import numpy as np

from edgekit.targets._plan.graph import bodies, input_of, nodes, standard
from edgekit.targets._plan.halves import LARGEST
from edgekit.targets._plan.sight import Sight
from edgekit.targets._plan.types import schema_of

_INT32 = np.iinfo(np.int32)
_CLAMPED = {"Slice", "Loop"}
"""Where a huge number means `to the end`, and clamping it to int32 changes nothing."""
FOREIGN_TYPES = ("int16", "uint16", "uint32", "uint64", "string", "complex64", "complex128")
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


def always(sight: Sight) -> str:
    """The operator is enough."""
    return str(sight.node.op_type)


def foreign_domain(sight: Sight) -> str:
    """An operator that is not ONNX's own."""
    return "" if standard(sight.node) else f"{sight.node.domain}::{sight.node.op_type}"


def unknown(sight: Sight) -> str:
    """An operator of ONNX's domain that ONNX does not have in the model's opset."""
    node = sight.node
    known = not standard(node) or schema_of(node.op_type, sight.types.opset, node.domain)
    return "" if known else str(node.op_type)


def input_forget(sight: Sight) -> str:
    """An LSTM whose input and forget gates are coupled."""
    return "input_forget=1" if sight.says("input_forget", 0) else ""


def activations(sight: Sight) -> str:
    """Activations that differ between forward and backward."""
    told = [text.decode() if isinstance(text, bytes) else text for text in sight.says("activations", [])]
    half = len(told) // 2
    both = sight.says("direction", "forward") == "bidirectional"
    return ", ".join(told) if both and told[:half] != told[half:] else ""


def dilated(sight: Sight) -> str:
    """Pooling with holes."""
    told = sight.says("dilations", [])
    return f"dilations {list(told)}" if any(one != 1 for one in told) else ""


def second_output(sight: Sight) -> str:
    """More than the first output is read."""
    more = [name for index, name in enumerate(sight.node.output) if index and sight.read(index)]
    return ", ".join(more)


def zero_point(sight: Sight) -> str:
    """A zero point that is not 0, or not constant."""
    if not input_of(sight.node, 2):
        return ""
    value = sight.constant(2)
    if value is None:
        return "computed"
    return "" if not value.any() else ", ".join(str(one) for one in np.unique(value)[:3])


def codes(sight: Sight) -> str:
    """Quantized to a type that is none of TensorRT's."""
    node = sight.node
    name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = sight.type_of(name)
    return kind if kind in ("uint8", "int16", "uint16", "int32") else ""


def quantized_sequence(sight: Sight) -> str:
    """Q/DQ on what a recurrent layer reads, in a network of dynamic sizes."""
    return str(sight.node.op_type) if sight.dequantized(0) and sight.dynamic() else ""


def in_bf16(sight: Sight) -> str:
    """The whole graph is asked for in bf16, or has it already."""
    if sight.precision == "bf16":
        return "bf16"
    held = [value.name for value in sight.scope.graph.initializer if value.data_type == _bfloat16()]
    return held[0] if held else ""


def gru_in_bf16(sight: Sight) -> str:
    """A GRU in a network that is asked for in bf16."""
    return "bf16" if sight.precision == "bf16" else ""


def recurrent_in_int8(sight: Sight) -> str:
    """A recurrent layer in a network that is asked for in int8."""
    return str(sight.node.op_type) if sight.precision == "int8" else ""


def unequal_ranks(sight: Sight) -> str:
    """Branches of an If that give different numbers of dimensions."""
    found = _branches(sight)
    return next((f"{one} and {other}" for one, other in found if len(one) != len(other)), "")


def unequal_sizes(sight: Sight) -> str:
    """Branches of an If that give sizes of which neither broadcasts to the other."""
    for one, other in _branches(sight):
        pairs = zip(reversed(one), reversed(other), strict=False)
        if any(a != b and min(a, b) > 1 for a, b in pairs):
            return f"{one} and {other}"
    return ""


def _branches(sight: Sight) -> list[tuple[list[int], list[int]]]:
    sides = [[sight.ranks.dims(value.name) for value in body.output] for body in bodies(sight.node)]
    if len(sides) != 2:
        return []
    return [(one, other) for one, other in zip(*sides, strict=False) if one is not None and other is not None]


def growing(sight: Sight) -> str:
    """A Loop that carries a tensor whose shape changes."""
    for before, after in sight.carried():
        same = len(before) == len(after)
        if not same or any(a != b and min(a, b) > 0 for a, b in zip(before, after, strict=False)):
            return f"{before} to {after}"
    return ""


def unbounded_scan(sight: Sight) -> str:
    """A Loop that stacks results, how many is not known."""
    carried = len(sight.node.input) - 2
    count = sight.constant(0)
    stacked = [name for index, name in enumerate(sight.node.output) if index >= carried and name]
    return stacked[0] if stacked and count is None else ""


def overflow(sight: Sight) -> str:
    """A constant beyond the largest fp16, in a network that is computed in fp16."""
    if sight.precision not in ("fp16", "int8"):
        return ""
    for name in dict.fromkeys(sight.node.input):
        value = sight.scope.constant(name)
        if value is not None and value.dtype == np.float32:
            finite = value[np.isfinite(value)]
            if finite.size and np.abs(finite).max() > LARGEST:
                return str(name)
    return ""


def five_dimensions(sight: Sight) -> str:
    """GridSample of volumes."""
    dims = sight.dims()
    return f"{len(dims)}D" if dims is not None and len(dims) != 4 else ""


def resized(sight: Sight) -> str:
    """A way to resize that the parser's list does not have."""
    if sight.says("antialias", 0):
        return "antialias=1"
    policy = sight.says("keep_aspect_ratio_policy", "stretch")
    mode = sight.says("coordinate_transformation_mode", "half_pixel")
    return "" if mode in _RESIZE_MODES and policy == "stretch" else mode if policy == "stretch" else policy


def training(sight: Sight) -> str:
    """Layers that still learn."""
    dropout = sight.constant(2) if sight.node.op_type == "Dropout" else None
    learns = sight.says("training_mode", 0) or (dropout is not None and dropout.any())
    return str(sight.node.op_type) if learns else ""


def reducing_scatter(sight: Sight) -> str:
    """ScatterND that adds or multiplies."""
    told = sight.says("reduction", "none")
    return "" if told == "none" else told


def double(sight: Sight) -> str:
    """A double tensor."""
    return _of_type(sight, ("double",))


def foreign_type(sight: Sight) -> str:
    """A tensor of a type that TensorRT does not have."""
    return _of_type(sight, FOREIGN_TYPES)


def int4(sight: Sight) -> str:
    """A tensor of four bits."""
    return _of_type(sight, ("int4", "uint4"))


def inner_uint8(sight: Sight) -> str:
    """A uint8 tensor inside the network."""
    node = sight.node
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    inside = [name for name in node.output if name and sight.scope.readers[name]]
    return next((name for name in inside if sight.type_of(name) == "uint8"), "")


def _of_type(sight: Sight, kinds: tuple[str, ...]) -> str:
    """The first tensor of these types that the node makes; those of Q/DQ have a rule of their own."""
    if sight.node is None:
        names = [value.name for value in sight.scope.graph.input]
    elif sight.node.op_type in ("QuantizeLinear", "Constant"):
        names = []
    else:
        held = [name for name in sight.node.input if sight.scope.tensor(name) is not None]
        quantized = sight.node.op_type == "DequantizeLinear" and "int4" not in kinds
        names = [*sight.node.output, *([] if quantized else held)]
    found = [(name, sight.type_of(name)) for name in names if sight.type_of(name) in kinds]
    return f"{found[0][0]!r} is {found[0][1]}" if found else ""


def large_int64(sight: Sight) -> str:
    """A whole number beyond int32 where it can matter."""
    if sight.node.op_type in _CLAMPED:
        return ""
    for name in sight.node.input:
        value = sight.scope.constant(name)
        if value is None or value.dtype != np.int64:
            continue
        if value.max(initial=0) > _INT32.max or value.min(initial=0) < _INT32.min:
            return str(name)
    return ""


def int64_input(sight: Sight) -> str:
    """An input of the network that is int64."""
    names = [value.name for value in sight.scope.graph.input if sight.type_of(value.name) == "int64"]
    return ", ".join(names)


def not_quantized(sight: Sight) -> str:
    """int8 asked of a graph without Q/DQ nodes."""
    quantized = any(node.op_type == "DequantizeLinear" for node in nodes(sight.model.graph))
    return "int8" if sight.precision == "int8" and not quantized else ""


def _bfloat16() -> int:
    from onnx import TensorProto

    return int(TensorProto.BFLOAT16)
