"""A user's module with a plain face: tensors in by position, a flat tuple of tensors out."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import UnsupportedError
from edgekit.sources._binding import Call
from edgekit.sources._words import prints_aside

Returned: TypeAlias = "str | tuple[Returned, ...] | None"
"""The names in `return logits, (h, c)`; None where something else than a name stands."""
TOP = "output"


class Adapter(nn.Module):
    """Calls `network` with the inputs in their places and lays out what it returns.

    Before `settle`, forward returns every tensor in the order of the network; afterwards those at
    `order`, in that order. `names` are those of all tensors.
    """

    def __init__(self, network: nn.Module, call: Call, returned: Returned = None) -> None:
        super().__init__()
        self.network = network
        self.call = call
        self.returned = returned
        self.names: tuple[str, ...] = ()
        self.order: tuple[int, ...] = ()

    def settle(self, names: Sequence[str], order: Sequence[int]) -> None:
        """Fix which tensors are returned, and in which order."""
        self.names, self.order = tuple(names), tuple(order)

    def leaves(self, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Every tensor that the network returns, by name.

        Raises:
            UnsupportedError: it returns something that is neither a tensor nor made of tensors.
        """
        args, kwargs = self.call.of(tensors)
        with prints_aside():
            result = self.network(*args, **kwargs)
        return flatten(result, self.returned, type(self.network).__name__)

    def lay_out(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What forward returns."""
        found = [tensor for _, tensor in self.leaves(tensors)]
        if self.names and len(found) != len(self.names):
            raise UnsupportedError(
                f"{type(self.network).__name__} returned {len(self.names)} tensors, then {len(found)}",
                "return the same tensors at every size",
            )
        return tuple(found[place] for place in self.order) if self.names else tuple(found)


def adapt(network: nn.Module, call: Call, returned: Returned, inputs: int) -> Adapter:
    """An adapter whose forward declares `inputs` arguments, which is what torch.export wants to read."""

    def forward(self: Adapter, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.lay_out(tensors)

    names = ["self", *(f"input_{index}" for index in range(inputs))]
    declared = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    forward.__signature__ = declared  # type: ignore[attr-defined]
    kind: type[Adapter] = type("Adapter", (Adapter,), {"forward": forward})
    return kind(network, call, returned).eval()


def flatten(result: Any, returned: Returned, network: str) -> list[tuple[str, Tensor]]:
    """The tensors in what a forward returned, by name; those that are None are left out.

    Raises:
        UnsupportedError: there is none, or something else is among them.
    """
    found = list(_leaves(result, returned, returned if isinstance(returned, str) else TOP, True, network))
    if not found:
        raise UnsupportedError(f"{network} returns no tensor", "return the tensors that it computes")
    return found


def _leaves(
    value: Any, returned: Returned, path: str, top: bool, network: str
) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        _refuse_strange(value, path, network)
        yield path, value
        return
    if value is None:
        return
    if isinstance(value, nn.utils.rnn.PackedSequence):
        raise UnsupportedError(
            f"{network} returns a packed sequence as {path!r}",
            "return the padded tensor: torch.nn.utils.rnn.pad_packed_sequence(...)[0]",
        )
    for name, names, part in _parts(value, returned, path, top, network):
        yield from _leaves(part, names, name, False, network)


def _parts(
    value: Any, returned: Returned, path: str, top: bool, network: str
) -> list[tuple[str, Returned, Any]]:
    """What a container holds: name, the names inside it, and the part itself."""
    fields = _fields(value)
    if fields is not None:
        return [(name if top else f"{path}.{name}", None, part) for name, part in fields.items()]
    if not isinstance(value, (tuple, list)):
        raise UnsupportedError(
            f"{network} returns an object of type {type(value).__name__} as {path!r}, not a tensor",
            "return tensors, or tuples, lists or dicts of tensors",
        )
    told = returned if isinstance(returned, tuple) and len(returned) == len(value) else (None,) * len(value)
    return [
        (names if isinstance(names, str) else f"{path}.{index}", names, part)
        for index, (names, part) in enumerate(zip(told, value, strict=True))
    ]


def _fields(value: Any) -> dict[str, Any] | None:
    """A dict, a dataclass or a named tuple as a dict; Hugging Face's ModelOutput is both of the first."""
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return None


def _refuse_strange(tensor: Tensor, path: str, network: str) -> None:
    strange = [
        word
        for word, holds in (
            ("sparse", tensor.layout is not torch.strided),
            ("complex", tensor.is_complex()),
            ("quantized", tensor.is_quantized),
        )
        if holds
    ]
    if strange:
        raise UnsupportedError(
            f"{network} returns a {strange[0]} tensor as {path!r}", "return plain tensors of real numbers"
        )


def returned_names(network: nn.Module) -> Returned:
    """The names in the return statements of forward, where they agree: `return logits, hidden`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(network.forward)))
    except (OSError, TypeError, SyntaxError):
        return None
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        return None
    found = [_named(statement.value) for statement in _returns(function)]
    return found[0] if found and all(names == found[0] for names in found) else None


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _returns(child)


def _named(value: ast.expr | None) -> Returned:
    if isinstance(value, ast.Name):
        return value.id
    if isinstance(value, (ast.Tuple, ast.List)) and not any(
        isinstance(part, ast.Starred) for part in value.elts
    ):
        return tuple(_named(part) for part in value.elts)
    return None
