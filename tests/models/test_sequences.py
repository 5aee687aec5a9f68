"""What the recurrent classifiers have in common."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from edgekit.models import _sequences, gru, lstm, rnn

FAMILY = pytest.mark.parametrize("plugin", [rnn, lstm, gru], ids=lambda plugin: plugin.__name__[15:])


def made(plugin: ModuleType, **options: Any) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    chosen = plugin.Options(features=3, hidden=8, classes=4, **options)
    return plugin.build(chosen).eval(), chosen


def beginning(plugin: ModuleType, options: Any, batch: int) -> list[torch.Tensor]:
    sizes = {"batch": batch}
    return [
        torch.full([sizes[dim] if isinstance(dim, str) else dim for dim in state.shape], state.init)
        for state in plugin.states(options)
    ]


@FAMILY
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_any_length_gives_one_row_of_logits(plugin: ModuleType, pooling: str, bidirectional: bool) -> None:
    network, options = made(plugin, pooling=pooling, bidirectional=bidirectional)
    for batch, time in ((1, 1), (3, 50)):
        sequence = torch.randn(plugin.inputs(options)[0].at({"batch": batch, "time": time}))
        assert network(sequence).shape == plugin.outputs(options)[0].at({"batch": batch})


@FAMILY
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_stream_in_pieces_equals_the_whole(plugin: ModuleType, pooling: str) -> None:
    network, options = made(plugin, pooling=pooling)
    sequence = torch.randn(2, 30, 3)
    states = beginning(plugin, options, 2)
    for piece in sequence.split((1, 17, 12), dim=1):
        logits, *states = network(piece, *states)
    assert torch.allclose(logits, network(sequence), atol=1e-6)
    assert not torch.allclose(logits, network(piece), atol=1e-3)


@FAMILY
def test_what_reads_backwards_has_no_states(plugin: ModuleType) -> None:
    network, options = made(plugin, bidirectional=True)
    assert plugin.states(options) == ()
    first, second = torch.randn(1, 9, 3), torch.randn(1, 9, 3)
    second[:, -1] = first[:, -1]
    whole = network(torch.cat([first, second], 1))
    assert not torch.allclose(whole, network(second), atol=1e-3)


@FAMILY
def test_the_unit_of_a_sensor_does_not_matter(plugin: ModuleType) -> None:
    unit = torch.tensor([1e-4, 1.0, 1e5])
    sequences = torch.randn(64, 20, 3) + 2
    found = []
    for factor in (torch.ones(3), unit):
        network, _ = made(plugin)
        network.train()
        network(sequences * factor)
        found.append(network.eval()(sequences * factor))
    assert torch.allclose(*found, atol=1e-2)


def test_statistics_are_those_of_everything_seen() -> None:
    standardize, parts = _sequences.Standardize(2), [torch.randn(4, 5, 2) * 3 + 1, torch.randn(2, 9, 2) - 4]
    for part in parts:
        standardize(part)
    seen = torch.cat([part.flatten(0, 1) for part in parts])
    assert torch.allclose(standardize.mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(standardize.variance, seen.var(0, correction=0), rtol=1e-4)
    before = standardize.mean.clone()
    standardize.eval()(torch.randn(3, 3, 2))
    assert torch.equal(standardize.mean, before)


@FAMILY
def test_recurrent_matrices_begin_orthogonal(plugin: ModuleType) -> None:
    network, _ = made(plugin)
    matrices = [value for name, value in network.named_parameters() if "weight_hh" in name]
    assert matrices
    for gate in (gate for matrix in matrices for gate in matrix.split(8)):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)


@FAMILY
@pytest.mark.parametrize("wrong", [{"layers": 0}, {"classes": 0}, {"dropout": 1.0}, {"fine": -1.0}])
def test_options_that_cannot_be_are_refused(plugin: ModuleType, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        plugin.Options(**wrong)


def test_a_finer_view_tells_small_movements_apart() -> None:
    plain, fine = _sequences.Standardize(1), _sequences.Standardize(1, 20.0)
    steps = torch.tensor([[[-10.0], [10.0], [0.0], [0.1]]])
    for module in (plain, fine):
        module(steps)
        module.eval()
    seen = fine(steps)
    assert torch.equal(seen[..., :1], plain(steps))
    coarse, finer = (float(seen[0, 3, view] - seen[0, 2, view]) for view in (0, 1))
    assert finer > 5 * coarse
    assert float(seen[..., 1].abs().max()) < 2 * float(seen[..., 0].abs().max())
