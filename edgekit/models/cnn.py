"""A plain convolutional classifier.

Two 3x3 convolutions with padding 1 (channels -> 32 -> 64), each followed by ReLU and 2x2 max
pooling, then one linear layer: the shape of LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-based
learning applied to document recognition, Proc. IEEE 1998) with today's small kernels.

    image (batch, channels, height, width) -> 32 x height/2 x width/2 -> 64 x height/4 x width/4
    -> logits (batch, classes)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgekit.runtime.manifest import TensorSpec

TASK = "classify"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Input size in pixels (at least 4), input channels, classes."""

    height: int = 224
    width: int = 224
    channels: int = 3
    classes: int = 10

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 4 or min(self.channels, self.classes) < 1:
            raise ValueError("height and width must be at least 4, channels and classes at least 1")


TINY = Options(height=8, width=8, channels=1, classes=3)


class CNN(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(options.channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(64 * (options.height // 4) * (options.width // 4), options.classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).flatten(1))
        return logits


def build(options: Options) -> CNN:
    """The network with fresh weights."""
    return CNN(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)
