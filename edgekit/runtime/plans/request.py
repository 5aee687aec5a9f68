"""What is asked of a builder, and what it gives back: plain data that travels in the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..engines import Layer
from ..errors import BadFileError, UsageError
from . import fields

Profile = Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]
"""The smallest, the usual and the largest shape of one input."""

PLACES = ("min", "opt", "max")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
LARGEST_SIZE = 2**31 - 1
WORKSPACE_MB = (1, 1 << 20)
DLA_CORES = (0, 7)
GPUS = (0, 255)
"""The smallest and the largest value that may be asked for; what the device has is another matter."""

_ENGINES = "engine"


@dataclass(frozen=True)
class Variant:
    """One form of the graph, for the versions that need it.

    `typing` is `strong` (every type stands in the graph) or `weak` (flags ask for a precision);
    `oldest` is the first TensorRT that reads this form, and `needs` are names that its Python module
    must have, such as `INormalizationLayer`. The first variant that fits is built.
    """

    file: str
    typing: str = "weak"
    oldest: str = ""
    needs: Tuple[str, ...] = ()
    opset: int = 0
    lowering: Tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildRequest:
    """Everything that decides a plan, but for the machine that builds it.

    `profiles` holds one mapping (input name to `Profile`) for each optimization profile, the narrow
    ones first; `gpu` is the number of the device, `compute_capabilities` such as `8.6` are for
    TensorRT-RTX, which builds for GPUs that are not here. `dla_core` None leaves the DLA alone.
    """

    variants: Tuple[Variant, ...]
    precision: str
    engine: str = "engine/model.engine"
    profiles: Tuple[Mapping[str, Profile], ...] = ()
    workspace_bytes: int = 1 << 30
    dla_core: Optional[int] = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    compute_capabilities: Tuple[str, ...] = ()
    gpu: int = 0

    def told(self) -> Dict[str, Any]:
        """As it stands in the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Built:
    """A plan and what its builder said of it.

    `layers` are those of the first profile, in the precision that the builder gave them.
    `timing_cache` is None where there is no GPU to time anything on.
    """

    plan: bytes
    variant: Variant
    typing: str
    layers: List[Layer] = field(default_factory=list)
    timing_cache: Optional[bytes] = None
    notes: Tuple[str, ...] = ()
    seconds: float = 0.0


def read_request(told: Mapping[str, Any]) -> BuildRequest:
    """The request in a manifest.

    Raises:
        BadFileError: it is not what `BuildRequest.told` writes, or a value is out of its range.
        UsageError: a profile is out of order, see `refuse_profiles`.
    """
    try:
        request = _request(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = "{} is missing".format(error) if isinstance(error, KeyError) else str(error)
        raise BadFileError(
            "the manifest does not say how to build the engine: {}".format(fault), "compile it again"
        ) from error
    refuse_profiles(request.profiles)
    return request


def _request(told: Mapping[str, Any]) -> BuildRequest:
    fields.refuse(told, _REQUEST)
    variants = [_variant(one, number) for number, one in enumerate(told["variants"])]
    if not variants:
        raise ValueError("variants is empty")
    lists = {
        "variants": tuple(variants),
        "profiles": tuple(
            {name: _profile(shapes) for name, shapes in profile.items()} for profile in told["profiles"]
        ),
        "compute_capabilities": tuple(told["compute_capabilities"]),
    }
    return BuildRequest(**dict(told, precision=told["precision"], **lists))


def _variant(told: Mapping[str, Any], number: int) -> Variant:
    fields.refuse(told, _VARIANT, "variant {}: ".format(number))
    return Variant(**dict(told, needs=tuple(told["needs"]), lowering=tuple(told["lowering"])))


def _profile(shapes: Sequence[Sequence[int]]) -> Profile:
    low, usual, high = (tuple(shape) for shape in shapes)
    return low, usual, high


def _is_profile(value: Any) -> bool:
    return fields.table(value) and all(_SHAPES(shapes) and len(shapes) == 3 for shapes in value.values())


def _is_engine(value: Any) -> bool:
    if not fields.inside(value):
        return False
    parts = PurePosixPath(value).parts
    return len(parts) > 1 and parts[0] == _ENGINES


_SHAPES = fields.every(fields.every(fields.whole(-LARGEST_SIZE, LARGEST_SIZE)))
_VARIANT: Mapping[str, fields.Field] = {
    "file": (fields.inside, "a path inside the folder"),
    "typing": (fields.one_of("strong", "weak"), "strong or weak"),
    "oldest": (fields.matching(r"(\d{1,4}(\.\d{1,4}){0,3})?"), "a version such as 10.3"),
    "needs": (fields.every(fields.matching(r"\w+(\.\w+)*")), "a list of names"),
    "opset": (fields.whole(0, 1000), "the number of an opset"),
    "lowering": (fields.every(fields.text), "a list of sentences"),
}
_REQUEST: Mapping[str, fields.Field] = {
    "variants": (fields.every(fields.table), "a list of tables"),
    "precision": (fields.one_of(*PRECISIONS), "one of " + ", ".join(PRECISIONS)),
    "engine": (_is_engine, "a path below {}/".format(_ENGINES)),
    "profiles": (fields.every(_is_profile), "a list of three shapes for each input, sizes below 2**31"),
    "workspace_bytes": (fields.whole(*(size << 20 for size in WORKSPACE_MB)), "1 MiB to 1 TiB"),
    "dla_core": (fields.optional(fields.whole(*DLA_CORES)), "{} to {}, or null".format(*DLA_CORES)),
    "hardware_compatible": (fields.truth, "true or false"),
    "version_compatible": (fields.truth, "true or false"),
    "compute_capabilities": (fields.every(fields.matching(r"\d{1,2}\.\d")), "a list such as 8.6, 8.9"),
    "gpu": (fields.whole(*GPUS), "{} to {}".format(*GPUS)),
}


def refuse_profiles(profiles: Sequence[Mapping[str, Profile]]) -> None:
    """Raise UsageError for a profile that no TensorRT can take: the crash comes later otherwise."""
    for number, profile in enumerate(profiles):
        for name, shapes in profile.items():
            fault = _fault(shapes)
            if fault:
                raise UsageError(
                    "optimization profile {} of input {!r}: {}".format(number, name, fault),
                    "every size needs 1 <= min <= opt <= max",
                )


def _fault(shapes: Profile) -> str:
    if len({len(shape) for shape in shapes}) != 1:
        return "min, opt and max have different numbers of dimensions"
    for axis, (low, usual, high) in enumerate(zip(*shapes)):
        if low < 1:
            return "min {} at axis {} is below 1".format(low, axis)
        if not low <= usual <= high:
            return "opt {} at axis {} is outside {} to {}".format(usual, axis, low, high)
    return ""
