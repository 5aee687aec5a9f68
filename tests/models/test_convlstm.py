from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgekit.models import convlstm
from edgekit.models.convlstm import TINY, ConvLSTMLayer, Options

ATTENTION = Options(form="attention", height=16, width=16, classes=3, stem=4, hidden=4, layers=2)


def made(options: Options) -> torch.nn.Module:
    torch.manual_seed(0)
    network = convlstm.build(options).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # peepholes begin at zero
    return network


def clips(options: Options, batch: int, time: int) -> torch.Tensor:
    return torch.randn(convlstm.inputs(options)[0].at({"batch": batch, "time": time}))


def by_hand(layer: ConvLSTMLayer, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    """Equation 3 of the paper, gate by gate."""
    assert layer.peepholes is not None
    hidden, sigmoid = h.shape[1], torch.sigmoid

    def read(gate: int) -> torch.Tensor:
        rows = slice(gate * hidden, (gate + 1) * hidden)
        weight, bias = layer.input.weight[rows], layer.input.bias[rows]  # type: ignore[index]
        mine = torch.conv2d(x, weight, bias, padding=1)
        return mine + torch.conv2d(h, layer.hidden.weight[rows], padding=1)

    i = sigmoid(read(0) + layer.peepholes[0] * c)
    f = sigmoid(read(1) + layer.peepholes[1] * c)
    after = f * c + i * torch.tanh(read(3))
    o = sigmoid(read(2) + layer.peepholes[2] * after)
    return o * torch.tanh(after), after


@torch.no_grad()
def test_a_step_is_the_papers_equation() -> None:
    layer = made(TINY).cells[0]
    x, h, c = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for found, wanted in zip(layer.step(layer.input(x), h, c), by_hand(layer, x, h, c), strict=True):
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_peepholes_let_the_gates_see_the_cell() -> None:
    network, inputs = made(TINY), torch.zeros(1, 16, 4, 4)
    h, c = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4)
    seen = network.cells[0].step(inputs, h, c)
    network.cells[0].peepholes.zero_()
    blind = network.cells[0].step(inputs, h, c)
    network.cells[0].peepholes = None
    without = network.cells[0].step(inputs, h, c)
    assert not torch.allclose(seen[1], blind[1])
    assert all(torch.equal(*pair) for pair in zip(blind, without, strict=True))
    assert made(replace(TINY, peepholes=False)).cells[0].peepholes is None


@torch.no_grad()
def test_the_scan_is_the_loop() -> None:
    layer = made(TINY).cells[1]
    inputs, h, c = torch.randn(5, 2, 16, 4, 4), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    steps, last = layer.looped(inputs, h, c)
    scanned, final = layer.scanned(inputs, h, c)
    for found, wanted in zip((scanned, *final), (steps, *last), strict=True):
        assert torch.equal(found, wanted)


@torch.no_grad()
def test_a_clip_in_parts_is_the_whole_clip() -> None:
    network, clip = made(TINY), clips(TINY, batch=2, time=7)
    states = [torch.zeros(TINY.layers, 2, 4, 4, 4)] * 2
    for part in clip.split([3, 1, 3], dim=1):
        logits, *states = network(part, *states)
    torch.testing.assert_close(logits, network(clip))
    assert [tuple(each.shape) for each in states] == [
        (*state.shape[:1], 2, *state.shape[2:]) for state in convlstm.states(TINY)
    ]


@torch.no_grad()
@pytest.mark.parametrize("options", [TINY, ATTENTION], ids=["recurrent", "attention"])
def test_the_order_of_the_frames_matters(options: Options) -> None:
    network, clip = made(options), clips(options, batch=2, time=6)
    assert network(clip).shape == (2, options.classes)
    assert not torch.allclose(network(clip), network(clip.flip(1)), rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("options", [TINY, ATTENTION], ids=["recurrent", "attention"])
def test_a_sample_does_not_see_the_others(options: Options) -> None:
    network, clip = made(options), clips(options, batch=3, time=4)
    torch.testing.assert_close(network(clip)[1:2], network(clip[1:2]))


def test_attention_has_no_states() -> None:
    assert convlstm.states(ATTENTION) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 12},
        {"width": 0},
        {"hidden": 0},
        {"layers": 0},
        {"kernel": 4},
        {"form": "attention", "peepholes": True},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|belong"):
        Options(**wrong)
