from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from edgekit.exporting.export import export_onnx
from edgekit.models import densenet
from edgekit.quantization import ptq
from edgekit.steps.train import load_weights

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SMALL = densenet.Options(growth=4, layers=(2, 3), stem="small", height=9, width=12, channels=2, classes=5)


def torchvisions(
    growth: int, layers: tuple[int, ...], channels: int = 3, classes: int = 1000
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict."""
    wide = 2 * growth
    convolutions = {"conv0": (wide, channels, 7, 7)}
    norms = {"norm0": wide}
    for block, depth in enumerate(layers, 1):
        for layer in range(1, depth + 1):
            name = f"denseblock{block}.denselayer{layer}"
            convolutions |= {
                f"{name}.conv1": (4 * growth, wide, 1, 1),
                f"{name}.conv2": (growth, 4 * growth, 3, 3),
            }
            norms |= {f"{name}.norm1": wide, f"{name}.norm2": 4 * growth}
            wide += growth
        if block < len(layers):
            norms[f"transition{block}.norm"] = wide
            wide //= 2
            convolutions[f"transition{block}.conv"] = (wide, 2 * wide, 1, 1)
    norms["norm5"] = wide
    found: dict[str, tuple[int, ...]] = {"classifier.weight": (classes, wide), "classifier.bias": (classes,)}
    found |= {f"features.{name}.weight": size for name, size in convolutions.items()}
    for name, size in norms.items():
        found |= {f"features.{name}.{part}": () if part == NORM[-1] else (size,) for part in NORM}
    return found


@pytest.mark.parametrize(
    ("growth", "layers", "parameters"),
    [
        (32, (6, 12, 24, 16), 7_978_856),
        (32, (6, 12, 32, 32), 14_149_480),
        (48, (6, 12, 36, 24), 28_681_000),
    ],
)
def test_the_published_networks(growth: int, layers: tuple[int, ...], parameters: int) -> None:
    """121, 169 and 161."""
    with torch.device("meta"):
        network = densenet.build(densenet.Options(growth=growth, layers=layers))
    assert sum(tensor.numel() for tensor in network.parameters()) == parameters
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == torchvisions(growth, layers)


def test_the_default_is_densenet121() -> None:
    options = densenet.Options()
    assert (options.growth, options.layers, options.bottleneck) == (32, (6, 12, 24, 16), 4)
    assert densenet.inputs(options)[0].at({"batch": 2}) == (2, 3, 224, 224)
    assert densenet.outputs(options)[0].at({"batch": 2}) == (2, 1000)


@pytest.mark.parametrize(("stem", "sizes"), [("imagenet", [(6, 4), (3, 2)]), ("small", [(23, 15), (11, 7)])])
def test_blocks_grow_and_transitions_halve(stem: Any, sizes: list[tuple[int, int]]) -> None:
    options = densenet.Options(growth=4, layers=(2, 3), stem=stem, height=23, width=15, channels=2, classes=5)
    network = densenet.build(options).eval()
    found = []
    for name in ("denseblock1", "denseblock2"):
        network.features.get_submodule(name).register_forward_hook(
            lambda _, __, result: found.append(tuple(result.shape[1:]))
        )
    image = torch.randn(densenet.inputs(options)[0].at({"batch": 3}))
    assert network(image).shape == densenet.outputs(options)[0].at({"batch": 3})
    assert found == [(8 + 2 * 4, *sizes[0]), (8 + 3 * 4, *sizes[1])]


def test_a_layer_reads_everything_before_it_and_adds_to_it() -> None:
    block = densenet.build(SMALL).eval().features.denseblock2
    image = torch.rand(1, 8, 4, 4)
    first = block.denselayer1(image)
    second = block.denselayer2(torch.cat([image, first], 1))
    third = block.denselayer3(torch.cat([image, first, second], 1))
    assert torch.equal(block(image), torch.cat([image, first, second, third], 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (2, 0)},
        {"stem": "large"},
        {"growth": 0},
        {"bottleneck": 0},
        {"classes": 0},
        {"height": 31},
    ],
)
def test_options_that_make_no_network_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be"):
        densenet.Options(**wrong)


def test_too_many_halvings_are_counted() -> None:
    with pytest.raises(ValueError, match="at least 8 for 4 blocks"):
        densenet.Options(stem="small", height=8, width=7)


def as_today(name: str) -> str:
    return name


def as_published(name: str) -> str:
    """As torchvision's own files have it: `denselayer1.norm.1` for `denselayer1.norm1`."""
    return re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", name)


@pytest.mark.parametrize("called", [as_today, as_published])
def test_files_of_the_published_form_are_loaded(tmp_path: Path, called: Callable[[str], str]) -> None:
    torch.manual_seed(0)
    shapes = torchvisions(4, (2, 1), classes=5)
    published = {name: torch.rand(shape) for name, shape in shapes.items() if not name.endswith(NORM[-1])}
    file = tmp_path / "published.safetensors"
    safetensors.torch.save_file({called(name): tensor for name, tensor in published.items()}, file)
    network = densenet.build(densenet.Options(growth=4, layers=(2, 1), classes=5))
    load_weights(network, file)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in published.items())


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The tiny network with statistics that a fresh one does not have."""
    torch.manual_seed(0)
    network = densenet.build(densenet.TINY)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[operator, union-attr]
    path = tmp_path_factory.mktemp("densenet") / "net.onnx"
    export_onnx(network, densenet.inputs(densenet.TINY), densenet.outputs(densenet.TINY), (), path)
    return onnx.load(path)


def test_batch_norm_goes_into_the_convolution_before_it(graph: onnx.ModelProto) -> None:
    """`norm0` and every `norm2` do; what follows a concatenation, or is read twice, stays."""
    found = Counter(node.op_type for node in graph.graph.node)
    norms = {node.name for node in graph.graph.node if node.op_type == "BatchNormalization"}
    assert found["Conv"] == 10
    assert found["Concat"] == 4
    assert len(norms) == 6
    assert all("norm1" in name or "norm5" in name or "transition" in name for name in norms)


def test_int8_has_no_code_around_a_concatenation(graph: onnx.ModelProto) -> None:
    """They would share one scale, and OpenVINO gets signed ones wrong: what is joined stays float."""
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 1, 8, 8)).astype(np.float32)} for _ in range(4)]
    options = ptq.Options()
    made = ptq.quantize(graph, ptq.measure(graph, feeds, options), {}, options)
    assert set(ptq.quantized_layers(made).values()) == {"int8"}
    makers = {name: node.op_type for node in made.graph.node for name in node.output}
    joined = {name for node in made.graph.node if node.op_type == "Concat" for name in node.input}
    assert {makers[name] for name in joined} == {"Conv", "Relu", "AveragePool"}
