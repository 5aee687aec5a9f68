"""How cures and rules say what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.spec import Problem
from edgekit.targets._lowering import module_of

if TYPE_CHECKING:
    import onnx


def report(
    node: onnx.NodeProto | None, rule: str, reason: str, cure: str, severity: str, versions: str = ""
) -> Problem:
    """A `Problem` about a node; about the whole graph where there is none."""
    return Problem(
        node=(node.name or node.op_type) if node is not None else "",
        module=module_of(node) if node is not None else "",
        reason=reason,
        cure=cure,
        severity=severity,
        rule=rule,
        versions=versions,
    )


def cure(node: onnx.NodeProto, rule: str, reason: str, done: str) -> Problem:
    """What was wrong with a node, and what was done about it."""
    return report(node, rule, reason, done, "cured")
