from __future__ import annotations

import pytest
import torch

from edgekit.models import crnn

SMALL = crnn.Options(form="small", classes=10)


def made(options: crnn.Options) -> torch.nn.Module:
    torch.manual_seed(0)
    return crnn.build(options).eval()


def test_at_most_two_million_parameters() -> None:
    assert sum(tensor.numel() for tensor in made(crnn.Options()).parameters()) <= 2_000_000


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [16, 67, 160])
def test_full_form_reads_any_width(batch: int, width: int) -> None:
    options = crnn.Options()
    image = torch.randn(crnn.inputs(options)[0].at({"batch": batch, "width": width}))
    expected = crnn.outputs(options)[0].at({"batch": batch, "steps": width // crnn.STRIDE})
    assert made(options)(image).shape == expected


def test_small_form_has_thirteen_steps_of_416_features() -> None:
    network = made(SMALL)
    assert network.lstm.input_size == 416
    assert network.features(torch.zeros(1, 1, 28, 28)).shape == (1, 32, 13, 13)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("options", [crnn.Options(), SMALL])
def test_states_are_zero_unless_given(options: crnn.Options) -> None:
    network = made(options)
    image = torch.randn(crnn.inputs(options)[0].at({"batch": 2, "width": 48}))
    zeros = [torch.full((state.shape[0], 2, *state.shape[2:]), state.init) for state in crnn.states(options)]
    logits, hn, cn = network(image, *zeros)
    assert torch.equal(logits, network(image))
    assert [tuple(final.shape) for final in (hn, cn)] == [tuple(zero.shape) for zero in zeros]
    assert not torch.allclose(network(image, hn, cn)[0], logits)


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"hidden": 0}])
def test_options_that_leave_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        crnn.Options(**wrong)
