"""The values of the tensors inside an ONNX graph on real inputs, in portions that fit into memory.

ONNX Runtime runs the graph with its optimizations off, so that nothing is fused away and because they
crash on fp16 graphs of dynamic width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from edgekit.runtime.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Evaluator = Callable[[Feeds], dict[str, Array]]
Item = TypeVar("Item")

PORTION_BYTES = 128 << 20
_FIRST, _GROWTH, _MOST = 2, 4, 64


def typed(name: str, array: Array) -> onnx.ValueInfoProto:
    """An input of the type and rank of an array."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)


def evaluator(model: onnx.ModelProto, tensors: Sequence[str], path: Path) -> Evaluator:
    """A session that answers with the values of `tensors`, which are the outputs of `model`.

    Raises:
        UnsupportedError: ONNX Runtime does not take the graph, or fails while it runs.
        UsageError: an input is not fed.
    """
    import onnxruntime
    from onnx import helper

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    types = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as cause:
        raise _refusal(path, cause) from cause

    def run(feeds: Feeds) -> dict[str, Array]:
        missing = [name for name in types if name not in feeds]
        if missing:
            raise UsageError(f"the input {missing[0]} of {path.name} is not fed", "give every input")
        given = {name: np.asarray(feeds[name]).astype(kind, copy=False) for name, kind in types.items()}
        try:
            return dict(zip(tensors, session.run(list(tensors), given), strict=True))
        except Exception as cause:
            raise _refusal(path, cause) from cause

    return run


class Portions(Generic[Item]):
    """Cuts items into parts as large as memory allows, judged by what the part before took."""

    def __init__(self, items: Sequence[Item], limit: int = PORTION_BYTES) -> None:
        self._items, self._limit = items, limit
        self._place, self._count = 0, _FIRST
        self._taken = 0

    def __iter__(self) -> Portions[Item]:
        return self

    def __next__(self) -> Sequence[Item]:
        if self._place >= len(self._items):
            raise StopIteration
        if self._taken:
            room = int(self._count * self._limit / self._taken)
            self._count = max(1, min(room, self._count * _GROWTH, _MOST))
        part = self._items[self._place : self._place + self._count]
        self._place += len(part)
        self._taken = 0
        return part

    def took(self, *groups: Mapping[str, Array]) -> None:
        """Note what the part that was given out last needs at a time."""
        size = sum(array.nbytes for group in groups for array in group.values() if hasattr(array, "nbytes"))
        self._taken = max(self._taken, size)

    @property
    def done(self) -> int:
        """How many items were given out."""
        return self._place


def _refusal(path: Path, cause: BaseException) -> UnsupportedError:
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return UnsupportedError(
        f"ONNX Runtime cannot compute the inner tensors of {path.name}: {reason}",
        "check the graph with `edgekit check-target MODEL --target onnxruntime`",
    )
