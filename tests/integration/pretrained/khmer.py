"""CRNN for Khmer text lines: 7 convolutions and two BiLSTM layers, from the package `khmer-ocr-ocm`."""

from __future__ import annotations

from pathlib import Path

import torch
from khmer_ocr_ocm.assets import get_model_path  # type: ignore[import-not-found, unused-ignore]
from khmer_ocr_ocm.model import CRNN  # type: ignore[import-not-found, unused-ignore]
from torch import nn


def network() -> nn.Module:
    """Image [batch, 1, 48, width] in -1..1 to logits [width / 4 - 1, batch, 984]."""
    made: nn.Module = CRNN()
    kept = torch.load(Path(get_model_path()), map_location="cpu", weights_only=True)
    made.load_state_dict(kept.get("model_state_dict", kept))
    return made
