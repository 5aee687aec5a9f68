"""Networks by many hands."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvBlock


class Denoiser(nn.Module):
    """Spectral frames in, gains out; three GRUs whose states come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(20, 24, 1)
        self.vad = nn.GRU(24, 8, batch_first=True)
        self.noise = nn.GRU(32, 16, batch_first=True)
        self.gain = nn.GRU(24, 12, batch_first=True)
        self.out = nn.Linear(12, 10)

    def forward(self, feats: Tensor, h1: Tensor, h2: Tensor, h3: Tensor) -> Any:
        x = torch.tanh(self.front(feats.transpose(1, 2))).transpose(1, 2)
        v, h1n = self.vad(x, h1)
        n, h2n = self.noise(torch.cat([x, v], -1), h2)
        g, h3n = self.gain(torch.cat([n, v], -1), h3)
        gains = torch.sigmoid(self.out(g))
        return gains, h1n, h2n, h3n


class Stepper(nn.Module):
    """LSTMCell in a Python loop over a fixed number of steps, state as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> Any:
        h, c = hx
        outs = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outs.append(self.head(h))
        return torch.stack(outs, dim=1), (h, c)


class Reader(nn.Module):
    """BiLSTM text recognizer whose width varies."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            ConvBlock(1, 8),
            nn.MaxPool2d(2),
            ConvBlock(8, 12),
            nn.MaxPool2d((2, 1)),
            nn.AdaptiveAvgPool2d((1, None)),
        )
        self.rnn = nn.LSTM(12, 16, num_layers=2, bidirectional=True, dropout=0.2)
        self.fc = nn.Linear(32, 11)

    def forward(self, image: Tensor) -> Tensor:
        x = self.cnn(image).squeeze(2).permute(2, 0, 1)
        x, _ = self.rnn(x)
        return self.fc(x).log_softmax(-1)


class Encoder(nn.Module):
    """Attention over tokens with an integer mask; pooled by a flag that is keyword-only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, input_ids: Tensor, *, attention_mask: Tensor, pool: bool = True) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        scores = self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(16)
        scores = scores.masked_fill(attention_mask[:, None, :] == 0, -1e4)
        x = self.norm(x + scores.softmax(-1) @ self.v(x))
        out = {"last_hidden_state": x}
        if pool:
            weights = attention_mask[..., None].to(x.dtype)
            out["pooled"] = (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return out


class Detector(nn.Module):
    """Three raw heads in a dict; the classes are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(3, 8), nn.MaxPool2d(2), ConvBlock(8, 16), nn.MaxPool2d(2))
        self.head = nn.Conv2d(16, 9, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        maps = self.head(self.body(x)).flatten(2).transpose(1, 2)
        boxes, objectness, classes = maps.split([4, 1, 4], dim=-1)
        return {
            "boxes": boxes,
            "scores": objectness.sigmoid().squeeze(-1),
            "labels": classes.argmax(-1),
            "aux": None,
        }


@dataclass
class Answer:
    logits: Tensor
    features: Tensor
    loss: Tensor | None = None


class Classifier(nn.Module):
    """Dropout and batch norm, a dataclass as output, and a print left in."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ConvBlock(3, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Answer:
        print("features", x.shape)
        features = self.block(x).mean((2, 3))
        features = F.dropout(features, 0.5, training=self.training)
        return Answer(self.fc(features), features)


class Pair(NamedTuple):
    mean: Tensor
    spread: Tensor


class Normed(nn.Module):
    """Weight norm as audio networks still write it, and a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv1d(2, 4, 3, padding=1))

    def forward(self, wave: Tensor) -> Pair:
        y = self.conv(wave)
        return Pair(y.mean(-1), y.std(-1))


class Random(nn.Module):
    """Dropout that nobody switches off."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Remembering(nn.Module):
    """Keeps its hidden state in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.cell(x, self.h)
        return self.h


class Fixed(nn.Module):
    """Takes images of 8 by 8 and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(image.flatten(1))


class Returns(nn.Module):
    """Returns whatever it is told to."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Any:
        return self.what(x)


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return Denoiser()


denoiser.edgekit_inputs = [  # type: ignore[attr-defined]
    "feats=float32[batch:1..4,time:2..64,20]",
    "h1=float32[1,batch:1..4,8]",
    "h2=float32[1,batch:1..4,16]",
    "h3=float32[1,batch:1..4,12]",
]
denoiser.edgekit_states = ["h1=h1n", "h2=h2n", "h3=h3n"]  # type: ignore[attr-defined]


def half() -> nn.Module:
    return Fixed().half()


def parallel() -> nn.Module:
    return nn.DataParallel(Fixed())


def raises() -> nn.Module:
    weights = {"fc": 1}
    return weights["head"]  # type: ignore[return-value]


def nothing() -> None:
    Fixed()


def state() -> dict[str, Tensor]:
    return Fixed().state_dict()


def scripted() -> Any:
    return torch.jit.script(nn.Linear(2, 2))


def listed() -> nn.Module:
    return nn.ModuleList([Fixed()])


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


def sized(width: int) -> nn.Module:
    return nn.Linear(width, 2)


ready = Fixed()
number = 7


class Pooling(nn.Module):
    """Wants at least nine steps."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, 9)


class Single(nn.Module):
    """Written for one sample at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4) * 2


class Choosy(nn.Module):
    """Works at widths below a hundred... or so it hopes."""

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-1] > 60:
            raise ValueError("too wide")
        return image.mean((2, 3))


class Echo(nn.Module):
    """Returns under the names that it was given."""

    def forward(self, x: Tensor, h: Tensor) -> Any:
        h = h + x
        x = x * 2
        return x, h
