"""A graph that came quantized: its own Q/DQ nodes are the int8 form, and nothing is calibrated."""

from __future__ import annotations

from dataclasses import replace

from edgekit.exporting._adopt_quantized import is_quantized, quantized_layers
from edgekit.runtime.errors import UsageError
from edgekit.spec import AGREEMENT, REL_L2, Artifact, Recipe


def already_quantized(graph: Artifact, recipe: Recipe) -> dict[str, str] | None:
    """The precision of each layer as the graph has it; None for a float graph.

    Raises:
        UsageError: the recipe has a plan for layers whose precision is settled.
    """
    import onnx

    model = onnx.load(graph.path)
    if not is_quantized(model):
        return None
    if recipe.plan:
        raise UsageError(
            f"{recipe.name} is already quantized, and a plan cannot change its layers",
            "leave the plan out, or give the float network",
        )
    return quantized_layers(model)


def with_limits(recipe: Recipe) -> Recipe:
    """The recipe with int8's limits of parity, whatever precision is asked for, where the user set none.

    An engine may round a quantized tensor to the neighbouring code, which no limit of fp32 has room for.
    """
    limits, precision = recipe.limits, recipe.precision
    rel_l2, agreement = dict(limits.rel_l2), dict(limits.agreement)
    if rel_l2[precision] == REL_L2[precision]:
        rel_l2[precision] = max(rel_l2[precision], rel_l2["int8"])
    if agreement[precision] == AGREEMENT[precision]:
        agreement[precision] = min(agreement[precision], agreement["int8"])
    return replace(recipe, limits=replace(limits, rel_l2=rel_l2, agreement=agreement))
