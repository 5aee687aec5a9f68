"""TensorRT and TensorRT-RTX on the workstation: what a kit says, and real RTX builds without a GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgekit.runtime import probe
from edgekit.runtime.errors import HardwareError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.runtime.plans.request import read_request
from edgekit.spec import Shapes
from edgekit.targets import tensorrt, tensorrt_rtx
from edgekit.targets._plan import target as plan

IMAGE = TensorSpec("image", ("batch", 1, 16, "width"), ranges={"batch": (1, 8), "width": (16, 1024)})
SHAPES = Shapes(inputs=(IMAGE,), seen={"width": (40, 60, 80, 100, 120, 300)})
NOTHING = probe.GpuProbe((), "no NVIDIA driver here")
ONE = probe.GpuProbe((probe.Gpu(0, "RTX 4090", (8, 9)),))


@pytest.fixture
def graph(crnn: Path, tmp_path: Path) -> Path:
    """The canonical graph in a folder of its own, which variants are written beside."""
    place = tmp_path / "model.onnx"
    place.write_bytes(crnn.read_bytes())
    return place


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "probe_gpus", lambda: NOTHING)
    monkeypatch.setattr(tensorrt_rtx, "probe_gpus", lambda: NOTHING)


def test_without_a_gpu_nothing_is_built_and_nothing_written(graph: Path, tmp_path: Path) -> None:
    assert tensorrt.ready("fp16", tensorrt.Options()) == "no NVIDIA driver here"
    with pytest.raises(HardwareError, match="no NVIDIA driver"):
        tensorrt.compile(graph, SHAPES, "fp16", tensorrt.Options(), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_second_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "probe_gpus", lambda: ONE)
    assert tensorrt.ready("fp16", tensorrt.Options(device="GPU.1")) == "there is no GPU number 1"


def test_the_kit_is_a_request_that_the_board_can_read(graph: Path, tmp_path: Path) -> None:
    kit = tensorrt.kit(graph, SHAPES, "fp16", tensorrt.Options(usual_batch=2, buckets=2, workspace_mb=256))
    asked = read_request(kit["request"])
    assert [profile["image"] for profile in asked.profiles] == [
        ((1, 1, 16, 16), (2, 1, 16, 60), (8, 1, 16, 80)),
        ((1, 1, 16, 81), (2, 1, 16, 120), (8, 1, 16, 1024)),
    ]
    assert (asked.workspace_bytes, asked.precision, asked.dla_core) == (256 << 20, "fp16", None)
    for variant in asked.variants:
        onnx.checker.check_model(str(tmp_path / variant.file), full_check=True)
    assert asked.variants[0].typing == "strong"
    assert {variant.oldest for variant in asked.variants if variant.typing == "weak"} >= {"8.5"}
    assert kit["tensorrt"] == ">=8.5,<12"


def test_each_variant_has_its_trtexec_line(graph: Path) -> None:
    kit = tensorrt.kit(graph, SHAPES, "int8", tensorrt.Options(dla=0))
    lines = list(kit["trtexec"].values())
    assert any("--stronglyTyped" in line and "--int8" not in line for line in lines)
    assert any("--int8 --fp16" in line for line in lines)
    for line in lines:
        assert "--minShapes=image:1x1x16x16" in line
        assert "--maxShapes=image:8x1x16x1024" in line
        assert "--useDLACore=0 --allowGPUFallback" in line


def test_bf16_begins_with_tensorrt_10(graph: Path) -> None:
    kit = tensorrt.kit(graph, SHAPES, "bf16", tensorrt.Options())
    assert kit["tensorrt"] == ">=10.0,<12"
    weak = [one for one in read_request(kit["request"]).variants if one.typing == "weak"]
    assert {one.oldest for one in weak} == {"10.0"}


def test_fixed_inputs_need_no_profile(graph: Path) -> None:
    kit = tensorrt.kit(graph, Shapes(inputs=(TensorSpec("x", (1, 3, 8, 8)),)), "fp32", tensorrt.Options())
    assert kit["request"]["profiles"] == ()
    assert not any("Shapes" in line for line in kit["trtexec"].values())


@pytest.mark.parametrize("options", [{"buckets": 0}, {"workspace_mb": -1}, {"rest": "int8"}])
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        tensorrt.Options(**options)  # type: ignore[arg-type]


def test_a_range_that_no_profile_can_have(graph: Path) -> None:
    shapes = Shapes(inputs=(TensorSpec("x", ("batch", 3), ranges={"batch": (4, 2)}),))
    with pytest.raises(UsageError, match="outside 4 to 2"):
        tensorrt.kit(graph, shapes, "fp32", tensorrt.Options())


def test_layout_1_is_cured_not_refused(graph: Path) -> None:
    model = onnx.load(graph)
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    lstm.attribute.append(onnx.helper.make_attribute("layout", 1))
    found = tensorrt.examine(model, "fp16", ("8.5", "10.3"))
    assert [(one.node, one.module, one.severity) for one in found if "layout" in one.reason] == [
        ("node_lstm0", "net.lstm0", "cured")
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_rtx_builds_ahead_of_time(graph: Path, tmp_path: Path, precision: str) -> None:
    options = tensorrt_rtx.Options(compute_capabilities=("8.6", "8.9", "12.0"))
    made = tensorrt_rtx.compile(graph, SHAPES, precision, options, tmp_path / "engine")
    assert made.engine is not None
    assert made.engine.read_bytes()[:4] == b"vtrt"
    assert "needs a GPU" in made.deferred
    assert any("not on a Jetson" in note for note in made.notes)
    assert made.layers.get(precision, 0) >= 1
    assert made.settings["compute_capabilities"] == ["8.6", "8.9", "12.0"]


def test_without_capabilities_rtx_builds_for_all_it_knows(graph: Path, tmp_path: Path) -> None:
    made = tensorrt_rtx.compile(graph, SHAPES, "fp32", tensorrt_rtx.Options(), tmp_path / "engine")
    assert set(made.settings["compute_capabilities"]) == set(plan.usual_capabilities())


def test_a_jetson_is_none_of_them(graph: Path, tmp_path: Path) -> None:
    options = tensorrt_rtx.Options(compute_capabilities=("8.7",))
    with pytest.raises(UnsupportedError, match=r"8\.7"):
        tensorrt_rtx.compile(graph, SHAPES, "fp32", options, tmp_path / "engine")


def test_an_engine_for_other_gpus_than_the_one_here_is_not_proved_here(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_rtx, "probe_gpus", lambda: ONE)
    options = tensorrt_rtx.Options(compute_capabilities=("8.6",))
    made = tensorrt_rtx.compile(graph, SHAPES, "fp32", options, tmp_path / "engine")
    assert "the GPU here has 8.9" in made.deferred
