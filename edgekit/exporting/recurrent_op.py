"""One recurrent layer as one operator: in PyTorch `edgekit::recurrent`, in ONNX LSTM, GRU or RNN.

ONNX operators LSTM-14, GRU-14 (`linear_before_reset` 1, which is what PyTorch computes) and RNN-14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Blocks of rows in PyTorch's weights -> ONNX's: LSTM i,f,g,o -> i,o,f,c; GRU r,z,n -> z,r,h.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}
_TORCH_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}
_SCHEMA = (
    "(Tensor x, Tensor w, Tensor r, Tensor? b, Tensor? h0, Tensor? c0, str mode, bool batch_first)"
    " -> (Tensor, Tensor, Tensor)"
)


def reorder(rows: Tensor, order: tuple[int, ...]) -> Tensor:
    """Puts the equal blocks of rows in another order."""
    blocks = rows.chunk(len(order), dim=0)
    return torch.cat([blocks[index] for index in order])


def _torch_weights(w: Tensor, r: Tensor, b: Tensor | None, mode: str) -> list[Tensor]:
    """ONNX's stacked weights as the flat list that PyTorch's kernels take."""
    order, flat = _TORCH_GATES[mode], []
    for direction in range(w.shape[0]):
        flat += [reorder(w[direction], order), reorder(r[direction], order)]
        if b is not None:
            flat += [reorder(half, order) for half in b[direction].chunk(2)]
    return flat


@torch.library.custom_op("edgekit::recurrent", mutates_args=(), schema=_SCHEMA)
def recurrent(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    mode: str,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer over time, weights stacked by direction with ONNX's gate order.

    `x` is (time, batch, features), `w` (directions, gates * hidden, features), `r` (directions,
    gates * hidden, hidden), `b` (directions, 2 * gates * hidden), states (directions, batch, hidden).
    Returns the output, (time, batch, directions * hidden) or (batch, time, ...), then the final
    states; the cell state of a layer that has none is empty.
    """
    zeros = x.new_zeros(w.shape[0], x.shape[1], r.shape[2])
    h0 = zeros if h0 is None else h0
    weights = _torch_weights(w, r, b, mode)
    settings = (b is not None, 1, 0.0, False, w.shape[0] == 2, False)
    if mode == "LSTM":
        y, h, c = torch.lstm(x, (h0, zeros if c0 is None else c0), weights, *settings)
    else:
        kernel = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[mode]
        y, h = kernel(x, h0, weights, *settings)
        c = x.new_empty(0)
    return (y.transpose(0, 1) if batch_first else y).contiguous(), h.contiguous(), c.contiguous()


@recurrent.register_fake
def _fake(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    mode: str,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    time, batch = x.shape[0], x.shape[1]
    directions, hidden = w.shape[0], r.shape[2]
    leading = (batch, time) if batch_first else (time, batch)
    state = (directions, batch, hidden)
    return (
        x.new_empty(*leading, directions * hidden),
        x.new_empty(*state),
        x.new_empty(*(state if mode == "LSTM" else (0,))),
    )


def _translation(opset: int) -> Callable[..., Any]:
    """The ONNX form of `recurrent`, written with the operators of `opset`."""
    import onnxscript

    op = getattr(onnxscript, f"opset{opset}")

    def node(
        x: Any, w: Any, r: Any, b: Any, h0: Any, c0: Any, mode: str, directions: int, hidden: int
    ) -> Any:
        settings: dict[str, Any] = {
            "hidden_size": hidden,
            "direction": "bidirectional" if directions == 2 else "forward",
        }
        if mode == "LSTM":
            return op.LSTM(x, w, r, b, None, h0, c0, **settings)
        if mode == "GRU":
            return op.GRU(x, w, r, b, None, h0, linear_before_reset=1, **settings)
        activation = "Relu" if mode == "RNN_RELU" else "Tanh"
        return op.RNN(x, w, r, b, None, h0, activations=[activation] * directions, **settings)

    def translate(x: Any, w: Any, r: Any, b: Any, h0: Any, c0: Any, mode: str, batch_first: bool) -> Any:
        directions, _, hidden = r.shape
        y, *states = node(x, w, r, b, h0, c0, mode, directions, hidden)
        if directions == 1 and not batch_first:
            y = op.Squeeze(y, op.Constant(value_ints=[1]))
        else:  # (time, directions, batch, hidden): directions go beside hidden
            y = op.Transpose(y, perm=(2, 0, 1, 3) if batch_first else (0, 2, 1, 3))
            y = op.Reshape(y, op.Constant(value_ints=[0, 0, directions * hidden]))
        # The exporter writes each result's shape on its value: the empty cell state needs one of its own.
        return y, states[0], states[1] if mode == "LSTM" else op.Identity(states[0])

    return translate


def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """For the exporter's `custom_translation_table`."""
    return {torch.ops.edgekit.recurrent.default: _translation(opset)}
