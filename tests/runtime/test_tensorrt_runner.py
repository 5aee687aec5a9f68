"""The TensorRT runner without a GPU: the driver is C, TensorRT a stand-in that has one version's names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime import _cuda, session
from edgekit.runtime._cuda import Cuda
from edgekit.runtime.engines import EngineOptions, Layer, _tensorrt, load_engine
from edgekit.runtime.engines._tensorrt import TensorRtRunner
from edgekit.runtime.errors import (
    BadFileError,
    EdgekitError,
    HardwareError,
    SystemRefusedError,
    UnsupportedError,
)
from edgekit.runtime.manifest import Manifest, TensorSpec
from edgekit.runtime.plans import foreign, place
from edgekit.runtime.probe import GpuProbe, probe_gpus
from edgekit.runtime.proof import save_pairs
from edgekit.runtime.timing import Worker, time_calls
from tests.runtime.fake_cuda import LAUNCH_FAILED, FakeCuda
from tests.runtime.fake_plan import FakePlan, expected
from tests.runtime.strict import VERSIONS

Open = Callable[..., TensorRtRunner]

EVERY = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def opened(tmp_path: Path, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a stand-in as a user would: by its file, on a machine where it was built."""
    made: list[TensorRtRunner] = []

    def open_it(plan: FakePlan, **options: Any) -> TensorRtRunner:
        monkeypatch.setattr(_cuda, "probe_gpus", lambda: probe_gpus(fake.path))
        monkeypatch.setattr(place, "probe_gpus", lambda: probe_gpus(fake.path))
        monkeypatch.setattr(_tensorrt, "Cuda", lambda gpu: Cuda(gpu, fake.path))
        monkeypatch.setattr(_tensorrt, "load", lambda flavour: plan.trt)
        file = tmp_path / "model.engine"
        file.write_bytes((b"vtrt" if plan.rtx else b"ftrt") + bytes(64))
        options = {"device": "GPU", "built_on": place.here(plan.trt, 0), **options}
        kind = "tensorrt_rtx" if plan.rtx else "tensorrt"
        runner = load_engine(kind, file, EngineOptions(**options))
        assert isinstance(runner, TensorRtRunner)
        made.append(runner)
        return runner

    yield open_it
    for runner in made:
        runner.close()
    assert fake.live() == {}


def feeds(batch: int, width: int, whole: str = "int64", shift: int = 5) -> dict[str, np.ndarray]:
    x = np.random.default_rng(width).standard_normal((batch, 4, width)).astype(np.float32)
    return {"x": x, "shift": np.array([shift], whole)}


def right(runner: TensorRtRunner, feed: dict[str, np.ndarray], tolerance: float = 1e-5) -> bool:
    found = runner.infer(feed)["y"]
    wanted = expected(feed["x"], int(feed["shift"][0]))
    return found.dtype == wanted.dtype and np.allclose(found, wanted, rtol=tolerance, atol=tolerance * 10)


@EVERY
def test_every_version_runs_with_its_own_names(version: str, fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan(version, fake)
    with opened(plan) as runner:
        x, shift = runner.inputs
        assert x.shape == ("x.0", 4, "x.2")
        assert x.ranges == {"x.0": (1, 8), "x.2": (8, 128)}  # the union of both profiles
        assert (shift.shape, shift.dtype, shift.ranges) == ((1,), plan.whole, {})
        assert [(spec.name, spec.shape) for spec in runner.outputs] == [("y", ("y.0", "y.1"))]
        for batch, width in ((1, 16), (2, 32), (1, 16), (8, 128), (1, 8), (1, 64)):
            assert right(runner, feeds(batch, width)), (batch, width)
        assert plan.switches == [1, 0, 1]
        assert runner.layers() == [Layer("conv", "CaskConvolution", "int8")]
        assert {**runner.settings, "device": "", "gpu": ""} == {
            "device": "",
            "gpu": "",
            "precision": "fp32",
            "tensorrt_rtx" if plan.rtx else "tensorrt": plan.trt.__version__,
            "profile_count": 2,
            "cuda_graph": "off",
        }
        assert (runner.settings["device"], runner.settings["gpu"]) == ("GPU.0", "Fake Orin")
    assert fake.live() == {}


@EVERY
def test_a_graph_is_replayed_with_new_data(version: str, fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan(version, fake)
    runner = opened(plan, cuda_graph=True)
    assert runner.settings["cuda_graph"] == "waiting for a second call of the same shapes"
    for shift in range(5):
        assert right(runner, feeds(1, 16, shift=shift))
    assert runner.settings["cuda_graph"] == "captured"
    assert plan.executions == 2  # one warm call, one capture
    assert right(runner, feeds(2, 32))
    assert "graph_exec" not in fake.live()  # other shapes: what was captured is void
    for shift in range(4):
        assert right(runner, feeds(2, 32, shift=shift))
    assert plan.executions == 4
    assert fake.live()["graph_exec"] == 1


@EVERY
def test_a_shape_that_only_the_run_tells(version: str, fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan(version, fake, unknown_shape=True)
    runner = opened(plan, cuda_graph=True)
    for batch, width in ((1, 16), (1, 16), (1, 16), (2, 32), (1, 8), (8, 128)):
        assert right(runner, feeds(batch, width))
    assert runner.settings["cuda_graph"] == "refused: this run cannot be captured"
    fake.fail("cuMemAlloc_v2", 2)
    fresh = opened(FakePlan(version, fake, unknown_shape=True))
    with pytest.raises(SystemRefusedError, match="memory is full"):
        fresh.infer(feeds(1, 16))


def test_an_input_that_tensorrt_wants_on_the_host(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("10.3.0", fake, host_shift=True), cuda_graph=True)
    for shift in range(3):
        assert right(runner, feeds(1, 16, shift=shift))
    assert (fake.live()["device"], fake.live()["host"]) == (2, 3)
    assert runner.settings["cuda_graph"].startswith("refused")  # its value would be captured too


def test_whole_numbers_are_narrowed_only_where_they_fit(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("8.5.3.1", fake))
    assert runner.inputs[1].dtype == "int32"
    assert right(runner, feeds(1, 16, shift=-(2**31)))
    assert right(runner, feeds(1, 16, whole="int32"))
    with pytest.raises(BadFileError, match="'shift' holds numbers beyond int32"):
        runner.infer(feeds(1, 16, shift=2**31))
    assert opened(FakePlan("10.3.0", fake)).inputs[1].dtype == "int64"


def test_a_fixed_shape_needs_no_profile(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("10.7.0", fake, profiles=()))
    assert runner.inputs[0].shape == (1, 4, 16)
    assert right(runner, feeds(1, 16))
    with pytest.raises(BadFileError, match="input 'x' has 17 at axis 2, not 16"):
        runner.infer(feeds(1, 17))


@pytest.mark.parametrize(
    ("batch", "width", "message"),
    [
        (1, 129, r"input 'x' has x.2 = 129, outside 8 to 128"),
        (9, 64, r"input 'x' has x.0 = 9, outside 1 to 8"),
        (1, 48, r"no optimization profile of the plan takes 'x' \(1, 4, 48\)"),
        (3, 16, r"no optimization profile of the plan takes 'x' \(3, 4, 16\)"),
    ],
)
def test_shapes_outside_every_profile(
    fake: FakeCuda, opened: Open, batch: int, width: int, message: str
) -> None:
    runner = opened(FakePlan("11.4.0.106", fake))
    with pytest.raises(BadFileError, match=message) as error:
        runner.infer(feeds(batch, width))
    if "profile" in message:
        assert error.value.hint == (
            "the profiles take: x (1, 4, 8) to (2, 4, 32); x (1, 4, 64) to (8, 4, 128)"
        )
    assert right(runner, feeds(1, 16))


@pytest.mark.parametrize(("kind", "tolerance"), [("HALF", 1e-2), ("BF16", 3e-2)])
def test_halves(fake: FakeCuda, opened: Open, kind: str, tolerance: float) -> None:
    """NumPy has no bfloat16: such a tensor is float32 to the caller."""
    runner = opened(FakePlan("10.13.3.9", fake, kind=kind))
    dtype = {"HALF": "float16", "BF16": "float32"}[kind]
    assert [runner.inputs[0].dtype, runner.outputs[0].dtype] == [dtype, dtype]
    feed = feeds(1, 16)
    assert right(runner, {**feed, "x": feed["x"].astype(dtype)}, tolerance)


def test_rounding_to_bfloat16() -> None:
    from edgekit.runtime.engines._ports import _from_bf16, _to_bf16

    given = np.array([1.0, -2.5, np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 0.0], np.float32)
    found = _from_bf16(_to_bf16(given))
    wanted = np.array([1.0, -2.5, np.inf, np.nan, 1.0, 1 + 2**-6, np.inf, 0.0], np.float32)
    assert np.array_equal(found, wanted, equal_nan=True)


def test_a_type_that_numpy_cannot_hold(fake: FakeCuda, opened: Open) -> None:
    with pytest.raises(UnsupportedError, match=r"tensor 'x' of the plan is .* NumPy cannot hold"):
        opened(FakePlan("10.3.0", fake, kind="FP8"))
    assert fake.live() == {}


def test_tensorrt_goes_before_cuda(fake: FakeCuda, opened: Open) -> None:
    closed, broken = FakePlan("10.3.0", fake), FakePlan("10.3.0", fake, kind="FP8")
    runner = opened(closed)
    runner.infer(feeds(1, 16))
    runner.close()
    with pytest.raises(UnsupportedError):
        opened(broken)
    assert (closed.outlived, broken.outlived) == ([False], [False])


def test_buffers_grow_and_are_kept(fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan("10.3.0", fake)
    runner = opened(plan)
    assert right(runner, feeds(1, 8))
    small = dict(plan.addresses)
    assert right(runner, feeds(2, 32))
    grown = dict(plan.addresses)
    assert right(runner, feeds(1, 8))
    assert plan.addresses == grown
    assert grown["shift"] == small["shift"]
    assert fake.live()["device"] == fake.live()["host"] == 3


def test_an_answer_is_the_callers_own(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("10.3.0", fake))
    first = runner.infer(feeds(1, 16))["y"]
    before = first.copy()
    runner.infer(feeds(1, 16, shift=99))
    runner.close()
    assert np.array_equal(first, before)


def test_copies_and_compute_are_told_apart(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("10.3.0", fake))
    assert runner.timings == {}
    runner.infer(feeds(8, 128))
    told = runner.timings
    assert list(told) == ["h2d_ms", "compute_ms", "d2h_ms", "end_to_end_ms"]
    assert all(value > 0 for value in told.values())
    parts = told["h2d_ms"] + told["compute_ms"] + told["d2h_ms"]
    assert told["end_to_end_ms"] == pytest.approx(parts, abs=1e-3)
    collected: dict[str, list[float]] = {}
    assert len(time_calls(runner, [feeds(1, 16)], 3, collected)) == 3
    assert {name: len(values) for name, values in collected.items()} == dict.fromkeys(told, 3)


SERVER = """
import sys
from pathlib import Path
from edgekit.runtime.timing import serve

class Parted:
    settings = {}
    timings = {}
    def infer(self, feeds):
        self.timings = {"h2d_ms": float(feeds["x"][0]), "compute_ms": 2.0}
        return {}
    def __enter__(self): return self
    def __exit__(self, *what): pass

sys.exit(serve(Parted, Path(sys.argv[1])))
"""


def test_a_worker_collects_the_parts(tmp_path: Path) -> None:
    """But for the first call of each block, which `alternate` does not count either."""
    pairs = tmp_path / "feeds.npz"
    save_pairs(pairs, [{"x": np.array([number])} for number in (7, 8, 9)])
    with Worker([sys.executable, "-c", SERVER, str(pairs)]) as worker:
        worker.ready()
        assert len(worker.block(3)) == 3
        worker.block(2, feed=2)
        worker.close()
        assert worker.parts == {"h2d_ms": [8.0, 9.0, 9.0], "compute_ms": [2.0] * 3}


def test_a_run_that_fails_and_the_next_one(fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan("10.3.0", fake)
    runner = opened(plan)
    for fault, message in (
        ("execute", "could not run the plan: an illegal memory access was encountered"),
        ("switch", "could not switch to optimization profile 1"),
    ):
        plan.failing = fault
        with pytest.raises(HardwareError, match=message):
            runner.infer(feeds(1, 64))
        plan.failing = ""
        assert right(runner, feeds(1, 16))
    plan.failing = "shape"
    with pytest.raises(BadFileError, match=r"input 'x' has shape \(2, 4, 16\), which the plan does not take"):
        runner.infer(feeds(2, 16))
    plan.failing = ""
    assert right(runner, feeds(2, 16))


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync_v2", "cuStreamSynchronize", "cuEventRecord"])
def test_a_gpu_that_fails(fake: FakeCuda, opened: Open, call: str) -> None:
    runner = opened(FakePlan("10.3.0", fake))
    fake.fail(call, LAUNCH_FAILED)
    with pytest.raises(HardwareError, match=f"{call} failed: CUDA_ERROR_LAUNCH_FAILED"):
        runner.infer(feeds(1, 16))


def test_too_little_memory_for_these_shapes(fake: FakeCuda, opened: Open) -> None:
    fake.limit(2000)
    runner = opened(FakePlan("10.3.0", fake))
    assert right(runner, feeds(1, 16))
    with pytest.raises(SystemRefusedError, match="memory is full"):
        runner.infer(feeds(8, 128))
    assert right(runner, feeds(1, 16))


def test_another_thread_can_run_it(fake: FakeCuda, opened: Open) -> None:
    runner = opened(FakePlan("10.3.0", fake))
    fake.take_context()
    assert right(runner, feeds(1, 16))


@pytest.mark.parametrize("fault", ["execute", "synchronizes", "cuGraphInstantiateWithFlags"])
def test_a_capture_that_is_refused_goes_on_without(fake: FakeCuda, opened: Open, fault: str) -> None:
    plan = FakePlan("10.3.0", fake)
    runner = opened(plan, cuda_graph=True)
    assert right(runner, feeds(1, 16))
    execute = plan._execute
    if fault == "execute":
        runner._context._behaviour["execute_async_v3"] = lambda stream: bool(_once(plan) and execute(stream))
    elif fault == "synchronizes":
        plan.failing = fault
    else:
        fake.fail(fault, LAUNCH_FAILED)
    for shift in range(3):
        assert right(runner, feeds(1, 16, shift=shift))
    assert runner.settings["cuda_graph"].startswith("refused: ")
    assert "graph_exec" not in fake.live()


def _once(plan: FakePlan) -> bool:
    """False the first time: what TensorRT answers for work that cannot be captured."""
    first, plan.failing = plan.failing == "", "asked"
    return not first


def test_rtx_is_captured_as_soon_as_it_can_be(fake: FakeCuda, opened: Open) -> None:
    plan = FakePlan("rtx-1.7.1", fake, capturable=False)
    runner = opened(plan, cuda_graph=True)
    for shift in range(3):
        assert right(runner, feeds(1, 16, shift=shift))
    assert runner.settings["cuda_graph"] == "refused: this run cannot be captured"
    plan.capturable = True
    for shift in range(3):
        assert right(runner, feeds(1, 16, shift=shift))
    assert runner.settings["cuda_graph"] == "captured"


@pytest.mark.parametrize(
    ("fault", "log", "kind", "message"),
    [
        (
            "deserialize",
            "1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization "
            "assertion stdVersionRead == serializationVersion failed.Version tag does not match. Note: "
            "Current Version: 213, Serialized Engine Version: 205)",
            BadFileError,
            r"does not open in TensorRT 10\.3\.0: another version built it \(.*Engine Version: 205\)",
        ),
        (
            "deserialize",
            "6: The engine plan file is generated on an incompatible device, expecting compute 8.6 got "
            "compute 7.5, please rebuild.",
            BadFileError,
            "it is for another GPU .*expecting compute 8.6 got compute 7.5",
        ),
        ("deserialize", "", BadFileError, "it does not say why"),
        (
            "context",
            "Error Code 2: OutOfMemory (no further information)",
            SystemRefusedError,
            "does not open",
        ),
    ],
)
def test_a_plan_that_tensorrt_refuses(
    fake: FakeCuda, opened: Open, fault: str, log: str, kind: type[EdgekitError], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        opened(FakePlan("10.3.0", fake, failing=fault, log=log))
    if kind is BadFileError:
        assert "python run.py build" in error.value.hint
    assert fake.live() == {}


def test_a_plan_from_elsewhere_is_tried_in_a_child_first(
    fake: FakeCuda, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int, bool]] = []
    monkeypatch.setattr(
        foreign, "try_in_child", lambda path, flavour, gpu, code: tried.append((flavour, gpu, code))
    )
    plan = FakePlan("10.3.0", fake)
    opened(plan)
    assert tried == []
    opened(plan, built_on={})
    assert plan.runtime.set_to == {}
    opened(plan, built_on={"gpu": "another"}, host_code=True)
    assert tried == [("tensorrt", 0, False), ("tensorrt", 0, True)]
    assert plan.runtime.set_to == {"engine_host_code_allowed": True}
    opened(FakePlan("8.5.3.1", fake), host_code=True)  # older than plans that carry code


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        ({}, EngineOptions()),
        ({"settings": {"cuda_graph": True}}, EngineOptions(cuda_graph=True)),
        ({"settings": {"cuda_graph": "captured"}}, EngineOptions(cuda_graph=True)),
        ({"settings": {"cuda_graph": "off"}, "build": {"version_compatible": False}}, EngineOptions()),
        (
            {"built_on": {"gpu": "Orin"}, "build": {"version_compatible": True}},
            EngineOptions(built_on={"gpu": "Orin"}),  # that it may run code is not for the bundle to say
        ),
    ],
)
def test_a_bundle_says_how_its_plan_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any], wanted: EngineOptions
) -> None:
    found: list[EngineOptions] = []
    monkeypatch.setattr(session, "load_engine", lambda kind, path, options: found.append(options))
    told = {"kind": "tensorrt", "file": "model.engine", "precision": "fp16", **engine}
    tensors = (TensorSpec("x", (1,)),)
    manifest = Manifest("m", "tensorrt", "int8", "gpu", "built", None, told, tensors, tensors)
    session.open_runner(tmp_path, manifest)
    assert found == [replace(wanted, device="GPU", precision="fp16")]


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_without_a_gpu_nothing_of_tensorrt_is_touched(
    tmp_path: Path, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cuda, "probe_gpus", lambda: GpuProbe((), "no NVIDIA driver here"))
    monkeypatch.setattr(_tensorrt, "load", lambda flavour: pytest.fail("TensorRT was imported"))
    path = tmp_path / "model.engine"
    path.write_bytes((b"vtrt" if flavour == "tensorrt_rtx" else b"ftrt") + bytes(64))
    with pytest.raises(HardwareError, match="no NVIDIA driver"):
        load_engine(flavour, path, EngineOptions(device="GPU"))
    path.write_bytes(b"no plan")  # which no GPU would change: it is told first
    with pytest.raises(BadFileError, match="is no plan"):
        load_engine(flavour, path, EngineOptions(device="GPU"))


@pytest.mark.skipif(bool(probe_gpus().devices), reason="there is a GPU here")
def test_this_machine_refuses_and_imports_nothing(tmp_path: Path) -> None:
    """For real, in a process of its own: the hardware is asked of the driver, never of TensorRT."""
    (tmp_path / "model.engine").write_bytes(b"vtrt" + bytes(64))
    program = (
        "import sys; from pathlib import Path\n"
        "from edgekit.runtime.engines import EngineOptions, load_engine\n"
        "from edgekit.runtime.errors import HardwareError\n"
        "try: load_engine('tensorrt_rtx', Path(sys.argv[1]), EngineOptions(device='GPU'))\n"
        "except HardwareError as error: print(error.exit_code)\n"
        "print([name for name in sys.modules if 'tensorrt_rtx' in name])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.engine")], capture_output=True, text=True
    )
    assert done.stdout == "5\n['edgekit.runtime.engines.tensorrt_rtx']\n", done.stderr
