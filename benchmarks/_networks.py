"""The networks of `benchmarks/quantization.py`, their samples, and what PyTorch makes of these."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import pipeline
from edgekit.runtime.proof import load_pairs, save_pairs
from edgekit.spec import Recipe
from edgekit.steps import prove
from edgekit.steps.export import export
from edgekit.steps.load import Network, feeds_of, load, samples
from tests.integration.pretrained.inputs import Feed, write
from tests.integration.test_pretrained import NETWORKS as PRETRAINED
from tests.integration.test_pretrained import Pretrained

CALIBRATION, HELD_OUT = 24, 12
"""Samples of a network that brings none: 36 different sentences are what the shortest source has."""
MOST = 256
"""Samples of a split of a built-in network."""
SEARCH_S = 40
"""What the searches have, so that all networks take 10 minutes; edgekit's default is 60."""
SERIES = """
import torch
import torch.nn as nn


class Tagger(nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def plain():
    torch.manual_seed(0)
    return Tagger(64, 256, 32).eval()


def fragile():
    torch.manual_seed(0)
    made = Tagger(12, 64, 16)
    with torch.no_grad():
        made.lstm.weight_ih_l0 /= torch.logspace(-3, 3, 12)
    return made.eval()
"""


class NotBroughtError(RuntimeError):
    """A network that pip cannot bring here."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network: what MODEL and `--input` are, and its samples, made in its folder; built-ins have theirs."""

    model: str
    inputs: tuple[str, ...] = ()
    feeds: Callable[[Path, int], Iterator[Feed]] | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network in its folder: `float.onnx`, `calibration.npz` and `held_out.npz` with PyTorch's outputs.

    `targets` are the labels of the held-out samples; empty: there are none.
    """

    folder: Path
    network: Network
    graph: Path
    targets: Sequence[Any]

    def held_out(self) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
        """Feeds that nothing was calibrated on, and the reference's outputs."""
        return load_pairs(self.folder / "held_out.npz")

    def accuracy(self, outputs: Sequence[dict[str, np.ndarray]]) -> float | None:
        """The task's metric on the held-out samples; None where there are no labels."""
        task = self.network.task
        if task is None or not self.targets:
            return None
        answers = [prove.answers_of(self.network, output, 1)[0] for output in outputs]
        return float(task.scores(answers, list(self.targets)).mean())


def recipe_of(subject: Subject, target: str, seconds: float = SEARCH_S) -> Recipe:
    """The int8 recipe; the current folder is the network's."""
    own = {"calibration": "calibration", "network": {"inputs": list(subject.inputs)}} if subject.feeds else {}
    said: dict[str, Any] = {"target": target, "precision": "int8", "max_error": 0.05, **own}
    return pipeline.load(subject.model, overrides=[f"search.seconds={seconds}"], **said)


def prepare(subject: Subject, folder: Path) -> Prepared:
    """Bring the network, export it, part its samples and ask PyTorch for the answers."""
    made = list(subject.feeds(folder, CALIBRATION + HELD_OUT)) if subject.feeds else []
    if made:
        write(made[:CALIBRATION], folder / "calibration")
    with chdir(folder):
        recipe = recipe_of(subject, "onnxruntime")
        network = load(recipe)
        graph = export(network, recipe, folder / "float.onnx")
    calibration, held_out = made[:CALIBRATION], made[CALIBRATION:]
    targets: list[Any] = []
    if not made:
        calibration, _ = _built_in(recipe, "calibration", network)
        held_out, targets = _built_in(recipe, "test", network)
    save_pairs(folder / "calibration.npz", calibration)
    with prove.reference_runner(network, threads=1) as reference:
        save_pairs(folder / "held_out.npz", held_out, [reference.infer(feed) for feed in held_out])
    return Prepared(folder=folder, network=network, graph=graph.path, targets=targets)


def _built_in(recipe: Recipe, split: str, network: Network) -> tuple[list[Feed], list[Any]]:
    """Feeds and labels of at most MOST samples of a split."""
    data = samples(recipe, split, network)
    chosen = [data[index] for index in range(min(len(data), MOST))]
    return [feeds_of(network, one) for one in chosen], [one.target for one in chosen]


def _series(model: str, steps: int, spread: np.ndarray[Any, Any]) -> Subject:
    """A network of SERIES on normal noise, each feature with its own spread."""

    def feeds(folder: Path, count: int) -> Iterator[Feed]:
        (folder / "nets.py").write_text(SERIES, encoding="utf-8")
        random = np.random.default_rng(0)
        for _ in range(count):
            yield {"x": (random.standard_normal((1, steps, len(spread))) * spread).astype(np.float32)}

    takes = f"x=float32[batch:1..4,time:1..{steps},{len(spread)}]"
    return Subject(model=model, inputs=(takes,), feeds=feeds)


def _pretrained(brought: Pretrained) -> Subject:
    def feeds(folder: Path, count: int) -> Iterator[Feed]:
        try:
            brought.fetch(folder)
        except pytest.skip.Exception as cause:
            raise NotBroughtError(str(cause)) from cause
        return itertools.islice(brought.feeds(folder, count), count)

    return Subject(model=brought.model, inputs=brought.inputs, feeds=feeds)


SUBJECTS = {
    "cnn": Subject(model="cnn"),
    "crnn": Subject(model="crnn"),
    "lstm": _series("nets:plain", 100, np.ones(64)),
    "fragile": _series("nets:fragile", 40, np.logspace(-3, 3, 12)),
    **{name: _pretrained(brought) for name, brought in PRETRAINED.items()},
}
