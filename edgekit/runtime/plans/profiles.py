"""Optimization profiles, held against the network before TensorRT sees them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..errors import UsageError
from .request import Profile, refuse_profiles

_HINT = "give every dynamic dimension a range, and every range its opt"


def add_profiles(builder: Any, config: Any, network: Any, profiles: Sequence[Mapping[str, Profile]]) -> None:
    """Give `config` one optimization profile for each mapping of input names to shapes.

    Raises:
        UsageError: a profile names no input of the network, leaves one out or does not fit its shape.
    """
    refuse_profiles(profiles)
    shapes = input_shapes(network)
    dynamic = [name for name, shape in shapes.items() if -1 in shape]
    if dynamic and not any(profiles):
        raise UsageError("input {!r} is dynamic and has no profile".format(dynamic[0]), _HINT)
    for number, wanted in enumerate(profiles):
        fault = _fault(wanted, shapes, dynamic)
        if fault:
            raise UsageError("optimization profile {}: {}".format(number, fault), _HINT)
        if wanted:
            _add(builder, config, wanted, number)


def input_shapes(network: Any) -> Dict[str, Tuple[int, ...]]:
    """Shape of each input of a parsed network; -1 is dynamic."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    return {tensor.name: tuple(tensor.shape) for tensor in inputs}


def _fault(wanted: Mapping[str, Profile], shapes: Mapping[str, Tuple[int, ...]], dynamic: List[str]) -> str:
    unknown = sorted(set(wanted) - set(shapes))
    if unknown:
        return "the network has no input {!r}, it has {}".format(unknown[0], ", ".join(shapes))
    missing = [name for name in dynamic if name not in wanted]
    if missing and wanted:
        return "the dynamic input {!r} is left out".format(missing[0])
    for name, (low, _, high) in wanted.items():
        shape = shapes[name]
        if len(low) != len(shape):
            return "input {!r} has {} dimensions, not {}".format(name, len(shape), len(low))
        for axis, size in enumerate(shape):
            if size >= 0 and not low[axis] == high[axis] == size:
                return "input {!r} has the fixed size {} at axis {}".format(name, size, axis)
    return ""


def _add(builder: Any, config: Any, wanted: Mapping[str, Profile], number: int) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in wanted.items():
        profile.set_shape(name, low, usual, high)
    if config.add_optimization_profile(profile) < 0:
        raise UsageError("optimization profile {} was refused: {}".format(number, dict(wanted)), _HINT)
