"""The operators of an ONNX file: standard ones of opset 11 or later, and ONNX Runtime's integer ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.sources._onnx_walk import nodes_of

if TYPE_CHECKING:
    import onnx

OLDEST = 11
STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
_INTEGER = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_INTEGER_OF_MICROSOFT = {
    "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention",
    "QEmbedLayerNormalization", "QGemm",
}  # fmt: skip


def opset_of(path: Path, imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """The version of ONNX's own operators.

    Raises:
        BadFileError: the file names none.
    """
    versions = [entry.version for entry in imports if entry.domain in STANDARD]
    if not versions:
        raise BadFileError(f"{path} does not say which opset it is of", "copy or export it again")
    return max(versions)


def refuse_operators(path: Path, model: onnx.ModelProto) -> None:
    """Raises UnsupportedError for an opset or operator that edgekit does not take; the node is named."""
    _refuse_opset(path, opset_of(path, model.opset_import))
    own = {(function.domain, function.name) for function in model.functions}
    _refuse_foreign(path, model.graph.node, model.opset_import, own)
    for function in model.functions:
        _refuse_foreign(path, function.node, function.opset_import, own)


def _refuse_opset(path: Path, opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if opset < OLDEST:
        raise UnsupportedError(
            f"{path} is of opset {opset}, edgekit reads {OLDEST} and later",
            "export it again with opset 18, or convert it with onnx.version_converter.convert_version",
        )
    if opset > onnx_opset_version():
        raise UnsupportedError(
            f"{path} is of opset {opset}, the installed onnx knows {onnx_opset_version()}",
            "export it again with opset 18, or pip install --upgrade onnx onnxruntime",
        )


def _refuse_foreign(
    path: Path,
    nodes: Iterable[onnx.NodeProto],
    imports: Iterable[onnx.OperatorSetIdProto],
    own: set[tuple[str, str]],
) -> None:
    versions = {"" if entry.domain in STANDARD else entry.domain: entry.version for entry in imports}
    for node in nodes_of(nodes):
        if (node.domain, node.op_type) in own:
            continue
        if node.domain == MICROSOFT and is_integer(node):
            continue
        where = f"{path}: the node '{node.name or next(iter(node.output), '')}'"
        if node.domain not in STANDARD:
            raise UnsupportedError(
                f"{where} is {node.domain}::{node.op_type}, which is not one of ONNX's own operators",
                "export it with ONNX's own operators; a graph that ONNX Runtime has optimized is taken as "
                "it was before",
            )
        _refuse_unknown(where, node, versions)


def is_integer(node: onnx.NodeProto) -> bool:
    """Whether a node computes on codes itself (ONNX's QOperator form), instead of between Q/DQ nodes."""
    if node.domain == MICROSOFT:
        return node.op_type in _INTEGER_OF_MICROSOFT or node.op_type.startswith("QLinear")
    return node.domain in STANDARD and node.op_type in _INTEGER


def _refuse_unknown(where: str, node: onnx.NodeProto, versions: Mapping[str, int]) -> None:
    from onnx import defs

    try:
        schema = defs.get_schema(node.op_type, versions.get("", 1), "")
    except defs.SchemaError as error:
        raise UnsupportedError(
            f"{where} is {node.op_type}, which opset {versions.get('', 1)} does not have",
            "export it again with opset 18 and ONNX's own operators",
        ) from error
    if schema.deprecated:
        raise UnsupportedError(
            f"{where} is {node.op_type}, which opset {versions.get('', 1)} no longer has",
            "export it again with opset 18",
        )
