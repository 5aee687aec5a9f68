from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.runtime.engines import EngineOptions, load_engine
from edgekit.runtime.errors import BadFileError, HardwareError, UnsupportedError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.spec import Shapes
from edgekit.targets import pytorch as target
from tests.targets import graphs

NO_SHAPES = Shapes(inputs=())


class Reader(nn.Module):
    """A convolution, a bidirectional LSTM, a linear layer; with states given, also the final ones."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.lstm = nn.LSTM(8 * 4, 6, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(12, 5)

    def forward(self, image: torch.Tensor, h0: torch.Tensor | None = None, c0: torch.Tensor | None = None):
        x = torch.relu(self.convolution(image)).permute(0, 3, 1, 2).flatten(2)
        if h0 is None or c0 is None:
            return self.scores(self.lstm(x)[0])
        x, (hn, cn) = self.lstm(x, (h0, c0))
        return self.scores(x), hn, cn


INPUTS = (TensorSpec("image", ("batch", 1, 4, "width"), ranges={"batch": (1, 8), "width": (2, 99)}),)
OUTPUTS = (TensorSpec("logits", ("batch", "width", 5)),)
STATES = (State("h0", "hn", (2, "batch", 6)), State("c0", "cn", (2, "batch", 6)))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Reader().eval()


def feeds(batch: int, width: int, states: tuple[State, ...] = ()) -> graphs.Feeds:
    random = np.random.default_rng(width)
    shapes = {"image": (batch, 1, 4, width), **{state.input: (2, batch, 6) for state in states}}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def expected(module: nn.Module, fed: graphs.Feeds) -> list[np.ndarray]:
    with torch.inference_mode():
        results = module(*(torch.from_numpy(array) for array in fed.values()))
    return [one.numpy() for one in (results if isinstance(results, tuple) else (results,))]


@pytest.mark.parametrize("states", [(), STATES])
def test_the_reference_is_the_module(module: nn.Module, states: tuple[State, ...]) -> None:
    with target.ModuleRunner(module, INPUTS, OUTPUTS, states, threads=1) as runner:
        got = runner.infer(feeds(3, 17, states))
        assert list(got) == ["logits", *(state.output for state in states)]
        for one, wanted in zip(got.values(), expected(module, feeds(3, 17, states)), strict=True):
            assert np.array_equal(one, wanted)
        assert runner.settings == {"device": "CPU", "precision": "fp32", "threads": 1}
        assert [layer.type for layer in runner.layers()] == ["Conv2d", "LSTM", "Linear"]


def test_the_reference_runs_in_evaluation_mode() -> None:
    dropping = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
    spec = TensorSpec("x", ("batch", 4))
    runner = target.ModuleRunner(dropping, [spec], [TensorSpec("y", ("batch", 4))])
    fed = {"x": np.ones((2, 4), np.float32)}
    assert np.array_equal(runner.infer(fed)["y"], runner.infer(fed)["y"])


@pytest.mark.parametrize("states", [(), STATES])
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-6), ("bf16", 2e-2)])
def test_the_engine_gives_the_same_at_unseen_shapes(
    tmp_path: Path, module: nn.Module, precision: str, limit: float, states: tuple[State, ...]
) -> None:
    build = target.compile_module(module, INPUTS, OUTPUTS, states, precision, target.Options(), tmp_path)
    assert build.engine is not None
    with load_engine("pytorch", build.engine, EngineOptions(threads=1)) as runner:
        assert runner.settings["precision"] == build.settings["precision"] == precision
        for batch, width in [(1, 2), (2, 64), (7, 33)]:
            fed = feeds(batch, width, states)
            for one, wanted in zip(runner.infer(fed).values(), expected(module, fed), strict=True):
                assert one.dtype == np.float32
                assert graphs.relative(one, wanted) < limit
        assert {(layer.type, layer.precision) for layer in runner.layers()} == {
            (kind, precision) for kind in ("Convolution", "LSTM", "Linear")
        }


def test_bf16_leaves_the_module_alone(tmp_path: Path, module: nn.Module) -> None:
    target.compile_module(module, INPUTS, OUTPUTS, (), "bf16", target.Options(), tmp_path)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions_are_refused(tmp_path: Path, module: nn.Module, precision: str) -> None:
    assert len(target.supports(onnx.ModelProto(), precision)) == 1
    with pytest.raises(UnsupportedError, match=precision):
        target.compile_module(module, INPUTS, OUTPUTS, (), precision, target.Options(), tmp_path)


def test_pytorch_reads_no_onnx(tmp_path: Path, crnn: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"crnn\.onnx"):
        target.compile(crnn, NO_SHAPES, "fp32", target.Options(), tmp_path)


def test_bad_feeds(module: nn.Module) -> None:
    runner = target.ModuleRunner(module, INPUTS, OUTPUTS)
    with pytest.raises(BadFileError, match="width = 100, outside 2 to 99"):
        runner.infer(feeds(1, 100))


def test_bad_files_and_devices(tmp_path: Path, module: nn.Module) -> None:
    build = target.compile_module(module, INPUTS, OUTPUTS, (), "fp32", target.Options(), tmp_path)
    assert build.engine is not None
    with pytest.raises(HardwareError, match="not on GPU"):
        load_engine("pytorch", build.engine, EngineOptions(device="GPU"))
    with pytest.raises(BadFileError, match="no dynamic dimension height"):
        load_engine("pytorch", build.engine, EngineOptions(shapes={"height": 4}))
    build.engine.write_bytes(build.engine.read_bytes()[:1000])
    with pytest.raises(BadFileError, match="not a program"):
        load_engine("pytorch", build.engine)


def test_a_program_that_edgekit_did_not_write(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "model.ts"))
    with pytest.raises(BadFileError, match="not a program"):
        load_engine("pytorch", tmp_path / "model.ts")
