"""Real plans of TensorRT-RTX, built without a GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.errors import BadFileError, SystemRefusedError, UnsupportedError, UsageError
from edgekit.runtime.plans import builder, memory
from edgekit.runtime.plans.child import build_in_child
from edgekit.runtime.plans.features import compute_capabilities, features_of, load
from edgekit.runtime.plans.place import here
from edgekit.runtime.plans.request import BuildRequest, Built, Variant
from edgekit.runtime.probe import probe_gpus
from tests.runtime.plans import graphs

pytest.importorskip("tensorrt_rtx")

SMALL = {"x": ((1, 8, 12, 12), (2, 8, 12, 12), (4, 8, 12, 12))}
LARGE = {"x": ((4, 8, 12, 12), (8, 8, 12, 12), (16, 8, 12, 12))}


@pytest.fixture(scope="module")
def rtx() -> Any:
    return load("tensorrt_rtx")


def request(path: Path, **changes: Any) -> BuildRequest:
    told: dict[str, Any] = {
        "variants": (Variant(path.name, "strong"),),
        "precision": "fp32",
        "profiles": (SMALL,),
        "compute_capabilities": ("8.6",),
    }
    return BuildRequest(**{**told, **changes})


def build(rtx: Any, path: Path, **changes: Any) -> Built:
    return builder.build(rtx, request(path, **changes), path.parent)


def names(built: Built) -> dict[str, str]:
    return {layer.name: layer.precision for layer in built.layers}


@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, "fp32"), (np.float16, "fp16")])
def test_a_float_layer_is_named_and_counted(rtx: Any, dtype: type, precision: str, tmp_path: Path) -> None:
    built = build(rtx, graphs.convolution(tmp_path / "g.onnx", dtype), precision=precision)
    assert built.plan[:4] == b"vtrt"
    assert names(built) == {"block.0/Conv": precision}
    assert (built.typing, built.timing_cache) == ("strong", None)


def test_only_what_is_quantized_runs_in_int8(rtx: Any, tmp_path: Path) -> None:
    built = build(rtx, graphs.quantized(tmp_path / "g.onnx"), precision="int8")
    assert names(built) == {"first/Conv": "int8", "second/Conv": "fp32"}


def test_two_profiles_count_each_layer_once(rtx: Any, tmp_path: Path) -> None:
    path = graphs.quantized(tmp_path / "g.onnx")
    one, two = build(rtx, path), build(rtx, path, profiles=(SMALL, LARGE))
    assert names(one) == names(two)
    assert len(one.layers) == len(two.layers)
    assert len(two.plan) > len(one.plan)


def test_several_compute_capabilities_in_one_plan(rtx: Any, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx")
    known = compute_capabilities(rtx)
    assert {"8.6", "8.9", "12.0"} <= set(known)
    assert list(known) == sorted(known, key=lambda name: tuple(map(int, name.split("."))))
    one, all_of_them = build(rtx, path), build(rtx, path, compute_capabilities=known)
    assert len(all_of_them.plan) > len(one.plan)


@pytest.mark.parametrize("wrong", ["8.7", "11.0", "9.0", "86", "SM86"])
def test_a_capability_that_it_does_not_build_for(rtx: Any, wrong: str, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx")
    with pytest.raises(UnsupportedError, match=f"does not build for compute capability {wrong}") as refused:
        build(rtx, path, compute_capabilities=("8.6", wrong))
    assert "7.5, 8.0, 8.6" in refused.value.hint
    assert "Jetson" in refused.value.hint


def test_an_unknown_operator_is_named_with_its_node(rtx: Any, tmp_path: Path) -> None:
    path = graphs.unknown_operator(tmp_path / "g.onnx")
    with pytest.raises(UnsupportedError, match=r"node 'head/odd' \(Frobnicate\) of g.onnx: Plugin not found"):
        build(rtx, path)


@pytest.mark.parametrize("content", [b"", b"\x00not a graph", b"\x08"])
def test_a_file_that_is_no_graph(rtx: Any, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="is not an ONNX model"):
        build(rtx, path)


def test_half_a_graph(rtx: Any, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(BadFileError, match="is not an ONNX model"):
        build(rtx, path)


@pytest.mark.parametrize(
    ("profiles", "fault"),
    [
        ((), "'x' is dynamic and has no profile"),
        (({"image": SMALL["x"]},), "no input 'image', it has x"),
        (({"x": ((1, 9, 12, 12), (1, 9, 12, 12), (1, 9, 12, 12))},), "fixed size 8 at axis 1"),
        (({"x": ((1, 8, 12, 12), (9, 8, 12, 12), (4, 8, 12, 12))},), "opt 9 at axis 0 is outside 1 to 4"),
    ],
)
def test_a_profile_that_does_not_fit(rtx: Any, profiles: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=fault):
        build(rtx, graphs.convolution(tmp_path / "g.onnx"), profiles=profiles)


def test_no_dla_here(rtx: Any, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx", np.float16)
    with pytest.raises(UsageError, match="no DLA core 0"):
        build(rtx, path, precision="fp16", dla_core=0)


def test_what_the_builder_refuses_is_told_in_its_words(rtx: Any, tmp_path: Path) -> None:
    if probe_gpus().devices:
        pytest.skip("the lean runtime that this needs is there only without a GPU's own installation")
    with pytest.raises(UnsupportedError, match=r"built no plan of g\.onnx: Unable to load library"):
        build(rtx, graphs.convolution(tmp_path / "g.onnx"), version_compatible=True)


def test_too_little_memory_is_refused_before_the_build(
    rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "meminfo"
    said.write_text("MemTotal: 999999 kB\nMemAvailable:   100000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", said)
    with pytest.raises(SystemRefusedError, match=r"needs about 268 MB, and this machine has 102 MB free"):
        build(rtx, graphs.convolution(tmp_path / "g.onnx"))


def test_progress_names_the_phases(rtx: Any, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx")
    told: list[tuple[str, int, int]] = []
    builder.build(rtx, request(path), tmp_path, lambda *one: told.append(one))
    assert told[0][0].startswith("building with TensorRT-RTX ")
    assert len({what for what, _, _ in told}) > 3
    assert all(0 <= done <= total for _, done, total in told)


@pytest.fixture
def pythons_ctrl_c() -> Iterator[None]:
    """A worker of pytest-xdist has a handler of its own, which ends the worker."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_ctrl_c")
def test_ctrl_c_stops_the_build_and_leaves_the_handler(rtx: Any, tmp_path: Path) -> None:
    path = graphs.convolution(tmp_path / "g.onnx")
    before = signal.getsignal(signal.SIGINT)

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        builder.build(rtx, request(path), tmp_path, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert build(rtx, path).plan


def test_an_error_of_whoever_shows_progress_comes_back(rtx: Any, tmp_path: Path) -> None:
    def fail(what: str, done: int, total: int) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        builder.build(rtx, request(graphs.convolution(tmp_path / "g.onnx")), tmp_path, fail)


def test_a_process_of_its_own_gives_the_same(rtx: Any, tmp_path: Path) -> None:
    path = graphs.quantized(tmp_path / "g.onnx")
    told: list[str] = []
    child = build_in_child(
        "tensorrt_rtx", request(path), tmp_path, lambda what, done, total: told.append(what)
    )
    assert child.layers == build(rtx, path).layers
    assert child.plan[:4] == b"vtrt"
    assert told[0].startswith("building with")
    with pytest.raises(UsageError, match="no profile"):
        build_in_child("tensorrt_rtx", request(path, profiles=()), tmp_path)


def test_where_it_was_built(rtx: Any) -> None:
    told = here(rtx)
    assert told["flavour"] == "tensorrt_rtx"
    assert told["version"] == features_of(rtx).version == rtx.__version__
    assert ("gpu" in told) == bool(probe_gpus().devices)
