"""One layer is broken on purpose; the comparison has to name that one, and say how it was broken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgekit.exporting import export_onnx
from edgekit.quantization import ptq
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.steps._half import widened
from edgekit.steps._layers import activations as _activations
from edgekit.steps.layers import COLUMNS, LayerReport, compare_layers
from edgekit.targets._lowering import explicit_bias, unsigned_activations
from edgekit.targets._plan.cast import cast
from tests.exporting.networks import IMAGE, LINE_STATES, LINES, SERIES, Scanned, line_reader

Feeds = list[dict[str, np.ndarray[Any, Any]]]
Compare = Callable[..., LayerReport]
ACTIVATIONS, WEIGHTS = "activation quantization", "weight quantization"


class Stack(nn.Module):
    """Three convolutions with ReLU; channel 0 of the first is dead, as batch norms often leave one."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.three = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.one.bias[0] = -3.0  # type: ignore[index]

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.one(image))
        x = torch.relu(self.two(x))
        scores: Tensor = self.head(torch.relu(self.three(x)).mean((2, 3)))
        return scores


def stack() -> Stack:
    torch.manual_seed(0)
    return Stack().eval()


def images(count: int = 4) -> Feeds:
    random = np.random.default_rng(0)
    return [{"image": random.uniform(-1, 1, (1, 1, 16, 16 + 7 * step)).astype("f")} for step in range(count)]


def exported(network: nn.Module, path: Path) -> onnx.ModelProto:
    export_onnx(network, IMAGE, (TensorSpec("scores", ("batch", 4)),), (), path, shapes=[])
    return onnx.load(path)


def constant(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change(model: onnx.ModelProto, name: str, value: np.ndarray[Any, Any]) -> None:
    constant(model, name).CopyFrom(numpy_helper.from_array(value, name))


def one_scale(model: onnx.ModelProto, weight: str, exact: np.ndarray[Any, Any]) -> None:
    """Quantize a weight of the int8 graph per tensor instead of per channel."""
    suffix = next(t.name for t in model.graph.initializer if t.name.startswith(f"{weight}/int8")).split(
        "int8"
    )[1]
    codes, scale = ptq_weight(exact)
    change(model, f"{weight}/int8{suffix}", codes)
    change(model, f"{weight}/scale{suffix}", scale)
    change(model, f"{weight}/zero{suffix}", np.zeros((), np.int8))
    node = next(n for n in model.graph.node if n.input[0] == f"{weight}/int8{suffix}")
    del node.attribute[:]


def ptq_weight(exact: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    scale = np.float32(np.abs(exact).max() / 127)
    return np.round(exact / scale).astype(np.int8), np.array(scale, np.float32)


@pytest.fixture
def against(tmp_path: Path) -> Compare:
    """Compare two models that are in memory."""

    def run(reference: onnx.ModelProto, engine: onnx.ModelProto, feeds: Feeds, **more: Any) -> LayerReport:
        for model, name in ((reference, "float.onnx"), (engine, "engine.onnx")):
            (tmp_path / name).write_bytes(model.SerializeToString())
        return compare_layers(tmp_path / "float.onnx", tmp_path / "engine.onnx", feeds, **more)

    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return exported(stack(), tmp_path_factory.mktemp("layers") / "model.onnx")


@pytest.fixture(scope="module")
def quantized(plain: onnx.ModelProto) -> onnx.ModelProto:
    return int8(plain, {}, ptq.Options())


def int8(graph: onnx.ModelProto, plan: dict[str, str], options: ptq.Options) -> onnx.ModelProto:
    return ptq.quantize(graph, ptq.measure(graph, images(), options), plan, options)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def node_of(model: onnx.ModelProto, module: str, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == f"{module}/{kind}")


# What is healthy has no jump.


def test_equal_graphs_differ_nowhere(against: Compare, plain: onnx.ModelProto) -> None:
    report = against(plain, plain, images())
    assert report.first_jump is None
    assert report.origin is None
    assert len(report.rows) >= 8
    assert {row.sqnr_db for row in report.rows} == {math.inf}
    assert not report.unmatched
    assert not report.worst
    assert report.sentence() == f"no layer differs: all {len(report.rows)} compared tensors are equal"


def test_a_healthy_int8_graph_has_no_jump(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    report = against(plain, quantized, images())
    assert report.first_jump is None
    assert all(math.isfinite(row.sqnr_db) for row in report.rows)
    first = report.rows[0]
    assert (first.module, first.op_type, first.depth) == ("one", "Conv", 0)
    assert first.came_in_db == math.inf
    assert first.culprit == "activation and weight quantization"
    relu = next(row for row in report.rows if row.op_type == "Relu")
    assert relu.read_sqnr_db is not None
    assert relu.read_sqnr_db < relu.sqnr_db, "the pair behind it costs something"
    assert "nowhere" in report.sentence()


# One layer is made fragile.


@pytest.mark.parametrize("module", ["one", "two", "three"])
def test_a_range_cut_to_a_tenth_names_the_layer_that_reads_it(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto, module: str
) -> None:
    broken = copy(quantized)
    tensor = node_of(plain, module, "Conv").input[0]
    scale = numpy_helper.to_array(constant(broken, f"{tensor}/scale"))
    change(broken, f"{tensor}/scale", np.array(scale / 10, np.float32))
    report = against(plain, broken, images())
    row = report.first_jump
    assert row is not None
    assert report.origin is row
    assert (row.module, row.node, row.op_type) == (module, f"{module}/Conv", "Conv")
    assert row.culprit == ACTIVATIONS
    assert row in report.worst
    assert f"its input {tensor} is quantized to int8 with a range of" in report.sentence()
    assert "cut off" in report.sentence()
    assert report.sentence().startswith(f"the error jumps at {module} (node {module}/Conv, Conv): SQNR ")


@pytest.mark.parametrize("module", ["two", "three"])
def test_a_weight_with_an_outlier_and_one_scale_is_named(
    tmp_path: Path, against: Compare, module: str
) -> None:
    network = stack()
    layer = network.get_submodule(module)
    with torch.no_grad():  # an input channel that is dead: the float network does not notice
        network.two.bias[0] = -3.0  # type: ignore[index]
        layer.weight[:, 0] *= 200  # type: ignore[index,operator]
    reference = exported(network, tmp_path / "model.onnx")
    broken = int8(reference, {}, ptq.Options())
    one_scale(broken, f"{module}.weight", layer.weight.detach().numpy())  # type: ignore[operator,union-attr]
    report = against(reference, broken, images())
    row = report.first_jump
    assert row is not None
    assert row.node == f"{module}/Conv"
    assert row.culprit == WEIGHTS
    assert f"its weight {module}.weight is quantized to int8 with one scale for all" in row.cause
    assert "weights alone" in row.cause


def test_an_error_that_shows_only_later_is_traced_to_where_it_comes_from(
    tmp_path: Path, against: Compare
) -> None:
    """An OUTPUT channel outweighs the others, and the next layer makes up for it."""
    network = stack()
    with torch.no_grad():
        network.two.weight[3] *= 500
        network.three.weight[:, 3] /= 5000
    reference = exported(network, tmp_path / "model.onnx")
    weight = numpy_helper.to_array(constant(reference, "two.weight"))
    broken = int8(reference, {"three/Conv": "fp32"}, ptq.Options(op_types=("Conv",)))
    for node in broken.graph.node:  # nothing but the weight is quantized
        for index, name in enumerate(node.input):
            if name.endswith("_output_0/dequantized") or name == "image/dequantized":
                node.input[index] = name.removesuffix("/dequantized")
    one_scale(broken, "two.weight", weight)
    report = against(reference, broken, images())
    assert report.first_jump is not None
    assert report.first_jump.node == "three/Conv"
    assert report.first_jump.culprit == "amplification"
    assert report.origin is not None
    assert report.origin.node == "two/Conv"
    assert report.origin.culprit == WEIGHTS
    sentence = report.sentence()
    assert sentence.startswith("the error comes from two (node two/Conv, Conv); its weight two.weight is")
    assert "it shows at three (node three/Conv, Conv): SQNR" in sentence
    assert "the error comes from two" in report.svg()
    assert "it shows: three" in report.svg()


def test_a_recurrent_layer_is_named(tmp_path: Path, against: Compare) -> None:
    network = line_reader()
    export_onnx(network, IMAGE, LINES, LINE_STATES, tmp_path / "model.onnx", shapes=[])
    reference = onnx.load(tmp_path / "model.onnx")
    broken = copy(reference)
    node = node_of(broken, "rnn", "LSTM_1")
    weight = node.input[1]
    codes = np.round(numpy_helper.to_array(constant(broken, weight)) / 0.3).astype(np.int8)
    broken.graph.initializer.append(numpy_helper.from_array(codes, "codes"))
    broken.graph.initializer.append(numpy_helper.from_array(np.array(0.3, np.float32), "step"))
    node.input[1] = "restored"
    broken.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["codes", "step"], ["restored"], name="dq")
    )
    states = {state.input: np.zeros((4, 1, 12), np.float32) for state in LINE_STATES}
    report = against(reference, broken, [{**feed, **states} for feed in images()], module=network)
    row = report.first_jump
    assert row is not None
    assert (row.module, row.node, row.op_type, row.culprit) == ("rnn", "rnn/LSTM_1", "LSTM", WEIGHTS)
    assert f"its weight {weight} is quantized to int8 with one scale for all, in steps of 0.3" in row.cause
    assert report.wrong_export is None
    assert {row.tensor for row in report.rows} >= {"logits", "hn", "cn"}


def test_an_overflow_of_fp16_is_named(tmp_path: Path, against: Compare) -> None:
    network = stack()
    with torch.no_grad():
        network.two.weight *= 4e5
    reference = exported(network, tmp_path / "model.onnx")
    half, said = cast(reference, "fp16")
    assert not any("clamped" in sentence for sentence in said), "the weights themselves fit"
    report = against(reference, half, images())
    row = report.first_jump
    assert row is not None
    assert (row.node, row.culprit, row.sqnr_db) == ("two/Conv", "cast", -math.inf)
    assert "float16, which ends at 65504, but its result reaches" in report.sentence()
    assert row.told()["rel_l2"] is None
    json.dumps(report.told(), allow_nan=False)


# Lowered graphs: other names, other nodes, other types.


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_graph_in_half_precision_is_compared_on_any_cpu(
    against: Compare, plain: onnx.ModelProto, precision: str
) -> None:
    half, _ = cast(plain, precision)
    report = against(plain, half, images())
    assert report.first_jump is None
    worst = min(row.sqnr_db for row in report.rows)
    assert {"fp16": 55, "bf16": 40}[precision] < worst < {"fp16": 90, "bf16": 65}[precision]
    assert {row.culprit for row in report.rows} <= {"cast", ""}


def test_unsigned_codes_and_a_bias_apart_are_the_same_layers(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    lowered = copy(quantized)
    assert unsigned_activations(lowered)
    assert explicit_bias(lowered)
    tensor = node_of(lowered, "two", "Conv").input[0].removesuffix("/dequantized")
    scale = next(
        n for n in lowered.graph.node if n.input[0] == tensor and n.op_type == "QuantizeLinear"
    ).input[1]
    change(lowered, scale, numpy_helper.to_array(constant(lowered, scale)) / np.float32(10))
    report = against(plain, lowered, images())
    assert len(report.rows) == len(against(plain, quantized, images()).rows)
    assert report.first_jump is not None
    assert (report.first_jump.node, report.first_jump.culprit) == ("two/Conv", ACTIVATIONS)
    assert "is quantized to uint8 with a range of 0 to" in report.sentence()


def test_renamed_tensors_are_found_by_module_and_operator(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    renamed = copy(quantized)
    assert explicit_bias(renamed)
    made = {name for node in renamed.graph.node for name in node.output} - {"scores"}
    for node in renamed.graph.node:
        node.input[:] = [f"{name}#1" if name in made else name for name in node.input]
        node.output[:] = [f"{name}#1" if name in made else name for name in node.output]
    before, after = (against(plain, engine, images()) for engine in (quantized, renamed))
    assert not after.unmatched
    assert [row.sqnr_db for row in after.rows] == pytest.approx(
        [row.sqnr_db for row in before.rows], abs=0.01
    )


def test_nodes_without_a_counterpart_are_listed(against: Compare, plain: onnx.ModelProto) -> None:
    fewer = copy(plain)
    relu = next(node for node in fewer.graph.node if node.op_type == "Relu")
    relu.op_type, relu.output[0] = "LeakyRelu", "other"
    for node in fewer.graph.node:
        node.input[:] = [
            "other" if name == "relu" or name == f"{relu.name}_output_0" else name for name in node.input
        ]
    report = against(plain, fewer, images())
    assert report.unmatched == (relu.name,)
    assert report.first_jump is not None
    assert report.first_jump.node == "two/Conv", "the first that both have behind it"


# What else a graph may hold.


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int]]],
    outputs: Sequence[str],
    **constants: np.ndarray[Any, Any],
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def masked_attention() -> onnx.ModelProto:
    """Scores of keys that an integer mask leaves out become -3.4e38; several outputs, one of integers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="scores"),
        helper.make_node("Cast", ["mask"], ["keep"], name="keep", to=TensorProto.BOOL),
        helper.make_node("Where", ["keep", "scores", "never"], ["masked"], name="masked"),
        helper.make_node("Softmax", ["masked"], ["weights"], name="softmax"),
        helper.make_node("ArgMax", ["weights"], ["best"], name="best", axis=1, keepdims=0),
        helper.make_node("Split", ["weights"], ["left", "right"], name="split", axis=1, num_outputs=2),
    ]
    weight = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    inputs = {"x": (TensorProto.FLOAT, [1, 6]), "mask": (TensorProto.INT64, [1, 8])}
    never = np.array(np.finfo(np.float32).min, np.float32)
    return graph_of(nodes, inputs, ["weights", "best", "left", "right"], w=weight, never=never)


def test_masks_integers_and_several_outputs_do_not_disturb(against: Compare) -> None:
    reference = masked_attention()
    half, _ = cast(reference, "fp16")
    feed = {"x": np.ones((1, 6), np.float32), "mask": np.array([[1, 1, 1, 0, 1, 1, 0, 0]], np.int64)}
    report = against(reference, half, [feed])
    assert [row.tensor for row in report.rows] == ["scores", "masked", "weights", "left", "right"]
    assert report.first_jump is None
    assert min(row.sqnr_db for row in report.rows) > 50


def test_what_is_zero_everywhere_is_no_jump(against: Compare) -> None:
    def graph(step: float) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Mul", ["x", "zero"], ["nothing"], name="nothing"),
            helper.make_node("Add", ["x", "nothing"], ["y"], name="sum"),
        ]
        return graph_of(nodes, {"x": (1, [1, 4])}, ["y"], zero=np.array(step, np.float32))

    report = against(graph(0.0), graph(1e-6), [{"x": np.ones((1, 4), np.float32)}])
    assert math.isnan(report.rows[0].sqnr_db)
    assert report.first_jump is None
    json.dumps(report.told(), allow_nan=False)


def test_a_loop_is_one_node(tmp_path: Path, against: Compare) -> None:
    torch.manual_seed(0)
    outputs = (TensorSpec("steps", ("time", "batch", 3, 3)),)
    export_onnx(Scanned().eval(), SERIES, outputs, (), tmp_path / "model.onnx", shapes=[])
    reference = onnx.load(tmp_path / "model.onnx")
    half, _ = cast(reference, "fp16")
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)}
    report = against(reference, half, [feed])
    assert "Scan" in {row.op_type for row in report.rows}
    assert 40 < min(row.sqnr_db for row in report.rows) < 90


def test_a_graph_out_of_order_is_read(against: Compare, plain: onnx.ModelProto) -> None:
    shuffled = copy(plain)
    nodes = list(shuffled.graph.node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes[::-1])
    report = against(shuffled, plain, images())
    assert [row.node for row in report.rows] == [row.node for row in against(plain, plain, images()).rows]


# The export itself.


def test_the_export_is_compared_with_pytorch_module_by_module(tmp_path: Path, against: Compare) -> None:
    network = line_reader()
    export_onnx(network, IMAGE, LINES, (), tmp_path / "model.onnx", shapes=[])
    reference = onnx.load(tmp_path / "model.onnx")
    report = against(reference, reference, images(), module=network)
    known = {row.module: row.export_rel_l2 for row in report.rows if row.export_rel_l2 is not None}
    assert {"cnn.0", "cnn.2", "cnn.3", "cnn.4", "cnn.7", "rnn", "head"} <= known.keys()
    assert max(known.values()) < 1e-5, "folded batch norms included"
    assert report.wrong_export is None
    assert not any(module._forward_hooks for module in network.modules())


def test_a_wrong_export_is_told_apart_from_a_wrong_quantization(
    against: Compare, plain: onnx.ModelProto
) -> None:
    network = stack()
    with torch.no_grad():
        network.two.weight += 0.02
    report = against(plain, plain, images(), module=network)
    assert report.first_jump is None
    assert report.wrong_export is not None
    assert report.wrong_export.module == "two"
    assert report.sentence().startswith("the export itself is wrong from two (node two/Conv, Conv) on")
    assert report.told()["wrong_export"]["export_rel_l2"] > 1e-3


def test_a_network_that_does_not_take_the_samples_is_refused(
    against: Compare, plain: onnx.ModelProto
) -> None:
    with pytest.raises(UnsupportedError, match="the network itself fails"):
        against(plain, plain, images(), module=nn.Linear(3, 3))


# Memory, pictures, mistakes.


def test_portions_change_nothing(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = against(plain, quantized, images(2))
    monkeypatch.setattr(_activations.Portions.__init__, "__defaults__", (1,))
    seen: list[tuple[int, int]] = []
    few = against(plain, quantized, images(2), progress=lambda _what, done, total: seen.append((done, total)))
    assert len(seen) == len(few.rows) - 1, "two at first, then one by one"
    assert seen[-1][0] == seen[-1][1]
    assert [row.sqnr_db for row in few.rows] == [row.sqnr_db for row in many.rows]


def test_portions_grow_with_the_room_there_is() -> None:
    portions = _activations.Portions(range(100), limit=800)
    sizes = []
    for part in portions:
        sizes.append(len(part))
        portions.took({str(item): np.zeros(10 if item < 40 else 100, np.uint8) for item in part})
    assert sizes[:3] == [2, 8, 32]
    assert sum(sizes) == 100
    assert max(sizes[4:]) <= 8


def test_rounding_in_float32_is_what_half_precision_gives() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], name="in", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["low", "large"], ["big"], name="big"),
        helper.make_node("Mul", ["big", "small"], ["back"], name="back"),
        helper.make_node("Cast", ["back"], ["y"], name="out", to=TensorProto.FLOAT),
    ]
    constants = {"large": np.array([6e4], np.float16), "small": np.array([1e-4], np.float16)}
    model = widened(graph_of(nodes, {"x": (1, [3])}, ["y"], **constants))
    values = np.array([1.0001, 0.3, 2.0], np.float32)
    run = _activations.evaluator(model, ["y"], Path("half.onnx"))
    with np.errstate(over="ignore"):
        low = values.astype(np.float16) * constants["large"] * constants["small"]
    np.testing.assert_array_equal(run({"x": values})["y"], low.astype(np.float32))
    assert np.isinf(low[2]), "an overflow stays one"


def test_the_picture_is_plain_svg_with_the_jump_marked(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    broken = copy(quantized)
    change(broken, "image/scale", np.array(1e-4, np.float32))
    report = against(plain, broken, images(1))
    root = ElementTree.fromstring(report.svg())  # noqa: S314
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in root.iter(f"{space}text")]
    assert "the error jumps: one" in texts
    assert any("SQNR in dB" in text for text in texts)
    own = [circle for circle in root.iter(f"{space}circle") if circle.find(f"{space}title") is not None]
    assert len(own) == len(report.rows)
    assert not list(root.iter(f"{space}script"))
    heights = [float(circle.attrib["cy"]) for circle in own]
    assert all(0 < height < 420 for height in heights)


def test_a_picture_of_what_is_exact_or_broken_has_no_nan(against: Compare) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["same"], name="same"),
        helper.make_node("Mul", ["same", "k"], ["y"], name="y"),
    ]
    graphs = [graph_of(nodes, {"x": (1, [1, 4])}, ["y"], k=np.array(k, np.float32)) for k in (1.0, math.inf)]
    report = against(*graphs, [{"x": np.ones((1, 4), np.float32)}])
    assert [row.sqnr_db for row in report.rows] == [math.inf, -math.inf]
    ElementTree.fromstring(report.svg())  # noqa: S314
    assert "nan" not in report.svg()
    assert "inf" not in report.svg().replace("infinit", "")


def test_rows_fit_the_columns_of_a_table(
    against: Compare, plain: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    report = against(plain, quantized, images(1))
    assert {len(row.cells()) for row in report.rows} == {len(COLUMNS)}
    assert report.rows[0].cells()[:4] == ("0", "one", "one/Conv", "Conv")


def test_mistakes_are_told(tmp_path: Path, against: Compare, plain: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="no samples"):
        against(plain, plain, [])
    with pytest.raises(UsageError, match=r"the input image of float\.onnx is not fed"):
        against(plain, plain, [{"picture": images(1)[0]["image"]}])
    with pytest.raises(UnsupportedError, match="ONNX Runtime cannot compute"):
        against(plain, plain, [{"image": np.zeros((1, 5, 16, 16), np.float32)}])
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(BadFileError, match="not an ONNX model"):
        compare_layers(tmp_path / "text.onnx", tmp_path / "text.onnx", images(1))
