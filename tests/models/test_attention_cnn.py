from __future__ import annotations

from typing import Any

import pytest
import torch

from edgekit.models import attention_cnn
from edgekit.models.attention_cnn import TINY, Options, SelfAttention


def made(options: Options = TINY) -> attention_cnn.AttentionCNN:
    torch.manual_seed(0)
    return attention_cnn.build(options).eval()


def test_the_default_is_the_papers_of_36_million_parameters() -> None:
    """The paper counts 36.3 million for the plain network and 36.2 for the augmented one."""
    with torch.device("meta"):
        augmented, plain = (
            sum(tensor.numel() for tensor in attention_cnn.build(Options(first_augmented=first)).parameters())
            for first in (1, 4)
        )
    assert 36_000_000 < augmented < plain < 36_600_000


def test_size_channels_and_classes_are_options() -> None:
    options = Options(
        height=12, width=20, channels=2, classes=4, depth=16, maps=4, widen=1, heads=2, first_augmented=2
    )
    image = torch.randn(attention_cnn.inputs(options)[0].at({"batch": 3}))
    assert made(options)(image).shape == attention_cnn.outputs(options)[0].at({"batch": 3}) == (3, 4)


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_groups_before_the_first_augmented_are_plain(first: int) -> None:
    options = Options(height=8, width=8, depth=16, maps=4, widen=1, heads=2, first_augmented=first)
    augmented = [isinstance(block.conv1, attention_cnn.AugmentedConv) for block in made(options).blocks]
    assert augmented == [group >= first for group in (1, 1, 2, 2, 3, 3)]


def test_relative_logits_are_those_of_a_loop_over_all_pairs() -> None:
    heads, each, height, width = 2, 3, 3, 4
    attention = SelfAttention(5, heads * each, 4, heads, (height, width))
    query = torch.randn(2, heads, height * width, each)
    found = attention.relative_logits(query)
    assert found.shape == (2, heads, height * width, height * width)
    for here in range(height * width):
        for there in range(height * width):
            rows, columns = there // width - here // width, there % width - here % width
            offset = attention.rel_height[:, rows + height - 1] + attention.rel_width[:, columns + width - 1]
            assert torch.allclose(found[:, :, here, there], query[:, :, here] @ offset, atol=1e-5)


def test_attention_sees_the_whole_image_and_convolution_does_not() -> None:
    module = attention_cnn.AugmentedConv(2, 8, 1, (8, 8), TINY).eval()
    image = torch.zeros(1, 2, 8, 8)
    changed = image.clone()
    changed[0, :, 7, 7] = 3.0
    moved = (module(changed) - module(image)).abs()[0, :, 0, 0]
    local = 8 - module.attention.values
    assert moved[:local].max() == 0 < moved[local:].max()


def test_weights_hold_no_indices() -> None:
    assert all(tensor.is_floating_point() or tensor.ndim == 0 for tensor in made().state_dict().values())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"height": 30}, "multiples of 4"),
        ({"depth": 12}, "depth must be"),
        ({"classes": 0}, "at least 1"),
        ({"keys": 0.0}, "keys and values"),
        ({"values": 1.0}, "keys and values"),
        ({"first_augmented": 5}, "first_augmented"),
        ({"widen": 1, "heads": 16}, "fewer than the maps"),
    ],
)
def test_what_makes_no_network_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**wrong)
