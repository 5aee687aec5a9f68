from __future__ import annotations

import torch

from edgekit.models import lstm

TUTORIAL = lstm.Options(features=10, hidden=64, layers=1, classes=1)


def test_a_step_is_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    network = lstm.build(lstm.Options(features=3, hidden=4, layers=1, classes=2)).eval()
    x, h, c = torch.randn(1, 3), torch.randn(1, 4), torch.randn(1, 4)
    w, u = (getattr(network.lstm, name).chunk(4) for name in ("weight_ih_l0", "weight_hh_l0"))
    i, f, g, o = (x @ w[gate].T + h @ u[gate].T for gate in range(4))
    cell = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
    _, hn, cn = network(x[:, None], h[None], c[None])
    assert torch.allclose(cn[0], cell, atol=1e-5)
    assert torch.allclose(hn[0], torch.sigmoid(o) * torch.tanh(cell), atol=1e-5)


def test_the_tutorial_form_has_64_units_and_one_logit() -> None:
    network = lstm.build(TUTORIAL)
    assert network(torch.randn(2, 100, 10)).shape == (2, 1)
    assert sum(tensor.numel() for tensor in network.lstm.parameters()) == 4 * (10 * 64 + 64 * 64 + 2 * 64)
    assert sum(tensor.numel() for tensor in network.head.parameters()) == 65
