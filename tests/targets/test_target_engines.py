"""Build half and run half together: what a target compiles, its engine runs, and the numbers are right."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.runtime.engines import EngineOptions, Layer, load_engine
from edgekit.runtime.errors import BadFileError, HardwareError, UnsupportedError
from edgekit.spec import Build, Shapes
from tests.targets import graphs

NO_SHAPES = Shapes(inputs=())

CASES = {
    ("openvino", "fp32"): 1e-5,
    ("openvino", "fp16"): 2e-2,
    ("openvino", "bf16"): 2e-2,
    ("openvino", "int8"): 3e-2,
    ("onnxruntime", "fp32"): 1e-5,
    ("onnxruntime", "fp16"): 5e-3,
    ("onnxruntime", "int8"): 1e-2,
}
SHAPES = [(1, 8), (2, 64), (3, 101), (7, 33)]
Compiled = dict[tuple[str, str], Build]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, crnn: Path, crnn_int8: Path) -> Compiled:
    return {
        (name, precision): compiled(
            name, precision, crnn_int8 if precision == "int8" else crnn, tmp_path_factory.mktemp("engine")
        )
        for name, precision in CASES
    }


def compiled(name: str, precision: str, graph: Path, out: Path, **options: object) -> Build:
    target = import_module(f"edgekit.targets.{name}")
    build: Build = target.compile(graph, NO_SHAPES, precision, target.Options(**options), out)
    return build


def opened(build: Build, kind: str, **options: object):
    assert build.engine is not None
    return load_engine(kind, build.engine, EngineOptions(precision=build.settings["precision"], **options))


def count(layers: list[Layer]) -> Counter[str]:
    return Counter(layer.precision for layer in layers)


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_numbers_at_many_shapes(
    built: Compiled, crnn: Path, crnn_int8: Path, kind: str, precision: str
) -> None:
    canonical = crnn_int8 if precision == "int8" else crnn
    with opened(built[kind, precision], kind) as runner:
        assert [spec.shape for spec in runner.inputs] == [("batch", 1, 16, "width")]
        assert [spec.shape for spec in runner.outputs] == [("batch", "time", graphs.CLASSES)]
        for batch, width in SHAPES:
            feeds = graphs.image(batch, width)
            got = runner.infer(feeds)["logits"]
            assert got.dtype == np.float32
            assert graphs.relative(got, graphs.reference(canonical, feeds)) < CASES[kind, precision]


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_fixed_shapes(built: Compiled, crnn: Path, crnn_int8: Path, kind: str, precision: str) -> None:
    canonical = crnn_int8 if precision == "int8" else crnn
    feeds = graphs.image(2, 40)
    with opened(built[kind, precision], kind, shapes={"batch": 2, "width": 40}) as runner:
        assert runner.inputs[0].shape == (2, 1, 16, 40)
        got = runner.infer(feeds)["logits"]
        assert graphs.relative(got, graphs.reference(canonical, feeds)) < CASES[kind, precision]
        with pytest.raises(BadFileError, match="has 41 at axis 3, not 40"):
            runner.infer(graphs.image(2, 41))


def test_one_result_does_not_change_the_one_before(built: Compiled) -> None:
    for kind in ("openvino", "onnxruntime"):
        with opened(built[kind, "fp32"], kind) as runner:
            first = runner.infer(graphs.image(1, 32))["logits"]
            kept = first.copy()
            runner.infer({"image": np.zeros((1, 1, 16, 32), np.float32)})
            assert np.array_equal(first, kept)


def test_feeds_that_are_not_contiguous(built: Compiled, crnn: Path) -> None:
    wide = graphs.image(2, 80)["image"][..., ::2]
    wanted = graphs.reference(crnn, {"image": np.ascontiguousarray(wide)})
    for kind in ("openvino", "onnxruntime"):
        with opened(built[kind, "fp32"], kind) as runner:
            assert graphs.relative(runner.infer({"image": wide})["logits"], wanted) < 1e-5


def test_openvino_layers_and_settings(built: Compiled) -> None:
    with opened(built["openvino", "fp32"], "openvino", threads=1) as runner:
        assert count(runner.layers()) == {
            "fp32": 7
        }  # 2 convolutions, 2 x 2 LSTM directions, 1 matrix product
        assert runner.settings["precision"] == "fp32"
        assert runner.settings["threads"] == 1
        assert runner.settings["device"] == "CPU"
        assert runner.settings["performance_hint"] == "LATENCY"


def test_openvino_int8_runs_convolutions_in_int8_and_says_so(built: Compiled) -> None:
    build = built["openvino", "int8"]
    with opened(build, "openvino") as runner:
        by_type = {(layer.type, layer.precision) for layer in runner.layers()}
        assert ("Convolution", "int8") in by_type
        assert {precision for kind, precision in by_type if kind == "RNNSeq"} == {build.settings["precision"]}
        assert runner.settings["precision"] == build.settings["precision"]
    assert len(build.lowering) == 3


def test_openvino_float_part_of_int8_can_be_chosen(tmp_path: Path, crnn_int8: Path) -> None:
    build = compiled("openvino", "int8", crnn_int8, tmp_path, rest="fp32")
    with opened(build, "openvino") as runner:
        assert count(runner.layers()) == {"int8": 2, "fp32": 5}


def test_openvino_reduced_precision_is_what_the_layers_say(built: Compiled) -> None:
    import openvino

    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("bf16", "fp16"):
        with opened(built["openvino", precision], "openvino") as runner:
            ran = {layer.precision for layer in runner.layers() if layer.type == "Convolution"}
            assert ran == ({precision} if precision.upper() in has else {"fp32"}) or precision == "fp16"
            assert ran == {runner.settings["precision"]} or precision == "fp16"


def test_openvino_bytes_are_the_same_twice(tmp_path: Path, crnn_int8: Path) -> None:
    first, second = (compiled("openvino", "int8", crnn_int8, tmp_path / name) for name in ("a", "b"))
    assert first.engine is not None
    assert second.engine is not None
    for suffix in (".xml", ".bin"):
        assert first.engine.with_suffix(suffix).read_bytes() == second.engine.with_suffix(suffix).read_bytes()
    assert str(tmp_path) not in first.engine.read_text()


def test_openvino_keeps_fp32_weights_exact(built: Compiled, crnn: Path) -> None:
    feeds = graphs.image(1, 16)
    with opened(built["openvino", "fp32"], "openvino") as runner:
        assert np.abs(runner.infer(feeds)["logits"] - graphs.reference(crnn, feeds)).max() < 1e-5


def test_onnxruntime_layers(built: Compiled) -> None:
    with opened(built["onnxruntime", "int8"], "onnxruntime") as runner:
        runner.infer(graphs.image(1, 32))
        types = Counter((layer.type, layer.precision) for layer in runner.layers())
        assert types["QLinearConv", "int8"] == 2
        assert types["LSTM", "fp32"] == 2
    with opened(built["onnxruntime", "fp32"], "onnxruntime", threads=1) as runner:
        assert set(count(runner.layers())) == {"fp32"}  # before any call: it finds a size that runs
        assert runner.settings["threads"] == 1


def test_onnxruntime_refuses_bf16(tmp_path: Path, crnn: Path) -> None:
    target = import_module("edgekit.targets.onnxruntime")
    problems = target.supports(onnx.load(crnn), "bf16")
    assert len(problems) == 1
    assert "openvino" in problems[0].cure
    with pytest.raises(UnsupportedError, match="bf16"):
        target.compile(crnn, NO_SHAPES, "bf16", target.Options(), tmp_path)


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
class TestRefusals:
    def test_unknown_dimension(self, built: Compiled, kind: str) -> None:
        with pytest.raises(BadFileError, match="no dynamic dimension height"):
            opened(built[kind, "fp32"], kind, shapes={"height": 16})

    @pytest.mark.parametrize("device", ["GPU", "NPU", "TPU"])
    def test_absent_device(self, built: Compiled, kind: str, device: str) -> None:
        with pytest.raises(HardwareError, match=f"no device {device}") as error:
            opened(built[kind, "fp32"], kind, device=device)
        assert "CPU" in error.value.hint

    @pytest.mark.parametrize("content", [b"", b"not a model at all", b"<?xml version='1.0'?><net/>"])
    def test_garbage(self, tmp_path: Path, kind: str, content: bytes) -> None:
        path = tmp_path / ("model.xml" if kind == "openvino" else "model.onnx")
        path.write_bytes(content)
        with pytest.raises(BadFileError, match="model"):
            load_engine(kind, path)

    def test_truncated(self, tmp_path: Path, built: Compiled, kind: str) -> None:
        whole = built[kind, "fp32"].engine
        assert whole is not None
        for file in whole.parent.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(BadFileError):
            load_engine(kind, tmp_path / whole.name)

    def test_bad_feeds(self, built: Compiled, kind: str) -> None:
        with (
            opened(built[kind, "fp32"], kind) as runner,
            pytest.raises(BadFileError, match="float64, not float32"),
        ):
            runner.infer({"image": np.zeros((1, 1, 16, 32))})


def test_a_size_that_the_network_cannot_take(built: Compiled) -> None:
    with (
        opened(built["openvino", "fp32"], "openvino") as runner,
        pytest.raises(BadFileError, match="cannot run"),
    ):
        runner.infer({"image": np.zeros((1, 1, 16, 1), np.float32)})  # pooled away


def test_openvino_auto_is_taken_where_it_exists(built: Compiled, crnn: Path) -> None:
    feeds = graphs.image(1, 24)
    with opened(built["openvino", "fp32"], "openvino", device="AUTO") as runner:
        assert graphs.relative(runner.infer(feeds)["logits"], graphs.reference(crnn, feeds)) < 1e-5
        assert "CPU" in runner.settings["device"]


def test_openvino_without_its_weights(tmp_path: Path, built: Compiled) -> None:
    whole = built["openvino", "fp32"].engine
    assert whole is not None
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    with pytest.raises(BadFileError, match="bin file"):
        load_engine("openvino", tmp_path / whole.name)


def test_openvino_names_the_node_that_it_cannot_convert(tmp_path: Path) -> None:
    make = graphs.Maker()
    make.node("Det", ["image"], "logits")
    onnx.save(make.model(["batch", 3, 3], ["batch"]), tmp_path / "det.onnx")
    with pytest.raises(UnsupportedError, match=r"node 'node_logits' \(Det\) of module 'net.logits'"):
        compiled("openvino", "fp32", tmp_path / "det.onnx", tmp_path)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_graph_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BadFileError, match=r"model\.onnx is not an ONNX model"):
        compiled(name, "fp32", tmp_path / "model.onnx", tmp_path / "out")
    with pytest.raises(BadFileError, match=r"absent\.onnx is not an ONNX model"):
        compiled(name, "fp32", tmp_path / "absent.onnx", tmp_path / "out")
