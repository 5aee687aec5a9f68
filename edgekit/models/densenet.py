"""A densely connected convolutional network.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017, arXiv
1608.06993, the form DenseNet-BC. Each layer reads what all layers of its block before it gave, side by side
as channels, and adds `growth` channels: batch norm, ReLU, 1x1 convolution to `bottleneck * growth`
channels, batch norm, ReLU, 3x3 convolution. Between two blocks a 1x1 convolution halves the channels and a
mean halves the image. State-dict keys are torchvision's. Its networks are growth 32 with layers
(6, 12, 24, 16), (6, 12, 32, 32) and (6, 12, 48, 32): densenet121, 169, 201.

    image (batch, channels, height, width)
    -> stem "imagenet": 7x7 convolution and 3x3 maximum, 2 * growth x height/4 x width/4
       stem "small":    3x3 convolution, 2 * growth x height x width
    -> block of n layers: c -> c + n * growth channels; between two: c/2 channels, the image halved
    -> mean over the image -> logits (batch, classes)
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekit.runtime.manifest import TensorSpec

TASK = "classify"
STEMS = ("imagenet", "small")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`layers` are those of each block, `growth` the channels that each layer adds.

    `stem` `small` is for images of some 32 pixels. Height and width are in pixels. Default: densenet121.
    """

    growth: int = 32
    layers: tuple[int, ...] = (6, 12, 24, 16)
    bottleneck: int = 4
    stem: Literal["imagenet", "small"] = "imagenet"
    height: int = 224
    width: int = 224
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise ValueError(f"stem is {self.stem!r}, it must be one of {', '.join(STEMS)}")
        if not self.layers or min(self.layers) < 1:
            raise ValueError(f"layers is {self.layers}, it must be numbers of at least 1, one a block")
        if min(self.growth, self.bottleneck, self.channels, self.classes) < 1:
            raise ValueError("growth, bottleneck, channels and classes must be at least 1")
        least = 2 ** (len(self.layers) - 1) * (4 if self.stem == "imagenet" else 1)
        if min(self.height, self.width) < least:
            raise ValueError(f"height and width must be at least {least} for {len(self.layers)} blocks")


TINY = Options(growth=4, layers=(2, 2), bottleneck=2, stem="small", height=8, width=8, channels=1, classes=3)


class Layer(nn.Module):
    """(batch, inputs, h, w) -> the growth (batch, growth, h, w)."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(self.relu1(self.norm1(image)))
        grown: torch.Tensor = self.conv2(self.relu2(self.norm2(inner)))
        return grown


class Block(nn.ModuleDict):
    """Every layer reads the input and all growth before it."""

    def __init__(self, inputs: int, options: Options, depth: int) -> None:
        super().__init__()
        for index in range(depth):
            layer = Layer(inputs + index * options.growth, options.growth, options.bottleneck)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        parts = [image]
        for layer in self.values():
            parts.append(layer(torch.cat(parts, 1)))
        return torch.cat(parts, 1)


class DenseNet(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        wide = 2 * options.growth
        parts = _stem(options, wide)
        for index, depth in enumerate(options.layers):
            if index:
                parts[f"transition{index}"] = _transition(wide)
                wide //= 2
            parts[f"denseblock{index + 1}"] = Block(wide, options, depth)
            wide += depth * options.growth
        self.features = nn.Sequential(parts | {"norm5": nn.BatchNorm2d(wide)})
        self.classifier = nn.Linear(wide, options.classes)
        self.apply(_start)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.features(image))
        logits: torch.Tensor = self.classifier(features.mean((2, 3)))
        return logits

    @staticmethod
    def current_key(key: str) -> str:
        """`norm1.weight` for `norm.1.weight`, as torchvision's published files still call it."""
        return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(?=\d)", r"\1", key)


def build(options: Options) -> DenseNet:
    """The network with fresh weights."""
    return DenseNet(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)


def _stem(options: Options, filters: int) -> OrderedDict[str, nn.Module]:
    large = options.stem == "imagenet"
    kernel, stride = (7, 2) if large else (3, 1)
    convolution = nn.Conv2d(options.channels, filters, kernel, stride, padding=kernel // 2, bias=False)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv0=convolution)
    parts |= {"norm0": nn.BatchNorm2d(filters), "relu0": nn.ReLU()}
    return parts | {"pool0": nn.MaxPool2d(3, 2, padding=1)} if large else parts


def _transition(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(inputs),
            relu=nn.ReLU(),
            conv=nn.Conv2d(inputs, inputs // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


def _start(module: nn.Module) -> None:
    """Fresh convolutions as He et al. begin them (arXiv 1502.01852)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
