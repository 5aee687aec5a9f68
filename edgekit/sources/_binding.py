"""How the tensors of `--input` become the arguments of a network's forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """The arguments of one call; an `int` stands for the tensor at that place among the inputs.

    A tuple or a dict of places becomes one argument that is a tuple or a dict of tensors.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments themselves."""
        return (
            tuple(_filled(slot, tensors) for slot in self.args),
            {name: _filled(slot, tensors) for name, slot in self.kwargs.items()},
        )


def _filled(slot: Any, tensors: Sequence[torch.Tensor]) -> Any:
    if isinstance(slot, tuple):
        return tuple(tensors[place] for place in slot)
    if isinstance(slot, dict):
        return {name: tensors[place] for name, place in slot.items()}
    return tensors[slot]


def parameters_of(network: nn.Module) -> tuple[Parameter, ...]:
    """What forward takes, `self` left out; empty where Python cannot tell."""
    try:
        return tuple(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        return ()


def told_forward(network: nn.Module) -> str:
    """`Net.forward(image, mask=None)`."""
    told = ", ".join(str(parameter) for parameter in parameters_of(network))
    return f"{type(network).__name__}.forward({told})"


def bind(network: nn.Module, names: Sequence[str]) -> Call:
    """Match inputs with parameters: by name first, then the rest by order.

    `hx.0` and `hx.1` become one tuple `hx`; `batch.image` becomes an entry of the dict `batch` where
    forward has a parameter of that name.

    Raises:
        UsageError: forward has no place for an input, or wants an argument that none was named for.
    """
    parameters = parameters_of(network)
    slots = _grouped(names, {parameter.name for parameter in parameters})
    taken = _by_name(parameters, slots)
    rest = [name for name in slots if name not in taken]
    extra = _by_order(network, parameters, taken, slots, rest)
    _refuse_unfilled(network, parameters, taken)
    return _call(parameters, taken, extra)


def _grouped(names: Sequence[str], parameters: set[str]) -> dict[str, Any]:
    """Inputs by the name of their argument, in order."""
    slots: dict[str, Any] = {}
    for place, name in enumerate(names):
        head, _, tail = name.partition(".")
        if name not in parameters and tail and (head in parameters or _is_sequence(head, names)):
            slots.setdefault(head, {})[tail] = place
        else:
            slots[name] = place
    return {
        head: tuple(slot[str(i)] for i in range(len(slot))) if _counted(slot) else slot
        for head, slot in slots.items()
    }


def _is_sequence(head: str, names: Sequence[str]) -> bool:
    tails = [name.partition(".")[2] for name in names if name.partition(".")[0] == head]
    return len(tails) > 1 and _counted(dict.fromkeys(tails))


def _counted(slot: Any) -> bool:
    """Whether the keys are 0, 1, 2 and so on."""
    return isinstance(slot, dict) and set(slot) == {str(index) for index in range(len(slot))}


def _by_name(parameters: Sequence[Parameter], slots: Mapping[str, Any]) -> dict[str, Any]:
    return {
        parameter.name: slots[parameter.name]
        for parameter in parameters
        if parameter.name in slots and parameter.kind in (*_NAMED, Parameter.POSITIONAL_ONLY)
    }


def _by_order(
    network: nn.Module,
    parameters: Sequence[Parameter],
    taken: dict[str, Any],
    slots: Mapping[str, Any],
    rest: Sequence[str],
) -> tuple[Any, ...]:
    """Fill the free parameters with the inputs that match none by name; what `*args` takes is returned."""
    free = [each for each in parameters if each.kind in _PLACED and each.name not in taken]
    free = [each for each in free if _may_be_tensor(each)]
    placed = list(zip(free, rest, strict=False))
    taken.update({parameter.name: slots[name] for parameter, name in placed})
    over = list(rest[len(placed) :])
    kinds = {parameter.kind for parameter in parameters}
    if over and not kinds & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
        raise UsageError(
            f"{told_forward(network)} has no place for the input {over[0]!r}",
            "name the inputs as forward names its arguments",
        )
    if Parameter.VAR_POSITIONAL in kinds:
        return tuple(slots[name] for name in over)
    taken.update({name: slots[name] for name in over})
    return ()


def _may_be_tensor(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty or not isinstance(
        parameter.default, (bool, int, float, str, bytes)
    )


def _refuse_unfilled(network: nn.Module, parameters: Sequence[Parameter], taken: Mapping[str, Any]) -> None:
    for parameter in parameters:
        wanted = parameter.kind in (*_PLACED, Parameter.KEYWORD_ONLY)
        if wanted and parameter.default is Parameter.empty and parameter.name not in taken:
            raise UsageError(
                f"{told_forward(network)} wants {parameter.name!r}, and no input is for it",
                f"add --input {parameter.name}=float32[batch,...] with its sizes, or give it a default",
            )


def _call(parameters: Sequence[Parameter], taken: Mapping[str, Any], extra: tuple[Any, ...]) -> Call:
    """Positional as long as no argument is left out, by keyword afterwards."""
    args: list[Any] = []
    kwargs = dict(taken)
    for parameter in parameters:
        if parameter.kind not in _PLACED or parameter.name not in kwargs:
            break
        args.append(kwargs.pop(parameter.name))
    return Call((*args, *extra), kwargs)
