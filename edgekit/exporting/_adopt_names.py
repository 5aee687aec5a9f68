"""What stays written on the nodes of an adopted graph: a name of its own, and the module it came from."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from edgekit.exporting.cleanup import MODULE_KEY
from edgekit.sources._onnx_operators import STANDARD
from edgekit.sources._onnx_walk import bodies, nodes_of

if TYPE_CHECKING:
    import onnx

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_LONGEST_SCOPES = 4096


def name_nodes(graph: onnx.GraphProto) -> None:
    """Every node gets a name of its own, the file's where that is one."""
    taken: set[str] = set()
    for node in nodes_of(graph.node):
        wanted = node.name or node.op_type
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        node.name = name
        taken.add(name)


def module_path(node: onnx.NodeProto) -> str:
    """The module that a node came from, as the file's metadata or its name tells."""
    told = {entry.key: entry.value for entry in node.metadata_props}
    return told.get(MODULE_KEY) or _scope(told.get(_SCOPES_KEY, "")) or _path_in(node.name)


def _scope(recorded: str) -> str:
    """The innermost module that torch's exporter recorded: `['', 'layer1', 'layer1.conv', 'conv2d']`."""
    if not 0 < len(recorded) <= _LONGEST_SCOPES:
        return ""
    try:
        scopes = ast.literal_eval(recorded)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # a stranger's text: it is no list
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _path_in(name: str) -> str:
    """`/layer1/layer1.0/conv/Conv` is `layer1.0.conv`."""
    found: list[str] = []
    for part in name.split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found[-1] = part
        elif part:
            found.append(part)
    return ".".join(found)


def strip(node: onnx.NodeProto, module: str) -> None:
    """Removes every remark on a node, and writes down its module."""
    node.domain = "" if node.domain in STANDARD else node.domain
    for field in ("doc_string", "metadata_props", "overload", "device_configurations"):
        if field in node.DESCRIPTOR.fields_by_name:
            node.ClearField(field)
    if module:
        node.metadata_props.add(key=MODULE_KEY, value=module)
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
            strip_tensor(tensor)
    for body in bodies(node):
        _strip_body(body)


def _strip_body(body: onnx.GraphProto) -> None:
    body.name = "body"
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        body.ClearField(field)
    for tensor in body.initializer:
        strip_tensor(tensor)
    for value in (*body.input, *body.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")


def strip_tensor(tensor: onnx.TensorProto) -> None:
    """Removes every remark on a tensor."""
    tensor.ClearField("doc_string")
    tensor.ClearField("metadata_props")
