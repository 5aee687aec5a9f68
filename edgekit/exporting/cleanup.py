"""Makes an exported graph small, readable and the same on every machine.

The exporter leaves stack traces with absolute paths, counters as names and shape arithmetic. What
stays here is one key of ours on each node, `MODULE_KEY`: the path of the PyTorch module it came from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from edgekit.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

MODULE_KEY = "edgekit.module"
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_PRODUCER = "edgekit"


def clean(
    model: ir.Model, modules: Collection[str], parameters: Collection[str], *, inside: str = ""
) -> None:
    """Cleans `model` in place.

    `modules` and `parameters` are the names in the PyTorch network (`named_modules`, `state_dict`):
    nodes and initializers are named after them, without the path of the module that they are `inside`
    of. Raises UnsupportedError if a node is left that is
    not a standard ONNX operator.
    """
    _refuse_foreign_operators(model)
    _simplify_reshapes(model)
    _remove_unused(model)
    for node in _nodes(model):
        path = _module_path(node, modules, parameters)
        node.metadata_props.clear()
        node.meta.clear()
        node.doc_string = None
        if path := _inside(path, inside):
            node.metadata_props[MODULE_KEY] = path
    _rename(model, parameters, inside)
    _strip(model)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node, those in the bodies of Scan, Loop and If included."""
    import onnx_ir as ir

    yield from ir.traversal.RecursiveGraphIterator(model.graph)


def _inside(path: str, outer: str) -> str:
    """`path` as it is called from the module `outer`."""
    return "" if path == outer else path.removeprefix(f"{outer}.")


def _scopes(node: ir.Node) -> list[str]:
    """Paths of the modules around a node, outermost first, as the exporter recorded them."""
    recorded = node.metadata_props.get(_SCOPES_KEY)
    if recorded:
        return [str(scope) for scope in ast.literal_eval(recorded)[:-1]]
    return _script_scopes(node.name or "")


def _script_scopes(name: str) -> list[str]:
    """The same from a TorchScript name: `/cnn/cnn.0/Conv` is in cnn and cnn.0."""
    scopes: list[str] = []
    path = before = ""
    for part in name.split("/")[1:-1] if name.startswith("/") else ():
        nested = before and part.startswith(f"{before}.")
        path = path + part[len(before) :] if nested else f"{path}.{part}".lstrip(".")
        before = part
        scopes.append(path)
    return scopes


def _module_path(node: ir.Node, modules: Collection[str], parameters: Collection[str]) -> str:
    """The module that a node came from. A folded batch norm belongs to the layer that holds the weight."""
    weight = node.inputs[1].name if node.op_type in ("Conv", "ConvTranspose") and node.inputs[1] else None
    if weight in parameters:
        return str(weight).rpartition(".")[0]
    for path in reversed(_scopes(node)):
        while path and path not in modules:
            path = path.rpartition(".")[0]
        if path:
            return path
    return ""


def _refuse_foreign_operators(model: ir.Model) -> None:
    for node in _nodes(model):
        if node.domain:
            module = (_scopes(node) or [""])[-1]
            raise UnsupportedError(
                f"{node.domain}::{node.op_type} (module '{module}') is not a standard ONNX operator",
                "replace this layer by one that ONNX has",
            )


def _simplify_reshapes(model: ir.Model) -> None:
    """Reshapes to a computed shape get a constant one where 0 (as before) and -1 (the rest) can say it."""
    import numpy as np
    import onnx_ir as ir

    for node in _nodes(model):
        target = _constant_target(node) if node.op_type == "Reshape" else None
        if target is None or node.inputs[1].const_value is not None:  # type: ignore[union-attr]
            continue
        shape = ir.Value(name=f"{node.name}_shape", const_value=ir.tensor(np.array(target, np.int64)))
        model.graph.register_initializer(shape)
        node.replace_input_with(1, shape)
        node.attributes.pop("allowzero", None)


def _constant_target(node: ir.Node) -> list[int] | None:
    data, result = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or result.shape is None:
        return None
    before = [str(dim) for dim in data.shape]
    target = [
        dim if isinstance(dim, int) else (0 if before[axis : axis + 1] == [str(dim)] else -1)
        for axis, dim in enumerate(result.shape)
    ]
    return target if target.count(-1) <= 1 and "None" not in before else None


def _remove_unused(model: ir.Model) -> None:
    import onnx_ir.passes.common as passes

    for step in (
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
    ):
        step(model)


class _Names:
    """Hands out each name once."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def _rename(model: ir.Model, parameters: Collection[str], inside: str) -> None:
    """Names nodes by module and operator, values by their node; inputs, outputs and weights keep theirs."""
    graph = model.graph
    fixed = {str(value.name) for value in (*graph.inputs, *graph.outputs)}
    weights = [value for name, value in graph.initializers.items() if name in parameters]
    kept = fixed | {str(value.name) for value in weights}
    nodes, values = _Names(()), _Names(kept)
    for weight in weights if inside else ():
        weight.name = values.unique(_inside(str(weight.name), inside))
        kept.add(weight.name)
    for node in _nodes(model):
        path = node.metadata_props.get(MODULE_KEY, "")
        node.name = nodes.unique(f"{path}/{node.op_type}" if path else node.op_type)
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.name not in kept:
                value.name = values.unique(f"{node.name}_const{index}")
                kept.add(value.name)
        for index, value in enumerate(node.outputs):
            if value.name not in fixed:
                value.name = values.unique(f"{node.name}_output_{index}")


def _strip(model: ir.Model) -> None:
    """Removes every remark of the exporter, and fixes who made the file."""
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.doc_string = graph.doc_string = None
    model.producer_name, model.producer_version = _PRODUCER, None
    model.domain, model.model_version = None, None
    graph.name = "main"
    boundary = {id(value) for value in graph.outputs}
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in _nodes(model):
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in boundary and node.graph is graph:
                value.shape = value.type = None


def rename_dimensions(model: ir.Model, symbols: Mapping[str, str]) -> None:
    """Gives the dynamic dimensions of the inputs and outputs readable names."""
    import onnx_ir as ir

    def readable(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
        if isinstance(dim, int):
            return dim
        words = re.split(r"(\w+)", str(dim))
        return ir.SymbolicDim("".join(symbols.get(word, word) for word in words))

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([readable(dim) for dim in value.shape])
