"""One way after the other until a graph is the network: what torch cannot take one way may go another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from edgekit.exporting.blame import (
    Failure,
    NetworkError,
    explain,
    name_of,
    sizes_of,
    users_network,
)
from edgekit.exporting.capture import Asked, Captured, by_export, by_script
from edgekit.exporting.lines import line_of
from edgekit.exporting.recheck import ranges_of, unseen_shapes
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from torch import nn

Proved = TypeVar("Proved")
Prove: TypeAlias = "Callable[[Captured, nn.Module, bool], Proved]"
"""Takes a graph, the reference to compare it with, and whether to look at more sizes than usual."""
_EVERY = frozenset({"guard", "constant", "data", "operator", "differs", "other"})
_CELLS = {"LSTMCell": "nn.LSTM", "GRUCell": "nn.GRU", "RNNCell": "nn.RNN"}
_SPREAD = 8


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to capture a network, tried when the way before it failed by one of the kinds in `after`.

    A `wide` one may narrow what the graph takes without a word: it is checked at more sizes.
    """

    name: str
    capture: Callable[[nn.Module, Asked], Captured]
    after: frozenset[str] = _EVERY
    wide: bool = True


WAYS = (
    Way(name="torch.export", capture=by_export, wide=False),
    Way(
        name="torch.export, checks at run time",
        capture=partial(by_export, defer=True),
        after=frozenset({"guard"}),
    ),
    Way(name="torch.export, free sizes", capture=partial(by_export, free=True), after=frozenset({"guard"})),
    Way(
        name="torch.export, strict",
        capture=partial(by_export, strict=True),
        after=_EVERY - {"operator"},
    ),
    Way(name="TorchScript", capture=by_script),
)


def first_that_works(reference: nn.Module, asked: Asked, prove: Prove[Proved]) -> tuple[str, Proved]:
    """The name of the first way whose graph `prove` accepts, and what it returned.

    Raises UnsupportedError with every way, its reason, the user's line and the cure; NetworkError where
    no way can help.
    """
    failures: list[tuple[str, Failure]] = []
    causes: list[Exception] = []
    for way in WAYS:
        if failures and failures[-1][1].kind not in way.after:
            continue
        try:
            return way.name, _try(way, reference, asked, prove)
        except _Failed as failed:
            failures.append((way.name, failed.failure))
            causes.append(failed.error)
    raise _refusal(reference, asked, failures) from causes[0]


class _Failed(Exception):
    """A way did not work."""

    def __init__(self, failure: Failure, error: Exception) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.error = error


def _try(way: Way, reference: nn.Module, asked: Asked, prove: Prove[Proved]) -> Proved:
    from edgekit.exporting.recurrent import evaluation_copy

    network = evaluation_copy(reference)
    try:
        graph = way.capture(network, asked)
    except Exception as error:
        raise _Failed(explain(error, network, asked.inputs), error) from error
    watched = _Watched(reference, asked.inputs)
    try:
        return prove(graph, watched, way.wide)  # type: ignore[arg-type]
    except NetworkError:
        raise
    except UnsupportedError as error:
        watched.refuse_own_failure()
        kind = "differs" if watched.ran else "operator"
        reason = error.message.partition(": [ONNXRuntimeError]")[0]
        raise _Failed(Failure(kind=kind, reason=reason, hint=error.hint), error) from error


class _Watched:
    """The network as the re-check calls it; keeps what went wrong in the network itself."""

    def __init__(self, network: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        self.network, self.inputs = network, inputs
        self.ran = False
        self.failed: tuple[Exception, str] | None = None

    def __call__(self, *tensors: Any) -> Any:
        self.ran = True
        try:
            return self.network(*tensors)
        except Exception as error:
            sizes = sizes_of(self.inputs, [tensor.shape for tensor in tensors])
            self.failed = error, ", ".join(f"{dim} {size}" for dim, size in sizes.items())
            raise

    def refuse_own_failure(self) -> None:
        """Raises NetworkError if the network failed where its ranges say that it works."""
        if self.failed is None:
            return
        error, where = self.failed
        line = line_of(error)
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NetworkError(
            f"{name_of(self.network)} itself fails at {where}: {words}" + (f" (at {line})" if line else ""),
            "narrow the ranges of the dynamic dimensions to sizes it takes",
        ) from error


def more_shapes(inputs: Sequence[TensorSpec], traced: dict[str, int]) -> list[dict[str, int]]:
    """The usual unseen sizes, then those near the ends of the ranges, near the traced ones and between."""
    ranges = ranges_of(inputs)
    shapes = unseen_shapes(inputs)
    for step in range(_SPREAD + 5):
        sizes = {dim: _size(step, low, high, traced[dim]) for dim, (low, high) in ranges.items()}
        sizes["batch"] = min(ranges.get("batch", (1, 1))[1], 1 + step % 2)
        sizes = {dim: max(ranges[dim][0], size) for dim, size in sizes.items() if dim in ranges}
        if sizes not in shapes:
            shapes.append(sizes)
    return shapes


def _size(step: int, low: int, high: int, traced: int) -> int:
    near = (low + 1, low + 2, traced - 1, traced + 1, high - 1)
    between = low + (high - low) * (step - len(near) + 1) // (_SPREAD + 1)
    return max(low, min(high, near[step] if step < len(near) else between))


def _refusal(network: nn.Module, asked: Asked, failures: Sequence[tuple[str, Failure]]) -> UnsupportedError:
    line = next((failure.line for _, failure in failures if failure.line), "")
    told: dict[str, list[str]] = {}
    for way, failure in failures:
        told.setdefault(failure.reason, []).append(way)
    reasons = "; ".join(f"{' and '.join(ways)}: {reason}" for reason, ways in told.items())
    return UnsupportedError(
        f"{name_of(network)} cannot be exported to ONNX" + (f" (at {line})" if line else "") + f": {reasons}",
        _cure(users_network(network), asked, [failure for _, failure in failures]),
    )


def _cure(network: nn.Module, asked: Asked, failures: Sequence[Failure]) -> str:
    """The advice that fits what is in the network best."""
    import torch

    kinds = {failure.kind for failure in failures}
    scripted = [name for name, each in network.named_modules() if isinstance(each, torch.jit.ScriptModule)]
    if scripted:
        return f"put the Python module in the place of the TorchScript one, {scripted[0]!r}"
    if "data" in kinds:
        return "choose with torch.where, a mask or torch.cond: Python sees no values when the graph runs"
    if "constant" in kinds:
        return _loop_cure(network, asked, failures)
    if "guard" in kinds:
        return "give that dimension a range in which every size works, or one fixed size"
    pools = [name for name, each in network.named_modules() if "Adaptive" in type(each).__name__]
    if pools and "differs" in kinds:
        return (
            f"{pools[0]!r} pools a varying size to a fixed one: take mean or amax over that axis, or "
            "fix the size"
        )
    if hints := [failure.hint for failure in failures if failure.hint]:
        return hints[0]
    return "rewrite that part with tensor operations whose shapes follow the inputs"


def _loop_cure(network: nn.Module, asked: Asked, failures: Sequence[Failure]) -> str:
    """A loop over time in Python has as many steps as it had while tracing."""
    dims = [dim for dim in asked.moving for failure in failures if failure.reason.startswith(f"{dim} became")]
    fixed = f"give {dims[0]!r} one fixed size" if dims else "give that dimension one fixed size"
    cells = [kind for kind in _CELLS if any(type(each).__name__ == kind for each in network.modules())]
    if cells:
        instead = f"put {_CELLS[cells[0]]}, or torch's scan, in the place of the Python loop over {cells[0]}"
    else:
        instead = "put tensor operations, a recurrent layer or torch's scan in the place of the Python loop"
    return f"{instead}; or {fixed}"
