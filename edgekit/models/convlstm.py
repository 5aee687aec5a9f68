"""A convolutional LSTM that names the motion in a clip, and attention over frames as its rival.

Form "recurrent": Shi, Chen, Wang, Yeung, Wong, Woo: Convolutional LSTM Network: A Machine Learning Approach
for Precipitation Nowcasting, arXiv 1506.04214, equation 3. At step t, with * a convolution and . the
Hadamard product, the hidden state H and the cell C become

    i = sigmoid(W_xi * X_t + W_hi * H + W_ci . C + b_i)
    f = sigmoid(W_xf * X_t + W_hf * H + W_cf . C + b_f)
    C_t = f . C + i . tanh(W_xc * X_t + W_hc * H + b_c)
    o = sigmoid(W_xo * X_t + W_ho * H + W_co . C_t + b_o)
    H_t = o . tanh(C_t)

W_ci, W_cf and W_co are the peepholes: one weight per channel and place, or, without `peepholes`, none.
Before the cells a convolutional stem halves each frame twice; behind the last step a convolution, the
mean over all places and a linear layer name the motion.

    clip (batch, time, channels, height, width) -> stem, stem x height/4 x width/4 a frame
    -> `layers` ConvLSTM layers, hidden x height/4 x width/4 a step; the last H of the last layer
    -> 3x3 convolution with stride 2 and ReLU, 2 hidden channels -> mean -> logits (batch, classes)

Form "attention": the same stem and convolution on each frame, a linear layer that makes one token of what
they give, and Transformer encoder layers (Vaswani et al., arXiv 1706.03762) over the tokens: the factorised
encoder of Arnab et al., ViViT: A Video Vision Transformer, arXiv 2103.15691, section 3.3, model 2, with a
convolutional network as its spatial encoder. It sees a clip as a whole and has no states.

    clip -> stem -> 3x3 convolution with stride 2, 2 hidden x height/8 x width/8 -> 4 hidden features a frame
    -> `layers` encoder layers of 4 heads -> mean over time -> logits (batch, classes)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from edgekit.runtime.manifest import State, TensorSpec

TASK = "motion"
STRIDE = 4
HEADS = 4
LONGEST = 64
"""Frames of a clip at most; the form `recurrent` takes what is longer in parts, its states carried on."""

States = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Size of a frame in pixels (multiples of 8), channels, classes, and the network's own sizes.

    `stem` and `hidden` are channels, `kernel` is the odd side of the cells' convolutions; `peepholes` is
    for the form `recurrent` alone.
    """

    form: Literal["recurrent", "attention"] = "recurrent"
    height: int = 40
    width: int = 40
    channels: int = 1
    classes: int = 9
    stem: int = 16
    hidden: int = 32
    kernel: int = 3
    layers: int = 1
    peepholes: bool = False

    def __post_init__(self) -> None:
        if self.height % 8 or self.width % 8 or min(self.height, self.width) < 8:
            raise ValueError("height and width must be multiples of 8")
        if min(self.channels, self.classes, self.stem, self.hidden, self.layers) < 1:
            raise ValueError("channels, classes, stem, hidden and layers must be at least 1")
        if self.kernel % 2 == 0 or self.kernel < 1:
            raise ValueError("kernel must be odd")
        if self.peepholes and self.form != "recurrent":
            raise ValueError("peepholes belong to the form recurrent")


TINY = Options(height=16, width=16, classes=3, stem=4, hidden=4, layers=2, peepholes=True)


class ConvLSTMLayer(nn.Module):
    """One layer of cells: the module's docstring has the equations.

    The convolutions of the input are made for all steps at once, before the loop: they do not depend on it.
    Rows of `input` and `hidden` are the gates i, f, o and the candidate.
    """

    def __init__(self, channels: int, options: Options) -> None:
        super().__init__()
        hidden, padding = options.hidden, options.kernel // 2
        self.input = nn.Conv2d(channels, 4 * hidden, options.kernel, padding=padding)
        self.hidden = nn.Conv2d(hidden, 4 * hidden, options.kernel, padding=padding, bias=False)
        self.peepholes: nn.Parameter | None = None
        if options.peepholes:
            size = (3, hidden, options.height // STRIDE, options.width // STRIDE)
            self.peepholes = nn.Parameter(torch.zeros(size))

    def forward(self, frames: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
        """(time, batch, channels, h, w) -> every H, (time, batch, hidden, h, w), and the last H and C."""
        inputs = self.input(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        loop = self.scanned if torch.compiler.is_exporting() else self.looped
        return loop(inputs, h, c)

    def step(self, inputs: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> States:
        """The next H and C; `inputs` are the convolved ones, biases added: (batch, 4 hidden, h, w)."""
        i, f, o, candidate = (inputs + self.hidden(h)).chunk(4, 1)
        if self.peepholes is not None:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[1] * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        if self.peepholes is not None:
            o = o + self.peepholes[2] * c
        return torch.sigmoid(o) * torch.tanh(c), c

    def looped(self, inputs: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
        """Step by step in Python: the fast way to train and to run."""
        steps = []
        for each in inputs.unbind():
            h, c = self.step(each, h, c)
            steps.append(h)
        return torch.stack(steps), (h, c)

    def scanned(self, inputs: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
        """The same as one operator, for clips of any length: ONNX's Scan when it is exported."""
        from torch._higher_order_ops.scan import scan

        def step(states: list[torch.Tensor], each: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
            h, c = self.step(each, *states)
            return [h, c], h.clone()

        (h, c), steps = scan(step, [h, c], inputs)
        return steps, (h, c)


class ConvLSTM(nn.Module):
    """The form `recurrent`. See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.stem = _stem(options)
        widths = [options.stem, *[options.hidden] * (options.layers - 1)]
        self.cells = nn.ModuleList(ConvLSTMLayer(width, options) for width in widths)
        self.head = _summary(options.hidden, 2 * options.hidden)
        self.classifier = nn.Linear(2 * options.hidden, options.classes)
        self._state = (options.layers, options.hidden, options.height // STRIDE, options.width // STRIDE)

    def forward(
        self, clip: torch.Tensor, h0: torch.Tensor | None = None, c0: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits; with initial states given, also the final ones."""
        frames = clip.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        steps = self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        before = zip(*(self._begun(clip) if given is None else given for given in (h0, c0)), strict=True)
        after = []
        for cell, (h, c) in zip(self.cells, before, strict=True):
            steps, last = cell(steps, h, c)
            after.append(last)
        logits: torch.Tensor = self.classifier(self.head(after[-1][0]).mean((2, 3)))
        if h0 is None or c0 is None:
            return logits
        h, c = (torch.stack(each) for each in zip(*after, strict=True))
        return logits, h, c

    def _begun(self, clip: torch.Tensor) -> torch.Tensor:
        """H or C of every layer before the first step."""
        return clip.new_zeros(self._state[0], clip.shape[0], *self._state[1:])


class FrameAttention(nn.Module):
    """The form `attention`. See the module's docstring for shapes."""

    moments: torch.Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        width, places = 4 * options.hidden, options.height // (2 * STRIDE) * (options.width // (2 * STRIDE))
        self.stem = _stem(options)
        self.head = _summary(options.stem, 2 * options.hidden)
        self.token = nn.Linear(2 * options.hidden * places, width)
        self.register_buffer("moments", _moments(width), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(width) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, options.classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Logits."""
        frames = self.head(self.stem(clip.flatten(0, 1)))
        tokens = self.token(frames.flatten(1)).unflatten(0, clip.shape[:2])
        tokens = tokens + self.moments[: tokens.shape[1]]
        for layer in self.encoder:
            tokens = layer(tokens)
        logits: torch.Tensor = self.classifier(self.norm(tokens).mean(1))
        return logits


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each behind a layer norm: (batch, time, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection, self.merged = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widened, self.narrowed = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        heads = self.projection(self.before_attention(tokens)).unflatten(2, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.merged(seen.transpose(1, 2).flatten(2))
        forward: torch.Tensor = self.narrowed(functional.relu(self.widened(self.before_forward(tokens))))
        return tokens + forward


def build(options: Options) -> ConvLSTM | FrameAttention:
    """The network with fresh weights."""
    return FrameAttention(options) if options.form == "attention" else ConvLSTM(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """Clips of any length. Attention begins at two frames: one has nothing to be compared with.

    OpenVINO 2026.4.1 also needs that: once it has seen a single token, 16 or more come out wrong.
    """
    shape = ("batch", "time", options.channels, options.height, options.width)
    shortest = 2 if options.form == "attention" else 1
    return (TensorSpec("clip", shape, ranges={"batch": (1, 64), "time": (shortest, LONGEST)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)


def states(options: Options) -> tuple[State, ...]:
    """H and C of every layer, zero before the first call; the form `attention` has none."""
    if options.form == "attention":
        return ()
    size = (options.hidden, options.height // STRIDE, options.width // STRIDE)
    shape = (options.layers, "batch", *size)
    return State("h0", "hn", shape), State("c0", "cn", shape)


def _stem(options: Options) -> nn.Sequential:
    return nn.Sequential(*_halved(options.channels, options.stem), *_halved(options.stem, options.stem))


def _halved(channels: int, width: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU()


def _summary(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU())


def _moments(width: int) -> torch.Tensor:
    """Sines and cosines of each place in time (Vaswani et al., section 3.5): (LONGEST, width)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    angles = torch.arange(LONGEST)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
