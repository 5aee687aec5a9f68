"""Plans from elsewhere: whatever is in the file, it ends in one sentence and the interpreter lives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import edgekit.runtime
from edgekit.runtime.errors import BadFileError, HardwareError, MissingPackageError, SystemRefusedError
from edgekit.runtime.plans.foreign import inspect, try_in_child
from tests.runtime import fake_cuda

STAND_IN = """
import os, signal, sys, time

class Names:
    FP16 = INT8 = STRONGLY_TYPED = 0

__version__ = "10.3.0"
Builder = BuilderFlag = NetworkDefinitionCreationFlag = Names

class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        print("noise on standard output", flush=True)
        error = lambda message: self.logger.log(ILogger.ERROR, message)
        BODY
        return self

    def create_execution_context(self):
        return self
"""

BUILD = """
import sys
import tensorrt_rtx as trt

builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(0)
x = network.add_input("x", trt.float32, (1, 8))
network.mark_output(network.add_activation(x, trt.ActivationType.RELU).get_output(0))
plan = builder.build_serialized_network(network, builder.create_builder_config())
open(sys.argv[1], "wb").write(bytes(plan))
"""

Child = Callable[[str], Path]


@pytest.fixture(scope="module")
def rtx_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real plan of TensorRT-RTX; building one needs no GPU."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path_factory.mktemp("rtx") / "model.engine"
    subprocess.run([sys.executable, "-c", BUILD, str(path)], check=True, capture_output=True)
    return path


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Child processes find a GPU and, for `tensorrt`, a stand-in whose deserializer runs a body."""

    def prepare(body: str) -> Path:
        indented = textwrap.indent(body, " " * 8).lstrip()
        (tmp_path / "tensorrt.py").write_text(STAND_IN.replace("BODY", indented))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda.library().parent))
        plan = tmp_path / "model.engine"
        plan.write_bytes(b"ftrt" + bytes(100))
        return plan

    return prepare


def test_a_real_plan_is_let_through(rtx_plan: Path) -> None:
    inspect(rtx_plan, "tensorrt_rtx")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_real_plan_cut_short(rtx_plan: Path, tmp_path: Path, kept: float) -> None:
    whole = rtx_plan.read_bytes()
    short = tmp_path / "short.engine"
    short.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(BadFileError, match=f"is cut short: it has .* of {len(whole)} bytes"):
        inspect(short, "tensorrt_rtx")


@pytest.mark.parametrize(
    ("content", "flavour", "message"),
    [
        (b"", "tensorrt", "is empty"),
        (b"ftrt", "tensorrt", "is cut short: it has 4 of 24 bytes"),
        (b"vtrt" + bytes(8), "tensorrt_rtx", "is cut short: it has 12 of 24 bytes"),
        (b"\x08\x08\x12\x07pytorch" + bytes(90), "tensorrt", "is no plan of TensorRT: it does not begin"),
        (b"PK\x03\x04" + bytes(90), "tensorrt_rtx", "is no plan of TensorRT-RTX: it does not begin"),
        (b"vtrt" + bytes(90), "tensorrt", "is a plan of TensorRT-RTX, which TensorRT cannot open"),
        (b"ftrt" + bytes(90), "tensorrt_rtx", "is a plan of TensorRT, which TensorRT-RTX cannot open"),
    ],
)
def test_what_is_no_plan(tmp_path: Path, content: bytes, flavour: str, message: str) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=message) as error:
        inspect(path, flavour)
    assert error.value.exit_code == 6
    assert "python run.py build" in error.value.hint


def test_a_header_of_another_layout_is_left_to_tensorrt(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"vtrt" + bytes(4) + b"\x03" + bytes(7) + b"\xff" * 8 + bytes(8))
    inspect(path, "tensorrt_rtx")
    path.write_bytes(b"ftrt" + bytes(12) + b"\xff" * 8)
    inspect(path, "tensorrt")


def test_a_good_plan_opens_in_the_child(child: Child) -> None:
    try_in_child(child("pass"), "tensorrt")


def test_a_relative_path_is_the_callers(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = child("assert plan.startswith(b'ftrt')")
    monkeypatch.chdir(plan.parent)
    try_in_child(Path(plan.name), "tensorrt")


def test_a_relative_module_folder_is_the_callers(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = child("pass")
    monkeypatch.chdir(plan.parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["nowhere", plan.parent.name]))
    try_in_child(plan, "tensorrt")
    monkeypatch.chdir(plan.parent)
    monkeypatch.setenv("PYTHONPATH", "nowhere" + os.pathsep)
    try_in_child(plan, "tensorrt")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal SIGSEGV"),
        (
            "sys.stderr.write('free(): invalid pointer\\n'); os.abort()",
            "SIGABRT: free\\(\\): invalid pointer",
        ),
        ("os._exit(3)", "ended with code 3"),
        ("raise RuntimeError('no such plugin')", "ended with code 1: RuntimeError: no such plugin"),
        ("return None", "does not open in TensorRT 10.3.0: it does not say why"),
        (
            "error('Error Code 1: Serialization (Version tag does not match. Note: Current Version: 239, "
            "Serialized Engine Version: 232)'); error('Error Code 4: Internal Error (Engine deserialization "
            "failed.)'); return None",
            "another version built it .*Serialized Engine Version: 232",
        ),
        (
            "error('The engine plan file is generated on an incompatible device, expecting compute 8.7 got "
            "compute 8.6, please rebuild.'); return None",
            "it is for another GPU .*expecting compute 8.7",
        ),
    ],
)
def test_a_plan_that_ends_or_stops_its_process(child: Child, body: str, message: str) -> None:
    with pytest.raises(BadFileError, match=message) as error:
        try_in_child(child(body), "tensorrt")
    assert error.value.exit_code == 6
    assert error.value.hint == "build it here: python run.py build"
    assert "\n" not in error.value.message


def test_a_plan_that_never_opens(child: Child) -> None:
    plan = child("open(__file__ + '.pid', 'w').write(str(os.getpid())); time.sleep(600)")
    started = time.monotonic()
    with pytest.raises(BadFileError, match="TensorRT did not open it within 2 s"):
        try_in_child(plan, "tensorrt", timeout_s=2)
    assert time.monotonic() - started < 20
    pid = int((plan.parent / "tensorrt.py.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_not_the_plans_fault_keeps_its_kind(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = child("error('Error Code 2: OutOfMemory (no further information)'); return None")
    with pytest.raises(SystemRefusedError, match="does not open in TensorRT"):
        try_in_child(plan, "tensorrt")
    with pytest.raises(HardwareError, match="no GPU number 1"):
        try_in_child(plan, "tensorrt", gpu=1)
    (plan.parent / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10 is not there')")
    with pytest.raises(MissingPackageError, match=r"libnvinfer\.so\.10"):
        try_in_child(plan, "tensorrt")


def test_the_bundles_own_copy_does_the_same(child: Child, tmp_path: Path) -> None:
    """As top-level `runtime`, called from the folder of another bundle."""
    plan = child("os.kill(os.getpid(), signal.SIGSEGV)")
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    shutil.copytree(
        Path(edgekit.runtime.__file__).parent,
        bundle / "runtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (other / "runtime" / "plans").mkdir(parents=True)
    for folder in (other / "runtime", other / "runtime" / "plans"):
        (folder / "__init__.py").write_text("")
    (other / "runtime" / "plans" / "foreign.py").write_text("print('{}')")
    program = (
        "import sys; sys.path[0] = sys.argv[1]\n"
        "from pathlib import Path; from runtime.errors import EdgekitError\n"
        "from runtime.plans.foreign import try_in_child\n"
        "try: try_in_child(Path(sys.argv[2]), 'tensorrt')\n"
        "except EdgekitError as error: print(error.exit_code, error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle), str(plan)], capture_output=True, text=True, cwd=other
    )
    assert done.stdout.startswith("6 "), done.stderr
    assert "SIGSEGV" in done.stdout
