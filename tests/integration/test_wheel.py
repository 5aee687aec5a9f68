"""What is installed from the wheel is whole: it compiles a built-in model with no checkout in reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from edgekit import registry
from edgekit.runtime.manifest import read_manifest, verify

ROOT = Path(__file__).parents[2]


def ran(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with what is installed."""
    out = tmp_path_factory.mktemp("dist")
    ran("-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it."""
    site = tmp_path_factory.mktemp("site")
    ran("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    return site


def test_the_wheel_holds_recipes_weights_and_the_type_marker(wheel: Path) -> None:
    assert wheel.name.startswith("edgekit_deploy-")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        carried = {path.name for path in registry.recipes_folder().iterdir() if path.is_file()}
        assert {f"edgekit/recipes/{name}" for name in carried} <= names
        for name in ("cnn", "crnn", "crnn_small"):
            assert {f"{name}.toml", f"{name}.safetensors", f"{name}.provenance.json"} <= carried
            weights = registry.recipes_folder() / f"{name}.safetensors"
            assert archive.read(f"edgekit/recipes/{name}.safetensors") == weights.read_bytes()
    assert {"edgekit/py.typed", "edgekit/runtime/face.py"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgekit", "edgekit_deploy"}


def test_what_is_installed_compiles_with_its_own_recipes(installed: Path, tmp_path: Path) -> None:
    path = str(installed)
    program = (
        "import edgekit; from edgekit import registry; print(edgekit.__file__, registry.recipes_folder())"
    )
    said = ran("-c", program, cwd=tmp_path, PYTHONPATH=path).split()
    assert said == [f"{path}/edgekit/__init__.py", f"{path}/edgekit/recipes"]
    told = ran(
        "-m", "edgekit", "compile", "cnn", "--target", "onnxruntime", "--precision", "fp32", "--json",
        cwd=tmp_path, PYTHONPATH=path,
    )  # fmt: skip
    report = json.loads(told)
    assert report["passed"] is True
    bundle = tmp_path / "build" / "cnn-onnxruntime-fp32"
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    assert manifest.recipe["weights"] == "built-in:cnn.safetensors"
    assert manifest.command.startswith("edgekit compile cnn ")
