"""The swapped-in modules compute what PyTorch's recurrent layers compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.exporting.recurrent import evaluation_copy, keep_recurrent_whole
from edgekit.runtime.errors import UnsupportedError

KINDS = [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
FORMS = [
    {},
    {"num_layers": 3, "bidirectional": True},
    {"batch_first": True, "bias": False, "bidirectional": True},
    {"batch_first": True, "num_layers": 2},
]


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [leaf for part in result for leaf in flat(part)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("shape", [(4, 3, 6), (7, 6)], ids=["batched", "single"])
def test_same_results_with_and_without_initial_states(
    kind: Callable[..., nn.RNNBase], options: dict[str, Any], form: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    layer = kind(6, 5, **options, **form).eval()
    swapped = keep_recurrent_whole(evaluation_copy(layer))
    x = torch.randn(shape)
    expected = layer(x)
    for want, have in zip(flat(expected), flat(swapped(x)), strict=True):
        torch.testing.assert_close(have, want)
    for want, have in zip(flat(layer(x, expected[1])), flat(swapped(x, expected[1])), strict=True):
        torch.testing.assert_close(have, want)


def test_the_operator_is_a_well_formed_custom_operator() -> None:
    weights = torch.randn(2, 20, 6), torch.randn(2, 20, 5), torch.randn(2, 40)
    keep_recurrent_whole(nn.Identity())
    operator = torch.ops.edgekit.recurrent.default
    args = (torch.randn(4, 3, 6), *weights, None, None, "LSTM", True)
    torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))


def test_the_copy_shares_weights_and_leaves_the_original_alone() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.LSTM(6, 5))
    network.train()
    swapped = keep_recurrent_whole(evaluation_copy(network))
    assert isinstance(network[1], nn.LSTM)
    assert network.training
    assert network[1].training
    assert not swapped.training
    assert swapped.get_parameter("0.weight") is network[0].weight


def test_a_layer_used_twice_is_swapped_in_both_places() -> None:
    shared = nn.GRU(5, 5)
    swapped = keep_recurrent_whole(evaluation_copy(nn.ModuleDict({"a": shared, "b": shared})))
    assert swapped.get_submodule("a") is swapped.get_submodule("b")
    assert not any(isinstance(layer, nn.RNNBase) for layer in swapped.modules())


def test_a_projection_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="0: an LSTM with proj_size"):
        keep_recurrent_whole(nn.Sequential(nn.LSTM(6, 5, proj_size=3)))
