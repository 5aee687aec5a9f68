"""A convolutional recurrent network that reads a line of text.

Shi, Bai, Yao: An End-to-End Trainable Neural Network for Image-based Sequence Recognition,
arXiv 1507.05717: convolutions turn the image into a sequence of columns, two bidirectional LSTM
layers read it, a linear layer scores the symbols of each step, and CTC (blank = class 0) trains it.
The width is reduced by 4 only, so that narrow letters keep a step of their own.

    form "full":  image (batch, channels, 32, width) -> 256 x 1 x width/4
                  -> LSTM 2 x 2 x hidden -> logits (batch, width/4, classes)
    form "small": image (batch, channels, 28, 28) -> 3x3 convolution without padding, 32 x 26 x 26
                  -> pooling, 32 x 13 x 13 -> LSTM over 13 columns of 416 features
                  -> logits of the last step (batch, classes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgekit.runtime.manifest import State, TensorSpec

TASK = "recognize"
STRIDE = 4
SMALL_SIZE = 28

States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`form` is `full` (text lines) or `small` (28x28 images); `hidden` is per direction."""

    form: Literal["full", "small"] = "full"
    channels: int = 1
    classes: int = 38
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.classes < 2 or min(self.channels, self.hidden) < 1:
            raise ValueError("classes must be at least 2, channels and hidden at least 1")


TINY = Options(classes=5, hidden=8)


class CRNN(nn.Module):
    """Text lines of any width. See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(options.channels, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            nn.MaxPool2d(2),
            *_block(64, 128),
            *_block(128, 128),
            nn.MaxPool2d((2, 1)),
            *_block(128, 256),
            nn.MaxPool2d((2, 1)),
            *_block(256, 256, kernel=(2, 1), padding=(0, 0)),
        )
        self.lstm = nn.LSTM(256, options.hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.classifier = nn.Linear(2 * options.hidden, options.classes)

    def forward(
        self, image: torch.Tensor, h0: torch.Tensor | None = None, c0: torch.Tensor | None = None
    ) -> torch.Tensor | States:
        """Logits; with initial states given, also the final ones."""
        columns = self.features(image).flatten(2).permute(0, 2, 1)
        if h0 is None or c0 is None:
            return _scored(self.classifier, self.lstm(columns)[0])
        steps, (hn, cn) = self.lstm(columns, (h0, c0))
        return _scored(self.classifier, steps), hn, cn


class SmallCRNN(nn.Module):
    """An image read column by column. See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(options.channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.lstm = nn.LSTM(32 * 13, options.hidden, batch_first=True)
        self.classifier = nn.Linear(options.hidden, options.classes)

    def forward(
        self, image: torch.Tensor, h0: torch.Tensor | None = None, c0: torch.Tensor | None = None
    ) -> torch.Tensor | States:
        """Logits; with initial states given, also the final ones."""
        columns = self.features(image).permute(0, 3, 1, 2).flatten(2)
        if h0 is None or c0 is None:
            return _scored(self.classifier, self.lstm(columns)[0][:, -1])
        steps, (hn, cn) = self.lstm(columns, (h0, c0))
        return _scored(self.classifier, steps[:, -1]), hn, cn


def build(options: Options) -> CRNN | SmallCRNN:
    """The network with fresh weights."""
    return SmallCRNN(options) if options.form == "small" else CRNN(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image: of any width (`full`) or 28x28 (`small`)."""
    if options.form == "small":
        shape: tuple[int | str, ...] = ("batch", options.channels, SMALL_SIZE, SMALL_SIZE)
        return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)
    shape = ("batch", options.channels, 32, "width")
    return (TensorSpec("image", shape, ranges={"batch": (1, 64), "width": (16, 2048)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the symbols at each step, or of the classes."""
    if options.form == "small":
        return (TensorSpec("logits", ("batch", options.classes)),)
    return (TensorSpec("logits", ("batch", "steps", options.classes)),)


def states(options: Options) -> tuple[State, ...]:
    """The LSTM's hidden and cell state, zero before the first call: (layers * directions, batch, hidden)."""
    depth = 1 if options.form == "small" else 4
    shape = (depth, "batch", options.hidden)
    return State("h0", "hn", shape), State("c0", "cn", shape)


def _block(
    channels: int, width: int, kernel: tuple[int, int] = (3, 3), padding: tuple[int, int] = (1, 1)
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, kernel, padding=padding, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU()


def _scored(classifier: nn.Linear, steps: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = classifier(steps)
    return logits
