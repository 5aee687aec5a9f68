"""A wide residual network whose convolutions are augmented with self-attention.

Bello, Zoph, Vaswani, Shlens, Le: Attention Augmented Convolutional Networks, arXiv 1904.09925, in the
form of its section 4.1: Zagoruyko, Komodakis: Wide Residual Networks, arXiv 1605.07146, with the first
convolution of the blocks augmented. Of its `given` channels, `values` come from attention over all
positions and the others from the 3x3 convolution:

    x (batch, taken, H, W) -> 3x3 convolution -> (batch, given - values, H, W)  \\
                           -> queries and keys (batch, heads, H*W, keys/heads)   + -> (batch, given, H, W)
                           -> values (batch, heads, H*W, values/heads)          /

    logits[i, j] = q_i . (k_j + rel_width[:, x_j - x_i + W - 1] + rel_height[:, y_j - y_i + H - 1])

with q divided by the root of keys/heads. `rel_width` (keys/heads, 2W - 1) and `rel_height`
(keys/heads, 2H - 1) are shared by the heads. Where the convolution strides, attention reads the input
averaged over 3x3 windows at the same stride.

    image (batch, channels, height, width) -> `maps` maps -> three groups of (depth - 4) / 6 blocks, of
    w = maps * widen maps at full size, 2 w at half, 4 w at a quarter -> mean -> logits (batch, classes)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from edgekit.runtime.manifest import TensorSpec

TASK = "classify"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The paper's network for CIFAR-100, 36 million parameters.

    `depth` counts layers and is 6 n + 4, `maps` are those of the first layer, `widen` multiplies the
    others'. `keys` and `values` are shares of
    a convolution's maps, `smallest_key` is the least that a head's queries and keys have. Groups before
    `first_augmented` (1 to 4) are plain: attention costs the square of the positions.
    """

    height: int = 32
    width: int = 32
    channels: int = 3
    classes: int = 100
    depth: int = 28
    maps: int = 16
    widen: int = 10
    heads: int = 8
    keys: float = 0.2
    values: float = 0.1
    smallest_key: int = 20
    first_augmented: int = 1

    def __post_init__(self) -> None:
        if self.height < 4 or self.width < 4 or self.height % 4 or self.width % 4:
            raise ValueError("height and width must be multiples of 4")
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError("depth must be 10, 16, 22 and so on")
        numbers = (self.channels, self.classes, self.maps, self.widen, self.heads, self.smallest_key)
        if min(numbers) < 1:
            raise ValueError("channels, classes, maps, widen, heads and smallest_key must be at least 1")
        if not (0 < self.keys <= 1 and 0 < self.values < 1):
            raise ValueError("keys and values must be above 0, keys at most and values below 1")
        if not 1 <= self.first_augmented <= 4:
            raise ValueError("first_augmented must be 1, 2, 3, or 4 for none")
        if self.first_augmented < 4 and self.heads >= self.maps * self.widen:
            raise ValueError("heads must be fewer than the maps of the first group, maps * widen")


TINY = Options(height=8, width=8, channels=1, classes=3, depth=10, maps=4, widen=1, heads=2, smallest_key=2)


class SelfAttention(nn.Module):
    """Every position attends to all, positions relative: (batch, taken, H, W) to (batch, values, H, W)."""

    def __init__(self, taken: int, keys: int, values: int, heads: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.keys, self.values, self.heads, self.size = keys, values, heads, size
        self.qkv = nn.Conv2d(taken, 2 * keys + values, 1)
        self.out = nn.Conv2d(values, values, 1)
        each = keys // heads
        self.rel_height = nn.Parameter(torch.randn(each, 2 * size[0] - 1) * each**-0.5)
        self.rel_width = nn.Parameter(torch.randn(each, 2 * size[1] - 1) * each**-0.5)
        for name, offsets in zip(("rows", "columns"), _offsets(*size), strict=True):
            self.register_buffer(name, offsets.flatten(), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(image).split([self.keys, self.keys, self.values], 1)
        query = self._by_head(query).transpose(2, 3) * (self.keys // self.heads) ** -0.5
        logits = query @ self._by_head(key) + self.relative_logits(query)
        seen = logits.softmax(-1) @ self._by_head(value).transpose(2, 3)
        mixed: torch.Tensor = self.out(seen.transpose(2, 3).reshape(-1, self.values, *self.size))
        return mixed

    def relative_logits(self, query: torch.Tensor) -> torch.Tensor:
        """What positions add: (batch, heads, H*W, keys/heads) to (batch, heads, H*W, H*W)."""
        height, width = self.size
        places = height * width
        # Every position meets every offset; a constant gather picks the offsets that the image has.
        rows = (query @ self.rel_height).flatten(2).index_select(2, self.get_buffer("rows"))
        columns = (query @ self.rel_width).flatten(2).index_select(2, self.get_buffer("columns"))
        rows = rows.reshape(-1, self.heads * places, height, 1)
        columns = columns.reshape(-1, self.heads * places, 1, width)
        return (rows + columns).reshape(-1, self.heads, places, places)

    def _by_head(self, maps: torch.Tensor) -> torch.Tensor:
        """(batch, heads * each, H, W) to (batch, heads, each, H*W)."""
        return maps.reshape(-1, self.heads, maps.shape[1] // self.heads, self.size[0] * self.size[1])


def _offsets(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each position the places, among all positions' offsets, of those to each row and each column."""
    places = torch.arange(height * width)[:, None]
    rows = torch.arange(height) - places // width + height - 1
    columns = torch.arange(width) - places % width + width - 1
    return places * (2 * height - 1) + rows, places * (2 * width - 1) + columns


class AugmentedConv(nn.Module):
    """A 3x3 convolution that shares its maps with attention: (batch, taken, ...) to (batch, given, *size)."""

    def __init__(self, taken: int, given: int, stride: int, size: tuple[int, int], options: Options) -> None:
        super().__init__()
        keys = max(options.smallest_key, round(options.keys * given / options.heads)) * options.heads
        values = max(1, round(options.values * given / options.heads)) * options.heads
        self.stride = stride
        self.conv = nn.Conv2d(taken, given - values, 3, stride, padding=1, bias=False)
        self.attention = SelfAttention(taken, keys, values, options.heads, size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        smaller = image if self.stride == 1 else functional.avg_pool2d(image, 3, self.stride, padding=1)
        return torch.cat([self.conv(image), self.attention(smaller)], 1)


class Block(nn.Module):
    """Normalize, activate, convolve, twice, added to the input or its 1x1 projection."""

    def __init__(self, taken: int, given: int, stride: int, first: nn.Module) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(taken), first
        self.bn2, self.conv2 = nn.BatchNorm2d(given), nn.Conv2d(given, given, 3, padding=1, bias=False)
        alike = taken == given and stride == 1
        self.shortcut = None if alike else nn.Conv2d(taken, given, 1, stride, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.bn1(image))
        branch: torch.Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return branch + (image if self.shortcut is None else self.shortcut(active))


class AttentionCNN(nn.Module):
    """See the module's docstring for shapes."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(options.channels, options.maps, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*_blocks(options))
        self.bn = nn.BatchNorm2d(4 * options.maps * options.widen)
        self.classifier = nn.Linear(4 * options.maps * options.widen, options.classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.bn(self.blocks(self.conv1(image))))
        logits: torch.Tensor = self.classifier(maps.mean((2, 3)))
        return logits


def _blocks(options: Options) -> Iterator[Block]:
    taken = options.maps
    for group in (1, 2, 3):
        given = options.maps * options.widen * 2 ** (group - 1)
        for index in range((options.depth - 4) // 6):
            stride = 2 if group > 1 and index == 0 else 1
            yield Block(taken, given, stride, _first(taken, given, stride, group, options))
            taken = given


def _first(taken: int, given: int, stride: int, group: int, options: Options) -> nn.Module:
    if group < options.first_augmented:
        return nn.Conv2d(taken, given, 3, stride, padding=1, bias=False)
    shrunk = 2 ** (group - 1)
    size = (options.height // shrunk, options.width // shrunk)
    return AugmentedConv(taken, given, stride, size, options)


def build(options: Options) -> AttentionCNN:
    """The network with fresh weights."""
    return AttentionCNN(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """Unnormalised scores of the classes."""
    return (TensorSpec("logits", ("batch", options.classes)),)
