"""The forms of one graph from which every TensorRT from 8.5 on can build."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.runtime.plans.config import KEEP_FLOAT
from edgekit.targets._plan.cast import cast
from edgekit.targets._plan.context import CannotLower
from edgekit.targets._plan.expand import can_expand
from edgekit.targets._plan.graph import changed_copy, nodes, opset_of
from edgekit.targets._plan.opset import lowered
from edgekit.targets._plan.raised import raised
from edgekit.targets._plan.versions import ARRIVED, PARSER_OPSETS, number, oldest_for

if TYPE_CHECKING:
    import onnx

MODERN = "10.0"
"""The first TensorRT that takes int64 and bf16, and an opset newer than 17."""
FLOORS = ("8.6", "8.5")
"""The older ones, for which a graph is lowered."""
OPSETS = {"fp16": 19, "bf16": 22}
"""The first opset in which Q/DQ scales may be fp16, and in which convolutions and LSTMs may be bf16."""
NORMALIZATION = "INormalizationLayer"
"""The class that TensorRT's Python module has since it takes LayerNormalization."""


@dataclass(frozen=True, kw_only=True)
class PlanGraph:
    """One form of the graph.

    `typing` is `strong` (every type stands in the graph) or `weak` (flags ask for a precision);
    `oldest` is the first TensorRT that reads it, empty for strong typing, which is asked for by name;
    `needs` are names that the Python module must have. `lowering` says what was changed, and is empty
    when `model` is the graph as it was given. Nodes with `KEEP_FLOAT` in their names must be computed
    in float32 also where a flag allows fp16.
    """

    name: str
    model: onnx.ModelProto
    typing: str
    oldest: str
    opset: int
    needs: tuple[str, ...] = ()
    lowering: tuple[str, ...] = ()


def variants(model: onnx.ModelProto, precision: str, rest: str = "fp16") -> list[PlanGraph]:
    """The forms of a float32 or Q/DQ graph for `precision`, the most preferred first.

    In int8 what stays in float is computed in `rest`. A form that the graph cannot be brought into is
    left out; `findings` says why.
    """
    weak = [_canonical(model)]
    if precision != "bf16" and (precision, rest) != ("int8", "bf16"):
        for floor in FLOORS:
            weak = _with(weak, _older(model, floor))
    return [_typed(model, precision, rest), *weak]


def _typed(model: onnx.ModelProto, precision: str, rest: str) -> PlanGraph:
    wanted = rest if precision == "int8" else precision
    plain = PlanGraph(name="typed", model=model, typing="strong", oldest="", opset=opset_of(model))
    if wanted == "fp32":
        return plain
    newer = _raised(model, OPSETS[wanted]) if wanted == "bf16" or precision == "int8" else model
    made, said = cast(newer, wanted)
    if opset_of(newer) != opset_of(model):
        said.insert(0, f"opset {opset_of(model)} -> {opset_of(newer)}")
    return replace(plain, model=made, opset=opset_of(made), lowering=tuple(said))


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The newer opset if there is a way; what the older one has no half precision for stays float32."""
    try:
        return raised(model, opset)
    except CannotLower:
        return model


def _canonical(model: onnx.ModelProto) -> PlanGraph:
    oldest = max(MODERN, oldest_for(model), key=number)
    return PlanGraph(name="weak", model=model, typing="weak", oldest=oldest, opset=opset_of(model))


def lowered_for(model: onnx.ModelProto, floor: str) -> tuple[onnx.ModelProto, list[str]]:
    """The graph in the operators of the TensorRT `floor`, and what was changed, as sentences.

    Raises:
        CannotLower: a node has no form there.
    """
    later = {kind for kind, since in ARRIVED.items() if number(since) > number(floor)}
    expanded = {kind for kind in later if can_expand(kind)} | {"CastLike"}
    return lowered(model, PARSER_OPSETS[floor], expanded, KEEP_FLOAT)


def _older(model: onnx.ModelProto, floor: str) -> PlanGraph | None:
    """The form for the TensorRTs from `floor` on; None if there is none."""
    try:
        made, said = lowered_for(model, floor)
    except CannotLower:
        return None
    oldest = max(floor, oldest_for(made), key=number)
    normal = any(node.op_type == "LayerNormalization" for node in nodes(made.graph))
    return PlanGraph(
        name=f"weak-{oldest}",
        model=made,
        typing="weak",
        oldest=oldest,
        opset=opset_of(made),
        needs=(NORMALIZATION,) if normal else (),
        lowering=tuple(said),
    )


def _with(known: list[PlanGraph], form: PlanGraph | None) -> list[PlanGraph]:
    """The forms with one more, unless it is no older than the last; equal ones are one."""
    last = known[-1]
    if form is None or number(form.oldest) >= number(last.oldest):
        return known
    if _bytes(form.model) != _bytes(last.model):
        return [*known, form]
    name = last.name if last.name == "weak" else form.name
    return [*known[:-1], replace(last, name=name, oldest=form.oldest)]


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(changed_copy(model).SerializeToString(deterministic=True))
