from __future__ import annotations

import pytest
import torch

from edgekit.models import rnn


@pytest.mark.parametrize(("nonlinearity", "bend"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_a_step_is_what_the_docstring_says(nonlinearity: str, bend: torch.nn.Module) -> None:
    torch.manual_seed(0)
    options = rnn.Options(features=3, hidden=4, layers=1, classes=2, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    network = rnn.build(options).eval()
    x, h = torch.randn(1, 3), torch.randn(1, 4)
    expected = bend(x @ network.rnn.weight_ih_l0.T + h @ network.rnn.weight_hh_l0.T)
    _, found = network(x[:, None], h[None])
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_relu_begins_as_the_identity() -> None:
    network = rnn.build(rnn.Options(nonlinearity="relu"))
    assert torch.equal(network.rnn.weight_hh_l1, torch.eye(64))
