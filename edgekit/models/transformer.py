"""A Transformer encoder for sequences: every step looks at every other one, no step waits for another.

Vaswani et al.: Attention Is All You Need, arXiv 1706.03762, the encoder, with the normalization before
each part (Xiong et al.: On Layer Normalization in the Transformer Architecture, arXiv 2002.04745).
Names of the layers' weights as in PyTorch's `nn.TransformerEncoder(norm_first=True)`.

    input "tokens":   ids (batch, time) int64, 0 is padding -> embedding * sqrt(hidden)
    input "features": (batch, time, features) -> linear layer; every step counts
    -> + positions (batch, time, hidden), a class token first with pooling "class"
    -> layers of x + attention(norm(x)), x + mlp(norm(x)) -> norm
    -> mean over the steps that are no padding, or the class token -> logits (batch, classes)

The mask is made of the ids inside the graph, so one engine takes a batch of texts of any lengths.

`prior` puts beside the embedding a table (tokens, classes) of naive Bayes log-count ratios, counted once in
the training split (Wang, Manning: Baselines and Bigrams, ACL 2012). It joins the embedding, and its mean the
logits, as in Cheng et al.: Wide & Deep Learning, arXiv 1606.07792: few texts teach an encoder little, and
what their words alone say it need not learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgekit.runtime.manifest import Labels, TensorSpec
from edgekit.spec import Sample

TASK = "classify"
PADDING = 0
HIDDEN_STEP = -1e4
"""Added to the attention scores of padding: its weight becomes 0, and float16 can still hold it."""
PERIOD = 10_000.0
PRIOR = 10.0
"""What the mean log-count ratio of a sequence counts for at first; then it is learned."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`tokens` is the number of different ids, padding among them; `features` those of one step.

    `longest` is the largest number of steps. `hidden` is the width of a step, `mlp` that of the layer
    between the two linear ones. In training only, `embedding_dropout` follows the positions and the
    pooling, `dropout` attention and both linear layers, and `word_dropout` is the share of the ids that
    become padding.
    """

    input: Literal["tokens", "features"] = "tokens"
    tokens: int = 16384
    features: int = 6
    classes: int = 2
    longest: int = 512
    layers: int = 2
    heads: int = 4
    hidden: int = 64
    mlp: int = 128
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    pooling: Literal["mean", "class"] = "mean"
    dropout: float = 0.1
    embedding_dropout: float = 0.1
    word_dropout: float = 0.0
    prior: bool = False

    def __post_init__(self) -> None:
        sizes = (self.features, self.classes, self.longest, self.layers, self.heads, self.hidden, self.mlp)
        if min(sizes) < 1 or self.tokens < 2:
            raise ValueError("every size and number must be at least 1, and tokens at least 2")
        if self.hidden % self.heads or self.hidden % 2:
            raise ValueError("hidden must be even and a multiple of heads")
        if not all(0 <= rate < 1 for rate in (self.dropout, self.embedding_dropout, self.word_dropout)):
            raise ValueError("dropout, embedding_dropout and word_dropout must be from 0 to below 1")
        if self.input == "features" and (self.prior or self.word_dropout):
            raise ValueError("prior and word_dropout are for tokens")


TINY = Options(
    tokens=16, classes=3, longest=64, layers=2, heads=2, hidden=16, mlp=32, pooling="class", prior=True
)


class Attention(nn.Module):
    """Multi-head self-attention over steps (batch, time, hidden); weights as `nn.MultiheadAttention`'s."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * hidden, hidden)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden))
        self.out_proj = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, steps: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask` (batch, 1, 1, time) is added to the scores."""
        batch, time, hidden = steps.shape
        each = hidden // self.heads
        joined = functional.linear(steps, self.in_proj_weight, self.in_proj_bias)
        parts = (part.reshape(batch, time, self.heads, each).transpose(1, 2) for part in joined.chunk(3, 2))
        query, key, value = parts
        scores = query * each**-0.5 @ key.transpose(2, 3)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        mixed: torch.Tensor = self.out_proj((weights @ value).transpose(1, 2).reshape(batch, time, hidden))
        return mixed


class Layer(nn.Module):
    """One layer of the encoder, normalization first: (batch, time, hidden) to the same."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(options.hidden), nn.LayerNorm(options.hidden)
        self.self_attn = Attention(options.hidden, options.heads)
        self.linear1 = nn.Linear(options.hidden, options.mlp)
        self.linear2 = nn.Linear(options.mlp, options.hidden)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, steps: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        steps = steps + self.dropout(self.self_attn(self.norm1(steps), mask))
        wide = self.dropout(functional.relu(self.linear1(self.norm2(steps))))
        narrow: torch.Tensor = self.dropout(self.linear2(wide))
        return steps + narrow


class Prior(nn.Module):
    """What each id says of the classes: (batch, time) to log-count ratios (batch, time, classes)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.ratios = nn.Parameter(torch.zeros(options.tokens, options.classes))
        self.projection = nn.Linear(options.classes, options.hidden, bias=False)
        self.scale = nn.Parameter(torch.tensor(PRIOR))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.ratios)


class Transformer(nn.Module):
    """See the module's docstring for shapes."""

    positions: torch.Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.embedding = _embedding(options) if options.input == "tokens" else None
        self.projection = nn.Linear(options.features, options.hidden) if options.input == "features" else None
        self.prior = Prior(options) if options.prior else None
        self.scale = options.hidden**0.5
        self.word_dropout = options.word_dropout
        self.class_token = (
            nn.Parameter(torch.zeros(1, 1, options.hidden)) if options.pooling == "class" else None
        )
        if options.positions == "learned":
            fresh = nn.init.normal_(torch.empty(options.longest, options.hidden), std=0.02)
            self.positions = nn.Parameter(fresh)
        else:
            self.register_buffer("positions", sinusoids(options.longest, options.hidden), persistent=False)
        self.dropout = nn.Dropout(options.embedding_dropout)
        self.layers = nn.ModuleList(Layer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.hidden)
        self.classifier = nn.Linear(options.hidden, options.classes)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        if self.training and self.word_dropout:
            sequence = sequence * (torch.rand(sequence.shape, device=sequence.device) >= self.word_dropout)
        present = None if self.embedding is None else (sequence != PADDING).to(self.classifier.weight.dtype)
        ratios = None if self.prior is None else self.prior(sequence)
        encoded = self._encoded(self._begun(sequence, ratios), present)
        logits: torch.Tensor = self.classifier(self.dropout(encoded))
        if self.prior is not None and ratios is not None:
            logits = logits + self.prior.scale * _mean(ratios, present)
        return logits

    def _begun(self, sequence: torch.Tensor, ratios: torch.Tensor | None) -> torch.Tensor:
        """Ids or features with their positions: (batch, time, hidden)."""
        if self.embedding is not None:
            steps = self.embedding(sequence) * self.scale
        else:
            steps = self.projection(sequence) if self.projection is not None else sequence
        if self.prior is not None and ratios is not None:
            steps = steps + self.prior.projection(ratios)
        begun: torch.Tensor = self.dropout(steps + self.positions[: sequence.shape[1]])
        return begun

    def _encoded(self, steps: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
        """The sequence as one vector: (batch, hidden)."""
        counted = present
        if self.class_token is not None:
            steps = torch.cat([self.class_token.expand(steps.shape[0], -1, -1), steps], 1)
            counted = None if present is None else functional.pad(present, (1, 0), value=1.0)
        mask = None if counted is None else ((1.0 - counted) * HIDDEN_STEP)[:, None, None, :]
        for layer in self.layers:
            steps = layer(steps, mask)
        steps = self.norm(steps)
        return steps[:, 0] if self.class_token is not None else _mean(steps, counted)


def _mean(steps: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """The mean of (batch, time, n) over the steps that are `present`, (batch, time); None: over all."""
    if present is None:
        return steps.mean(1)
    counted = present[:, :, None]
    return (steps * counted).sum(1) / counted.sum(1).clamp(min=1.0)


def sinusoids(longest: int, hidden: int) -> torch.Tensor:
    """The paper's section 3.5: sines in the even columns, cosines in the odd ones, (longest, hidden)."""
    place = torch.arange(longest, dtype=torch.float32)[:, None]
    turns = place * torch.exp(torch.arange(0, hidden, 2) * (-torch.log(torch.tensor(PERIOD)) / hidden))
    return torch.stack([turns.sin(), turns.cos()], 2).reshape(longest, hidden)


def _embedding(options: Options) -> nn.Embedding:
    """Of unit size after the scaling; padding is nothing."""
    embedding = nn.Embedding(options.tokens, options.hidden, padding_idx=PADDING)
    nn.init.normal_(embedding.weight, std=options.hidden**-0.5)
    with torch.no_grad():
        embedding.weight[PADDING].zero_()
    return embedding


def build(options: Options) -> Transformer:
    """The network with fresh weights."""
    return Transformer(options)


def begin(module: Transformer, samples: Sequence[Sample], labels: Labels) -> None:
    """Before the first step: count the prior in the training split, one vote a text and one for nothing."""
    if module.prior is None:
        return
    ratios = module.prior.ratios
    votes = torch.ones(ratios.shape, dtype=torch.float64)
    for sample in samples:
        votes[np.unique(sample.inputs[0]), labels.values.index(sample.target)] += 1
    others = votes.sum(1, keepdim=True) - votes
    counted = (votes / votes.sum(0)).log() - (others / others.sum(0)).log()
    counted[PADDING] = 0
    ratios.data.copy_(counted)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One sequence, any batch and any number of steps up to `longest`."""
    ranges = {"batch": (1, 64), "time": (1, options.longest)}
    if options.input == "tokens":
        return (TensorSpec("tokens", ("batch", "time"), "int64", ranges),)
    return (TensorSpec("features", ("batch", "time", options.features), ranges=ranges),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)
