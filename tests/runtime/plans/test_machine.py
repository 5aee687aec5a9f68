"""What is asked of the machine before and after a build: modules, memory, the timing cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.runtime.errors import HardwareError, MissingPackageError, SystemRefusedError, UsageError
from edgekit.runtime.plans import features, memory, place, timing_cache
from edgekit.runtime.plans.builder import build
from edgekit.runtime.plans.log import sentence
from edgekit.runtime.plans.request import BuildRequest, Variant
from edgekit.runtime.probe import Gpu
from tests.runtime.plans.conftest import GTX, ORIN
from tests.runtime.plans.standin import tensorrt

InstallGpu = Callable[[Gpu | None], None]
GB = 1 << 30


def graph(folder: Path, size: int) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(bytes(size))
    return path


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`board(2 * GB)`: a machine with so much memory available."""

    def install(available: int) -> None:
        said = tmp_path / "meminfo"
        said.write_text(f"MemTotal:       8000000 kB\nMemAvailable:   {available // 1024} kB\n")
        monkeypatch.setattr(memory, "MEMINFO", said)

    return install


def test_a_workspace_that_is_too_big_is_lowered(
    tmp_path: Path, gpu: InstallGpu, board: Callable[[int], None]
) -> None:
    path = graph(tmp_path, 1 << 20)
    board(100 * GB)
    gpu(GTX)
    workspace, notes = memory.preflight(path, 64 * GB, 0)
    assert workspace == 4 * GB - memory.BASE - memory.COPIES * (1 << 20)
    assert "lowered from 68719 to 4022 MB: the GPU has 4294 MB free" in notes[0]
    assert memory.preflight(path, GB, 0) == (GB, ())


def test_where_memory_is_shared_the_machine_is_asked(
    tmp_path: Path, gpu: InstallGpu, board: Callable[[int], None]
) -> None:
    path = graph(tmp_path, 1 << 20)
    board(GB)
    gpu(ORIN)
    workspace, notes = memory.preflight(path, GB, 0)
    assert workspace < GB
    assert "this machine has 1073 MB free" in notes[0]
    gpu(None)
    assert memory.preflight(path, 64 * GB, None) == (64 * GB, ())


def test_a_graph_that_cannot_fit_is_refused(
    tmp_path: Path, gpu: InstallGpu, board: Callable[[int], None]
) -> None:
    gpu(ORIN)
    board(300 << 20)
    path = graph(tmp_path, 1 << 20)
    with_weights = tmp_path / "model.onnx.data"
    memory.preflight(path, GB, 0)
    with_weights.write_bytes(bytes(20 << 20))
    with pytest.raises(
        SystemRefusedError, match="needs about 373 MB, and this machine has 314 MB"
    ) as refused:
        memory.preflight(path, GB, 0)
    assert refused.value.exit_code == 7
    assert "swap" in refused.value.hint


def test_a_machine_that_tells_nothing_is_trusted(
    tmp_path: Path, gpu: InstallGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(None)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.preflight(graph(tmp_path, 9), GB, None) == (GB, ())


def test_no_gpu_is_said_before_tensorrt_is_touched(tmp_path: Path, gpu: InstallGpu) -> None:
    gpu(None)
    trt, heard = tensorrt("10.3.0")
    graph(tmp_path, 9)
    with pytest.raises(HardwareError, match="no NVIDIA driver"):
        build(trt, BuildRequest(variants=(Variant("model.onnx"),), precision="fp32"), tmp_path)
    assert (heard.network_flags, heard.config) == (-1, None)


def test_the_timing_cache_is_kept_by_version_and_gpu(
    tmp_path: Path, gpu: InstallGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    modules = {name: tensorrt(name)[0] for name in ("10.3.0", "10.7.0")}
    chosen = SimpleNamespace(version="10.3.0")
    monkeypatch.setattr(timing_cache, "load", lambda flavour: modules[chosen.version])
    gpu(ORIN)
    assert timing_cache.read("tensorrt") is None
    written = timing_cache.write("tensorrt", 0, b"times")
    assert written == tmp_path / "cache" / "timing" / "tensorrt-10.3.0-Orin-8.7.cache"
    assert timing_cache.read("tensorrt") == b"times"
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    gpu(GTX)
    assert timing_cache.read("tensorrt") is None
    gpu(ORIN)
    chosen.version = "10.7.0"
    assert timing_cache.read("tensorrt") is None


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, gpu: InstallGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(timing_cache, "load", lambda flavour: tensorrt("10.3.0")[0])
    gpu(ORIN)
    assert timing_cache.write("tensorrt", 0, b"times") is None


def test_the_place_tells_gpu_and_versions(gpu: InstallGpu) -> None:
    gpu(ORIN)
    told = place.here(tensorrt("8.5.3.1")[0])
    assert {"flavour": "tensorrt", "version": "8.5.3.1", "gpu": "Orin"}.items() <= told.items()
    assert told["compute_capability"] == "8.7"
    gpu(None)
    assert set(place.here(tensorrt("8.5.3.1")[0])) == {"flavour", "version", "machine"}


def test_a_missing_module_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for flavour in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, flavour, None)
    monkeypatch.setattr(features, "_TEGRA", tmp_path / "none")
    with pytest.raises(MissingPackageError) as refused:
        features.load("tensorrt_rtx")
    assert refused.value.hint.startswith("pip install tensorrt-rtx-cu13; ")
    monkeypatch.setattr(features, "_TEGRA", tmp_path)
    with pytest.raises(MissingPackageError) as refused:
        features.load("tensorrt")
    assert "apt install" in refused.value.hint
    assert "--system-site-packages" in refused.value.hint
    assert "pip install" not in refused.value.hint
    with pytest.raises(MissingPackageError) as refused:
        features.load("tensorrt_rtx")
    assert "not run on Jetson" in refused.value.hint
    with pytest.raises(UsageError):
        features.load("openvino")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by user In next "
            "at /_src/optimizer/common/x.cpp:92)",
            "Build canceled by user",
        ),
        ("2: [weights.cpp::f::12] Error Code 2: Internal Error (Assertion n failed. )", "Assertion n failed"),
        ("[checkMacros.cpp::f::250] something went wrong", "something went wrong"),
        ("plain words", "plain words"),
    ],
)
def test_an_error_becomes_a_sentence(said: str, told: str) -> None:
    assert sentence(said) == told
