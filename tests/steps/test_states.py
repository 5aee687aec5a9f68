"""Hidden states that the data gives are where calibration, parity and accuracy begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import pipeline
from edgekit.runtime.manifest import Manifest, State, TensorSpec, with_states
from edgekit.runtime.proof import load_pairs
from edgekit.spec import Recipe, Sample
from edgekit.steps._calibration import feeds_from
from edgekit.steps.load import Network, feeds_of, samples
from edgekit.steps.load import load as load_network
from edgekit.steps.prove import grid, largest_batch

X = TensorSpec("x", ("batch", 4, "time"), ranges={"batch": (1, 4), "time": (2, 9)})
H = State("h", "hn", (1, "batch", 3), init=0.5)
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x, h):
        y, h = self.gru(x.transpose(1, 2), h)
        return {"y": y, "hn": h}

def make():
    return Net()

def score(outputs, target):
    return -float(abs(outputs["y"] - target).mean())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    (folder / "statenets.py").write_text(NETS, encoding="utf-8")
    random = np.random.default_rng(0)
    x = random.standard_normal((6, 4, 7)).astype(np.float32)
    h = random.uniform(-1, 1, (6, 1, 3)).astype(np.float32)
    torch.manual_seed(0)
    gru = nn.GRU(4, 3, batch_first=True)
    with torch.no_grad():
        before = torch.from_numpy(h).transpose(0, 1).contiguous()
        y = gru(torch.from_numpy(x).transpose(1, 2), before)[0].numpy()
    np.savez(folder / "given.npz", x=x, h=h, target=y)
    return folder


@pytest.fixture
def recipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(place)
    said = {
        "inputs": ["x=float32[batch:1..4,4,time:2..9]", "h=float32[1,batch,3]"],
        "states": ["h=hn"],
        "metric": "statenets:score",
    }
    return pipeline.load("statenets:make", target="onnxruntime", data="given.npz", network=said)


def network(inputs: tuple[TensorSpec, ...] = (X,), states: tuple[State, ...] = (H,)) -> Network:
    return Network(
        module=None, inputs=inputs, outputs=(TensorSpec("y", ("batch", 3)),), states=states,
        preprocess=None, labels=None, task=None, weights_sha256="",
    )  # fmt: skip


def sample(number: int, given: bool, time: int = 5) -> Sample:
    states = {"h": np.full((1, 3), number, np.float32)} if given else {}
    return Sample((np.full((4, time), number, np.float32),), None, states)


def test_a_batch_begins_each_sample_where_it_says_or_at_the_initial_value() -> None:
    feed = feeds_of(network(), sample(1, given=True), sample(2, given=False), sample(3, given=True))
    assert (feed["x"].shape, feed["h"].shape) == ((3, 4, 5), (1, 3, 3))
    assert feed["h"].dtype == np.float32
    assert feed["h"][0, :, 0].tolist() == [1, 0.5, 3]


def test_a_state_without_a_batch_axis_is_taken_as_it_is() -> None:
    hidden = State("h", "hn", (2, 3))
    given = Sample((np.zeros((4, 5), np.float32),), None, {"h": np.ones((2, 3), np.float32)})
    assert feeds_of(network(states=(hidden,)), given)["h"].tolist() == np.ones((2, 3)).tolist()
    assert feeds_of(network(states=(hidden,)), sample(1, given=False))["h"].tolist() == [[0] * 3] * 2


class Few:
    """Three samples, each with a state of its own."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int, /) -> Sample:
        return sample(index + 1, given=True, time=5)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""


def manifest(specs: tuple[TensorSpec, ...]) -> Manifest:
    return Manifest(
        model="m", target="t", precision="fp32", device="CPU", state="proved", passed=None, engine={},
        inputs=specs, outputs=specs,
    )  # fmt: skip


def test_the_grid_keeps_each_sample_and_its_state_together() -> None:
    specs, _ = with_states((X,), (), (H,))
    feeds = list(grid(network(), Few(), manifest(specs)))
    assert {feed["h"].shape[1] for feed in feeds} == {1, 2, 3}
    for feed in feeds:
        assert feed["h"].shape == (1, len(feed["x"]), 3)
        np.testing.assert_array_equal(feed["h"][0, :, 0], feed["x"][:, 0, 0])


def test_only_a_batch_axis_lets_samples_share_a_call() -> None:
    assert largest_batch(manifest((X,))) == 4
    assert largest_batch(manifest((TensorSpec("x", (1, 4)),))) == 1
    assert largest_batch(manifest((X, TensorSpec("scale", ())))) == 1


def test_proof_and_calibration_begin_where_the_data_says(recipe: Recipe, place: Path, tmp_path: Path) -> None:
    arrays = np.load(place / "given.npz")
    told = load_network(recipe)
    data = samples(recipe, "test", told)
    np.testing.assert_array_equal(data[2].states["h"], arrays["h"][2])
    _, report = pipeline.make(recipe, tmp_path, ("parity", "accuracy"))
    assert report.passed
    assert report.accuracy is not None
    assert report.accuracy["reference"] > -1e-6, "from zero the reference would not meet its own targets"
    feeds, _ = load_pairs(tmp_path / "golden.npz")
    begun = {feed["x"].tobytes(): feed["h"][:, 0] for feed in feeds}
    given = {x.tobytes(): h for x, h in zip(arrays["x"], arrays["h"], strict=True)}
    assert len(begun) > 3
    assert all(np.array_equal(given[x], h) for x, h in begun.items())


def test_calibration_samples_bring_their_states(recipe: Recipe, place: Path) -> None:
    calibrating = replace(recipe, folders={"calibration": place / "given.npz"})
    told = load_network(calibrating)
    feeds = feeds_from(told, samples(calibrating, "calibration", told))
    np.testing.assert_array_equal(feeds[4]["h"][:, 0], np.load(place / "given.npz")["h"][4])
