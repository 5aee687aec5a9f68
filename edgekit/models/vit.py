"""The Vision Transformer.

Dosovitskiy et al.: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale,
arXiv 2010.11929; names of the weights as in torchvision's `vit_b_16`, whose files load.

    image (batch, channels, height, width) -> patches (batch, N, hidden), N = height/patch * width/patch
    -> class token first, positions added (batch, N + 1, hidden)
    -> layers of x + attention(norm(x)), x + mlp(norm(x)) -> norm -> class token -> logits (batch, classes)

`stem = "convolutions"` makes the patches by strided 3x3 convolutions instead of one large one, as Xiao et
al.: Early Convolutions Help Transformers See Better, arXiv 2106.14881.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from edgekit.runtime.manifest import TensorSpec

TASK = "classify"
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Options:
    """The paper's Base/16 at 224 pixels, 1000 classes.

    `hidden` is the width of a token, `mlp` that of the layer between the two linear ones; `dropout`
    follows the positions, attention and both linear layers, in training only.
    """

    height: int = 224
    width: int = 224
    channels: int = 3
    classes: int = 1000
    patch: int = 16
    layers: int = 12
    heads: int = 12
    hidden: int = 768
    mlp: int = 3072
    dropout: float = 0.0
    stem: Literal["patch", "convolutions"] = "patch"

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.channels, self.classes, self.patch, self.layers, self.mlp)
        if min(*sizes, self.heads, self.hidden) < 1:
            raise ValueError("every size and number must be at least 1")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError("height and width must be multiples of patch")
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be from 0 to below 1")
        if self.stem == "convolutions" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise ValueError("a stem of convolutions needs a patch of 2, 4, 8 and so on")
        if self.stem == "convolutions" and self.hidden % (self.patch // 2):
            raise ValueError("a stem of convolutions needs a hidden that is a multiple of patch / 2")


TINY = Options(height=8, width=8, channels=1, classes=3, patch=4, layers=2, heads=2, hidden=16, mlp=32)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (batch, tokens, hidden); weights as `nn.MultiheadAttention`'s."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * hidden, hidden)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden))
        self.out_proj = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        _, count, hidden = tokens.shape
        each = hidden // self.heads
        joined = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        parts = (part.reshape(-1, count, self.heads, each).transpose(1, 2) for part in joined.chunk(3, 2))
        query, key, value = parts
        weights = (query * each**-0.5 @ key.transpose(2, 3)).softmax(-1)
        mixed: torch.Tensor = self.out_proj((weights @ value).transpose(1, 2).reshape(-1, count, hidden))
        return mixed


class Layer(nn.Module):
    """One layer of the encoder, normalization first: (batch, tokens, hidden) to the same."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(options.hidden, EPSILON)
        self.self_attention = Attention(options.hidden, options.heads)
        self.dropout = nn.Dropout(options.dropout)
        self.ln_2 = nn.LayerNorm(options.hidden, EPSILON)
        wide, narrow = _linear(options.hidden, options.mlp), _linear(options.mlp, options.hidden)
        dropout = nn.Dropout(options.dropout)
        self.mlp = nn.Sequential(wide, nn.GELU(), dropout, narrow, dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.dropout(self.self_attention(self.ln_1(tokens)))
        mixed: torch.Tensor = self.mlp(self.ln_2(tokens))
        return tokens + mixed


class Encoder(nn.Module):
    """Positions, layers and the last normalization: (batch, tokens, hidden) to the same."""

    def __init__(self, options: Options, tokens: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(nn.init.normal_(torch.empty(1, tokens, options.hidden), std=0.02))
        self.dropout = nn.Dropout(options.dropout)
        names = (f"encoder_layer_{index}" for index in range(options.layers))
        self.layers = nn.Sequential(OrderedDict((name, Layer(options)) for name in names))
        self.ln = nn.LayerNorm(options.hidden, EPSILON)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.ln(self.layers(self.dropout(tokens + self.pos_embedding)))
        return normed


class VisionTransformer(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        patches = (options.height // options.patch) * (options.width // options.patch)
        self.conv_proj = _convolutions(options) if options.stem == "convolutions" else _patches(options)
        self.class_token = nn.Parameter(torch.zeros(1, 1, options.hidden))
        self.encoder = Encoder(options, patches + 1)
        head = nn.Linear(options.hidden, options.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.heads = nn.Sequential(OrderedDict(head=head))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], 1)
        logits: torch.Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


def _linear(taken: int, given: int) -> nn.Linear:
    linear = nn.Linear(taken, given)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.normal_(linear.bias, std=1e-6)
    return linear


def _patches(options: Options) -> nn.Conv2d:
    """Weights of variance 1 over what a patch has, as for a linear layer."""
    projection = nn.Conv2d(options.channels, options.hidden, options.patch, options.patch)
    nn.init.trunc_normal_(projection.weight, std=(options.channels * options.patch**2) ** -0.5)
    return projection


def _convolutions(options: Options) -> nn.Sequential:
    """Each halves the image and has twice the maps of the one before; the last of them has `hidden`."""
    stem, taken, given = nn.Sequential(), options.channels, 2 * options.hidden // options.patch
    for index in range(options.patch.bit_length() - 1):
        convolution = nn.Conv2d(taken, given, 3, stride=2, padding=1, bias=False)
        stem.add_module(f"conv_bn_relu_{index}", nn.Sequential(convolution, nn.BatchNorm2d(given), nn.ReLU()))
        taken, given = given, 2 * given
    stem.add_module("conv_last", nn.Conv2d(options.hidden, options.hidden, 1))
    return stem


def build(options: Options) -> VisionTransformer:
    """The network with fresh weights."""
    return VisionTransformer(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)
