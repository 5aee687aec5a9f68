"""What is known against a graph in each version of TensorRT, and what edgekit cures by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekit.spec import PRECISIONS, Problem
from edgekit.targets._plan.ages import by_age
from edgekit.targets._plan.cures import cured
from edgekit.targets._plan.report import report
from edgekit.targets._plan.rulebook import RULES, WHOLE, Rule
from edgekit.targets._plan.sight import Sight, sights
from edgekit.targets._plan.versions import VERSIONS

if TYPE_CHECKING:
    import onnx


def findings(model: onnx.ModelProto, precision: str, versions: Sequence[str] = ()) -> list[Problem]:
    """Everything the graph meets in these versions (`8.5`, `10.3`, `11.4`, `rtx-1.7`; none: all of TensorRT).

    What edgekit changes by itself is there with severity `cured`, before what stays.
    """
    asked = tuple(versions) or VERSIONS
    fixed, told = cured(model)
    if precision not in PRECISIONS:
        told.append(report(None, "precision", f"{precision} is no precision", _one_of(), "error"))
    for sight in sights(fixed, precision):
        for rule in RULES:
            told += _hits(rule, sight, asked)
    return told + by_age(fixed, asked)


def supports(model: onnx.ModelProto, precision: str) -> list[Problem]:
    """What no version of TensorRT that edgekit builds for takes; empty when nothing is known against it."""
    found = findings(model, precision, VERSIONS)
    return [one for one in found if one.severity == "error" and one.versions in ("", "TensorRT")]


def _hits(rule: Rule, sight: Sight, versions: Sequence[str]) -> Iterator[Problem]:
    if not _looks_at(rule, sight):
        return
    severities = dict.fromkeys(rule.severity(version) for version in versions)
    severities.pop("", None)
    what = rule.holds(sight) if severities else ""
    if not what:
        return
    for severity in severities:
        reason = f"{rule.reason.format(what)} ({rule.known})"
        yield report(sight.node, rule.name, reason, rule.cure, severity, rule.where(severity))


def _looks_at(rule: Rule, sight: Sight) -> bool:
    if sight.node is None or rule.ops == WHOLE:
        return sight.node is None and rule.ops == WHOLE
    return rule.ops is None or sight.node.op_type in rule.ops


def _one_of() -> str:
    return f"one of {', '.join(PRECISIONS)}"
