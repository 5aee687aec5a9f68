"""A TorchScript program: PyTorch alone opens it, the network's Python code is not needed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np

from ..errors import BadFileError, HardwareError
from ..manifest import TensorSpec
from . import EngineOptions, Layer, check_feeds, import_engine, last_line, precision_name, usable_cores

TENSORS = "edgekit.json"
"""The entry of the archive that names inputs and outputs."""

_COMPUTE = {
    "aten::_convolution": "Convolution",
    "aten::convolution": "Convolution",
    "aten::conv1d": "Convolution",
    "aten::conv2d": "Convolution",
    "aten::linear": "Linear",
    "aten::matmul": "MatMul",
    "aten::bmm": "MatMul",
    "aten::lstm": "LSTM",
    "aten::gru": "GRU",
    "aten::rnn_tanh": "RNN",
    "aten::rnn_relu": "RNN",
    "aten::scaled_dot_product_attention": "Attention",
}


class ScriptRunner:
    """A TorchScript module in evaluation mode."""

    def __init__(
        self, module: Any, inputs: Tuple[TensorSpec, ...], outputs: Tuple[TensorSpec, ...], threads: int
    ) -> None:
        torch = _torch()
        torch.set_num_threads(threads or usable_cores())
        self.inputs = inputs
        self.outputs = outputs
        self._module = module
        self._precision = precision_name(str(next(module.parameters()).dtype).replace("torch.", ""))
        self.settings: Mapping[str, Any] = {
            "device": "CPU",
            "precision": self._precision,
            "threads": torch.get_num_threads(),
        }

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Named arrays in, named arrays out.

        Raises:
            BadFileError: a name, type or shape does not fit.
        """
        torch = _torch()
        check_feeds(feeds, self.inputs)
        arguments = [torch.from_numpy(np.array(feeds[spec.name])) for spec in self.inputs]
        try:
            with torch.inference_mode():
                results = self._module(*arguments)
        except RuntimeError as cause:
            shapes = {name: np.shape(feeds[name]) for name in feeds}
            raise BadFileError(
                "the network cannot run with {}: {}".format(shapes, last_line(cause))
            ) from cause
        results = results if isinstance(results, tuple) else (results,)
        return {spec.name: result.numpy() for spec, result in zip(self.outputs, results)}

    def layers(self) -> List[Layer]:
        """The operators that compute, in order."""
        nodes = [node for node in self._module.inlined_graph.nodes() if node.kind() in _COMPUTE]
        return [
            Layer(node.scopeName() or node.kind(), _COMPUTE[node.kind()], self._precision) for node in nodes
        ]

    def __enter__(self) -> "ScriptRunner":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        del self._module


def open_engine(path: Path, options: EngineOptions) -> ScriptRunner:
    """Open a TorchScript file.

    Raises:
        MissingPackageError: torch is not installed.
        BadFileError: the file is no TorchScript program of ours, or `shapes` names no dimension of it.
        HardwareError: the device is not the CPU.
    """
    torch = _torch()
    if options.device != "CPU":
        raise HardwareError(
            "the PyTorch reference runs on the CPU, not on {}".format(options.device), "use CPU"
        )
    entries = {TENSORS: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.export would need a pickle here
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=entries)
        tensors = json.loads(entries[TENSORS])
        inputs, outputs = (_specs(tensors[side], options.shapes) for side in ("inputs", "outputs"))
    except (RuntimeError, ValueError, KeyError, TypeError) as cause:
        raise BadFileError(
            "{} is not a program that edgekit wrote: {}".format(path, last_line(cause)),
            "compile the model again",
        ) from cause
    unknown = sorted(set(options.shapes) - {dim for said in tensors["inputs"] for dim in said["shape"]})
    if unknown:
        raise BadFileError("{}: there is no dynamic dimension {}".format(path, ", ".join(map(str, unknown))))
    return ScriptRunner(module.eval(), inputs, outputs, options.threads)


def _torch() -> Any:
    return import_engine("torch", "torch", "train")


def _specs(said: List[Dict[str, Any]], fixed: Mapping[str, int]) -> Tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(one["name"], tuple(fixed.get(dim, dim) for dim in one["shape"]), one["dtype"])
        for one in said
    )
