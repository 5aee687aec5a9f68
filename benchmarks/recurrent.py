"""Recurrent layers in every form that edgekit has for them, as a Markdown table.

    python -m benchmarks.recurrent
    python -m benchmarks.recurrent LSTM --hidden 256 --sides 2

A PyTorch layer with its usual random weights reads 100 steps of normal noise, one sample at a time. It is
exported, made int8 and compiled for each target as `edgekit compile` does it. Each engine is timed in a
process of its own, with two threads; they take turns, so compare the rows of one layer with each other.
Errors are relative L2 against PyTorch. TensorRT-RTX builds without a GPU: its rows tell what the builder
chose, and no times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.exporting import export_onnx
from edgekit.quantization import _recurrent as int8
from edgekit.runtime.engines import EngineOptions, load_engine
from edgekit.runtime.errors import EdgekitError
from edgekit.runtime.manifest import TensorSpec
from edgekit.runtime.proof import save_pairs
from edgekit.runtime.timing import Worker, alternate, serve
from edgekit.spec import Build, Shapes

if TYPE_CHECKING:
    import onnx

STEPS, THREADS = 100, 2
BLOCKS, CALLS = 8, 10
ROWS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("tensorrt_rtx", "fp16"),
    ("tensorrt_rtx", "int8"),
)
COLUMNS = ("layer", "hidden", "target", "precision", "p50 ms", "times as fast as fp32", "rel. L2", "layers")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One form of a layer on one target; `refusal` says why there is none."""

    target: str
    precision: str
    build: Build | None
    refusal: str = ""

    @property
    def runs(self) -> bool:
        """Whether this machine can run it."""
        return self.build is not None and not self.build.deferred


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="LSTM, GRU; both by default")
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--sides", type=int, default=1, choices=(1, 2), help="2: both directions")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        return worker(*told.serve)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for kind in told.kinds or ("LSTM", "GRU"):
        for hidden in told.hidden:
            with tempfile.TemporaryDirectory() as scratch:
                for cells in measured(kind, hidden, told.sides, Path(scratch)):
                    print("| " + " | ".join(cells) + " |", flush=True)
    return 0


def worker(target: str, engine: str, precision: str, feeds: str) -> int:
    """The process in which an engine is alone."""
    options = EngineOptions(precision=precision, threads=THREADS)
    return serve(lambda: load_engine(target, Path(engine), options), Path(feeds))


def measured(kind: str, hidden: int, sides: int, scratch: Path) -> Iterator[tuple[str, ...]]:
    """The cells of each row of one layer."""
    import torch

    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(hidden, hidden, bidirectional=sides == 2)
    x = torch.randn(STEPS, 1, hidden)
    with torch.no_grad():
        wanted: Array = layer(x)[0].numpy()
    inputs = (TensorSpec("x", ("time", "batch", hidden), ranges={"time": (1, STEPS), "batch": (1, 4)}),)
    graphs = written(only_steps(layer), inputs, x.numpy(), wanted, scratch)
    rows = [compiled(target, precision, graphs, Shapes(inputs=inputs), scratch) for target, precision in ROWS]
    times = timed(rows, x.numpy(), scratch)
    for row in rows:
        yield (kind, str(hidden), row.target, row.precision, *cells(row, times, x.numpy(), wanted))


def only_steps(layer: Any) -> Any:
    """The layer without its last states."""
    import torch

    class OnlySteps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps: torch.Tensor = self.rnn(x)[0]
            return steps

    return OnlySteps().eval()


def written(
    module: Any, inputs: tuple[TensorSpec, ...], x: Array, wanted: Array, scratch: Path
) -> dict[bool, Path]:
    """The float graph (False) and the int8 graph (True)."""
    import onnx

    outputs = (TensorSpec("y", ("time", "batch", wanted.shape[-1])),)
    export_onnx(module, inputs, outputs, (), scratch / "float.onnx")
    model = onnx.load(scratch / "float.onnx")
    quantize(model.graph, float(np.abs(x).max()), float(np.abs(wanted).max()))
    onnx.save(model, scratch / "int8.onnx")
    return {False: scratch / "float.onnx", True: scratch / "int8.onnx"}


def quantize(graph: onnx.GraphProto, input_range: float, hidden_range: float) -> None:
    """The recurrent layer in int8, with what was measured on the very sample."""
    for node in int8.lstm_candidates(graph):
        int8.quantize_lstm(graph, node, input_range, hidden_range)
    for node in int8.gru_candidates(graph):
        int8.quantize_gru(graph, node, input_range)


def compiled(target: str, precision: str, graphs: Mapping[bool, Path], shapes: Shapes, scratch: Path) -> Row:
    """What the target makes of it."""
    module = import_module(f"edgekit.targets.{target}")
    missing = [package for package in module.REQUIRES if find_spec(package) is None]
    if missing:
        return Row(target, precision, None, f"{missing[0]} is not installed")
    out = scratch / f"{target}-{precision}"
    try:
        build = module.compile(graphs[precision == "int8"], shapes, precision, module.Options(), out)
    except EdgekitError as error:
        return Row(target, precision, None, error.message)
    return Row(target, precision, build)


def timed(rows: Sequence[Row], x: Array, scratch: Path) -> dict[tuple[str, str], float]:
    """Median milliseconds of every row that runs here."""
    save_pairs(scratch / "feeds.npz", [{"x": x}])
    with ExitStack() as stack:
        workers = {}
        for row in rows:
            if row.build is not None and row.runs:
                command = [sys.executable, __file__, "--serve", row.target, str(row.build.engine)]
                command += [row.build.settings["precision"], str(scratch / "feeds.npz")]
                workers[row.target, row.precision] = stack.enter_context(Worker(command))
        for process in workers.values():
            process.ready()
        names = {f"{target} {precision}": (target, precision) for target, precision in workers}
        turns = {name: workers[key].block for name, key in names.items()}
        found = alternate(turns, BLOCKS, CALLS)
        for process in workers.values():
            process.close()
    return {names[name]: median(times) for name, times in found.items()}


def cells(row: Row, times: Mapping[tuple[str, str], float], x: Array, wanted: Array) -> tuple[str, ...]:
    """Time, ratio, error and layers; what cannot be told is empty."""
    if row.build is None:
        return ("", "", "", row.refusal)
    if row.build.engine is None or not row.runs:
        return ("", "", "", listed(row.build.layers))
    options = EngineOptions(precision=row.build.settings["precision"], threads=THREADS)
    with load_engine(row.target, row.build.engine, options) as runner:
        (got,) = runner.infer({"x": x}).values()
        layers = Counter(layer.precision for layer in runner.layers())
    error = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
    spent = times[row.target, row.precision]
    return (f"{spent:.2f}", f"{times[row.target, 'fp32'] / spent:.2f}", f"{error:.1e}", listed(layers))


def listed(layers: Mapping[str, int]) -> str:
    """How many layers ran in each precision."""
    return ", ".join(f"{count} {precision}" for precision, count in layers.items())


if __name__ == "__main__":
    sys.exit(main())
