"""Small networks that stand for the kinds people export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from edgekit.runtime.manifest import State, TensorSpec

RANGES = {"batch": (1, 16), "width": (8, 96), "time": (2, 40)}
IMAGE = (TensorSpec("image", ("batch", 1, 16, "width"), ranges=RANGES),)
SERIES = (TensorSpec("x", ("batch", "time", 6), ranges=RANGES),)
LINES = (TensorSpec("logits", ("steps", "batch", 7)),)
LINE_STATES = (State("h0", "hn", (4, "batch", 12)), State("c0", "cn", (4, "batch", 12)))


class LineReader(nn.Module):
    """Convolutions and a 2-layer bidirectional LSTM over columns; states in and out when given."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
        )
        self.rnn = nn.LSTM(64, 12, num_layers=2, bidirectional=True)
        self.head = nn.Linear(24, 7)

    def forward(self, image: Tensor, h0: Tensor | None = None, c0: Tensor | None = None) -> Any:
        columns = self.cnn(image).flatten(1, 2).permute(2, 0, 1)
        if h0 is None or c0 is None:
            return self.head(self.rnn(columns)[0])
        steps, (hn, cn) = self.rnn(columns, (h0, c0))
        return self.head(steps), hn, cn


class SeriesTagger(nn.Module):
    """One recurrent network of any kind over (batch, time, 6)."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 5, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.rnn(x)[0]
        return steps


class FixedLoop(nn.Module):
    """A Python loop over time: tracing fixes its length."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.shape[0], 5)
        steps = []
        for index in range(x.shape[1]):
            hidden = self.cell(x[:, index], hidden)
            steps.append(hidden)
        return torch.stack(steps, 1)


class Scanned(nn.Module):
    """A convolutional cell over time, written with scan: any length, states in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Conv1d(2 + 3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        def step(hidden: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.tanh(self.cell(torch.cat([frame, hidden], 1)))
            return hidden, hidden.clone()

        frames = x.reshape(x.shape[0], x.shape[1], 2, 3).transpose(0, 1)
        steps: Tensor = scan(step, x.new_zeros(x.shape[0], 3, 3), frames, dim=0)[1]
        return steps.clone()


def line_reader() -> LineReader:
    """Seeded, with batch norms that do something."""
    torch.manual_seed(0)
    network = LineReader().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return network


class Recurrences(nn.Module):
    """One kind of recurrent layer in many forms, each with its final states; initial ones may be given.

    The states of all layers come as (layers * directions, batch, 5) one after the other.
    """

    def __init__(self, kind: Callable[..., nn.RNNBase], forms: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([kind(6, 5, **form) for form in forms])

    def forward(self, x: Tensor, *states: Tensor) -> Any:
        results: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            steps = x if layer.batch_first else x.transpose(0, 1)
            count = 2 if layer.mode == "LSTM" else 1
            given = states[index * count : (index + 1) * count]
            y, final = layer(steps, *([given if count == 2 else given[0]] if given else []))
            results += [y, *final] if count == 2 else [y, final]
        return tuple(results)


class Attention(nn.Module):
    """PyTorch's encoder layer with a mask of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.layer(self.embed(ids), src_key_padding_mask=mask == 0)
        return states


class FirstTen(nn.Module):
    """A branch on a size whose one side is right for every size."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.size(1) <= 10 else x[:, :10]


class Halved(nn.Module):
    """A size that goes through a Python number."""

    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[1] * 0.5)
        return functional.interpolate(x.transpose(1, 2), size=size, mode="linear").transpose(1, 2)


class EvenOnly(nn.Module):
    """A branch on a size that takes another way for odd ones."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            x = functional.pad(x, (0, 0, 0, 1))
        return x.reshape(x.shape[0], -1, 12)


@torch.jit.script
def smooth(x: Tensor, share: float) -> Tensor:
    """A loop that TorchScript keeps."""
    state = torch.zeros_like(x[:, 0])
    steps = []
    for index in range(x.size(1)):
        state = share * state + x[:, index]
        steps.append(state)
    return torch.stack(steps, 1)


class Smoothed(nn.Module):
    """Nested layers around a scripted loop and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 6))
        self.rnn = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.heads[0](self.rnn(smooth(self.before(x), 0.5))[0])
        return steps


class SmoothedOrNot(nn.Module):
    """The same loop, and a branch on values: no trace may fix it."""

    def forward(self, x: Tensor) -> Tensor:
        steps = smooth(x, 0.5)
        return steps if x.sum() > -1e9 else x


class PackedReader(nn.Module):
    """Sequences of unlike length, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        lengths = torch.full((x.shape[0],), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.rnn(packed)[1]
