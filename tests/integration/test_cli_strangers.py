"""Networks the way strangers write them, each to both CPU engines, in fp32 and int8."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.runtime.manifest import read_manifest
from tests.conftest import Cli, Ran

NETS = '''
import torch
import torch.nn as nn
import torch.nn.functional as F


class AudioNet(nn.Module):
    """conv + GRU, streaming: three states in, three states out"""

    def __init__(self, bands=10, hidden=16):
        super().__init__()
        self.conv = nn.Conv1d(bands, 16, 3, padding=1)
        self.vad_gru = nn.GRU(16, hidden, batch_first=True)
        self.noise_gru = nn.GRU(16 + hidden, hidden, batch_first=True)
        self.denoise_gru = nn.GRU(hidden, hidden, batch_first=True)
        self.gains = nn.Linear(hidden, bands)

    def forward(self, frames, vad_state, noise_state, denoise_state):
        x = torch.tanh(self.conv(frames)).transpose(1, 2)
        vad, vad_state = self.vad_gru(x, vad_state)
        noise, noise_state = self.noise_gru(torch.cat([x, vad], -1), noise_state)
        out, denoise_state = self.denoise_gru(noise, denoise_state)
        gains = torch.sigmoid(self.gains(out))
        return gains, vad_state, noise_state, denoise_state


class Stepper(nn.Module):
    """LSTMCell by hand"""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 16)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 16)
        c = torch.zeros(x.shape[0], 16)
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(self.fc(h))
        return torch.stack(outputs, dim=1)


class Recognizer(nn.Module):
    """text lines of any width"""

    def __init__(self, classes=12):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d((2, 1)),
        )
        self.rnn = nn.LSTM(16 * 4, 16, num_layers=2, bidirectional=True)
        self.embedding = nn.Linear(32, classes)

    def forward(self, image):
        conv = self.cnn(image)
        b, c, h, w = conv.size()
        sequence = conv.reshape(b, c * h, w).permute(2, 0, 1)
        recurrent, _ = self.rnn(sequence)
        T, b, h = recurrent.size()
        output = self.embedding(recurrent.reshape(T * b, h))
        return F.log_softmax(output.view(T, b, -1), dim=2)


class Encoder(nn.Module):
    """a sentence encoder with an integer mask"""

    def __init__(self, vocabulary=50, size=32):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size)
        self.layer = nn.TransformerEncoderLayer(size, 4, 64, batch_first=True)
        self.norm = nn.LayerNorm(size)

    def forward(self, input_ids, attention_mask):
        x = self.layer(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        mask = attention_mask.unsqueeze(-1).float()
        pooled = (x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return F.normalize(self.norm(pooled), dim=-1)


class Detector(nn.Module):
    """one scale, raw heads in a dict"""

    def __init__(self, classes=3):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(32, n, 1) for name, n in (("boxes", 4), ("scores", classes), ("objectness", 1))}
        )

    def forward(self, image):
        features = self.backbone(image)
        return {name: head(features).flatten(2).transpose(1, 2) for name, head in self.heads.items()}


class Classifier(nn.Module):
    """dropout and batch norm"""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()
        )
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(256, 5)

    def forward(self, x):
        return self.fc(self.drop(self.features(x)))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        if x.abs().max() > 3:
            x = x / x.abs().max()
        return self.fc(x)


def seeded(kind):
    def make():
        torch.manual_seed(0)
        net = kind()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return net.train()
    return make


audio, stepper, recognizer = seeded(AudioNet), seeded(Stepper), seeded(Recognizer)
encoder, detector, classifier = seeded(Encoder), seeded(Detector), seeded(Classifier)
packed, gated = seeded(Packed), seeded(Gated)
'''
STATES = ("vad_state", "noise_state", "denoise_state")


@dataclass(frozen=True)
class Stranger:
    """A network with what its owner says of it, and what must be in the bundle."""

    name: str
    said: tuple[str, ...]
    data: str
    outputs: tuple[str, ...]
    operators: tuple[tuple[str, int], ...]
    modules: tuple[str, ...]


STRANGERS = (
    Stranger(
        "audio",
        (
            "--input", "frames=float32[batch:1..4,10,time:2..40]",
            *(part for state in STATES for part in ("--input", f"{state}=float32[1,batch,16]")),
            *(part for state in STATES for part in ("--state", f"{state}={state}.out")),
        ),
        "frames",
        ("gains",),
        (("GRU", 3), ("Conv", 1)),
        ("conv", "vad_gru", "gains"),
    ),
    Stranger(
        "stepper",
        ("--input", "x=float32[batch:1..4,10,6]"),
        "steps.npz",
        ("output",),
        (("Tanh", 20),),
        ("cell", "fc"),
    ),
    Stranger(
        "recognizer",
        (),
        "lines",
        ("output",),
        (("LSTM", 2), ("Conv", 2)),
        ("cnn.0", "rnn", "embedding"),
    ),
    Stranger(
        "encoder",
        (
            "--input", "input_ids=int64[batch:1..4,time:2..24]",
            "--input", "attention_mask=int64[batch,time]",
        ),
        "sentences",
        ("output",),
        (("Softmax", 1),),
        ("layer.self_attn", "layer.linear1", "norm"),
    ),
    Stranger(
        "detector",
        ("--input", "image=float32[batch:1..4,3,height:16..48,width:16..48]"),
        "photos",
        ("boxes", "scores", "objectness"),
        (("Conv", 5),),
        ("backbone.0", "heads.boxes"),
    ),
    Stranger(
        "classifier",
        ("--input", "x=float32[batch:1..4,3,16,16]"),
        "pictures.npz",
        ("output",),
        (("Conv", 1), ("BatchNormalization", 0), ("Dropout", 0)),
        ("features.0", "fc"),
    ),
)  # fmt: skip
QUICK = {
    ("audio", "openvino", "fp32"),
    ("encoder", "onnxruntime", "fp32"),
    ("detector", "onnxruntime", "int8"),
}
"""Each engine and precision where it says most; the others are slow."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    np.savez(folder / "steps.npz", x=normal(16, 10, 6))
    np.savez(folder / "pictures.npz", x=normal(16, 3, 16, 16))
    _feeds(folder / "frames", ({"frames": normal(1, 10, 8 + index)} for index in range(16)))
    _feeds(folder / "lines", ({"image": normal(1, 1, 16, 24 + 3 * index)} for index in range(16)))
    _feeds(folder / "photos", ({"image": normal(1, 3, 16 + index, 40 - index)} for index in range(16)))
    _feeds(folder / "sentences", (_sentence(random, 4 + index) for index in range(16)))
    return folder


def _feeds(folder: Path, feeds: Iterator[dict[str, np.ndarray]]) -> None:
    folder.mkdir()
    for index, feed in enumerate(feeds):
        np.savez(folder / f"{index:02d}.npz", **feed)  # type: ignore[arg-type]


def _sentence(random: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """Word numbers, the last quarter of them padding."""
    words = length - length // 4
    mask = np.array([[1] * words + [0] * (length - words)])
    return {"input_ids": random.integers(1, 50, (1, length)) * mask, "attention_mask": mask}


def cases() -> Iterator[object]:
    for stranger, target, precision in product(STRANGERS, ("openvino", "onnxruntime"), ("fp32", "int8")):
        key = (stranger.name, target, precision)
        yield pytest.param(
            stranger, target, precision, id="-".join(key), marks=() if key in QUICK else pytest.mark.slow
        )


@pytest.mark.parametrize(("stranger", "target", "precision"), cases())
def test_a_proved_bundle_or_a_named_check(
    edgekit: Cli, place: Path, stranger: Stranger, target: str, precision: str
) -> None:
    ran = edgekit(
        "compile", f"nets:{stranger.name}", *stranger.said, "--calibration", stranger.data,
        "--target", target, "--precision", precision, "--json", cwd=place,
    )  # fmt: skip
    assert ran.code in (0, 1), ran.err
    report = ran.json
    bundle = place / report["bundle"]
    assert (report["state"], report["passed"]) == ("proved", ran.code == 0)
    assert json.loads((bundle / "report.json").read_text(encoding="utf-8"))["checks"] == report["checks"]
    assert_honest(report, precision)
    manifest = read_manifest(bundle)
    states = tuple(state.output for state in manifest.states)
    assert len(states) == (3 if stranger.name == "audio" else 0)
    assert tuple(spec.name for spec in manifest.outputs) == (*stranger.outputs, *states)
    assert_users_names(bundle / "model.onnx", stranger)


def assert_honest(report: dict[str, object], precision: str) -> None:
    """All holds; or no layer could go to int8 there, which is the check that says so, with the way out."""
    checks = report["checks"]
    assert isinstance(checks, list)
    failed = [check["name"] for check in checks if check["passed"] is False]
    assert bool(failed) != report["passed"]
    assert any(name["name"].startswith("parity") for name in checks)
    if failed:
        assert (precision, failed) == ("int8", ["layers.int8"])
        assert "no layer runs in int8" in str(report["next"])


def assert_users_names(path: Path, stranger: Stranger) -> None:
    """Whole recurrent layers, and modules as their owner calls them."""
    nodes = onnx.load(path).graph.node
    kinds = Counter(node.op_type for node in nodes)
    modules = {
        entry.value for node in nodes for entry in node.metadata_props if entry.key == "edgekit.module"
    }
    assert {kind: kinds[kind] for kind, _ in stranger.operators} == dict(stranger.operators)
    assert modules >= set(stranger.modules)
    assert not any(name.split(".")[0] == "network" for name in modules)


LOOP = "        for t in range(x.shape[1]):"
REFUSED = [
    (
        ("nets:stepper", "--input", "x=float32[batch:1..4,time:2..40,6]"),
        "Stepper cannot be exported",
        (
            f"nets.py:{NETS.splitlines().index(LOOP) + 1}: {LOOP.strip()}",
            "time became the constant",
            "TorchScript",
            "nn.LSTM",
            "fixed size",
        ),
    ),
    (
        ("nets:packed", "--input", "x=float32[batch:1..4,time:2..40,6]", "--input", "lengths=int64[batch]"),
        "packed sequence cannot be exported",
        ("nets.py:", "pass the padded tensor"),
    ),
    (
        ("nets:gated", "--input", "x=float32[batch:1..4,6]"),
        "Gated cannot be exported",
        ("nets.py:", "if x.abs().max() > 3:", "torch.where"),
    ),
]


@pytest.mark.parametrize(("arguments", "said", "details"), REFUSED, ids=["loop", "packed", "branch"])
def test_a_refusal_names_reason_line_and_cure(
    edgekit: Cli, place: Path, arguments: Sequence[str], said: str, details: Sequence[str]
) -> None:
    ran: Ran = edgekit("compile", *arguments, "--target", "openvino", "--output", "build/none", cwd=place)
    assert ran.code == 4, ran.err + ran.out
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert said in ran.err
    for detail in details:
        assert detail in ran.err
    assert not (place / "build" / "none").exists()
