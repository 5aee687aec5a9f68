"""Recurrent layers that reach ONNX whole: one LSTM, GRU or RNN node a layer.

Tracing takes `nn.LSTM` and its like apart into steps or slices of fixed size. Here a copy of the
network gets them swapped for modules that call one custom operator a layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.exporting.blame import packed_error
from edgekit.exporting.recurrent_op import GATES, reorder
from edgekit.runtime.errors import UnsupportedError


class _Layer(nn.Module):
    """One layer of a recurrent network, both directions, weights in ONNX's form."""

    def __init__(self, source: nn.RNNBase, index: int) -> None:
        super().__init__()
        self.mode = source.mode
        suffixes = ("", "_reverse")[: 2 if source.bidirectional else 1]

        def stacked(kind: str) -> Tensor:
            rows = [getattr(source, f"{kind}_l{index}{suffix}").detach() for suffix in suffixes]
            return torch.stack([reorder(row, GATES[self.mode]) for row in rows])

        self.register_buffer("W", stacked("weight_ih"))
        self.register_buffer("R", stacked("weight_hh"))
        biases = torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1) if source.bias else None
        self.register_buffer("B", biases)

    def forward(self, x: Tensor, h0: Tensor | None, c0: Tensor | None, batch_first: bool) -> Any:
        return torch.ops.edgekit.recurrent(x, self.W, self.R, self.B, h0, c0, self.mode, batch_first)


class _Recurrent(nn.Module):
    """Takes the place of an `nn.LSTM`, `nn.GRU` or `nn.RNN`: same arguments, same results."""

    def __init__(self, source: nn.RNNBase) -> None:
        super().__init__()
        self.has_cell = source.mode == "LSTM"
        self.batch_first = source.batch_first
        self.depth = source.num_layers
        self.directions = 2 if source.bidirectional else 1
        for index in range(self.depth):
            self.add_module(f"l{index}", _Layer(source, index))

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(input, Tensor):
            raise packed_error()
        if input.dim() == 2:
            return self._single(input, hx)
        x = input.transpose(0, 1) if self.batch_first else input
        h0, c0 = hx if self.has_cell and hx is not None else (hx, None)
        finals = []
        for index in range(self.depth):
            part = slice(index * self.directions, (index + 1) * self.directions)
            given = (None if state is None else state[part] for state in (h0, c0))
            x, h, c = self.get_submodule(f"l{index}")(x, *given, self.batch_first and index == self.depth - 1)
            finals.append((h, c))
        kept = finals if self.has_cell else [(h,) for h, _ in finals]  # the others have no cell state
        states = tuple(
            values[0] if self.depth == 1 else torch.cat(values) for values in zip(*kept, strict=True)
        )
        return x, states if self.has_cell else states[0]

    def _single(self, input: Tensor, hx: Any) -> tuple[Tensor, Any]:
        """One sequence without a batch dimension."""
        axis = 0 if self.batch_first else 1
        if hx is not None:
            hx = tuple(state.unsqueeze(1) for state in hx) if self.has_cell else hx.unsqueeze(1)
        y, final = self.forward(input.unsqueeze(axis), hx)
        final = tuple(state.squeeze(1) for state in final) if self.has_cell else final.squeeze(1)
        return y.squeeze(axis), final


def _replacement(name: str, layer: nn.RNNBase) -> _Recurrent:
    if getattr(layer, "proj_size", 0):
        raise UnsupportedError(
            f"{name or 'the network'}: an LSTM with proj_size has no ONNX operator",
            "use an LSTM without projection and a linear layer after it",
        )
    return _Recurrent(layer).eval()


def evaluation_copy(module: nn.Module) -> nn.Module:
    """The same network in evaluation mode: new modules around the very same tensors."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, dict[int, Any](shared)).eval()


def keep_recurrent_whole(module: nn.Module) -> nn.Module:
    """Swaps, in place, every recurrent layer for one that becomes a single ONNX node.

    Raises UnsupportedError for an LSTM with `proj_size`.
    """
    if isinstance(module, nn.RNNBase):
        return _replacement("", module)
    made: dict[int, _Recurrent] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layer, nn.RNNBase):
            made.setdefault(id(layer), _replacement(name, layer))
            module.set_submodule(name, made[id(layer)])
    return module
