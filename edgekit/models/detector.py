"""An anchor-free detector of one stage, in the YOLO style.

One pass over the image gives a box and the scores of all classes for every cell of two grids (Redmon,
Divvala, Girshick, Farhadi: You Only Look Once, arXiv 1506.02640). A cell says how far the four sides of
the box are from its centre (Tian, Shen, Chen, He: FCOS, arXiv 1904.01355), by a head of each grid whose
branches for boxes and classes are apart (Ge, Liu, Wang, Li, Sun: YOLOX, arXiv 2107.08430), and a top-down
path brings what the coarse grid sees to the fine one (Lin et al.: Feature Pyramid Networks, arXiv
1612.03144).

    image (batch, channels, height, width)
    -> stride 2: width filters -> 4: 2 width -> 8: 4 width -> 16: 4 width
    -> two maps of 4 width channels, strides 8 and 16
    -> boxes (batch, N, 4), scores (batch, N, classes); N = height * width * (1 / 64 + 1 / 256)

The boxes are finished: corners in pixels of the input. The scores are logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from edgekit.runtime.manifest import Detection, TensorSpec

TASK = "detect"
STRIDES = (8, 16)
PRIOR = 0.01
"""What every score begins at, so that the many empty cells do not drown the others (RetinaNet, 2017)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Input size in pixels, multiples of 16; `filters` of the first convolution; residual `blocks` of each
    of the three deeper stages; and what is kept of what is found: boxes with a score above `score`, and of
    boxes of one class whose IoU is above `iou` the best."""

    height: int = 96
    width: int = 96
    channels: int = 3
    classes: int = 10
    filters: int = 16
    blocks: int = 1
    score: float = 0.25
    iou: float = 0.5

    def __post_init__(self) -> None:
        if (
            min(self.height, self.width) < STRIDES[-1]
            or self.height % STRIDES[-1]
            or self.width % STRIDES[-1]
        ):
            raise ValueError(f"height and width must be multiples of {STRIDES[-1]}")
        if min(self.channels, self.classes, self.filters) < 1 or self.blocks < 0:
            raise ValueError("channels, classes and filters must be at least 1, blocks at least 0")
        if not (0 < self.score < 1 and 0 < self.iou < 1):
            raise ValueError("score and iou must be between 0 and 1")


TINY = Options(height=32, width=32, classes=2, filters=4)


class Convolution(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU: what engines make one int8 layer of."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class Residual(nn.Module):
    """Two convolutions and a way around them (He, Zhang, Ren, Sun, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.relu(features + self.second(self.first(features)))


class Head(nn.Module):
    """Scores and the distances of a box's sides, of every cell of a map (batch, channels, h, w).

    Distances are in strides and above 0: softplus grows as its input does, where an exponential would
    make a small error of int8 a large one.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.class_features = Convolution(channels, channels)
        self.box_features = Convolution(channels, channels)
        self.scores = nn.Conv2d(channels, classes, 1)
        self.sides = nn.Conv2d(channels, 4, 1)
        nn.init.constant_(self.scores.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.scores(self.class_features(features))
        sides = functional.softplus(self.sides(self.box_features(features)))
        return _rows(sides), _rows(scores)


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """(batch, values, h, w) as one row for each cell: (batch, h * w, values)."""
    return maps.flatten(2).transpose(1, 2)


class Detector(nn.Module):
    """See the module's docstring for shapes.

    While it is trained a third output tells what the cells are: centre and stride, (N, 3).
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        depths = [options.filters * times for times in (1, 2, 4, 4)]
        self.stem = Convolution(options.channels, depths[0], stride=2)
        self.stages = nn.ModuleList(_stage(*pair, options.blocks) for pair in pairwise(depths))
        self.merge = Convolution(2 * depths[-1], depths[-1])
        # One head for both would normalise each grid by what is common to both, and miss its boxes' sizes.
        self.heads = nn.ModuleList(Head(depths[-1], options.classes) for _ in STRIDES)
        self.register_buffer("cells", _cells(options.height, options.width), persistent=False)
        self.cells: torch.Tensor

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = self.stages[1](self.stages[0](self.stem(image)))
        coarse = self.stages[2](fine)
        above = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = self.merge(torch.cat([fine, above], 1))
        found = [head(level) for head, level in zip(self.heads, (fine, coarse), strict=True)]
        sides = torch.cat([sides for sides, _ in found], 1)
        scores = torch.cat([scores for _, scores in found], 1)
        boxes = _boxes(sides, self.cells)
        return (boxes, scores, self.cells) if self.training else (boxes, scores)


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Half the resolution, then the residual blocks."""
    return nn.Sequential(Convolution(inputs, outputs, stride=2), *(Residual(outputs) for _ in range(blocks)))


def _cells(height: int, width: int) -> torch.Tensor:
    """Centre x, y and stride of every cell, the finer grid first, rows from the top: (N, 3)."""
    grids = []
    for stride in STRIDES:
        rows, columns = torch.arange(height // stride), torch.arange(width // stride)
        y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
        grids.append(torch.stack([x, y, torch.full_like(x, stride)], -1).reshape(-1, 3))
    return torch.cat(grids)


def _boxes(sides: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Corners in pixels from the distances left, top, right, bottom in strides: (batch, N, 4)."""
    centres, strides = cells[:, :2], cells[:, 2:]
    return torch.cat([centres - sides[..., :2] * strides, centres + sides[..., 2:] * strides], -1)


def build(options: Options) -> Detector:
    """The network with fresh weights."""
    return Detector(options)


def inputs(options: Options) -> tuple[TensorSpec, ...]:
    """One image of fixed size, any batch."""
    shape = ("batch", options.channels, options.height, options.width)
    return (TensorSpec("image", shape, ranges={"batch": (1, 64)}),)


def outputs(options: Options) -> tuple[TensorSpec, ...]:
    """A box in pixels and the logits of the classes for every cell."""
    cells = sum((options.height // stride) * (options.width // stride) for stride in STRIDES)
    return (
        TensorSpec("boxes", ("batch", cells, 4)),
        TensorSpec("scores", ("batch", cells, options.classes)),
    )


def detection(options: Options) -> Detection:
    """Corners in pixels, logits, one class a box."""
    return Detection(
        boxes="boxes", scores="scores", activation="sigmoid", score=options.score, iou=options.iou
    )
