"""Small networks with every kind of layer that can be int8, exported, and samples for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from edgekit.exporting import export_onnx
from edgekit.quantization._calibration import Measured
from edgekit.runtime.manifest import TensorSpec
from tests.exporting.networks import IMAGE, SERIES, Scanned, SeriesTagger, line_reader

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]
WIDTH = 24


class Convolutions(nn.Module):
    """Depthwise, strided, transposed and without a bias; SiLU, ReLU6, a residual sum, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.deep = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        x = x + self.deep(nn.functional.relu6(self.wide(x)))
        scores: Tensor = self.head(nn.functional.relu(self.up(x)).mean((2, 3)))
        return scores


class Encoder(nn.Module):
    """Linear layers around a residual stream with LayerNorm, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        x = self.norm(x + self.last(nn.functional.gelu(self.first(x))))
        steps: Tensor = self.out(x)
        return steps


class Loudness(nn.Module):
    """A filter bank: its results are squared, never given to another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Conv1d(6, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        bands = self.bank(x.transpose(1, 2))
        return torch.sqrt(bands * bands + 1e-3).transpose(1, 2)


class Forecaster(nn.Module):
    """An LSTM, then a GRU, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.head(self.gru(self.lstm(x)[0])[0])
        return steps


class Outliers(nn.Module):
    """A transformer's block whose normalization makes two channels a hundred times as large as the others.

    `first` alone reads the normalization, `last` the ReLU of `first`; `out` reads a residual stream too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(6, WIDTH)
        self.norm, self.end = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.first, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 5)
        with torch.no_grad():
            for norm in (self.norm, self.end):
                norm.weight[[3, 17]] *= 100
            self.first.weight[:, [3, 17]] /= 100
            self.first.weight[[0, 7]] *= 100
            self.last.weight[:, [0, 7]] /= 100
            self.out.weight[:, [3, 17]] /= 100

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        x = x + self.last(nn.functional.relu(self.first(self.norm(x))))
        x = self.end(x)
        steps: Tensor = self.out(x) + x[..., :5]
        return steps


@dataclass(frozen=True)
class Net:
    """An exported network and samples for it."""

    graph: onnx.ModelProto
    samples: list[Feed]


Measurements = dict[str, tuple[Net, Measured]]
TAGS = (TensorSpec("tags", ("batch", "time", 5)),)
SCORES = (TensorSpec("scores", ("batch", 4)),)
KINDS: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "convolutions": (Convolutions, IMAGE, SCORES),
    "encoder": (Encoder, SERIES, (TensorSpec("tags", ("batch", "time", 6)),)),
    "loudness": (Loudness, SERIES, TAGS),
    "forecaster": (Forecaster, SERIES, TAGS),
    "lines": (line_reader, IMAGE, (TensorSpec("logits", ("steps", "batch", 7)),)),
    "scanned": (Scanned, SERIES, (TensorSpec("steps", ("time", "batch", 3, 3)),)),
    "tagger": (lambda: SeriesTagger(nn.LSTM), SERIES, TAGS),
}


def written(signature: str, body: str, **constants: tuple[int, ...]) -> onnx.ModelProto:
    """A graph in ONNX's text form; its nodes are called `PLACE/OPERATOR`, `constants` are random."""
    from onnx import numpy_helper, parser

    text = f'<ir_version: 8, opset_import: ["": 18]> graph {signature} {{ {body} }}'
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, size in constants.items():
        value = random.standard_normal(size).astype(np.float32) ** 3
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for place, node in enumerate(model.graph.node):
        node.name = f"{place}/{node.op_type}"
    return model


def samples(kind: str, count: int, seed: int = 0) -> list[Feed]:
    """Normal values; no two samples of one size."""
    random = np.random.default_rng(seed)
    if KINDS[kind][1] is IMAGE:
        return [{"image": random.standard_normal((1, 1, 16, 9 + n % 40), np.float32)} for n in range(count)]
    return [{"x": random.standard_normal((1, 5 + n % 30, 6), np.float32)} for n in range(count)]


def net(kind: str, folder: Path, count: int = 8) -> Net:
    """The network of one of `KINDS` with seeded weights, exported into `folder`."""
    make, inputs, outputs = KINDS[kind]
    torch.manual_seed(0)
    export_onnx(make().eval(), inputs, outputs, (), folder / f"{kind}.onnx")
    return Net(onnx.load(folder / f"{kind}.onnx"), samples(kind, count))


def outliers(folder: Path) -> Net:
    """`Outliers`, exported into `folder`."""
    torch.manual_seed(0)
    steps = TensorSpec("steps", ("batch", "time", 5))
    export_onnx(Outliers().eval(), SERIES, (steps,), (), folder / "outliers.onnx")
    return Net(onnx.load(folder / "outliers.onnx"), samples("tagger", 16))


def run(graph: onnx.ModelProto, feeds: Sequence[Feed]) -> Array:
    """The first output for every sample, as one row, computed node by node as the graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    return np.concatenate([session.run(None, feed)[0].ravel() for feed in feeds])


def relative(want: Array, have: Array) -> float:
    """Relative L2."""
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


def notes(graph: onnx.ModelProto, key: str) -> dict[str, float]:
    """The numbers of one key in the metadata, by node."""
    return {
        node.name: float(entry.value)
        for node in graph.graph.node
        for entry in node.metadata_props
        if entry.key == key
    }
