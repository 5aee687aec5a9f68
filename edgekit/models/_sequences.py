"""What the recurrent classifiers share: their options, the raw input standardized, and the end of a sequence.

    sequence (batch, time, features) -> standardized -> recurrent layers -> pooled (batch, width) -> logits

A stream is cut anywhere: the states carry what the layers remember and, with pooling `mean`, the sum of
the steps so far and their number, so that the last piece gives the logits of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekit.runtime.manifest import State, TensorSpec

LONGEST = 4096


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Features a step, hidden units per direction, layers, classes (1: one logit for two labels).

    `pooling` is what the classifier reads: the `last` step, or the `mean` of all. `dropout` is the share
    of values dropped between layers and before the classifier while training. `fine` above 0 shows the
    layers each feature a second time, on a scale that is so many times finer near its mean.
    """

    features: int = 6
    hidden: int = 64
    layers: int = 2
    bidirectional: bool = False
    classes: int = 6
    dropout: float = 0.0
    pooling: Literal["last", "mean"] = "last"
    fine: float = 0.0

    def __post_init__(self) -> None:
        if min(self.features, self.hidden, self.layers, self.classes) < 1:
            raise ValueError("features, hidden, layers and classes must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be from 0 to below 1")
        if self.fine < 0:
            raise ValueError("fine must be at least 0")

    @property
    def seen(self) -> int:
        """Features a step as the first layer gets them."""
        return self.features * (2 if self.fine else 1)

    @property
    def directions(self) -> int:
        """1, or 2 where the sequence is read backwards as well."""
        return 2 if self.bidirectional else 1

    @property
    def dropout_between(self) -> float:
        """What is dropped between layers: PyTorch warns of it where there is one layer."""
        return self.dropout if self.layers > 1 else 0.0

    @property
    def width(self) -> int:
        """Values of one step that the classifier reads."""
        return self.hidden * self.directions


class Standardize(nn.Module):
    """Features of any unit to mean 0 and variance 1, by all that was seen while training.

    One that never varied keeps its unit. With `fine` the inverse hyperbolic sine of `fine` times each
    follows: linear for a tremor, logarithmic for a step, so that both are seen. Sensors differ by orders
    of magnitude; what reads raw values needs no code on the board, and its layers can be int8. Chan,
    Golub, LeVeque (1979) merge the statistics of each batch.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, features: int, fine: float = 0.0) -> None:
        super().__init__()
        self.fine = fine
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.zeros(features))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """(batch, time, features) -> the same shape, or with `fine` twice the features."""
        if self.training:
            self._learn(sequence.detach().flatten(0, 1))
        varies = self.variance > 0
        even = (sequence - self.mean) * torch.where(varies, self.variance, 1.0).rsqrt()
        return torch.cat([even, torch.asinh(self.fine * even) / 2], 2) if self.fine else even

    def _learn(self, steps: torch.Tensor) -> None:
        share = len(steps) / (self.count + len(steps))
        variance, mean = torch.var_mean(steps, 0, correction=0)
        far = mean - self.mean
        self.variance += share * (variance - self.variance) + share * (1 - share) * far * far
        self.mean += share * far
        self.count += len(steps)


class Head(nn.Module):
    """What stands behind the recurrent layers: pooling over time, then the scores of the classes."""

    def __init__(self, options: SequenceOptions) -> None:
        super().__init__()
        self.pooling, self.directions = options.pooling, options.directions
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(options.width, options.classes)

    def forward(
        self, steps: torch.Tensor, final: torch.Tensor, total: torch.Tensor | None, count: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """Logits (batch, classes), and the sums that a stream goes on from where they were given.

        Args:
            steps: (batch, time, width), what the last layer says of each step.
            final: (layers * directions, batch, hidden), the states after the last step.
            total: (batch, width), the sum of all steps before these; None at the beginning.
            count: (batch, 1), their number.
        """
        if self.pooling == "last":
            return (self._scored(final[-self.directions :].transpose(0, 1).flatten(1)),)
        if total is None or count is None:
            return (self._scored(steps.mean(1)),)
        total = total + steps.sum(1)
        count = count + torch.ones_like(steps[:, :, :1]).sum(1)
        return self._scored(total / count), total, count

    def _scored(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.dropout(pooled))
        return logits


def orthogonal(layers: nn.RNNBase) -> None:
    """Recurrent matrices orthogonal gate by gate, the others Xavier's, biases zero.

    Saxe, McClelland, Ganguli (arXiv 1312.6120); Glorot, Bengio (AISTATS 2010).
    """
    for name, parameter in layers.named_parameters():
        for gate in parameter.data.view(-1, layers.hidden_size, *parameter.shape[1:]):
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(gate)


def inputs(options: SequenceOptions) -> tuple[TensorSpec, ...]:
    """One sequence of any length, raw values."""
    shape = ("batch", "time", options.features)
    return (TensorSpec("sequence", shape, ranges={"batch": (1, 64), "time": (1, LONGEST)}),)


def outputs(options: SequenceOptions) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)


def states(options: SequenceOptions, names: str) -> tuple[State, ...]:
    """What a stream carries: a state for each letter of `names`, and with pooling `mean` the sums.

    None where the sequence is read backwards too: that begins at its end, which a stream does not have.
    """
    if options.bidirectional:
        return ()
    shape = (options.layers, "batch", options.hidden)
    found = [State(f"{name}0", f"{name}n", shape) for name in names]
    if options.pooling == "mean":
        found.append(State("total0", "totaln", ("batch", options.hidden)))
        found.append(State("count0", "countn", ("batch", 1)))
    return tuple(found)
