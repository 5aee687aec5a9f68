"""What an older TensorRT cannot read yet, and whether the graph can be lowered for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.spec import Problem
from edgekit.targets._plan.context import CannotLower
from edgekit.targets._plan.graph import nodes, opset_of, standard
from edgekit.targets._plan.report import report
from edgekit.targets._plan.variants import FLOORS, lowered_for
from edgekit.targets._plan.versions import (
    ARRIVED,
    PARSER_OPSETS,
    is_rtx,
    number,
    oldest_for,
    parser_opset,
    told,
)

if TYPE_CHECKING:
    import onnx

KNOWN = "read in the operator list and the changelog of TensorRT's parser"

Refusal = tuple["onnx.NodeProto", str]
"""The node that cannot be lowered, and why."""


def by_age(model: onnx.ModelProto, versions: Sequence[str]) -> list[Problem]:
    """Operators and opsets that came after these versions: `cured` where a lowered form exists."""
    old = [version for version in versions if _too_old(version, model)]
    refusals = {floor: _refusal(model, floor) for floor in FLOORS} if old else {}
    found: dict[Problem, list[str]] = {}
    for version in old:
        floor = next((one for one in FLOORS if number(one) <= number(version)), FLOORS[-1])
        for problem in _in_version(model, version, refusals[floor]):
            found.setdefault(problem, []).append(told(version))
    return [replace(problem, versions=", ".join(where)) for problem, where in found.items()]


def _too_old(version: str, model: onnx.ModelProto) -> bool:
    return not is_rtx(version) and number(version) < number(oldest_for(model) or FLOORS[-1])


def _refusal(model: onnx.ModelProto, floor: str) -> Refusal | None:
    """None where the whole graph can be lowered."""
    try:
        made = lowered_for(model, floor)[0]
    except CannotLower as refused:
        return refused.node, refused.reason
    late = [node for node in nodes(made.graph) if number(ARRIVED.get(node.op_type, floor)) > number(floor)]
    return (late[0], f"{late[0].op_type} has no form in older operators") if late else None


def _in_version(model: onnx.ModelProto, version: str, refusal: Refusal | None) -> Iterator[Problem]:
    """One problem for each late operator, and one for the opset."""
    severity = "error" if refusal else "cured"
    for node in nodes(model.graph):
        since = ARRIVED.get(node.op_type, "") if standard(node) else ""
        if since and number(since) > number(version):
            reason = f"{node.op_type} came with TensorRT {since} ({KNOWN})"
            done = "use a newer TensorRT" if refusal else "written out in older operators"
            yield report(node, "late-operator", reason, done, severity)
    opset, limit = opset_of(model), parser_opset(version)
    if opset > limit:
        reason = f"opset {opset}; the parser reads up to {limit} ({KNOWN})"
        if refusal:
            done = f"{refusal[1]}; export with opset {limit}"
            yield report(refusal[0], "opset", reason, done, severity)
        else:
            yield report(None, "opset", reason, f"lowered to opset {PARSER_OPSETS[FLOORS[0]]}", severity)
