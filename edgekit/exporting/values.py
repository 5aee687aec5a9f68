"""Whether Python code decides by a tensor's values: a trace would fix what it saw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from edgekit.exporting.blame import ReadsValues
from edgekit.exporting.lines import line_of_stack

if TYPE_CHECKING:
    from torch import Tensor, nn


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows all that is computed from `inputs`, and notes where Python asks for its value."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.line: str | None = None
        self._from_inputs = WeakIdKeyDictionary(dict.fromkeys(inputs, True))

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = _tensors((args, kwargs or {}))
        follows = any(tensor in self._from_inputs for tensor in given)
        if follows and self.line is None and func is torch.ops.aten._local_scalar_dense.default:
            self.line = line_of_stack(sys._getframe())
        result = func(*args, **(kwargs or {}))
        if follows:
            changed = given[:1] if func._schema.is_mutable else []  # type: ignore[attr-defined]
            for tensor in (*_tensors(result), *changed):
                self._from_inputs[tensor] = True
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def refuse_reading(network: nn.Module, inputs: Sequence[Tensor], warned: Sequence[str]) -> None:
    """Raises ReadsValues if Python reads a value that was made from `inputs`, with the line.

    The network runs once for that; what leaves PyTorch as a list or an array is known from what a
    trace `warned` of.
    """
    with torch.no_grad(), _Watch(inputs) as watch:
        network(*inputs)
    if watch.line is not None:
        raise ReadsValues(watch.line)
    if any(kind in text for text in warned for kind in ("NumPy array", "Python list")):
        raise ReadsValues("")
