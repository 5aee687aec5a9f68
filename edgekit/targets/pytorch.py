"""PyTorch itself: the reference, and a TorchScript program of it as an engine."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.engines import Layer, check_feeds, precision_name, usable_cores
from edgekit.runtime.engines.pytorch import TENSORS
from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.runtime.manifest import State, TensorSpec, with_states
from edgekit.spec import Build, Problem, Progress, Shapes, silent
from edgekit.targets._lowering import refuse

if TYPE_CHECKING:
    import onnx
    import torch

REQUIRES = ("torch",)
PRECISIONS = ("fp32", "bf16")
_CURE = "fp32 or bf16 here, or int8 on the targets openvino and onnxruntime"
_COMPUTE = ("Conv", "Linear", "LSTM", "GRU", "RNN", "MultiheadAttention")
_TRACED_BATCH, _TRACED_SIZE = 2, 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """`threads` 0 means one per usable core."""

    device: str = "CPU"
    threads: int = 0


def supports(graph: onnx.ModelProto, precision: str) -> list[Problem]:
    """PyTorch runs whatever it exported, in float."""
    return refuse(precision, PRECISIONS, _CURE)


def compile(
    graph: Path, shapes: Shapes, precision: str, options: Options, out: Path, progress: Progress = silent
) -> Build:
    """PyTorch reads no ONNX: always raises UnsupportedError. See `compile_module`."""
    raise UnsupportedError(
        f"PyTorch does not run {graph}", "compile the network itself, or use the target onnxruntime"
    )


def compile_module(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    states: Sequence[State],
    precision: str,
    options: Options,
    out: Path,
) -> Build:
    """Write `model.ts`, a TorchScript trace of the module, into the folder `out`.

    In bf16 the weights and everything inside are bfloat16; inputs and outputs stay float32.

    Raises:
        UnsupportedError: the precision is none of PRECISIONS, or the module cannot be traced.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"the target pytorch does not run {precision}", _CURE)
    full_inputs, full_outputs = with_states(inputs, outputs, states)
    program = _traced(module, full_inputs, precision)
    tensors = {"inputs": _told(full_inputs), "outputs": _told(full_outputs)}
    out.mkdir(parents=True, exist_ok=True)
    engine = out / "model.ts"
    program.save(str(engine), _extra_files={TENSORS: json.dumps(tensors)})
    lowering = ("weights and activations -> bfloat16",) if precision == "bf16" else ()
    settings = {"device": "CPU", "precision": precision, "threads": options.threads or usable_cores()}
    return Build(engine=engine, lowering=lowering, settings=settings)


class ModuleRunner:
    """A module in evaluation mode, run eagerly: the reference everything is held against."""

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        states: Sequence[State] = (),
        threads: int = 0,
    ) -> None:
        import torch

        torch.set_num_threads(threads or usable_cores())
        self.inputs, self.outputs = with_states(inputs, outputs, states)
        self._module = module.eval()
        parameter = next(module.parameters(), None)
        self._dtype = torch.float32 if parameter is None else parameter.dtype
        self.settings: Mapping[str, Any] = {
            "device": "CPU",
            "precision": _precision(self._dtype),
            "threads": torch.get_num_threads(),
        }

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named arrays in, named arrays out.

        Raises:
            BadFileError: a name, type or shape does not fit.
        """
        import torch

        check_feeds(feeds, self.inputs)
        arguments = [torch.from_numpy(np.array(feeds[spec.name])) for spec in self.inputs]
        try:
            with torch.inference_mode():
                results = self._module(*arguments)
        except RuntimeError as cause:
            shapes = {name: np.shape(array) for name, array in feeds.items()}
            raise BadFileError(f"the network cannot run with {shapes}: {cause}") from cause
        results = results if isinstance(results, tuple) else (results,)
        return {spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)}

    def layers(self) -> list[Layer]:
        """The modules that compute."""
        precision = _precision(self._dtype)
        return [
            Layer(name, type(module).__name__, precision)
            for name, module in self._module.named_modules()
            if type(module).__name__.startswith(_COMPUTE)
        ]

    def __enter__(self) -> ModuleRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._module


def _precision(dtype: torch.dtype) -> str:
    return precision_name(str(dtype).removeprefix("torch."))


def _traced(module: torch.nn.Module, inputs: Sequence[TensorSpec], precision: str) -> Any:
    import torch

    program = _in_bfloat16(module) if precision == "bf16" else module
    arguments = tuple(
        torch.zeros([_traced_size(dim, spec) for dim in spec.shape], dtype=getattr(torch, spec.dtype))
        for spec in inputs
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript announces its retirement, tracing its limits
            trace: Any = torch.jit.trace
            return trace(program.eval(), arguments, check_trace=False)
    except RuntimeError as cause:
        raise UnsupportedError(
            f"PyTorch cannot trace the network: {cause}", "use the target onnxruntime or openvino"
        ) from cause


def _traced_size(dim: int | str, spec: TensorSpec) -> int:
    if isinstance(dim, int):
        return dim
    low, high = spec.ranges.get(dim, (1, _TRACED_SIZE))
    return max(low, min(high, _TRACED_BATCH if dim == "batch" else _TRACED_SIZE))


def _in_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that computes in bfloat16 behind float32 inputs and outputs."""
    import torch

    class Casting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(module).to(torch.bfloat16)

        def forward(self, *arguments: torch.Tensor) -> Any:
            results = self.inner(
                *(one.to(torch.bfloat16) if one.is_floating_point() else one for one in arguments)
            )
            many = results if isinstance(results, tuple) else (results,)
            floats = tuple(one.float() if one.is_floating_point() else one for one in many)
            return floats if isinstance(results, tuple) else floats[0]

    return Casting()


def _told(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in specs]
