"""A plain recurrent network that names a sequence.

Elman: Finding Structure in Time, Cognitive Science 14(2), 1990. Its recurrent matrices begin orthogonal
with `tanh`, and as the identity with `relu` (Le, Jaitly, Hinton: arXiv 1504.00941), so that gradients
reach the first steps.

    sequence (batch, time, features), raw values of any length -> mean 0, variance 1, finer too if asked
    -> layers of   h = tanh(W x + U h)
    -> the last step or the mean of all (batch, hidden * directions) -> logits (batch, classes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekit.models import _sequences
from edgekit.runtime.manifest import State, TensorSpec

TASK = "classify"


@dataclass(frozen=True, kw_only=True)
class Options(_sequences.SequenceOptions):
    """Those of every recurrent classifier, and what bends the sums: `tanh` or `relu`."""

    nonlinearity: Literal["tanh", "relu"] = "tanh"


TINY = Options(features=3, hidden=8, classes=3, fine=20.0, pooling="mean")


class RNN(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.standardize = _sequences.Standardize(options.features, options.fine)
        self.rnn = nn.RNN(
            options.seen,
            options.hidden,
            num_layers=options.layers,
            nonlinearity=options.nonlinearity,
            bidirectional=options.bidirectional,
            dropout=options.dropout_between,
            batch_first=True,
        )
        self.head = _sequences.Head(options)
        _sequences.orthogonal(self.rnn)
        if options.nonlinearity == "relu":
            _begin_as_identity(self.rnn)

    def forward(
        self,
        sequence: torch.Tensor,
        h0: torch.Tensor | None = None,
        total0: torch.Tensor | None = None,
        count0: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits; with initial states given, also the final ones."""
        steps, hn = self.rnn(self.standardize(sequence), h0)
        logits, *sums = self.head(steps, hn, total0, count0)
        return logits if h0 is None else (logits, hn, *sums)


def _begin_as_identity(rnn: nn.RNN) -> None:
    for name, parameter in rnn.named_parameters():
        if name.startswith("weight_hh"):
            nn.init.eye_(parameter.data)


def build(options: Options) -> RNN:
    """The network with fresh weights."""
    return RNN(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One sequence of any length, raw values."""
    return _sequences.inputs(options)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return _sequences.outputs(options)


def states(options: Options) -> tuple[State, ...]:
    """The hidden state, zero before the first call: (layers, batch, hidden); see `_sequences.states`."""
    return _sequences.states(options, "h")
