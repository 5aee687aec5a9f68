from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgekit.models import vit
from edgekit.models.vit import TINY, Options

BASE_16 = 86_567_656
"""Parameters of torchvision's `vit_b_16`."""


def made(options: Options = TINY) -> vit.VisionTransformer:
    torch.manual_seed(0)
    return vit.build(options).eval()


def test_the_default_is_base_16() -> None:
    with torch.device("meta"):
        network = vit.build(Options())
    assert sum(tensor.numel() for tensor in network.parameters()) == BASE_16
    assert network.encoder.pos_embedding.shape == (1, 197, 768)


def test_weights_are_named_and_shaped_as_torchvisions() -> None:
    layer = "encoder.layers.encoder_layer_1."
    expected = {
        "class_token": (1, 1, 16),
        "conv_proj.weight": (16, 1, 4, 4),
        "conv_proj.bias": (16,),
        "encoder.pos_embedding": (1, 5, 16),
        layer + "ln_1.weight": (16,),
        layer + "ln_1.bias": (16,),
        layer + "self_attention.in_proj_weight": (48, 16),
        layer + "self_attention.in_proj_bias": (48,),
        layer + "self_attention.out_proj.weight": (16, 16),
        layer + "self_attention.out_proj.bias": (16,),
        layer + "ln_2.weight": (16,),
        layer + "ln_2.bias": (16,),
        layer + "mlp.0.weight": (32, 16),
        layer + "mlp.0.bias": (32,),
        layer + "mlp.3.weight": (16, 32),
        layer + "mlp.3.bias": (16,),
        "encoder.ln.weight": (16,),
        "encoder.ln.bias": (16,),
        "heads.head.weight": (3, 16),
        "heads.head.bias": (3,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in made().state_dict().items()}
    assert {name: shape for name, shape in found.items() if "encoder_layer_0" not in name} == expected


def test_attention_is_pytorchs_own() -> None:
    own, known = vit.Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    known.load_state_dict(own.state_dict())
    tokens = torch.randn(2, 5, 16)
    assert torch.allclose(own(tokens), known(tokens, tokens, tokens)[0], atol=1e-6)


@pytest.mark.parametrize("stem", ["patch", "convolutions"])
def test_size_channels_and_classes_are_options(stem: Any) -> None:
    options = Options(
        height=16, width=24, channels=2, classes=5, patch=8, layers=1, heads=2, hidden=32, mlp=8, stem=stem
    )
    image = torch.randn(vit.inputs(options)[0].at({"batch": 3}))
    network = made(options)
    assert network.conv_proj(image).shape == (3, 32, 2, 3)
    assert network(image).shape == vit.outputs(options)[0].at({"batch": 3}) == (3, 5)


def test_a_stem_of_convolutions_doubles_its_maps_up_to_hidden() -> None:
    """The 1 GFLOP network of Xiao et al.: 24, 48, 96 and 192 maps, then 1x1."""
    with torch.device("meta"):
        stem = vit.build(Options(hidden=192, heads=3, mlp=768, layers=1, stem="convolutions")).conv_proj
    convolutions = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [24, 48, 96, 192, 192]
    assert [each.stride[0] for each in convolutions] == [2, 2, 2, 2, 1]


def test_patches_know_where_they_are() -> None:
    network, image = made(), torch.randn(1, 1, 8, 8)
    swapped = torch.cat([image[..., 4:], image[..., :4]], 3)
    nn.init.normal_(network.encoder.pos_embedding)
    assert not torch.allclose(network(image), network(swapped), atol=1e-4)
    nn.init.zeros_(network.encoder.pos_embedding)
    assert torch.allclose(network(image), network(swapped), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"height": 30}, "multiples of patch"),
        ({"heads": 7}, "multiple of heads"),
        ({"layers": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"patch": 7, "stem": "convolutions"}, "patch of 2, 4, 8"),
        ({"hidden": 12, "stem": "convolutions"}, "multiple of patch / 2"),
    ],
)
def test_what_makes_no_network_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**wrong)
