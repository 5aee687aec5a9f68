from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.exporting import export_onnx
from edgekit.models import transformer
from edgekit.models.transformer import TINY, Options
from edgekit.runtime.engines import EngineOptions
from edgekit.runtime.engines.onnxruntime import open_engine
from edgekit.runtime.manifest import Labels
from edgekit.spec import Sample
from edgekit.tasks import classify

CHOICES = [
    {"positions": positions, "pooling": pooling, "prior": prior}
    for positions in ("sinusoidal", "learned")
    for pooling in ("mean", "class")
    for prior in (False, True)
]


def made(options: Options = TINY) -> transformer.Transformer:
    torch.manual_seed(0)
    network = transformer.build(options).eval()
    if network.prior is not None:
        nn.init.normal_(network.prior.ratios)
    return network


def ids(*sizes: int) -> torch.Tensor:
    return torch.randint(1, TINY.tokens, sizes, generator=torch.Generator().manual_seed(1))


def test_a_layer_is_pytorchs_own_with_the_normalization_first() -> None:
    own = transformer.Layer(TINY).eval()
    known = nn.TransformerEncoderLayer(
        TINY.hidden, TINY.heads, TINY.mlp, 0.0, batch_first=True, norm_first=True
    ).eval()
    known.load_state_dict(own.state_dict())
    steps = torch.randn(2, 5, TINY.hidden)
    hidden = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    mask = hidden[:, None, None, :] * transformer.HIDDEN_STEP
    assert torch.allclose(own(steps, mask), known(steps, src_key_padding_mask=hidden), atol=1e-5)


def test_positions_are_the_papers() -> None:
    found = transformer.sinusoids(50, 8)
    assert found[7, 2] == pytest.approx(np.sin(7 / 10_000 ** (2 / 8)), abs=1e-5)
    assert found[7, 3] == pytest.approx(np.cos(7 / 10_000 ** (2 / 8)), abs=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_padding_changes_nothing(choice: dict[str, Any]) -> None:
    network = made(replace(TINY, **choice))
    short, long = ids(1, 5), ids(1, 9)
    padded = torch.cat([nn.functional.pad(short, (0, 4)), long])
    alone = torch.cat([network(short), network(long)])
    assert torch.allclose(network(padded), alone, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_order_counts(pooling: Any) -> None:
    network, sequence = made(replace(TINY, pooling=pooling)), ids(1, 7)
    assert not torch.allclose(network(sequence), network(sequence.flip(1)), atol=1e-5)


def test_nothing_but_padding_is_still_finite() -> None:
    assert made(replace(TINY, pooling="mean"))(torch.zeros(2, 3, dtype=torch.int64)).isfinite().all()


def test_features_are_every_step_of_them() -> None:
    options = replace(TINY, input="features", features=3, prior=False)
    (spec,) = transformer.inputs(options)
    assert (spec.shape, spec.dtype) == (("batch", "time", 3), "float32")
    sequence = torch.randn(2, 11, 3)
    answers = made(options)(sequence)
    assert answers.shape == (2, 3)
    sequence[:, -1] = 0
    assert not torch.allclose(made(options)(sequence), answers, atol=1e-5)


def test_the_prior_is_naive_bayes() -> None:
    network = transformer.build(replace(TINY, classes=2))
    told = [([2, 3, 3], "no"), ([3, 4], "yes"), ([4, 5], "yes")]
    samples = [Sample((np.array(each, np.int64),), target) for each, target in told]
    transformer.begin(network, samples, Labels(("no", "yes")))
    assert network.prior is not None
    ratios = network.prior.ratios.detach()
    # One vote for nothing in each of 16 rows: 16 + 2 votes of `no`, 16 + 4 of `yes`.
    assert ratios[3].tolist() == pytest.approx([np.log(2 / 18 / (2 / 20)), np.log(2 / 20 / (2 / 18))])
    assert ratios[4, 1] == pytest.approx(np.log(3 / 20 / (1 / 18)))
    assert ratios[0].tolist() == [0, 0]


def test_words_are_dropped_in_training_only() -> None:
    network, sequence = made(replace(TINY, word_dropout=0.5, dropout=0.0, embedding_dropout=0.0)), ids(4, 20)
    assert torch.equal(network(sequence), network(sequence))
    assert not torch.allclose(network.train()(sequence), network(sequence))


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"input": "features", "prior": False}])
def test_lengths_never_traced_and_padded_batches_in_one_engine(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    options = replace(TINY, positions="learned", **changes)
    network, graph = made(options), tmp_path / "model.onnx"
    inputs = transformer.inputs(options)
    export_onnx(network, inputs, transformer.outputs(options), (), graph)
    with open_engine(graph, EngineOptions(threads=1)) as runner:
        for batch, time in ((1, 1), (3, 64), (2, 17)):
            fed = torch.randn(batch, time, options.features)
            if options.input == "tokens":
                fed = ids(batch, time)
                fed[0, time // 2 + 1 :] = 0
            with torch.inference_mode():
                expected = network(fed).numpy()
            found = runner.infer({inputs[0].name: fed.numpy()})["logits"]
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"heads": 7}, "multiple of heads"),
        ({"layers": 0}, "at least 1"),
        ({"tokens": 1}, "tokens at least 2"),
        ({"dropout": 1.0}, "dropout"),
        ({"input": "features", "prior": True}, "for tokens"),
    ],
)
def test_what_makes_no_network_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**wrong)


def test_texts_of_different_lengths_share_a_batch() -> None:
    samples = [Sample((np.arange(1, 1 + length),), "no") for length in (2, 4)]
    (stacked,), targets = classify.collate(samples)
    assert stacked.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert targets == ["no", "no"]
