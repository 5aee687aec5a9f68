"""A kit becomes a proved sibling bundle, or nothing at all."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit import bundle
from edgekit.report import Report
from edgekit.runtime import _build_job as work
from edgekit.runtime import build as building
from edgekit.runtime import face
from edgekit.runtime.build import BuildOptions, Outcome, build_bundle
from edgekit.runtime.engines import EngineOptions, Layer, Runner, onnxruntime
from edgekit.runtime.engines import tensorrt as engine
from edgekit.runtime.errors import (
    BadFileError,
    EdgekitError,
    HardwareError,
    MissingPackageError,
    SystemRefusedError,
    UnsupportedError,
    UsageError,
)
from edgekit.runtime.face import Narrator
from edgekit.runtime.manifest import Manifest, TensorSpec, hashes, read_manifest, verify, write_manifest
from edgekit.runtime.plans import place, timing_cache
from edgekit.runtime.plans.request import BuildRequest, Built, Variant
from edgekit.runtime.probe import probe_gpus
from edgekit.runtime.proof import GOLDEN, save_pairs
from tests.conftest import Ran
from tests.runtime.plans import graphs

PROFILE = {"x": ((1, 8, 12, 12), (1, 8, 12, 12), (4, 8, 12, 12))}
VARIANTS = (
    Variant("model.onnx", "strong", opset=18, lowering=("typed",)),
    Variant("model.onnx", "weak", opset=18),
)
NO_GPU = pytest.mark.skipif(bool(probe_gpus().devices), reason="there is a GPU here")


def write_kit(folder: Path, **changes: Any) -> Path:
    """A deferred bundle of one convolution, with its runtime and real outputs."""
    folder.mkdir(parents=True)
    graphs.convolution(folder / "model.onnx")
    feeds = [{"x": np.random.default_rng(n).normal(size=(n, 8, 12, 12)).astype("f")} for n in (1, 3)]
    with onnxruntime.open_engine(folder / "model.onnx", EngineOptions()) as runner:
        save_pairs(folder / GOLDEN, feeds, [runner.infer(feed) for feed in feeds])
    bundle.furnish(folder)
    request = BuildRequest(variants=VARIANTS, precision="fp32", profiles=(PROFILE,))
    told: dict[str, Any] = {
        "model": "tiny",
        "target": "tensorrt",
        "precision": "fp32",
        "device": "GPU",
        "state": "deferred",
        "passed": None,
        "engine": {
            "kind": "tensorrt",
            "file": None,
            "precision": "fp32",
            "settings": {},
            "build": request.told(),
            "deferred": "no GPU there",
        },
        "inputs": (TensorSpec("x", graphs.SHAPE, "float32", {"batch": (1, 4)}),),
        "outputs": (TensorSpec("y", ("batch", 16, 10, 10)),),
        "limits": {"rel_l2": 1e-3, "agreement": 0.99},
        "lowering": ("cleaned",),
    }
    write_manifest(Manifest(**{**told, "files": hashes(folder), **changes}), folder)
    return folder


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return write_kit(tmp_path / "tiny")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes | None]]:
    """`board(good, bad)`: a device whose builder makes these plans in turn, run by ONNX Runtime.

    What is given back collects the timing cache that each build was handed.
    """
    handed: list[bytes | None] = []

    def install(*plans: bytes) -> list[bytes | None]:
        waiting = list(plans)

        def make(flavour: str, request: BuildRequest, *rest: Any) -> Built:
            handed.append(rest[-1])
            layers = [Layer("block.0/Conv", "conv", "fp32")]
            return Built(waiting.pop(0), request.variants[0], "strong", layers, b"times", ("a note",))

        monkeypatch.setattr(work, "build_in_child", make)
        return handed

    monkeypatch.setattr(work, "require_gpu", lambda index: None)
    monkeypatch.setattr(building, "_require_builder", lambda flavour, gpu: None)
    monkeypatch.setattr(work, "load", lambda flavour: None)
    monkeypatch.setattr(place, "here", lambda trt, gpu: {"flavour": "tensorrt", "version": "10.3.0"})
    monkeypatch.setattr(timing_cache, "read", lambda flavour, gpu: b"before")
    monkeypatch.setattr(timing_cache, "write", lambda flavour, gpu, content: written.append(content))
    monkeypatch.setattr(engine, "open_engine", _open)
    written.clear()
    return install


written: list[bytes] = []


def _open(path: Path, options: EngineOptions) -> Runner:
    return onnxruntime.open_engine(path, EngineOptions(device="CPU"))


def good(kit: Path) -> bytes:
    return (kit / "model.onnx").read_bytes()


def bad(kit: Path) -> bytes:
    """The same network with other weights."""
    model = onnx.load(kit / "model.onnx")
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.5, weights.name))
    content: bytes = model.SerializeToString()
    return content


def run(kit: Path, **options: Any) -> Outcome:
    return build_bundle(kit, read_manifest(kit), BuildOptions(**{"bench": False, **options}))


def beside(kit: Path) -> set[str]:
    return {path.name for path in kit.parent.iterdir()}


def test_a_plan_that_holds_parity_is_kept(kit: Path, board: Callable[..., list[Any]]) -> None:
    before = hashes(kit)
    handed = board(good(kit))
    outcome = run(kit)
    assert (outcome.exit_code, outcome.bundle) == (0, kit.with_name("tiny-built"))
    assert handed == [b"before"]
    assert written == [b"times"]
    manifest = read_manifest(outcome.bundle)
    verify(outcome.bundle, manifest)
    assert (manifest.state, manifest.passed) == ("proved", True)
    assert manifest.engine["built_on"] == {"flavour": "tensorrt", "version": "10.3.0"}
    assert manifest.engine["file"] == "engine/model.engine"
    assert "deferred" not in manifest.engine
    assert manifest.lowering == ("cleaned", "typed")
    assert manifest.versions["tensorrt"] == "10.3.0"
    assert (outcome.bundle / "engine" / "timing.cache").read_bytes() == b"times"
    assert hashes(kit) == before
    assert beside(kit) == {"tiny", "tiny-built"}


def test_the_report_has_the_keys_of_every_report(kit: Path, board: Callable[..., list[Any]]) -> None:
    board(good(kit))
    outcome = run(kit)
    told = json.loads((outcome.bundle / "report.json").read_text(encoding="utf-8"))
    common: dict[str, Any] = {
        "model": "",
        "target": "",
        "device": "",
        "precision": "",
        "state": "built",
        "bundle": None,
    }
    assert set(told) == set(Report(**common).told())
    assert told == json.loads(json.dumps(outcome.report))
    assert (told["state"], told["passed"], told["accuracy"], told["latency"]) == ("proved", True, None, None)
    assert {"golden.rel_l2", "golden.max_abs"} <= {check["name"] for check in told["checks"]}
    assert told["layers"] == {"fp32": 1}
    assert told["notes"] == ["cleaned", "typed", "a note"]
    assert set(told["timings_s"]) == {"build", "prove"}


def test_a_build_that_fails_parity_is_made_again_without_what_was_timed(
    kit: Path, board: Callable[..., list[Any]]
) -> None:
    handed = board(bad(kit), bad(kit), good(kit))
    outcome = run(kit)
    assert outcome.exit_code == 0
    assert handed == [b"before", None, None]
    assert (outcome.bundle / "engine" / "model.engine").read_bytes() == good(kit)
    assert "build 2 of 3 failed parity" in outcome.report["notes"]


def test_when_no_build_holds_parity_it_says_so(kit: Path, board: Callable[..., list[Any]]) -> None:
    board(*[bad(kit)] * 3)
    outcome = run(kit)
    assert outcome.exit_code == 1
    manifest = read_manifest(outcome.bundle)
    verify(outcome.bundle, manifest)
    assert (manifest.state, manifest.passed) == ("proved", False)
    failed = [check["name"] for check in outcome.report["checks"] if not check["passed"]]
    assert failed == ["golden.rel_l2"]
    assert written == []


def test_int8_that_is_not_int8_fails(tmp_path: Path, board: Callable[..., list[Any]]) -> None:
    kit = write_kit(tmp_path / "tiny", precision="int8")
    board(good(kit))
    outcome = run(kit)
    assert outcome.exit_code == 1
    assert outcome.report["checks"][-1]["name"] == "layers.int8"


@pytest.mark.parametrize(("limit", "code"), [(1.0, 1), (9.0, 0)])
def test_latency_is_measured_and_held_to_the_recipe(
    tmp_path: Path, limit: float, code: int, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = write_kit(tmp_path / "tiny", recipe={"limits": {"p50_ms": limit}})
    board(good(kit))
    told = {"p50_ms": 2.0, "p90_ms": 3.0, "p99_ms": 4.0, "peak_mb": 9.0}
    measured: list[Path] = []

    def measure(folder: Path) -> dict[str, Any]:
        measured.append(folder)
        return {**told, "boundary": "engine", "settings": {"threads": 0}}

    monkeypatch.setattr(work, "measure", measure)
    outcome = run(kit, bench=True)
    assert outcome.exit_code == code
    (fresh,) = measured
    assert fresh.parent == kit.parent
    assert fresh.name.startswith(".tiny-built.")
    latency = outcome.report["latency"]
    assert (latency["boundary"], latency["reference"], latency["target"]) == ("engine", None, told)
    limits = {check["name"]: check["limit"] for check in outcome.report["checks"]}
    assert limits["latency.p50"] == limit


@pytest.mark.parametrize("error", [UnsupportedError("no"), KeyboardInterrupt(), OSError("disk full")])
def test_nothing_is_left_of_a_build_that_fails(
    kit: Path, error: BaseException, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Built:
        raise error

    board()
    monkeypatch.setattr(work, "build_in_child", fail)
    with pytest.raises(SystemRefusedError if isinstance(error, OSError) else type(error)):
        run(kit)
    assert beside(kit) == {"tiny"}


def test_an_existing_sibling_is_not_replaced(kit: Path, board: Callable[..., list[Any]]) -> None:
    board(good(kit), good(kit))
    run(kit)
    with pytest.raises(UsageError, match="exists already"):
        run(kit)
    elsewhere = kit.with_name("other")
    assert run(kit, output=elsewhere).bundle == elsewhere


def test_the_command_line_is_laid_over_the_kit(
    kit: Path, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    board(good(kit))
    asked: list[BuildRequest] = []
    make: Any = vars(work)["build_in_child"]

    def listen(*given: Any) -> Built:
        asked.append(given[1])
        built: Built = make(*given)
        return built

    monkeypatch.setattr(work, "build_in_child", listen)
    outcome = run(kit, device="gpu.1", workspace_mb=64, dla=1)
    request = asked[0]
    assert (request.gpu, request.workspace_bytes, request.dla_core) == (1, 64 << 20, 1)
    assert read_manifest(outcome.bundle).device == "GPU.1"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workspace_mb": 0}, "--workspace-mb 0 is out of range"),
        ({"workspace_mb": (1 << 20) + 1}, "--workspace-mb 1048577 is out of range"),
        ({"dla": -1}, "--dla -1 is out of range"),
        ({"dla": 8}, "--dla 8 is out of range"),
        ({"device": "GPU.256"}, "--device 256 is out of range"),
        ({"device": "GPU.\u00b2"}, "there is no device GPU.\u00b2"),
        ({"device": "GPU." + "9" * 5000}, "there is no device|out of range"),
    ],
)
def test_an_option_out_of_range(
    kit: Path, wrong: dict[str, Any], said: str, board: Callable[..., list[Any]]
) -> None:
    board(good(kit))
    with pytest.raises(UsageError, match=said) as refused:
        run(kit, **wrong)
    assert refused.value.hint
    assert beside(kit) == {"tiny"}


@pytest.mark.parametrize(
    ("keys", "value", "error"),
    [
        ("engine.build", None, BadFileError),
        ("engine.build", 3, BadFileError),
        ("engine.build.precision", "DELETE", BadFileError),
        ("engine.build.gpu", "a", BadFileError),
        ("engine.build.engine", "../outside.engine", BadFileError),
        ("engine.build.profiles", [{"x": [[2], [1], [3]]}], UsageError),
        ("engine.precision", "DELETE", BadFileError),
        ("engine.settings", [], BadFileError),
        ("recipe", 3, BadFileError),
        ("recipe", {"limits": 3}, BadFileError),
        ("recipe", {"limits": {"p50_ms": "fast"}}, BadFileError),
        ("recipe", {"target": "tensorrt"}, BadFileError),
        ("limits", {"rel_l2": "small"}, BadFileError),
        ("device", 1, BadFileError),
        ("plan", [1], BadFileError),
        ("versions", "1", BadFileError),
        ("lowering", [1], BadFileError),
        ("labels", {"values": [1, 2], "decoder": "argmax"}, BadFileError),
        ("labels", {"values": ["a"], "decoder": "guess"}, BadFileError),
    ],
)
def test_a_manifest_that_makes_no_sense(
    kit: Path, keys: str, value: Any, error: type[EdgekitError], board: Callable[..., list[Any]]
) -> None:
    path = kit / "manifest.json"
    told = place_in_it = json.loads(path.read_text(encoding="utf-8"))
    *above, last = keys.split(".")
    for key in above:
        place_in_it = place_in_it[key]
    place_in_it[last] = value
    if value == "DELETE":
        del place_in_it[last]
    path.write_text(json.dumps(told), encoding="utf-8")
    handed = board(good(kit))
    with pytest.raises(error):
        run(kit)
    assert beside(kit) == {"tiny"}
    assert handed == []


def test_two_builds_of_one_kit_do_not_meet(
    kit: Path, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second runs, whole, while the first is building."""
    board(good(kit), good(kit))
    make: Any = vars(work)["build_in_child"]
    second: list[Outcome] = []

    def meet(*given: Any) -> Built:
        if not second:
            monkeypatch.setattr(work, "build_in_child", make)
            second.append(run(kit))
        built: Built = make(*given)
        return built

    monkeypatch.setattr(work, "build_in_child", meet)
    with pytest.raises(UsageError, match="tiny-built appeared while the engine was built"):
        run(kit)
    verify(second[0].bundle, read_manifest(second[0].bundle))
    assert beside(kit) == {"tiny", "tiny-built"}


def test_whatever_appears_meanwhile_is_left_as_it_is(
    kit: Path, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    board(good(kit))
    make: Any = vars(work)["build_in_child"]

    def appear(*given: Any) -> Built:
        kit.with_name("tiny-built").write_text("mine")
        built: Built = make(*given)
        return built

    monkeypatch.setattr(work, "build_in_child", appear)
    with pytest.raises(UsageError, match="appeared"):
        run(kit)
    assert kit.with_name("tiny-built").read_text() == "mine"
    assert beside(kit) == {"tiny", "tiny-built"}


def test_a_place_for_the_bundle(
    kit: Path, board: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    board()
    before = hashes(kit)
    monkeypatch.chdir(kit)
    for inside in (kit / "built", Path("built"), kit, kit / "runtime" / "built"):
        with pytest.raises(UsageError, match="is inside the kit"):
            run(kit, output=inside)
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        run(kit, output=kit.parent / "nowhere" / "built")
    dangling = kit.with_name("link")
    dangling.symlink_to("missing")
    with pytest.raises(UsageError, match="link exists already"):
        run(kit, output=dangling)
    assert hashes(kit) == before
    assert beside(kit) == {"tiny", "link"}


@NO_GPU
def test_no_gpu_is_said_before_a_missing_package(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(flavour: str) -> Any:
        raise MissingPackageError("not installed")

    monkeypatch.setattr(building, "load", missing)
    with pytest.raises(HardwareError):
        run(kit)
    monkeypatch.setattr(building, "require_gpu", lambda index: None)
    with pytest.raises(MissingPackageError):
        run(kit)
    assert beside(kit) == {"tiny"}


# The kit's own command line, with TensorRT-RTX in TensorRT's place.


@pytest.fixture(scope="module")
def rtx_as_tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module `tensorrt` that is TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("modules")
    (folder / "tensorrt.py").write_text("from tensorrt_rtx import *\nfrom tensorrt_rtx import __version__\n")
    return folder


def command(kit: Path, *arguments: str, modules: Path | None = None) -> Ran:
    known = {"PYTHONPATH": str(modules)} if modules else {}
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(kit / "run.py"), *arguments],
        cwd=kit.parent,
        env={**plain, **known},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@NO_GPU
def test_run_py_build_stops_where_a_gpu_is_needed(kit: Path, rtx_as_tensorrt: Path) -> None:
    before = hashes(kit)
    ran = command(kit, "build", "--json", modules=rtx_as_tensorrt)
    assert ran.code == 5, ran.err
    assert ran.json["state"] == "built"
    assert ran.json["passed"] is None
    assert any(note.startswith("built; proving it needs a GPU: ") for note in ran.json["notes"])
    assert ran.json["layers"] == {"fp32": 1}
    assert "building with TensorRT" in ran.err
    built = kit.with_name("tiny-built")
    manifest = read_manifest(built)
    verify(built, manifest)
    assert (manifest.state, manifest.passed) == ("built", None)
    assert (built / "engine" / "model.engine").read_bytes()[:4] == b"vtrt"
    assert manifest.engine["typing"] == "strong"
    assert hashes(kit) == before
    assert beside(kit) == {"tiny", "tiny-built"}
    # The file itself tells that TensorRT-RTX stood in: as what it is, it lacks nothing but a GPU.
    write_manifest(replace(manifest, engine={**manifest.engine, "kind": "tensorrt_rtx"}), built)
    for verb in ("check", "bench"):
        later = command(built, verb, modules=rtx_as_tensorrt)
        assert later.code == 5, later.err
        assert "Traceback" not in later.err


@NO_GPU
def test_the_same_for_people(kit: Path, rtx_as_tensorrt: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    ran = command(kit, "build", "--no-bench", "--output", str(place), modules=rtx_as_tensorrt)
    assert ran.code == 5, ran.err
    assert ran.out.splitlines()[-1] == "BUILT, not verified here"
    assert f"bundle: {place}" in ran.out
    assert sum(line.startswith("building with TensorRT-RTX ") for line in ran.err.splitlines()) == 1
    assert read_manifest(place).state == "built"


@NO_GPU
def test_a_graph_that_it_refuses_leaves_nothing(tmp_path: Path, rtx_as_tensorrt: Path) -> None:
    kit = write_kit(tmp_path / "tiny")
    graphs.unknown_operator(kit / "model.onnx")
    manifest = read_manifest(kit)
    told = {**vars(manifest), "files": hashes(kit)}
    write_manifest(Manifest(**told), kit)
    ran = command(kit, "build", "--json", modules=rtx_as_tensorrt)
    assert ran.code == 4
    assert "node 'head/odd' (Frobnicate)" in ran.json["error"]["message"]
    assert "Traceback" not in ran.err
    assert beside(kit) == {"tiny"}


SLOW = """
import os, sys, time
from types import SimpleNamespace as N

__version__ = "1.0"
Builder = ComputeCapability = BuilderFlag = N()
NetworkDefinitionCreationFlag = N(STRONGLY_TYPED=0)
if "child" in sys.argv[0]:
    open(__file__ + ".pid", "w").write(str(os.getpid()))
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no process groups to interrupt")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [True, False])
def test_a_build_that_is_stopped_leaves_nothing(
    kit: Path, tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    """Ctrl-C goes to parent and child, a service manager's SIGTERM to one of them or both."""
    modules, scratch = tmp_path / "modules", tmp_path / "scratch"
    for folder in (modules, scratch):
        folder.mkdir()
    (modules / "tensorrt.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(kit / "run.py"), "build", "--json"],
        env={**os.environ, "PYTHONPATH": str(modules), "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    asleep = modules / "tensorrt.py.pid"
    try:
        while not (asleep.exists() and asleep.read_text()) and process.poll() is None:
            time.sleep(0.02)
        for _ in range(2):  # as timeout(1) does, which signals the process and then its group
            (os.killpg if group else os.kill)(process.pid, number)
            if number == signal.SIGINT:
                break
        out, said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, said
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert b"Traceback" not in said
    assert b"interrupted: nothing half-written is left" in said
    assert beside(kit) == {"tiny", "modules", "scratch"}
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(asleep.read_text()), 0)


@NO_GPU
def test_options_that_do_not_fit(kit: Path, rtx_as_tensorrt: Path) -> None:
    wrong = {
        "--dla=0": (4, "does not compute in fp32"),
        "--workspace-mb=0": (2, "it goes from 1 to 1048576"),
        "--dla=8": (2, "it goes from 0 to 7"),
        "--device=GPU.256": (2, "it goes from 0 to 255"),
        "--output=tiny/built": (2, "is inside the kit"),
    }
    for option, (code, said) in wrong.items():
        ran = command(kit, "build", option, modules=rtx_as_tensorrt)
        assert (ran.code, beside(kit)) == (code, {"tiny"})
        assert said in ran.err


@NO_GPU
def test_a_workspace_that_is_too_small_for_any_kernel(kit: Path, rtx_as_tensorrt: Path) -> None:
    ran = command(kit, "build", "--json", "--workspace-mb=1", modules=rtx_as_tensorrt)
    assert ran.code == 7, ran.err
    assert "in a workspace of 1 MB" in ran.json["error"]["message"]
    assert ran.json["error"]["hint"].startswith("allow more workspace")
    assert beside(kit) == {"tiny"}


@NO_GPU
def test_a_relative_module_folder_is_the_callers(kit: Path, rtx_as_tensorrt: Path) -> None:
    ran = command(kit, "build", modules=Path(os.path.relpath(rtx_as_tensorrt, kit.parent)))
    assert ran.code == 5, ran.err
    assert beside(kit) == {"tiny", "tiny-built"}


@NO_GPU
def test_an_engine_that_is_no_plan_is_told_without_a_gpu(kit: Path) -> None:
    (kit / "engine").mkdir()
    (kit / "engine" / "model.engine").write_bytes(b"something else")
    manifest = read_manifest(kit)
    told = {**manifest.engine, "file": "engine/model.engine"}
    write_manifest(replace(manifest, state="built", engine=told, files=hashes(kit)), kit)
    ran = command(kit, "check", "--json")
    assert ran.code == 6, ran.err
    assert "is no plan of TensorRT" in ran.json["error"]["message"]


STUBS = {
    "raise RuntimeError('no driver\\nat all')": (3, "cannot be imported (RuntimeError: no driver at all)"),
    "def broken(:": (3, "cannot be imported (SyntaxError: "),
    "__version__ = '10.0'": (3, "is not a whole TensorRT: it has no Builder, BuilderFlag, NetworkDef"),
    "": (3, "is not a whole TensorRT: it has no __version__, "),
}


@pytest.mark.parametrize("content", STUBS)
def test_a_broken_package_is_a_missing_one(
    kit: Path,
    tmp_path: Path,
    content: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tensorrt.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(building, "require_gpu", lambda gpu: None)
    code, said = STUBS[content]
    try:
        assert face.main(kit, ["build", "--json"]) == code
    finally:
        sys.modules.pop("tensorrt", None)
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]
    assert beside(kit) - {"tensorrt.py", "__pycache__"} == {"tiny"}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise RuntimeError('not mine')", 70, "ended with code 1 .*: RuntimeError: not mine"),
        ("raise ImportError('libnvinfer.so is not there')", 3, "ended with code 1 .*: ImportError: libnv"),
        ("os.abort()", 4, "by signal SIGABRT"),
    ],
)
def test_how_a_child_ends_says_whose_fault_it_is(
    kit: Path, tmp_path: Path, body: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text(SLOW.partition("if ")[0] + "def Builder(logger):\n    " + body)
    names = "ILogger = type('ILogger', (), dict(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4))\n"
    with (modules / "tensorrt.py").open("a") as stream:
        stream.write("\n" + names)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ran = command(kit, "build", "--json", modules=modules)
    assert ran.code == code, ran.err
    assert re.search(said, ran.json["error"]["message"])
    logs = list(tmp_path.glob("edgekit-*.log"))
    assert len(logs) == (code == 70)
    for log in logs:
        assert str(log) in ran.json["error"]["hint"]
        assert "in Builder" in log.read_text()  # the child's own traceback
    assert beside(kit) - {log.name for log in logs} == {"tiny", "modules"}


def test_a_bug_is_one_sentence_and_a_log(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(face, "read_manifest", fail)
    before = signal.getsignal(signal.SIGTERM)
    assert face.main(kit, ["build", "--json"]) == 70
    assert signal.getsignal(signal.SIGTERM) is before
    out, err = capsys.readouterr()
    (log,) = tmp_path.glob("edgekit-*.log")
    told = json.loads(out)["error"]
    assert (told["code"], told["message"]) == ("bug", "a bug in edgekit: ZeroDivisionError: by nothing")
    assert told["hint"] == f"report it with the log {log}"
    assert "Traceback" not in err
    assert "ZeroDivisionError: by nothing" in log.read_text()


def test_main_works_in_any_thread(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(face.main(kit, ["check", "--json"])))
    thread.start()
    thread.join()
    assert codes == [5]


@NO_GPU
def test_without_gpu_and_package(kit: Path) -> None:
    ran = command(kit, "build")
    assert ran.code == 5
    assert "no NVIDIA driver" in ran.err
    assert beside(kit) == {"tiny"}


def test_a_bundle_with_its_engine_has_nothing_to_build(tmp_path: Path) -> None:
    ran = command(write_kit(tmp_path / "tiny", target="openvino"), "build")
    assert ran.code == 2
    assert "nothing to build" in ran.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_live_on_a_terminal_and_one_line_a_step_elsewhere() -> None:
    steps = [("building", 0, 0), ("Timing", 1, 2), ("Timing", 2, 2), ("proving", 0, 0), ("proving", 0, 0)]
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        with Narrator(stream) as narrator:
            for step in steps:
                narrator(*step)
    assert file.getvalue() == "building\nproving\n"
    assert "\r\x1b[KTiming  2/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()
