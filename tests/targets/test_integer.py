"""What is int8 in the canonical graph runs in int8 in ONNX Runtime, and gives the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgekit.spec import Shapes
from edgekit.targets import _integer, _lowering
from edgekit.targets import onnxruntime as target
from tests.targets import graphs

INTEGER = {"QLinearConv", "QGemm", "MatMulIntegerToFloat", "QLinearMatMul"}
FLOAT = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul"}
SIZE = 24


class Maker(graphs.Maker):
    """Layers with int8 weights beyond convolutions."""

    def note(self, key: str, value: float) -> None:
        self.nodes[-1].metadata_props.add(key=key, value=repr(value))

    def codes(self, name: str, shape: Sequence[int], axis: int) -> str:
        weight = self.random.standard_normal(shape) / np.sqrt(shape[1 - axis])
        scale = np.abs(weight).max(1 - axis) / 127
        self.constant(f"{name}.w", np.round(weight / np.expand_dims(scale, 1 - axis)), "int8")
        self.constant(f"{name}.s", scale)
        self.constant(f"{name}.z", np.zeros(shape[axis]), "int8")
        return self.node(
            "DequantizeLinear", [f"{name}.w", f"{name}.s", f"{name}.z"], f"{name}.wdq", axis=axis
        )

    def made(self, shape: Sequence[object], *outputs: str) -> onnx.ModelProto:
        """A model of opset 20 that reads `x`; the shapes of its results are inferred."""
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        source = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))
        graph = helper.make_graph(self.nodes, "graph", [source], values, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def run(model: onnx.ModelProto, feed: np.ndarray, *, optimize: bool) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(array) for array in session.run(None, {"x": feed})]


def kernels(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of the graph, the bodies of its loops included."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    graph = onnx.load(folder / "optimized.onnx").graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.g.node]
    return Counter(node.op_type for each in (graph, *bodies) for node in each.node)


def lowered(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "canonical.onnx")
    target.compile(folder / "canonical.onnx", Shapes(inputs=()), "int8", target.Options(), folder / "engine")
    made = onnx.load(folder / "engine" / "model.onnx")
    onnx.checker.check_model(made)
    return made


def assert_integer(
    model: onnx.ModelProto, folder: Path, feed: np.ndarray, layers: int, tolerance: float = 0.02
) -> onnx.ModelProto:
    """Every layer is an integer kernel after the lowering, and the numbers are those of the graph."""
    wanted = run(model, feed, optimize=False)
    made = lowered(model, folder)
    found = kernels(made, folder)
    assert sum(found[kind] for kind in INTEGER) == layers, found
    assert not FLOAT & set(found), found
    for have, want in zip(run(made, feed, optimize=True), wanted, strict=True):
        assert graphs.relative(have, want) < tolerance
    return made


def noise(*shape: int) -> np.ndarray:
    return np.clip(np.random.default_rng(3).standard_normal(shape), -4, 4).astype(np.float32)


def convolution(*behind: tuple[str, dict[str, object]], **notes: float) -> onnx.ModelProto:
    """Quantized input, one int8 convolution, nothing quantized behind it or its activation function."""
    make = Maker()
    x = make.quantized_convolution(make.quantized("x", "input", 4 / 127), "conv", 3, 8)
    for key, value in notes.items():
        make.note(f"edgekit.{key}", value)
    for index, (kind, settings) in enumerate(behind):
        x = make.node(kind, [x], f"act{index}", **settings)
    return make.made(["batch", 3, "height", 12], x)


def largest(model: onnx.ModelProto, tensor: str, feed: np.ndarray) -> float:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    return float(np.abs(run(probe, feed, optimize=False)[-1]).max())


def test_onnx_runtime_alone_computes_it_in_float(tmp_path: Path) -> None:
    model = convolution(("Relu", {}))
    _lowering.unsigned_activations(model)
    assert not INTEGER & set(kernels(model, tmp_path)), "it has such a kernel now: the lowering can go"


@pytest.mark.parametrize(
    ("behind", "key"),
    [
        ((), "output_range"),
        ((("Relu", {}),), "output_range"),
        ((("Relu", {}), ("MaxPool", {"kernel_shape": [2, 2]})), "output_range"),
        ((("LeakyRelu", {}),), "result_range"),
        ((("HardSwish", {}),), "result_range"),
        ((("Gelu", {}),), "result_range"),
    ],
)
def test_a_convolution_with_a_known_range(
    tmp_path: Path, behind: Sequence[tuple[str, dict[str, object]]], key: str
) -> None:
    feed = noise(2, 3, 10, 12)
    tensor = "act0" if behind and behind[0][0] == "Relu" else "conv"
    top = largest(convolution(*behind), tensor, feed)
    made = assert_integer(convolution(*behind, **{key: top}), tmp_path, feed, 1)
    assert made.graph.output[0].name == (f"act{len(behind) - 1}" if behind else "conv")


@pytest.mark.parametrize("kind", ["Tanh", "Sigmoid"])
def test_a_flat_activation_function_needs_no_range(tmp_path: Path, kind: str) -> None:
    assert_integer(convolution((kind, {})), tmp_path, noise(2, 3, 10, 12), 1)


def test_the_range_behind_an_activation_function_is_not_that_of_the_convolution(tmp_path: Path) -> None:
    model = convolution(("LeakyRelu", {}), output_range=1.0)
    assert _integer.integer_convolutions(model) == []


def test_swish_is_read_from_the_quantized_result(tmp_path: Path) -> None:
    make = Maker()
    conv = make.quantized_convolution(make.quantized("x", "input", 4 / 127), "conv", 3, 8)
    make.note("edgekit.result_range", 7.0)
    make.node("Mul", [conv, make.node("Sigmoid", [conv], "gate")], "swish")
    assert_integer(make.made(["batch", 3, 10, 12], "swish"), tmp_path, noise(2, 3, 10, 12), 1)


def test_who_else_reads_a_quantized_result_reads_it_quantized(tmp_path: Path) -> None:
    """A second reader and a result of the graph: both would keep the convolution in float."""
    make = Maker()
    conv = make.quantized_convolution(make.quantized("x", "input", 4 / 127), "conv", 3, 8)
    make.node("Softmax", [conv], "other", axis=1)
    second = make.quantized_convolution(make.quantized(conv, "between", 7 / 127), "second", 8, 4)
    make.note("edgekit.output_range", 9.0)
    model = make.made(["batch", 3, 10, 12], "other", conv, second)
    made = assert_integer(model, tmp_path, noise(2, 3, 10, 12), 2)
    assert [value.name for value in made.graph.output] == ["other", "conv", "second"]


def test_without_a_range_the_weights_go_back_to_float(tmp_path: Path) -> None:
    model, feed = convolution(("Elu", {})), noise(2, 3, 10, 12)
    wanted = run(model, feed, optimize=False)[0]
    made = lowered(model, tmp_path)
    assert kernels(made, tmp_path)["DequantizeLinear"] == 1, "that of the input; none at every run"
    assert graphs.relative(run(made, feed, optimize=True)[0], wanted) < 1e-5


def test_a_transposed_convolution_gets_its_float_weights_back(tmp_path: Path) -> None:
    make = Maker()
    make.constant("up.w", make.random.integers(-127, 128, (3, 8, 2, 2)), "int8")
    make.constant("up.s", np.full(8, 0.01))
    make.constant("up.z", np.zeros(8), "int8")
    weight = make.node("DequantizeLinear", ["up.w", "up.s", "up.z"], "up.wdq", axis=1)
    make.node("ConvTranspose", [make.quantized("x", "input", 4 / 127), weight], "up", strides=[2, 2])
    model = make.made(["batch", 3, 6, 6], "up")
    records = _integer.float_leftovers(model)
    assert "node_up: int8 weights -> float" in records[0]
    assert "up.w" not in {tensor.name for tensor in model.graph.initializer}
    feed = noise(2, 3, 6, 6)
    assert np.isfinite(run(model, feed, optimize=True)[0]).all()


def gemm(**settings: object) -> onnx.ModelProto:
    make = Maker()
    turned = bool(settings.get("transB"))
    shape, axis = ((10, SIZE), 0) if turned else ((SIZE, 10), 1)
    weight = make.codes("fc", shape, axis)
    inputs = [make.quantized("x", "input", 4 / 127), weight]
    if settings.pop("bias", True):
        inputs.append(make.weight("fc.bias", 10))
    make.node("Gemm", inputs, "fc", **settings)
    return make.made(["batch", SIZE], "fc")


def product(rank: int, *, bias: bool = True, first: bool = False) -> onnx.ModelProto:
    make = Maker()
    source = make.quantized("x", "input", 4 / 127)
    result = make.node("MatMul", [source, make.codes("fc", (SIZE, 10), 1)], "fc")
    if bias:
        added = [make.weight("fc.bias", 10), result]
        result = make.node("Add", added if first else added[::-1], "biased")
    return make.made(["batch", "time", SIZE][3 - rank :], result)


MATRICES: dict[str, Callable[[], onnx.ModelProto]] = {
    "gemm": gemm,
    "gemm transposed": lambda: gemm(transB=1),
    "gemm scaled": lambda: gemm(transB=1, alpha=0.5, beta=2.0),
    "gemm without bias": lambda: gemm(bias=False),
    "matmul of two dimensions": lambda: product(2),
    "matmul of three dimensions": lambda: product(3),
    "bias first": lambda: product(2, first=True),
    "no bias": lambda: product(3, bias=False),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_with_their_bias(tmp_path: Path, name: str) -> None:
    model = MATRICES[name]()
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    feed = noise(*(3, 5, SIZE)[3 - rank :])
    made = assert_integer(model, tmp_path, feed, 1, tolerance=1e-5)
    kept = [node for node in made.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert [_lowering.module_of(node) for node in kept] == ["net.fc"]


@pytest.mark.parametrize("name", ["gemm", "matmul of two dimensions"])
def test_onnx_runtime_alone_makes_a_float_gemm(tmp_path: Path, name: str) -> None:
    model = MATRICES[name]()
    _lowering.unsigned_activations(model)
    assert not INTEGER & set(kernels(model, tmp_path)), "it has such a kernel now: the lowering can go"


def test_codes_that_are_rearranged_before_a_matrix_stay_codes(tmp_path: Path) -> None:
    make = Maker()
    x = make.quantized("x", "input", 4 / 127)
    x = make.node("MaxPool", [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    x = make.node("Reshape", [x, make.constant("shape", [0, -1], "int64")], "flat")
    make.node("Gemm", [x, make.codes("fc", (10, 48), 0), make.weight("fc.bias", 10)], "fc", transB=1)
    model = make.made(["batch", 3, 8, 8], "fc")
    made = assert_integer(model, tmp_path, noise(2, 3, 8, 8), 1, tolerance=1e-5)
    assert kernels(made, tmp_path)["DequantizeLinear"] == 0


def test_a_bias_that_is_no_row_is_left_alone(tmp_path: Path) -> None:
    make = Maker()
    weight = make.codes("fc", (10, SIZE), 0)
    column = make.constant("fc.column", np.arange(4).reshape(4, 1))
    make.node("Gemm", [make.quantized("x", "input", 4 / 127), weight, column], "fc", transB=1)
    model, feed = make.made([4, SIZE], "fc"), noise(4, SIZE)
    wanted = run(model, feed, optimize=False)[0]
    made = lowered(model, tmp_path)
    assert kernels(made, tmp_path)["Gemm"] == 1
    assert graphs.relative(run(made, feed, optimize=True)[0], wanted) < 1e-5


def relu6(make: Maker, x: str) -> str:
    return make.node("Clip", [x, make.constant("low", 0.0), make.constant("high", 6.0)], "act")


NEVER_NEGATIVE: dict[str, Callable[[Maker, str], str]] = {
    "ReLU6": relu6,
    "HardSigmoid": lambda make, x: make.node("HardSigmoid", [x], "act"),
    "pooled": lambda make, x: make.node("GlobalAveragePool", [relu6(make, x)], "pooled"),
    "concatenated": lambda make, x: make.node(
        "Concat", [relu6(make, x), make.node("Sigmoid", [x], "gate")], "both", axis=1
    ),
    "added": lambda make, x: make.node("Add", [relu6(make, x), make.node("Relu", [x], "other")], "sum"),
}
NEGATIVE: dict[str, Callable[[Maker, str], str]] = {
    "HardTanh": lambda make, x: make.node(
        "Clip", [x, make.constant("low", -1.0), make.constant("high", 1.0)], "act"
    ),
    "no limit below": lambda make, x: make.node("Clip", [x, "", make.constant("high", 1.0)], "act"),
    "half of it": lambda make, x: make.node("Concat", [relu6(make, x), x], "both", axis=1),
}


@pytest.mark.parametrize("name", [*NEVER_NEGATIVE, *NEGATIVE])
def test_what_is_never_negative_gets_all_256_codes(name: str) -> None:
    make = Maker()
    result = {**NEVER_NEGATIVE, **NEGATIVE}[name](make, "x")
    make.node("Identity", [make.quantized(result, "last", 6 / 127)], "y")
    model = make.made(["batch", 3, 8, 8], "y")
    _lowering.unsigned_activations(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    last = next(node for node in model.graph.node if node.name == "node_last.q")
    assert int(values[last.input[2]]) == (0 if name in NEVER_NEGATIVE else 128)


@pytest.mark.parametrize(
    ("low", "high", "zero", "step"),
    [(-1.0, 3.0, 64, 4 / 255), (0.5, 3.0, 0, 3 / 255), (-9.0, 9.0, 128, 8 / 255), (2.0, 2.0, 0, 2 / 255)],
    ids=["both signs", "never near 0", "clipped by the threshold", "one value"],
)
def test_a_known_range_gets_all_256_codes(low: float, high: float, zero: int, step: float) -> None:
    make = Maker()
    x = make.quantized("x", "input", 4 / 127)
    converter = next(node for node in make.nodes if node.op_type == "QuantizeLinear")
    for key, value in ((_lowering.LOW, low), (_lowering.HIGH, high)):
        converter.metadata_props.add(key=key, value=repr(value))
    make.node("Identity", [x], "y")
    model = make.made(["batch", 3], "y")
    records = _lowering.unsigned_activations(model)
    assert records == [
        "1 activations: int8 zero point 0 -> uint8, all codes within the range that was measured"
    ]
    feed = np.linspace(max(low, -4), min(high, 4), 3000, dtype=np.float32).reshape(-1, 3)
    found = run(model, feed, optimize=False)[0]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert (int(values[made.input[2]]), float(values[made.input[1]])) == (zero, pytest.approx(step))
    assert np.abs(found - feed).max() <= step / 2 + 1e-6


def test_relu6_is_taken_into_the_convolution(tmp_path: Path) -> None:
    make = Maker()
    x = relu6(make, make.quantized_convolution(make.quantized("x", "input", 4 / 127), "first", 3, 8))
    make.quantized_convolution(make.quantized(x, "between", 6 / 127), "second", 8, 4)
    make.note("edgekit.output_range", 9.0)
    model, feed = make.made(["batch", 3, 10, 12], "second"), noise(2, 3, 10, 12)
    made = assert_integer(model, tmp_path, feed, 2, tolerance=0.03)
    assert kernels(made, tmp_path)["Clip"] == 0


def looped(layer: Callable[[Maker, str], str], shape: Sequence[object]) -> onnx.ModelProto:
    """A Scan whose body computes state = tanh(layer(state + x))."""
    make = Maker()
    make.node("Add", ["state", "step"], "sum")
    make.node("Tanh", [layer(make, make.quantized("sum", "input", 4 / 127))], "next")
    make.node("Identity", ["next"], "each")

    def values(*names: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]

    body = helper.make_graph(
        make.nodes, "body", values("state", "step"), values("next", "each"), make.weights
    )
    outer = Maker()
    first = outer.node("Gather", ["x", outer.constant("zero", 0, "int64")], "first", axis=0)
    outer.nodes.append(helper.make_node("Scan", [first, "x"], ["end", "y"], num_scan_inputs=1, body=body))
    source = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(outer.nodes, "graph", [source], [result], outer.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def cell(make: Maker, x: str) -> str:
    weights = [make.codes("fc", (SIZE, SIZE), 0), make.weight("fc.bias", SIZE)]
    return make.node("Gemm", [x, *weights], "fc", transB=1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(cell, (6, 2, SIZE)), (lambda make, x: make.quantized_convolution(x, "conv", 3, 3), (6, 2, 3, 8, 8))],
    ids=["cell", "convolution"],
)
def test_layers_in_the_body_of_a_scan(
    tmp_path: Path, layer: Callable[[Maker, str], str], shape: tuple[int, ...]
) -> None:
    model = looped(layer, ["time", "batch", *shape[2:]])
    assert_integer(model, tmp_path, noise(*shape), 1)
    longer = noise(9, 3, *shape[2:])
    made = onnx.load(tmp_path / "engine" / "model.onnx")
    assert graphs.relative(*(run(each, longer, optimize=False)[0] for each in (made, model))) < 0.02
