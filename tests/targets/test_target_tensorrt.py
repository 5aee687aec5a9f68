"""TensorRT without a GPU: what is refused, what the kit says, and that the names used exist."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from edgekit.runtime import _cuda, probe
from edgekit.runtime.engines import EngineOptions, load_engine
from edgekit.runtime.engines import tensorrt as engine
from edgekit.runtime.errors import HardwareError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from edgekit.targets import tensorrt as target

INPUTS = (TensorSpec("image", ("batch", 1, 32, "width"), ranges={"batch": (1, 8), "width": (16, 1024)}),)

# The names of each version that building uses: from the public Python API of that version.
API = {
    "8.5.3": {
        "NetworkDefinitionCreationFlag": ["EXPLICIT_BATCH", "EXPLICIT_PRECISION"],
        "BuilderFlag": ["FP16", "INT8", "TF32", "REFIT"],
    },
    "10.13.3": {
        "NetworkDefinitionCreationFlag": ["EXPLICIT_BATCH", "STRONGLY_TYPED"],
        "BuilderFlag": ["FP16", "BF16", "INT8", "TF32", "FP8", "REFIT"],
    },
    "11.4.0": {
        "NetworkDefinitionCreationFlag": ["PREFER_AOT_PYTHON_PLUGINS", "STRONGLY_TYPED"],
        "BuilderFlag": ["TF32", "REFIT", "STRIP_PLAN"],
    },
}


class Recorder:
    """Stands in for one version of TensorRT: it has the version's enumerations and writes down the calls."""

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        for name, members in API[version].items():
            setattr(self, name, SimpleNamespace(**{member: place for place, member in enumerate(members)}))
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})

    def Builder(self, logger: Any) -> SimpleNamespace:
        return SimpleNamespace(
            create_network=self._note("network"),
            create_builder_config=lambda: SimpleNamespace(
                set_memory_pool_limit=self._note("pool"),
                set_flag=self._note("set"),
                clear_flag=self._note("clear"),
                add_optimization_profile=lambda profile: 0,
            ),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self._note("shape")),
            build_serialized_network=lambda network, config: b"a plan",
        )

    def OnnxParser(self, network: Any, logger: Any) -> SimpleNamespace:
        return SimpleNamespace(parse_from_file=self._note("parse", True))

    def _note(self, name: str, answer: Any = None) -> Any:
        return lambda *arguments: (self.calls.append((name, *arguments)), answer)[1]

    def of(self, name: str) -> list[Any]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = probe.GpuProbe((), "no NVIDIA driver here")
    monkeypatch.setattr(_cuda, "probe_gpus", lambda: nothing)
    monkeypatch.setattr(target, "probe_gpus", lambda: nothing)
    return


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe.GpuProbe((probe.Gpu(0, "Orin", (8, 7)),))
    monkeypatch.setattr(_cuda, "probe_gpus", lambda: found)


@pytest.mark.usefixtures("no_gpu")
class TestWithoutGpu:
    def test_nothing_of_tensorrt_is_touched(
        self, tmp_path: Path, crnn: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "_tensorrt", lambda: pytest.fail("TensorRT was imported"))
        (tmp_path / "model.engine").write_bytes(b"a plan")
        with pytest.raises(HardwareError, match="no NVIDIA driver"):
            load_engine("tensorrt", tmp_path / "model.engine", EngineOptions(device="GPU"))
        with pytest.raises(HardwareError, match="no NVIDIA driver"):
            engine.build(crnn, {}, "fp16", tmp_path / "model.engine")

    def test_compile_refuses_and_writes_nothing(self, tmp_path: Path, crnn: Path) -> None:
        assert target.ready("fp16") == "no NVIDIA driver here"
        with pytest.raises(HardwareError, match="no NVIDIA driver"):
            target.compile(crnn, "fp16", target.Options(), tmp_path / "engine")
        assert not (tmp_path / "engine").exists()


def test_the_kit_says_how_to_build() -> None:
    kit = target.kit(Path("model.onnx"), INPUTS, "fp16", target.Options(usual_batch=2))
    assert kit["profiles"] == {"image": ([1, 1, 32, 16], [2, 1, 32, 128], [8, 1, 32, 1024])}
    assert kit["trtexec"]["8.5 to 10"] == (
        "trtexec --onnx=model.onnx --minShapes=image:1x1x32x16 --optShapes=image:2x1x32x128 "
        "--maxShapes=image:8x1x32x1024 --saveEngine=engine/model.engine --fp16"
    )
    assert "11" not in kit["trtexec"]  # fp16 is then a matter of the graph's types
    assert kit["jetpack"]["5.1"] == "8.5"


def test_the_kit_for_int8_and_bf16() -> None:
    int8, bf16 = (target.kit(Path("m.onnx"), INPUTS, name, target.Options()) for name in ("int8", "bf16"))
    assert int8["trtexec"]["11"].endswith("--stronglyTyped")
    assert bf16["tensorrt"] == ">=10.0,<12"
    assert "5.1" not in bf16["jetpack"]


def test_fixed_inputs_need_no_profile() -> None:
    kit = target.kit(Path("m.onnx"), (TensorSpec("x", (1, 3, 8, 8)),), "fp32", target.Options())
    assert kit["profiles"] == {}
    assert "Shapes" not in kit["trtexec"]["11"]


def test_what_tensorrt_would_get_wrong_is_refused(crnn: Path, crnn_int8: Path) -> None:
    assert target.supports(onnx.load(crnn_int8), "int8") == []
    model = onnx.load(crnn)
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    lstm.attribute.append(onnx.helper.make_attribute("layout", 1))
    problems = target.supports(model, "fp16")
    assert [(one.node, one.module) for one in problems] == [("node_lstm0", "net.lstm0")]


@pytest.mark.parametrize(
    ("version", "network", "flags"),
    [("8.5.3", 1 << 0, [0, 1]), ("10.13.3", 1 << 0, [0, 2]), ("11.4.0", 1 << 1, [])],
)
@pytest.mark.usefixtures("one_gpu")
def test_building_uses_names_that_the_version_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, network: int, flags: list[int]
) -> None:
    trt = Recorder(version)
    monkeypatch.setattr(engine, "_tensorrt", lambda: trt)
    profiles = target.profiles(INPUTS, target.Options())
    made = engine.build(Path("model.onnx"), profiles, "int8", tmp_path / "model.engine", workspace=64)
    assert made.read_bytes() == b"a plan"
    assert trt.of("network") == [(network,)]
    assert sorted(flag for (flag,) in trt.of("set")) == sorted(flags)
    assert trt.of("clear") == [(trt.BuilderFlag.TF32,)]
    assert trt.of("pool") == [("workspace", 64)]
    assert trt.of("shape") == [("image", (1, 1, 32, 16), (1, 1, 32, 128), (8, 1, 32, 1024))]


@pytest.mark.parametrize(
    ("version", "precision"), [("8.5.3", "bf16"), ("11.4.0", "fp16"), ("11.4.0", "bf16")]
)
def test_a_precision_that_the_version_lacks(version: str, precision: str) -> None:
    with pytest.raises(UnsupportedError, match=precision):
        engine.builder_flags(Recorder(version), precision)


@pytest.mark.parametrize(("device", "index"), [("GPU", 0), ("GPU.1", 1), ("CUDA.2", 2), ("3", 3)])
def test_device_names(device: str, index: int) -> None:
    assert engine.gpu_index(device) == index


@pytest.mark.parametrize("device", ["CPU", "NPU.1", "GPU.x", ""])
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(HardwareError):
        engine.gpu_index(device)
