"""Every architecture there is, at its smallest: it learns, exports, and every engine agrees, in int8 too.

What is added to `edgekit/models/` is tested here without a line more; only a new task needs its targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgekit import registry
from edgekit.exporting import export_onnx
from edgekit.quantization import ptq
from edgekit.runtime.engines import EngineOptions, load_engine
from edgekit.runtime.manifest import Labels, State, TensorSpec, with_states
from edgekit.spec import Objects, Shapes

MODELS = registry.names("model")
STEPS = 12
BATCH = 4
SIZES = ({"batch": 1}, {"batch": 3}, {"batch": 7})
"""Batches that nothing is traced at; the other dimensions get odd sizes of their own."""
INT8_ERROR = 0.2
"""Networks this small, hardly trained, say little: this is for what is plainly wrong."""

Feeds = dict[str, np.ndarray]
Engine = Callable[[Path, "Member", str, Path], Callable[[Feeds], Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class Member:
    """One architecture with the options of its smallest form, trained for a few steps."""

    name: str
    plugin: ModuleType
    module: torch.nn.Module
    losses: tuple[float, ...]
    folder: Path

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self.plugin.inputs(self.plugin.TINY))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self.plugin.outputs(self.plugin.TINY))

    @property
    def states(self) -> tuple[State, ...]:
        return tuple(self.plugin.states(self.plugin.TINY)) if hasattr(self.plugin, "states") else ()

    def graph(self, states: tuple[State, ...] = ()) -> Path:
        """The float graph, exported when it is first asked for."""
        path = self.folder / f"float{len(states)}.onnx"
        if not path.exists():
            export_onnx(self.module, self.inputs, self.outputs, states, path)
        return path

    def feeds(self, seed: int, sizes: Mapping[str, int], states: tuple[State, ...] = ()) -> Feeds:
        specs, _ = with_states(self.inputs, self.outputs, states)
        free = {dim: bounds for spec in specs for dim, bounds in spec.ranges.items()}
        odd = {dim: min(high, 2 * low + 11 + 2 * seed) for dim, (low, high) in free.items() if dim != "batch"}
        return drawn(specs, {**odd, **sizes}, seed)

    def answers(self, feeds: Feeds) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            found = self.module.eval()(*(torch.from_numpy(array) for array in feeds.values()))
        return tuple(one.numpy() for one in (found if isinstance(found, tuple) else (found,)))


def drawn(specs: tuple[TensorSpec, ...], sizes: Mapping[str, int], seed: int) -> Feeds:
    """Noise for floats, small numbers above 0 for what is counted."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.integers(1, 5, spec.at(sizes), np.int64)
        if spec.dtype == "int64"
        else rng.standard_normal(spec.at(sizes)).astype(spec.dtype)
        for spec in specs
    }


def labels_of(plugin: ModuleType, decoder: str) -> Labels:
    count = 2 if decoder == "binary" else plugin.TINY.classes
    return Labels(
        ("", *"abcdefghijkl")[:count] if decoder == "ctc" else tuple("abcdefghijkl")[:count], decoder
    )


def targets_of(decoder: str, labels: Labels, member_inputs: tuple[TensorSpec, ...]) -> list[Any]:
    """Something to learn for a batch of noise."""
    if decoder == "boxes":
        height, width = (int(size) for size in member_inputs[0].shape[-2:])
        whole, none = np.array([[0, 0, width, height]], np.float32), np.zeros(1, bool)
        return [Objects(whole, np.array([index % len(labels.values)]), none) for index in range(BATCH)]
    if decoder == "ctc":
        return [labels.values[1 + index % (len(labels.values) - 1)] for index in range(BATCH)]
    return [labels.values[index % len(labels.values)] for index in range(BATCH)]


def trained(plugin: ModuleType) -> tuple[torch.nn.Module, tuple[float, ...]]:
    """A few steps on one batch, as `edgekit train` takes them."""
    torch.manual_seed(0)
    module, task = plugin.build(plugin.TINY), registry.load("task", plugin.TASK)
    inputs = plugin.inputs(plugin.TINY)
    low = {dim: bounds[0] for spec in inputs for dim, bounds in spec.ranges.items()}
    sizes = {dim: max(size, 8) for dim, size in low.items()} | {"batch": BATCH}
    feeds, labels = drawn(inputs, sizes, 0), labels_of(plugin, task.DECODER)
    targets = targets_of(task.DECODER, labels, inputs)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        module.train()
        found = module(*(torch.from_numpy(array) for array in feeds.values()))
        loss = task.loss(found if isinstance(found, tuple) else (found,), targets, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return module.eval(), tuple(losses)


@pytest.fixture(scope="module", params=MODELS)
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    plugin = registry.load("model", request.param)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    module, losses = trained(plugin)
    yield Member(request.param, plugin, module, losses, tmp_path_factory.mktemp(request.param))
    torch.set_num_threads(before)


def error(expected: tuple[np.ndarray, ...], found: Mapping[str, np.ndarray]) -> float:
    """The largest relative L2 error of the outputs."""
    pairs = zip(expected, found.values(), strict=True)
    return max(float(np.linalg.norm(one - other) / (np.linalg.norm(one) + 1e-12)) for one, other in pairs)


def opened(name: str, graph: Path, precision: str, member: Member, out: Path) -> Any:
    target = registry.load("target", name)
    build = target.compile(graph, Shapes(inputs=member.inputs), precision, target.Options(threads=1), out)
    options = EngineOptions(precision=build.settings["precision"], threads=1)
    return load_engine(name, build.engine, options)


def test_there_are_architectures() -> None:
    assert {"cnn", "crnn"} <= set(MODELS)


def test_it_learns(member: Member) -> None:
    assert min(member.losses[-3:]) < 0.9 * member.losses[0]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_at_sizes_never_traced(member: Member, engine: str, tmp_path: Path) -> None:
    with opened(engine, member.graph(), "fp32", member, tmp_path / "engine") as runner:
        for seed, sizes in enumerate(SIZES):
            feeds = member.feeds(seed, sizes)
            assert error(member.answers(feeds), runner.infer(feeds)) < 1e-4


def test_states_go_in_and_come_out(member: Member, tmp_path: Path) -> None:
    if not member.states:
        assert not hasattr(member.plugin, "states")
        return
    graph = member.graph(member.states)
    for engine in ("onnxruntime", "openvino"):
        with opened(engine, graph, "fp32", member, tmp_path / engine) as runner:
            for seed, sizes in enumerate(SIZES):
                feeds = member.feeds(seed, sizes, member.states)
                assert error(member.answers(feeds), runner.infer(feeds)) < 1e-4


@pytest.fixture(scope="module")
def quantized(member: Member) -> Path:
    """The int8 graph, by the default plan."""
    graph, options = onnx.load(member.graph()), ptq.Options()
    samples = [member.feeds(seed, {"batch": 1}) for seed in range(8)]
    path = member.folder / "int8.onnx"
    onnx.save(ptq.quantize(graph, ptq.measure(graph, samples, options), {}, options), path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_runs_and_is_near(member: Member, quantized: Path, engine: str, tmp_path: Path) -> None:
    assert "int8" in ptq.quantized_layers(onnx.load(quantized)).values()
    with opened(engine, quantized, "int8", member, tmp_path / "engine") as runner:
        feeds = member.feeds(3, {"batch": 2})
        found = error(member.answers(feeds), runner.infer(feeds))
        assert 0 < found < INT8_ERROR


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_rtx_builds_it(member: Member, quantized: Path, precision: str, tmp_path: Path) -> None:
    target = registry.load("target", "tensorrt_rtx")
    graph = tmp_path / "model.onnx"
    graph.write_bytes((quantized if precision == "int8" else member.graph()).read_bytes())
    inputs, _ = with_states(member.inputs, member.outputs, ())
    options = target.Options(compute_capabilities=("8.6",))
    build = target.compile(graph, Shapes(inputs=inputs), precision, options, tmp_path / "engine")
    assert build.engine is not None
    assert build.engine.stat().st_size > 0
