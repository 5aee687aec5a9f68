"""A node that is there in two forms, of which a truth value chooses one at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_OFF = "/switched.off"
_ON = "/switched.on"


def branch(node: onnx.NodeProto, condition: str, on: Sequence[onnx.NodeProto]) -> None:
    """Turns `node`, in place, into an If between the nodes `on` and itself. Names of results stay."""
    from onnx import helper

    results = [name for name in node.output if name]
    branches = {"then_branch": _subgraph(on, results, _ON), "else_branch": _subgraph([node], results, _OFF)}
    made = helper.make_node("If", [condition], results, node.name, **branches)
    made.metadata_props.extend(node.metadata_props)
    node.CopyFrom(made)


def _subgraph(nodes: Sequence[onnx.NodeProto], results: Sequence[str], suffix: str) -> onnx.GraphProto:
    from onnx import TensorProto, helper

    inner = [copy_of(node) for node in nodes]
    for node in inner:
        node.output[:] = [f"{name}{suffix}" if name in results else name for name in node.output]
    outputs = [helper.make_tensor_value_info(f"{name}{suffix}", TensorProto.FLOAT, None) for name in results]
    return helper.make_graph(inner, f"{nodes[-1].name}{suffix}", [], outputs)


def copy_of(node: onnx.NodeProto) -> onnx.NodeProto:
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(node)
    return made
