from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from PIL import Image

from edgekit.cli.app import run
from edgekit.exporting.export import export_onnx
from edgekit.models import resnet
from edgekit.steps.train import load_weights

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvisions(block: str, layers: tuple[int, ...], classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict."""
    convolutions = {"conv1": (64, 3, 7, 7)}
    inputs = 64
    for stage, depth in enumerate(layers, 1):
        filters = 32 * 2**stage
        outputs = filters * (4 if block == "bottleneck" else 1)
        for index in range(depth):
            name = f"layer{stage}.{index}"
            sizes = {
                "basic": [(filters, inputs, 3, 3), (filters, filters, 3, 3)],
                "bottleneck": [(filters, inputs, 1, 1), (filters, filters, 3, 3), (outputs, filters, 1, 1)],
            }[block]
            convolutions |= {f"{name}.conv{place}": size for place, size in enumerate(sizes, 1)}
            if inputs != outputs:
                convolutions[f"{name}.downsample.0"] = (outputs, inputs, 1, 1)
            inputs = outputs
    found: dict[str, tuple[int, ...]] = {"fc.weight": (classes, inputs), "fc.bias": (classes,)}
    for name, size in convolutions.items():
        norm = name.replace("downsample.0", "downsample.1").replace("conv", "bn")
        found[f"{name}.weight"] = size
        found |= {f"{norm}.{part}": () if part == NORM[-1] else size[:1] for part in NORM}
    return found


def weights(shapes: dict[str, tuple[int, ...]], without: str = "-") -> dict[str, torch.Tensor]:
    """Random ones in the form of a published file."""
    torch.manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel())
        value = torch.randn(shape) * (2 / fan) ** 0.5 if len(shape) > 1 else torch.rand(shape) * 0.5 + 0.5
        found[name] = torch.tensor(0) if name.endswith(NORM[-1]) else value
    return {name: tensor for name, tensor in found.items() if not name.endswith(without)}


@pytest.mark.parametrize(
    ("block", "layers", "parameters"),
    [
        ("basic", (2, 2, 2, 2), 11_689_512),
        ("basic", (3, 4, 6, 3), 21_797_672),
        ("bottleneck", (3, 4, 6, 3), 25_557_032),
        ("bottleneck", (3, 4, 23, 3), 44_549_160),
    ],
)
def test_the_published_networks(block: Any, layers: tuple[int, ...], parameters: int) -> None:
    with torch.device("meta"):
        network = resnet.build(resnet.Options(block=block, layers=layers))
        assert sum(tensor.numel() for tensor in network.parameters()) == parameters
        found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        assert found == torchvisions(block, layers)


def test_the_default_is_resnet18() -> None:
    options = resnet.Options()
    assert (options.block, options.layers) == ("basic", (2, 2, 2, 2))
    assert resnet.inputs(options)[0].at({"batch": 2}) == (2, 3, 224, 224)
    assert resnet.outputs(options)[0].at({"batch": 2}) == (2, 1000)


@pytest.mark.parametrize("block", resnet.BLOCKS)
@pytest.mark.parametrize(
    ("stem", "shapes"),
    [("imagenet", [(6, 4), (6, 4), (3, 2), (2, 1)]), ("small", [(23, 15), (23, 15), (12, 8), (6, 4)])],
)
def test_stages_halve_the_image(block: Any, stem: Any, shapes: list[tuple[int, int]]) -> None:
    options = resnet.Options(
        block=block, layers=(1, 2, 1), filters=4, stem=stem, height=23, width=15, channels=2, classes=5
    )
    network = resnet.build(options).eval()
    found = {}
    for name in ("maxpool", "layer1", "layer2", "layer3"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, result, name=name: found.update({name: tuple(result.shape[1:])})
        )
    image = torch.randn(resnet.inputs(options)[0].at({"batch": 3}))
    assert network(image).shape == resnet.outputs(options)[0].at({"batch": 3})
    wide = [4, *(resnet.BLOCKS[block].expansion * filters for filters in (4, 8, 16))]
    assert list(found.values()) == [(count, *shape) for count, shape in zip(wide, shapes, strict=True)]


def test_a_block_adds_what_it_computes_to_what_it_was_given() -> None:
    block = resnet.Basic(3, 3, stride=1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(block(image), image)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (1, 1, 1, 1, 1)},
        {"layers": (2, 0)},
        {"block": "wide"},
        {"stem": "large"},
        {"filters": 0},
        {"classes": 0},
    ],
)
def test_options_that_make_no_network_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must be"):
        resnet.Options(**wrong)


def test_batch_norm_goes_into_the_convolutions(tmp_path: Path) -> None:
    network = resnet.build(resnet.TINY)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[operator, union-attr]
    specs = resnet.inputs(resnet.TINY), resnet.outputs(resnet.TINY)
    export_onnx(network, *specs, (), tmp_path / "net.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node)
    assert found == {"Conv": 6, "Relu": 5, "Add": 2, "ReduceMean": 1, "Reshape": 1, "Gemm": 1}


@pytest.mark.parametrize("without", ["-", NORM[-1]])
@pytest.mark.parametrize(("block", "layers"), [("basic", (2, 2, 2, 2)), ("bottleneck", (1, 1, 1, 1))])
def test_files_of_the_published_form_are_loaded(
    tmp_path: Path, block: Any, layers: tuple[int, ...], without: str
) -> None:
    """Old files lack the counters of the batch norms."""
    published = weights(torchvisions(block, layers, classes=4), without)
    safetensors.torch.save_file(published, tmp_path / "published.safetensors")
    network = resnet.build(resnet.Options(block=block, layers=layers, classes=4))
    load_weights(network, tmp_path / "published.safetensors")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in published.items())


def test_published_weights_become_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the recipe says it for resnet18, on smaller images to save time."""
    published = weights(torchvisions("basic", (2, 2, 2, 2)))
    safetensors.torch.save_file(published, tmp_path / "resnet18.safetensors")
    _photographs(tmp_path / "photographs")
    command = ["compile", "resnet", "--target", "openvino", "--precision", "fp32", "--json"]
    command += ["--weights", str(tmp_path / "resnet18.safetensors"), "--output", str(tmp_path / "bundle")]
    command += ["--set", "model.options={height = 48, width = 64}", "--data", str(tmp_path / "photographs")]
    command += ["--set", "data={name = 'images', options = {height = 48, width = 64}}"]
    assert run(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["accuracy"]["samples"] == 6


def _photographs(folder: Path) -> None:
    """Noise, under the names of ImageNet's classes 7 and 281."""
    torch.manual_seed(0)
    for name in ("7", "281"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            pixels = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
