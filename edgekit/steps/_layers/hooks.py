"""The float graph against PyTorch, module by module: is the export itself wrong?

A module's result is matched with the tensors that leave the nodes of its path, in order and by shape.
Where a batch norm was folded into the layer before it, the graph has only the result of both: the
modules that follow at once and have no node of their own are tried as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.proof import Parity
from edgekit.steps._layers.activations import Array, Feeds, Portions
from edgekit.steps._layers.flow import Flow
from edgekit.targets._lowering import module_of

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Result = tuple[str, int, int]
"""A tensor that a module gives: its path, the number of the call, and its place among the results."""


@dataclass(frozen=True)
class _Link:
    """A tensor of the graph and the results that it may be, the likeliest first."""

    tensor: str
    results: tuple[Result, ...]


def export_errors(
    module: torch.nn.Module, flow: Flow, feeds: Sequence[Feeds], shapes: Mapping[str, Shape]
) -> dict[str, float]:
    """Relative L2 between PyTorch and the float graph, for each tensor that leaves a module.

    `shapes` are those of the float graph's tensors on the first feed. The module is called with the
    graph's inputs, in their order.

    Raises:
        UnsupportedError: the module fails on these inputs.
    """
    links = list(_links(module, flow, feeds[0], shapes))
    found: dict[str, float] = {}
    portions = Portions(links)
    for part in portions:
        paths = {path for link in part for path, _, _ in link.results}
        run = flow.evaluator([link.tensor for link in part])
        sums = {(link.tensor, result): Parity() for link in part for result in link.results}
        for feed in feeds:
            theirs, ours = _results(module, flow, feed, paths), run(feed)
            portions.took(ours, {str(place): array for place, array in enumerate(theirs.values())})
            for (tensor, result), parity in sums.items():
                parity.add({"": theirs.get(result, np.zeros(0))}, {"": ours[tensor]})
        for (tensor, _), parity in sums.items():
            found[tensor] = min(found.get(tensor, parity.rel_l2), parity.rel_l2)
    return found


def _links(module: torch.nn.Module, flow: Flow, feed: Feeds, shapes: Mapping[str, Shape]) -> Iterator[_Link]:
    calls = _calls(module, flow, feed)
    given = {result: shape for path, number, made in calls for result, shape in _named(path, number, made)}
    paths = {module_of(node) for node in flow.nodes} - {""}
    known = {path for path, _, _ in calls}
    for path in sorted(paths & known):
        mine = [result for result in given if result[0] == path]
        for tensor, result in _paired(_leaving(flow, path), mine, shapes, given):
            later = _folded(calls, result, paths)
            alike = [other for other in later if other in given and given[other] == given[result]]
            yield _Link(tensor, (result, *alike))
    for place, name in enumerate(flow.outputs):
        if name in flow.makers and given.get(("", 0, place)) == shapes.get(name):
            yield _Link(name, (("", 0, place),))


def _named(path: str, number: int, made: Sequence[Shape]) -> Iterator[tuple[Result, Shape]]:
    for place, shape in enumerate(made):
        yield (path, number, place), shape


def _leaving(flow: Flow, path: str) -> list[str]:
    """The tensors that nodes of a module make and nodes outside of it read, or nobody."""

    def inside(name: str) -> bool:
        return name == path or name.startswith(f"{path}.")

    outputs = set(flow.outputs)
    return [
        name
        for node in flow.nodes
        if inside(module_of(node))
        for name in node.output
        if name in flow.live
        and (name in outputs or any(not inside(module_of(reader)) for reader in flow.readers.get(name, [])))
    ]


def _paired(
    tensors: Sequence[str],
    results: Sequence[Result],
    shapes: Mapping[str, Shape],
    given: Mapping[Result, Shape],
) -> Iterator[tuple[str, Result]]:
    """Each result with the first tensor of its shape that is still free."""
    free = list(tensors)
    for result in results:
        tensor = next((name for name in free if shapes.get(name) == given[result]), None)
        if tensor is not None:
            free.remove(tensor)
            yield tensor, result


def _folded(
    calls: Sequence[tuple[str, int, Sequence[Shape]]], result: Result, paths: set[str]
) -> list[Result]:
    """The results of the modules that follow a call at once and of which the graph has no node."""
    path, number, _ = result
    start = next(place for place, call in enumerate(calls) if call[:2] == (path, number))
    found: list[Result] = []
    for later, count, made in calls[start + 1 :]:
        if path.startswith(f"{later}.") or not later:
            continue
        if any(one == later or one.startswith(f"{later}.") for one in paths):
            break
        found += [(later, count, place) for place in range(len(made))]
    return found


def _calls(module: torch.nn.Module, flow: Flow, feed: Feeds) -> list[tuple[str, int, Sequence[Shape]]]:
    """Every call of a module, in the order in which they end, with the shapes of what it gives."""
    calls: list[tuple[str, int, Sequence[Shape]]] = []
    counts: dict[str, int] = defaultdict(int)

    def note(path: str, tensors: Sequence[torch.Tensor]) -> None:
        calls.append((path, counts[path], [tuple(tensor.shape) for tensor in tensors]))
        counts[path] += 1

    _run(module, flow, feed, None, note)
    return calls


def _results(module: torch.nn.Module, flow: Flow, feed: Feeds, paths: set[str]) -> dict[Result, Array]:
    """What the modules of these paths give."""
    found: dict[Result, Array] = {}
    counts: dict[str, int] = defaultdict(int)

    def keep(path: str, tensors: Sequence[torch.Tensor]) -> None:
        for place, tensor in enumerate(tensors):  # a copy: the next module may work in place
            found[path, counts[path], place] = tensor.detach().float().numpy().copy()
        counts[path] += 1

    _run(module, flow, feed, paths, keep)
    return found


def _run(
    module: torch.nn.Module,
    flow: Flow,
    feed: Feeds,
    paths: set[str] | None,
    told: Callable[[str, Sequence[torch.Tensor]], None],
) -> None:
    """Call the network; `told` hears of every module of `paths`, or of every one, as it ends."""
    import torch

    names = flow.inputs if set(flow.inputs) == set(feed) else list(feed)
    arguments = [torch.from_numpy(np.array(feed[name])) for name in names]
    with _hooked(module, paths, told):
        try:
            with torch.inference_mode():
                results = module(*arguments)
        except Exception as cause:
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise UnsupportedError(
                f"the network itself fails on the samples: {reason}", "give samples of a size it takes"
            ) from cause
    told("", _tensors(results))


@contextmanager
def _hooked(
    module: torch.nn.Module, paths: set[str] | None, told: Callable[[str, Sequence[torch.Tensor]], None]
) -> Iterator[None]:
    import torch

    def hook(path: str) -> Callable[..., None]:
        return lambda _module, _arguments, results: told(path, _tensors(results))

    handles = [
        part.register_forward_hook(hook(path))
        for path, part in module.named_modules()
        if path and (paths is None or path in paths) and not isinstance(part, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(results: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]
