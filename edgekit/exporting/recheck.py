"""Proof that an exported graph is the network, at shapes it was not traced at."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.errors import MissingPackageError, UnsupportedError
from edgekit.runtime.manifest import State, TensorSpec

if TYPE_CHECKING:
    import onnxruntime
    from torch import nn

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
MAX_ERROR = 1e-4
_STEPS = 5
_PAIRS = ((12, 0), (7, 1), (3, 2), (2, 3), (1, 4), (1, 0), (2, 1), (3, 0), (7, 2), (12, 1))
"""Batch size, and how far up its range every other dimension is: large never meets large."""
_DEFAULT_RANGE = (1, 32)


def state_inputs(inputs: Sequence[TensorSpec], states: Sequence[State]) -> tuple[TensorSpec, ...]:
    """The initial states as inputs; their dynamic dimensions take the inputs' ranges."""
    ranges = {dim: limits for spec in inputs for dim, limits in spec.ranges.items()}
    return tuple(TensorSpec(state.input, state.shape, "float32", ranges) for state in states)


def ranges_of(inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, int]]:
    """Smallest and largest size of each dynamic dimension."""
    found: dict[str, tuple[int, int]] = {}
    for spec in inputs:
        for dim in spec.dynamic:
            low, high = spec.ranges.get(dim, found.get(dim, _DEFAULT_RANGE))
            found[dim] = (max(1, low), high)
    return found


def unseen_shapes(inputs: Sequence[TensorSpec]) -> list[dict[str, int]]:
    """Sizes to check: batch 1, 2, 3, 7 and 12 with sizes spread over the other ranges, ends included."""
    ranges = ranges_of(inputs)
    shapes: list[dict[str, int]] = []
    for batch, step in _PAIRS:
        sizes = {
            dim: _clip(batch, *limits) if dim == "batch" else _spread(*limits, step)
            for dim, limits in ranges.items()
        }
        if sizes not in shapes:
            shapes.append(sizes)
    return shapes


def _clip(size: int, low: int, high: int) -> int:
    return max(low, min(size, high))


def _spread(low: int, high: int, step: int) -> int:
    """Five sizes from `low` to `high` in equal proportions, odd ones between."""
    size = round(low * (high / low) ** (step / (_STEPS - 1)))
    return size if step in (0, _STEPS - 1) else _clip(size | 1, low, high)


def example(
    inputs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Seeded inputs: standard normal numbers, or 0 and 1 where the type is not floating."""
    feeds = {}
    for spec in inputs:
        key = (seed, zlib.crc32(f"{spec.name}{spec.at(sizes)}".encode()))
        random, dtype = np.random.default_rng(key), np.dtype(spec.dtype)
        floating = np.issubdtype(dtype, np.floating)
        values = random.standard_normal(spec.at(sizes)) if floating else random.integers(0, 2, spec.at(sizes))
        feeds[spec.name] = values.astype(dtype)
    return feeds


def recheck(
    graph: Path,
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    states: Sequence[State] = (),
    shapes: Sequence[Mapping[str, int]] | None = None,
    *,
    seed: int = 0,
) -> float:
    """Runs the graph in ONNX Runtime against `module` (in evaluation mode) at many shapes.

    Returns the largest relative L2 error of any output. Raises UnsupportedError with the shape, the
    output and the error where it exceeds `MAX_ERROR`, and MissingPackageError without ONNX Runtime.
    """
    every = (*inputs, *state_inputs(inputs, states))
    session = _open(graph)
    worst = 0.0
    with _one_thread():
        for sizes in unseen_shapes(every) if shapes is None else shapes:
            worst = max(worst, _check_at(session, module, every, sizes, seed))
    return worst


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: small runs on a busy machine wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _open(graph: Path) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "ONNX Runtime, which checks the exported graph, is not installed",
            "pip install 'edgekit-deploy[onnxruntime]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # PyTorch needs the cores
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime does not load the exported graph: {_first_line(error)}"
        ) from error


def _check_at(
    session: onnxruntime.InferenceSession,
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    seed: int,
) -> float:
    feeds = example(inputs, sizes, seed)
    names = [output.name for output in session.get_outputs()]
    expected = _reference(module, feeds, _where(feeds))
    return compare(
        lambda given: dict(zip(names, session.run(names, given), strict=True)),
        feeds,
        dict(zip(names, expected, strict=True)),
    )


def compare(graph: Callable[[Feeds], Feeds], feeds: Feeds, expected: Feeds) -> float:
    """The largest relative L2 error of any output of `graph` against the `expected` ones.

    Raises UnsupportedError with the shape, the output and the error where it exceeds `MAX_ERROR`.
    """
    where = _where(feeds)
    try:
        found = graph(feeds)
    except Exception as error:
        raise _refusal(where, f"ONNX Runtime fails: {_first_line(error)}") from error
    return max(_error(name, want, found[name], where) for name, want in expected.items())


def _where(feeds: Feeds) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in feeds.items())


def _reference(
    module: nn.Module, feeds: Mapping[str, np.ndarray[Any, Any]], where: str
) -> list[np.ndarray[Any, Any]]:
    import torch
    from torch.utils import _pytree

    try:
        with torch.no_grad():
            results = module(*(torch.from_numpy(array) for array in feeds.values()))
    except Exception as error:
        raise UnsupportedError(
            f"the network itself fails at {where}: {_first_line(error)}",
            "narrow the ranges of the dynamic dimensions to sizes it takes",
        ) from error
    return [tensor.numpy() for tensor in _pytree.tree_leaves(results)]


def _error(name: str, expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], where: str) -> float:
    """Relative L2 error of one output, within the limit."""
    if expected.shape != found.shape:
        raise _refusal(where, f"output '{name}' has shape {found.shape}, the reference {expected.shape}")
    want, have = (array.astype(np.float64) for array in (expected, found))
    same = (want == have) | (np.isnan(want) & np.isnan(have))  # infinite where both are, as masks are
    want, have = want[~same], have[~same]
    difference = np.linalg.norm(have - want)
    scale = np.linalg.norm(expected[np.isfinite(expected)].astype(np.float64))
    error = float(difference / scale) if scale > 0 else float(difference)
    if not error <= MAX_ERROR:
        raise _refusal(
            where, f"output '{name}' differs by {error:.2g} (relative L2), the limit is {MAX_ERROR:g}"
        )
    return error


def _refusal(where: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"the exported graph is not the network at {where}: {what}",
        "a size was fixed while tracing: look for Python numbers or branches made from a tensor's shape",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
