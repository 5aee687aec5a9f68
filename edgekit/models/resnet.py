"""A residual network.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385. Each
block adds what it computes to what it was given: two 3x3 convolutions (`basic`), or 1x1, 3x3, 1x1 with
four times as many channels around them (`bottleneck`). A stage after the first halves the image and
doubles the filters; the 3x3 convolution of a bottleneck does the halving, as in torchvision, whose
state-dict keys these are. The paper's networks are `basic` with layers (2, 2, 2, 2) and (3, 4, 6, 3):
resnet18 and 34, and `bottleneck` with (3, 4, 6, 3), (3, 4, 23, 3) and (3, 8, 36, 3): resnet50, 101, 152.

    image (batch, channels, height, width)
    -> stem "imagenet": 7x7 convolution and 3x3 maximum, filters x height/4 x width/4
       stem "small":    3x3 convolution, filters x height x width
    -> stage i = 0, 1, ...: expansion * 2^i * filters channels, the image halved where i > 0
    -> mean over the image -> logits (batch, classes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekit.runtime.manifest import TensorSpec

TASK = "classify"
STAGES = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """`layers` are the blocks of each stage, one to four stages; `filters` are those of the first.

    `stem` `small` is for images of some 32 pixels. Height and width are in pixels. The default is resnet18.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    layers: tuple[int, ...] = (2, 2, 2, 2)
    filters: int = 64
    stem: Literal["imagenet", "small"] = "imagenet"
    height: int = 224
    width: int = 224
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block is {self.block!r}, it must be one of {', '.join(BLOCKS)}")
        if self.stem not in STEMS:
            raise ValueError(f"stem is {self.stem!r}, it must be one of {', '.join(STEMS)}")
        if not 1 <= len(self.layers) <= STAGES or min(self.layers) < 1:
            raise ValueError(f"layers is {self.layers}, it must be 1 to {STAGES} numbers of at least 1")
        if min(self.filters, self.height, self.width, self.channels, self.classes) < 1:
            raise ValueError("filters, height, width, channels and classes must be at least 1")


class Basic(nn.Module):
    """Two 3x3 convolutions: (batch, inputs, h, w) -> (batch, filters, h/stride, w/stride)."""

    expansion = 1

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = _shortcut(inputs, filters, stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = self.relu(self.bn1(self.conv1(image)))
        result: torch.Tensor = self.relu(self.bn2(self.conv2(inner)) + _carried(self.downsample, image))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: (batch, inputs, h, w) -> (batch, 4 * filters, h/stride, w/stride)."""

    expansion = 4

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv3 = nn.Conv2d(filters, self.expansion * filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * filters)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, self.expansion * filters, stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = self.relu(self.bn1(self.conv1(image)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        result: torch.Tensor = self.relu(self.bn3(self.conv3(inner)) + _carried(self.downsample, image))
        return result


BLOCKS: dict[str, type[Basic] | type[Bottleneck]] = {"basic": Basic, "bottleneck": Bottleneck}
STEMS = ("imagenet", "small")
TINY = Options(layers=(1, 1), filters=4, stem="small", height=8, width=8, channels=1, classes=3)


class ResNet(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        large = options.stem == "imagenet"
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(
            options.channels, options.filters, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(options.filters)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        block, wide = BLOCKS[options.block], options.filters
        for stage, depth in enumerate(options.layers):
            filters, stride = options.filters * 2**stage, 2 if stage else 1
            self.add_module(f"layer{stage + 1}", _stage(block, wide, filters, depth, stride))
            wide = block.expansion * filters
        self.depth = len(options.layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, options.classes)
        self.apply(_start)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for stage in range(self.depth):
            features = self.get_submodule(f"layer{stage + 1}")(features)
        logits: torch.Tensor = self.fc(self.avgpool(features).flatten(1))
        return logits


def build(options: Options) -> ResNet:
    """The network with fresh weights."""
    return ResNet(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)


def _stage(
    block: type[Basic] | type[Bottleneck], inputs: int, filters: int, depth: int, stride: int
) -> nn.Sequential:
    rest = [block(block.expansion * filters, filters, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, filters, stride), *rest)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where the block's result has another shape than its input."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _carried(shortcut: nn.Sequential | None, image: torch.Tensor) -> torch.Tensor:
    carried: torch.Tensor = image if shortcut is None else shortcut(image)
    return carried


def _start(module: nn.Module) -> None:
    """Fresh convolutions as He et al. begin them (arXiv 1502.01852)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
