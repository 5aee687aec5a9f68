"""What is asked of a builder, and what it gives back: plain data that travels in the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..engines import Layer
from ..errors import BadFileError, UsageError

Profile = Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]
"""The smallest, the usual and the largest shape of one input."""

PLACES = ("min", "opt", "max")


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
        BadFileError: it is not what `BuildRequest.told` writes.
        UsageError: a profile is out of order, see `refuse_profiles`.
    """
    try:
        variants = tuple(
            Variant(**dict(one, needs=tuple(one["needs"]), lowering=tuple(one["lowering"])))
            for one in told["variants"]
        )
        profiles = tuple(
            {name: _profile(shapes) for name, shapes in profile.items()} for profile in told["profiles"]
        )
        capabilities = tuple(str(one) for one in told["compute_capabilities"])
        request = BuildRequest(
            **dict(told, variants=variants, profiles=profiles, compute_capabilities=capabilities)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFileError(
            "the manifest does not say how to build the engine: {!r}".format(error), "compile it again"
        ) from error
    refuse_profiles(request.profiles)
    return request


def _profile(shapes: Sequence[Sequence[int]]) -> Profile:
    low, usual, high = (tuple(int(size) for size in shape) for shape in shapes)
    return low, usual, high


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
