"""Which form of the graph a version takes, and which flags ask for the precision."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from ..errors import UnsupportedError, UsageError
from .features import Features
from .request import Variant

_FLAGS = {"fp32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}


def choose(trt: Any, features: Features, variants: Sequence[Variant]) -> Variant:
    """The first variant that fits; strongly typed ones before the others where both are possible.

    Raises:
        UnsupportedError: none fits; names what each of them lacks.
    """
    possible = [typing for typing in ("strong", "weak") if getattr(features, typing)]
    fitting = sorted(
        (one for one in variants if one.typing in possible), key=lambda one: possible.index(one.typing)
    )
    lacks = [(one, _lacking(trt, features, one)) for one in fitting]
    for variant, lack in lacks:
        if not lack:
            return variant
    reasons = ["{} needs {}".format(one.file, " and ".join(lack)) for one, lack in lacks]
    reasons = reasons or ["it takes {} typing, and there is none of that".format(" or ".join(possible))]
    raise UnsupportedError(
        "{} builds none of the graph's forms: {}".format(features.title, "; ".join(reasons)),
        "take a TensorRT that has it, or compile the model for another precision",
    )


def _lacking(trt: Any, features: Features, variant: Variant) -> List[str]:
    old = variant.oldest and not features.at_least(variant.oldest)
    absent = [name for name in variant.needs if not _has(trt, name)]
    return (["TensorRT {}".format(variant.oldest)] if old else []) + absent


def _has(trt: Any, name: str) -> bool:
    """Whether the module has a name such as `INormalizationLayer` or `DataType.BF16`."""
    owner = trt
    for part in name.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def precision_flags(trt: Any, features: Features, precision: str, typing: str) -> Tuple[str, ...]:
    """Names of the builder flags for a precision; none where the graph carries the types.

    Raises:
        UnsupportedError: this version has no such flag.
        UsageError: there is no such precision.
    """
    if precision not in _FLAGS:
        raise UsageError("there is no precision {!r}".format(precision), "one of " + ", ".join(_FLAGS))
    wanted = _FLAGS[precision] if typing == "weak" else ()
    absent = [name for name in wanted if not hasattr(trt.BuilderFlag, name)]
    if absent:
        raise UnsupportedError(
            "{} has no {}".format(features.title, precision),
            "compile the model for fp16, or build with TensorRT 10 or newer",
        )
    return wanted
