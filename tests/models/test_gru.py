from __future__ import annotations

import torch

from edgekit.models import gru


def test_a_step_is_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    network = gru.build(gru.Options(features=3, hidden=4, layers=1, classes=2)).eval()
    x, h = torch.randn(1, 3), torch.randn(1, 4)
    w, u = (getattr(network.gru, name).chunk(3) for name in ("weight_ih_l0", "weight_hh_l0"))
    r, z = (torch.sigmoid(x @ w[gate].T + h @ u[gate].T) for gate in (0, 1))
    expected = z * h + (1 - z) * torch.tanh(x @ w[2].T + r * (h @ u[2].T))
    _, found = network(x[:, None], h[None])
    assert torch.allclose(found[0], expected, atol=1e-6)
