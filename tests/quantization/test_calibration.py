"""One pass over the samples: what it knows, what it warns of, which layer it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekit.exporting import export_onnx
from edgekit.quantization import ptq
from edgekit.quantization._calibration import Measured
from edgekit.quantization._tally import Tally
from edgekit.quantization._thresholds import BINS, CALIBRATORS, threshold
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.manifest import State
from tests.exporting.networks import IMAGE, LINE_STATES, LINES, SERIES, line_reader
from tests.quantization.nets import TAGS, Array, Feed, Net, net, relative, run, samples

OPTIONS = ptq.Options()


class Logarithm(nn.Module):
    """The logarithm of a negative number is none; a mask of minus infinity does no harm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        nn.init.eye_(self.first.weight)
        weights = x.masked_fill(x > 50, float("-inf")).softmax(-1)
        steps: Tensor = self.last(torch.log(self.first(x) + 40) * weights)
        return steps


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return net("lines", tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def logarithm(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("logarithm") / "model.onnx"
    torch.manual_seed(0)
    export_onnx(Logarithm().eval(), SERIES, TAGS, (), path)
    return onnx.load(path)


def tallied(*arrays: Array) -> Tally:
    tally = Tally([1])
    for index, values in enumerate(arrays):
        assert tally.add(values, index)
    return tally


def test_a_tally_grows_with_the_values_and_not_with_the_samples() -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((2, 3, 50)).astype(np.float32) * 4.0**n for n in range(9)]
    tally = tallied(*arrays)
    everything = np.concatenate(arrays)
    assert tally.counts.shape == (BINS,)
    assert tally.counts.sum() == everything.size
    assert tally.largest == np.abs(everything).max()
    assert tally.largest <= tally.top < 2 * tally.largest
    edges = np.linspace(0, tally.top, BINS + 1)
    for share in (0.5, 0.9, 0.99):
        found = edges[np.searchsorted(np.cumsum(tally.counts), share * everything.size) + 1]
        assert found == pytest.approx(np.quantile(np.abs(everything), share), abs=2 * tally.top / BINS)


def test_channels_are_weighed_by_their_size() -> None:
    random = np.random.default_rng(1)
    arrays = [random.standard_normal((1, 3, size)).astype(np.float32) + size for size in (4, 100, 7)]
    tally, everything = tallied(*arrays), np.concatenate(arrays, 2)
    np.testing.assert_allclose(tally.means[1], everything.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(tally.peaks[1], np.abs(everything).max((0, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_counted(bad: float) -> None:
    tally = tallied(np.ones((1, 2), np.float32))
    assert not tally.add(np.array([[1.0, bad]], np.float32), 1)
    assert tally.counts.sum() == 2


def test_large_tensors_are_counted_in_part_but_their_bounds_are_exact() -> None:
    values = np.random.default_rng(2).standard_normal((1, 4, 300_000)).astype(np.float32)
    values[0, 2, 77_777] = 99
    tally = tallied(values)
    assert tally.counts.sum() < 2**17
    assert tally.largest == 99


def histogram(values: Array) -> tuple[Array, float]:
    top = float(np.abs(values).max())
    return np.histogram(np.abs(values), BINS, (0, top))[0], top


@pytest.mark.parametrize("method", CALIBRATORS)
def test_calibrators_clip_lonely_values_and_keep_flat_ones(method: str) -> None:
    random = np.random.default_rng(3)
    flat, normal = random.uniform(-1, 1, 100_000), random.standard_normal(100_000)
    counts, top = histogram(flat)
    assert threshold(counts, top, top, method, 99.99) > 0.95
    counts, top = histogram(np.append(normal, 40.0))
    found = threshold(counts, top, top, method, 99.99)
    assert found == top if method == "minmax" else 1.5 < found < 0.75 * top


def test_mse_gives_the_least_error() -> None:
    values = np.random.default_rng(4).laplace(size=50_000)

    def error(top: float) -> float:
        step = top / 127
        return float(((np.clip(np.round(values / step), -127, 127) * step - values) ** 2).mean())

    counts, top = histogram(values)
    found = threshold(counts, top, top, "mse", 99.99)
    assert error(found) <= 1.01 * min(error(share * top) for share in np.linspace(0.2, 1, 50))


def test_another_calibrator_needs_no_other_pass(lines: Net) -> None:
    measured = ptq.measure(lines.graph, lines.samples, OPTIONS)
    plain = run(lines.graph, lines.samples)
    for method in CALIBRATORS:
        options = ptq.Options(calibrator=method)  # type: ignore[arg-type]
        made = ptq.quantize(lines.graph, measured, {}, options)
        assert relative(plain, run(made, lines.samples)) < 0.05
        alone = ptq.quantize(lines.graph, ptq.measure(lines.graph, lines.samples, options), {}, options)
        assert alone.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


def size(measured: Measured) -> int:
    arrays = [
        array
        for tally in measured.tallies.values()
        for array in (tally.counts, *tally.means.values(), *tally.peaks.values())
    ]
    return sum(array.nbytes for array in arrays)


def test_memory_does_not_grow_with_the_number_of_samples(lines: Net) -> None:
    few, many = (ptq.measure(lines.graph, samples("lines", count), OPTIONS) for count in (2, 20))
    assert size(few) == size(many)
    assert few.shapes.keys() == many.shapes.keys()
    assert many.samples == 20


def test_few_samples_are_told(lines: Net) -> None:
    (told,) = ptq.measure(lines.graph, lines.samples, OPTIONS).warnings
    assert told.startswith("int8 was calibrated on 8 samples: 100 to 500 are usual")
    assert not ptq.measure(lines.graph, samples("lines", 32), OPTIONS).warnings


def test_samples_that_are_all_equal_are_told(lines: Net) -> None:
    found = ptq.measure(lines.graph, lines.samples[:1] * 40, OPTIONS).warnings
    assert found == ("all 40 calibration samples are equal",)


def test_a_constant_input_is_told(lines: Net) -> None:
    blank = [{"image": np.full((1, 1, 16, width), 0.5, np.float32)} for width in range(8, 48)]
    found = ptq.measure(lines.graph, blank, OPTIONS).warnings
    assert found == ("the input 'image' is constant: 0.5 in every calibration sample",)


def test_a_state_may_be_zero_in_every_sample(tmp_path: Path) -> None:
    states: tuple[State, ...] = LINE_STATES
    inputs = net("lines", tmp_path).samples
    path = tmp_path / "states.onnx"
    export_onnx(line_reader(), IMAGE, LINES, states, path)
    zero = {state.input: np.zeros((4, 1, 12), np.float32) for state in states}
    found = ptq.measure(onnx.load(path), [{**feed, **zero} for feed in inputs * 4], OPTIONS).warnings
    assert found == ()


def test_a_layer_that_never_gives_anything_is_told(lines: Net) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(lines.graph)
    for tensor in graph.graph.initializer:
        if tensor.name in ("cnn.4.weight", "cnn.4.bias"):
            zero = np.zeros(list(tensor.dims), np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zero, tensor.name))
    found = ptq.measure(graph, samples("lines", 32), OPTIONS).warnings
    assert (
        "the result of node 'cnn.6/Relu' of module 'cnn.6' is 0 everywhere, in every calibration sample"
        in found
    )


@pytest.mark.parametrize(("value", "words"), [(-60, "NaN"), (-40, "infinite values")])
def test_the_first_layer_that_is_not_finite_is_named(
    value: float, words: str, logarithm: onnx.ModelProto
) -> None:
    feeds: list[Feed] = [{"x": np.ones((1, 7, 6), np.float32)} for _ in range(3)]
    feeds[2]["x"][0, 3, 4] = value
    with torch.no_grad():
        bias = next(t for t in logarithm.graph.initializer if t.name == "first.bias")
    feeds[2]["x"][0, 3, 4] -= onnx.numpy_helper.to_array(bias)[4]
    message = rf"node 'Log' \(Log\) computes {words} on calibration sample 2$"
    with pytest.raises(BadFileError, match=message) as caught:
        ptq.measure(logarithm, feeds, OPTIONS)
    assert caught.value.hint


def test_a_mask_of_minus_infinity_is_no_fault(logarithm: onnx.ModelProto) -> None:
    feeds: list[Feed] = [{"x": np.ones((1, 7, 6), np.float32)}]
    feeds[0]["x"][0, 3, 4] = 60
    made: Any = ptq.quantize(logarithm, ptq.measure(logarithm, feeds, OPTIONS), {}, OPTIONS)
    assert np.isfinite(run(made, feeds)).all()
