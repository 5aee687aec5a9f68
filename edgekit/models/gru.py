"""A gated recurrent unit that names a sequence.

Cho et al.: Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
Translation, arXiv 1406.1078. The reset gate works on the recurrent product, as PyTorch, cuDNN and ONNX's
`linear_before_reset` compute it; the paper has it work on the state before the product.

    sequence (batch, time, features), raw values of any length -> mean 0, variance 1, finer too if asked
    -> layers of   z = sigmoid(W x + U h),  r = sigmoid(W' x + U' h)
                   h = z * h + (1 - z) * tanh(W" x + r * (U" h))
    -> the last step or the mean of all (batch, hidden * directions) -> logits (batch, classes)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgekit.models import _sequences
from edgekit.runtime.manifest import State, TensorSpec

TASK = "classify"


@dataclass(frozen=True, kw_only=True)
class Options(_sequences.SequenceOptions):
    """Those of every recurrent classifier."""


TINY = Options(features=3, hidden=8, classes=3, fine=20.0)


class GRU(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.standardize = _sequences.Standardize(options.features, options.fine)
        self.gru = nn.GRU(
            options.seen,
            options.hidden,
            num_layers=options.layers,
            bidirectional=options.bidirectional,
            dropout=options.dropout_between,
            batch_first=True,
        )
        self.head = _sequences.Head(options)
        _sequences.orthogonal(self.gru)

    def forward(
        self,
        sequence: torch.Tensor,
        h0: torch.Tensor | None = None,
        total0: torch.Tensor | None = None,
        count0: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits; with initial states given, also the final ones."""
        steps, hn = self.gru(self.standardize(sequence), h0)
        logits, *sums = self.head(steps, hn, total0, count0)
        return logits if h0 is None else (logits, hn, *sums)


def build(options: Options) -> GRU:
    """The network with fresh weights."""
    return GRU(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One sequence of any length, raw values."""
    return _sequences.inputs(options)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return _sequences.outputs(options)


def states(options: Options) -> tuple[State, ...]:
    """The hidden state, zero before the first call: (layers, batch, hidden); see `_sequences.states`."""
    return _sequences.states(options, "h")
