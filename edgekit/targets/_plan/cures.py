"""What TensorRT refuses or silently gets wrong in a graph, and that can be changed mechanically."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.spec import Problem
from edgekit.targets._lowering import drop_unused
from edgekit.targets._plan.context import CannotLower
from edgekit.targets._plan.detection import cut_detections
from edgekit.targets._plan.graph import (
    RECURRENT,
    Names,
    Scope,
    Writer,
    add_constant,
    changed_copy,
    constant_of,
    drop_settings,
    graphs,
    input_of,
    nodes,
    opset_of,
    rename_readers,
    replace_nodes,
    scopes,
    set_setting,
    setting,
    standard,
)
from edgekit.targets._plan.opset import lowered
from edgekit.targets._plan.recode import recode
from edgekit.targets._plan.recurrent import float_weights
from edgekit.targets._plan.report import cure
from edgekit.targets._plan.types import number

if TYPE_CHECKING:
    import onnx

_BATCH_FIRST = (1, 0, 2)
"""(batch, steps, size) to (steps, batch, size) and back; the same for states."""
_OUTPUT_BATCH_FIRST = (2, 0, 1, 3)
"""(steps, directions, batch, size) to (batch, steps, directions, size)."""
_FLOAT_BITS = 24
_LEFTOVER = "leftover"
WRITTEN_OUT = {
    "Attention": "TensorRT-RTX 1.7 crashes while it builds (tried)",
    "CenterCropPad": "no TensorRT has (read in the operator list of its parser)",
}
"""Operators that `cured` replaces by the function that ONNX defines them by, and why."""


def cured(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Problem]]:
    """A copy that TensorRT takes in more places, and one `Problem` of severity `cured` for each change.

    The graph computes the same but where the problem's `cure` says how it differs. A
    NonMaxSuppression at the end is cut off: the graph then hands out the boxes and the scores.
    """
    made, told = _functions(model)
    names = Names(made)
    for step in (_leftovers, _doubles, _biases, float_weights, recode, _pool_indices, _layouts):
        for scope in list(scopes(made.graph)):
            told += step(scope, names)
    told += cut_detections(made, model)
    original = {one.name or one.op_type for one in nodes(model.graph)}
    told = [one for one in told if one.rule != _LEFTOVER or one.node in original]
    for graph in graphs(made.graph):
        drop_unused(graph)
    return (made, told) if told else (model, [])


def _functions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Problem]]:
    """Operators that ONNX defines by others are written out where TensorRT has no use for them."""
    told = []
    for node in nodes(model.graph):
        if standard(node) and node.op_type in WRITTEN_OUT:
            reason = f"{WRITTEN_OUT[node.op_type]} {node.op_type}"
            told.append(cure(node, "function", reason, "written out as the function that ONNX defines it by"))
    try:
        return (lowered(model, opset_of(model), WRITTEN_OUT)[0] if told else changed_copy(model)), told
    except CannotLower:
        return changed_copy(model), []


def _leftovers(scope: Scope, names: Names) -> list[Problem]:
    """Identity nodes and Dropouts that do nothing."""
    told = []
    for node in list(scope.graph.node):
        if not _does_nothing(node, scope) or not _bypass(node, scope):
            continue
        scope.graph.node.remove(node)
        told.append(cure(node, _LEFTOVER, f"{node.op_type} does nothing here", "removed"))
    return told


def _does_nothing(node: onnx.NodeProto, scope: Scope) -> bool:
    if not standard(node):
        return False
    if node.op_type == "Identity":
        return True
    training = scope.constant(input_of(node, 2))
    mask = any(scope.readers[name] or scope.is_output(name) for name in node.output[1:] if name)
    said = not input_of(node, 2) or (training is not None and not training.any())
    return node.op_type == "Dropout" and said and not mask


def _bypass(node: onnx.NodeProto, scope: Scope) -> bool:
    """Let what comes before stand for what comes behind; False where a name of the interface forbids it."""
    before, behind = node.input[0], node.output[0]
    if not scope.is_output(behind):
        rename_readers(scope.graph, behind, before)
        scope.readers[before] += scope.readers[behind]
        return True
    maker = scope.makers.get(before)
    if maker is None or scope.is_output(before) or constant_of(maker) is not None:
        return False
    for index, name in enumerate(maker.output):
        if name == before:
            maker.output[index] = behind
    rename_readers(scope.graph, before, behind)
    scope.makers[behind] = maker
    return True


def _doubles(scope: Scope, names: Names) -> list[Problem]:
    """Double constants and casts to float, where no input or output of the network is double."""
    if scope.outer is not None or not _only_inside(scope.graph):
        return []
    return [problem for inner in list(scopes(scope.graph)) for problem in _to_float(inner)]


def _only_inside(graph: onnx.GraphProto) -> bool:
    """Whether all doubles of the model can become float together."""
    double = number("double")
    boundary = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    inside = [tensor for scope in scopes(graph) for tensor in _double_tensors(scope)]
    return double not in boundary and all(_exact(tensor) for tensor in inside)


def _double_tensors(scope: Scope) -> list[onnx.TensorProto]:
    held = [setting(node, "value") for node in scope.graph.node if node.op_type == "ConstantOfShape"]
    return [
        tensor
        for tensor in (*scope.tensors.values(), *(value for value in held if value is not None))
        if tensor.data_type == number("double")
    ]


def _exact(tensor: onnx.TensorProto) -> bool:
    """Whether float32 holds the values to its own rounding: none too large, no large whole number cut."""
    from onnx import numpy_helper

    value = numpy_helper.to_array(tensor)
    finite = value[np.isfinite(value)]
    whole = finite[(finite == np.round(finite)) & (np.abs(finite) > 2**_FLOAT_BITS)]
    largest = np.finfo(np.float32).max
    return bool((np.abs(finite) <= largest).all() and (whole == whole.astype(np.float32)).all())


def _to_float(scope: Scope) -> list[Problem]:
    double, single = number("double"), number("float")
    constants = {name for name, tensor in scope.tensors.items() if tensor.data_type == double}
    for tensor in scope.graph.initializer:
        if tensor.data_type == double:
            tensor.CopyFrom(_single(tensor))
    for value in (*scope.graph.input, *scope.graph.output):
        if value.type.tensor_type.elem_type == double:
            value.type.tensor_type.elem_type = single
    told = []
    for node in scope.graph.node:
        held = [attribute for attribute in node.attribute if attribute.t.data_type == double]
        asked = [one for one in ("to", "dtype") if setting(node, one) == double]
        for attribute in held:
            attribute.t.CopyFrom(_single(attribute.t))
        for one in asked:
            set_setting(node, one, single)
        if held or asked or constants & set(node.input):
            done = "float32, which rounds by less than 1e-7 of the value"
            told.append(cure(node, "double", "TensorRT has no double: it casts down to float32", done))
    return told


def _single(tensor: onnx.TensorProto) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _biases(scope: Scope, names: Names) -> list[Problem]:
    """int32 constants behind DequantizeLinear become float32 constants."""
    told = []
    for node in list(scope.graph.node):
        value = _dequantized(node, scope) if node.op_type == "DequantizeLinear" else None
        if value is None:
            continue
        scope.graph.node.remove(node)
        add_constant(scope.graph, node.output[0], value)
        reason = "TensorRT refuses DequantizeLinear of int32"
        told.append(cure(node, "int32-bias", reason, "the bias is a float32 constant of the same values"))
    return told


def _dequantized(node: onnx.NodeProto, scope: Scope) -> np.ndarray[Any, Any] | None:
    codes, scale = scope.constant(node.input[0]), scope.constant(node.input[1])
    if codes is None or scale is None or codes.dtype != np.int32 or setting(node, "block_size", 0):
        return None
    zero = scope.constant(node.input[2]) if input_of(node, 2) else np.zeros((), np.int32)
    if zero is None or scope.is_output(node.output[0]):
        return None
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[setting(node, "axis", 1) % codes.ndim] = -1
    steps = codes.astype(np.int64) - zero.reshape(shape if zero.size > 1 else ())
    value: np.ndarray[Any, Any] = steps * scale.reshape(shape if scale.size > 1 else ())
    return value.astype(np.float32)


def _pool_indices(scope: Scope, names: Names) -> list[Problem]:
    """A second output of MaxPool that nothing reads."""
    told = []
    for node in scope.graph.node:
        if node.op_type != "MaxPool" or len(node.output) < 2:
            continue
        indices = node.output[1]
        if not indices or (not scope.readers[indices] and not scope.is_output(indices)):
            del node.output[1:]
            reason = "TensorRT's MaxPool gives no indices"
            told.append(cure(node, "pool-indices", reason, "the output, which nothing read, is removed"))
    return told


def _layouts(scope: Scope, names: Names) -> list[Problem]:
    """layout=1 of the recurrent layers becomes layout=0 between Transposes."""
    told, changed = [], []
    for node in scope.graph.node:
        if node.op_type not in RECURRENT or setting(node, "layout", 0) != 1:
            changed.append(node)
            continue
        changed += _steps_first(node, scope.graph, names)
        reason = "TensorRT accepts layout=1 and ignores it: the answer would be wrong"
        told.append(cure(node, "layout", reason, "layout=0 with Transposes around the layer"))
    replace_nodes(scope.graph, changed)
    return told


def _steps_first(node: onnx.NodeProto, graph: onnx.GraphProto, names: Names) -> list[onnx.NodeProto]:
    before, behind = Writer(node, graph, names), Writer(node, graph, names)
    layer = type(node)()
    layer.CopyFrom(node)
    drop_settings(layer, "layout")
    for index in (0, 5, 6):
        if input_of(node, index):
            layer.input[index] = before.add("Transpose", [node.input[index]], perm=_BATCH_FIRST)
    for index, name in enumerate(node.output):
        if name:
            layer.output[index] = names.unique(f"{name}/steps_first")
            order = _BATCH_FIRST if index else _OUTPUT_BATCH_FIRST
            behind.add("Transpose", [layer.output[index]], name, perm=order)
    return [*before.nodes, layer, *behind.nodes]
