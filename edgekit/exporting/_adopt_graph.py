"""An ONNX graph of any origin in edgekit's one form: weights as initializers, names, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.exporting._adopt_codes import usual_codes
from edgekit.exporting._adopt_names import module_path, name_nodes, strip, strip_tensor
from edgekit.exporting._adopt_order import in_order, living, reads
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._onnx_probe import format_for
from edgekit.sources._onnx_walk import nodes_of

if TYPE_CHECKING:
    import onnx

_PRODUCER = "edgekit"


class ConversionError(Exception):
    """The version converter does not take a graph; the message is its reason."""


def canonical(
    model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int
) -> onnx.ModelProto:
    """A new model of the same function: `inputs` and `outputs` in that order, in `opset`.

    Raises:
        UnsupportedError: a local function cannot be inlined.
        ConversionError: the graph has no form in `opset`.
    """
    whole = _inlined(model)
    name_nodes(whole.graph)
    modules = {node.name: module_path(node) for node in nodes_of(whole.graph.node)}
    _lift_constants(whole.graph)
    graph = _converted(whole, opset).graph
    _lift_constants(graph)
    usual_codes(graph)
    name_nodes(graph)
    return _model(graph, inputs, outputs, opset, modules)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the bodies of local functions in the place of their calls."""
    import onnx
    from onnx import inliner, shape_inference

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not model.functions:
        return copy
    try:
        typed = shape_inference.infer_shapes(copy)
        copy = inliner.inline_local_functions(typed, convert_version=True)
    except (RuntimeError, ValueError, shape_inference.InferenceError) as error:
        raise _no_inline(str(error)) from error
    if copy.functions:
        raise _no_inline("it is of another opset than the graph")
    return copy


def _no_inline(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"a local function of the ONNX file cannot be inlined: {reason}", "export it without functions"
    )


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, but for text and for what is an output as it is."""
    results = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" and node.output[0] not in results else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _replace(graph, kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    from onnx import TensorProto, numpy_helper

    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    if attribute.name in ("value_float", "value_int"):
        one = np.float32(attribute.f) if attribute.name == "value_float" else np.int64(attribute.i)
        return numpy_helper.from_array(np.asarray(one))
    if attribute.name == "value_floats":
        return numpy_helper.from_array(np.array(attribute.floats, np.float32))
    if attribute.name == "value_ints":
        return numpy_helper.from_array(np.array(attribute.ints, np.int64))
    return None


def _replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    kept = list(nodes)
    copies = [_copy(node) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    if opset == max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:
        raise ConversionError(str(error).strip().splitlines()[0] if str(error).strip() else "") from error


def _model(
    graph: onnx.GraphProto,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    opset: int,
    modules: Mapping[str, str],
) -> onnx.ModelProto:
    """What is read, in order, and nothing that says who made it, where and when."""
    from onnx import helper

    nodes = in_order(living(graph.node, [spec.name for spec in outputs]))
    read = {name for node in nodes for name in reads(node)} | {spec.name for spec in outputs}
    made = helper.make_graph(
        nodes,
        "main",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        [tensor for tensor in graph.initializer if tensor.name in read],
    )
    for tensor in made.initializer:
        strip_tensor(tensor)
    for node in nodes_of(made.node):
        strip(node, modules.get(node.name, ""))
    foreign = sorted({node.domain for node in nodes_of(made.node)} - {""})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in foreign)]
    result = helper.make_model(made, opset_imports=imports, producer_name=_PRODUCER)
    result.ir_version = format_for(result)
    return result


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
    )
