"""A bundle proves itself where there is only NumPy and the engine: no edgekit, no torch, no onnx."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime.manifest import hashes, sha256_of
from edgekit.runtime.proof import GOLDEN, load_pairs, save_pairs
from tests.conftest import Ran
from tests.integration.conftest import Compiled

ENGINES = ("openvino", "onnxruntime")
ABSENT = ("edgekit", "torch", "onnx", "typer", "rich", "PIL", "pip")


@dataclass(frozen=True)
class Board:
    """A virtual environment that holds the packages of a board and nothing else."""

    python: Path

    def __call__(self, *arguments: str | Path, cwd: Path) -> Ran:
        plain = {"PATH": os.defpath, "HOME": str(cwd)}
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=plain, capture_output=True, text=True, timeout=300)
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Board]:
    """`board("numpy", "openvino")`: an environment with links to just these packages."""

    def make(*packages: str) -> Board:
        place = tmp_path_factory.mktemp("board")
        venv.create(place, with_pip=False, symlinks=os.name != "nt")
        (site,) = place.glob("lib/python*/site-packages")
        for package in packages:
            for folder in _folders(package):
                (site / folder.name).symlink_to(folder)
        return Board(place / "bin" / "python")

    return make


def _folders(package: str) -> list[Path]:
    """A package's folder and that of the shared libraries its wheel brought."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    libraries = folder.with_name(f"{package}.libs")
    return [folder, *([libraries] if libraries.is_dir() else [])]


@pytest.fixture(scope="session", params=ENGINES)
def shipped(
    request: pytest.FixtureRequest,
    compiled: Compiled,
    board: Callable[..., Board],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Board, Path]:
    """A board with NumPy and one engine, and a bundle for it, carried to another place."""
    bundle, ran = compiled("cnn", request.param, "fp32")
    assert ran.code == 0, ran.err
    place = tmp_path_factory.mktemp("carried to a board") / "cnn"
    shutil.copytree(bundle, place)
    return board("numpy", request.param), place


@pytest.fixture
def copy(shipped: tuple[Board, Path], tmp_path: Path) -> Path:
    """A copy of the bundle to do damage to."""
    return Path(shutil.copytree(shipped[1], tmp_path / "copy"))


def test_the_board_is_bare(shipped: tuple[Board, Path], tmp_path: Path) -> None:
    program = f"from importlib.util import find_spec; print(*filter(find_spec, {ABSENT!r}))"
    ran = shipped[0]("-c", program, cwd=tmp_path)
    assert (ran.code, ran.out.split()) == (0, [])


def test_it_proves_itself(shipped: tuple[Board, Path], tmp_path: Path) -> None:
    board, bundle = shipped
    before = {path: sha256_of(path) for path in bundle.rglob("*") if path.is_file()}
    ran = board(bundle / "run.py", "check", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.json["passed"] is True
    checks = {check["name"]: check for check in ran.json["checks"]}
    assert checks["golden.rel_l2"]["limit"] > checks["golden.rel_l2"]["value"]
    assert checks["golden.agreement"]["value"] == 1
    assert {path: sha256_of(path) for path in bundle.rglob("*") if path.is_file()} == before


def test_it_names_the_digit_of_an_image(shipped: tuple[Board, Path], tmp_path: Path) -> None:
    board, bundle = shipped
    image = np.zeros((40, 20, 3), np.uint8)
    image[5:35, 9:12] = 255
    np.save(tmp_path / "one.npy", image)
    ran = board(bundle / "run.py", "infer", "one.npy", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.json["answer"] in list("0123456789")


def test_it_runs_named_arrays(shipped: tuple[Board, Path], tmp_path: Path) -> None:
    board, bundle = shipped
    feeds, expected = load_pairs(bundle / GOLDEN)
    np.savez(tmp_path / "feed.npz", **feeds[0])  # type: ignore[arg-type]
    ran = board(bundle / "run.py", "infer", "feed.npz", "--output", "said.npz", cwd=tmp_path)
    assert ran.code == 0, ran.err
    with np.load(tmp_path / "said.npz") as said:
        np.testing.assert_allclose(said["logits"], expected[0]["logits"], rtol=1e-3, atol=1e-4)


def test_it_measures_its_latency(shipped: tuple[Board, Path], tmp_path: Path) -> None:
    board, bundle = shipped
    ran = board(bundle / "run.py", "bench", "--json", "--threads", "1", cwd=tmp_path)
    assert ran.code == 0, ran.err
    told = ran.json
    assert 0 < told["p50_ms"] <= told["p90_ms"] <= told["p99_ms"]
    assert told["boundary"] == "engine"
    assert told["settings"]["threads"] == 1


def test_an_altered_engine_is_exit_code_6(shipped: tuple[Board, Path], copy: Path, tmp_path: Path) -> None:
    engine = max((copy / "engine").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    for verb in ("check", "bench"):
        ran = shipped[0](copy / "run.py", verb, cwd=tmp_path)
        assert ran.code == 6
        assert f"engine/{engine.name} was altered" in ran.err
        assert ran.err.count("error: ") == 1
        assert "Traceback" not in ran.err


def test_other_outputs_than_pytorch_recorded_are_exit_code_1(
    shipped: tuple[Board, Path], copy: Path, tmp_path: Path
) -> None:
    feeds, outputs = load_pairs(copy / GOLDEN)
    wrong = [{name: array * 1.5 for name, array in named.items()} for named in outputs]
    save_pairs(copy / GOLDEN, feeds, wrong)
    assert shipped[0](copy / "run.py", "check", cwd=tmp_path).code == 6
    sign(copy)
    ran = shipped[0](copy / "run.py", "check", cwd=tmp_path)
    assert ran.code == 1, ran.err
    assert "FAIL golden.rel_l2" in ran.out
    assert ran.out.rstrip().endswith("FAILED")


def sign(bundle: Path) -> None:
    """Make the hashes of a bundle hold for what is in it now."""
    manifest = bundle / "manifest.json"
    told = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**told, "files": hashes(bundle)}), encoding="utf-8")


def test_a_missing_engine_is_exit_code_3(
    shipped: tuple[Board, Path], board: Callable[..., Board], tmp_path: Path
) -> None:
    ran = board("numpy")(shipped[1] / "run.py", "check", cwd=tmp_path)
    assert ran.code == 3
    assert "pip install" in ran.err
    assert "Traceback" not in ran.err
