"""A long short-term memory that names a sequence.

Hochreiter, Schmidhuber: Long Short-Term Memory, Neural Computation 9(8), 1997; with the forget gate of
Gers, Schmidhuber, Cummins: Learning to Forget, Neural Computation 12(10), 2000, which begins open (bias 1),
and without peepholes.

    sequence (batch, time, features), raw values of any length -> mean 0, variance 1, finer too if asked
    -> layers of   i, f, o = sigmoid(W x + U h),  g = tanh(W' x + U' h)
                   c = f * c + i * g,  h = o * tanh(c)
    -> the last step or the mean of all (batch, hidden * directions) -> logits (batch, classes)

The tutorial form reads 100 steps of 10 features with 64 units and gives one logit, whose sigmoid is the
decoder's: `Options(features=10, hidden=64, layers=1, classes=1)` with the task `decide`.
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


class LSTM(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.standardize = _sequences.Standardize(options.features, options.fine)
        self.lstm = nn.LSTM(
            options.seen,
            options.hidden,
            num_layers=options.layers,
            bidirectional=options.bidirectional,
            dropout=options.dropout_between,
            batch_first=True,
        )
        self.head = _sequences.Head(options)
        _sequences.orthogonal(self.lstm)
        _open_forget_gates(self.lstm)

    def forward(
        self,
        sequence: torch.Tensor,
        h0: torch.Tensor | None = None,
        c0: torch.Tensor | None = None,
        total0: torch.Tensor | None = None,
        count0: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits; with initial states given, also the final ones."""
        given = None if h0 is None or c0 is None else (h0, c0)
        steps, (hn, cn) = self.lstm(self.standardize(sequence), given)
        logits, *sums = self.head(steps, hn, total0, count0)
        return logits if given is None else (logits, hn, cn, *sums)


def _open_forget_gates(lstm: nn.LSTM) -> None:
    """PyTorch's order of the gates is i, f, g, o, and it adds two biases."""
    hidden = lstm.hidden_size
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_ih"):
            nn.init.ones_(parameter.data[hidden : 2 * hidden])


def build(options: Options) -> LSTM:
    """The network with fresh weights."""
    return LSTM(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One sequence of any length, raw values."""
    return _sequences.inputs(options)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return _sequences.outputs(options)


def states(options: Options) -> tuple[State, ...]:
    """Hidden and cell state, zero before the first call: (layers, batch, hidden); see `_sequences.states`."""
    return _sequences.states(options, "hc")
