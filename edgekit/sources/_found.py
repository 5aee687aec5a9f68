"""From a module and its inputs to all that the pipeline wants to know of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.sources._adapter import TOP, Adapter
from edgekit.sources._probe import outputs_of
from edgekit.sources._words import meant, told
from edgekit.spec import Found


def found(
    adapter: Adapter,
    inputs: Sequence[TensorSpec],
    pairs: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> Found:
    """Run the network, name its outputs and pair its states. `inputs` are in the adapter's order.

    Raises:
        UsageError: the network fails at these inputs, or a state names something that is not there.
        UnsupportedError: what it returns, keeps or changes cannot be deployed.
    """
    raw = outputs_of(adapter, inputs)
    every = _renamed(raw, inputs)
    by_name = {spec.name: spec for spec in inputs}
    places = {
        **{spec.name: place for place, spec in enumerate(raw)},
        **{spec.name: place for place, spec in enumerate(every)},
    }
    states = tuple(_state(pair, by_name, every, places) for pair in pairs)
    fed = {state.output for state in states}
    outputs = tuple(spec for spec in every if spec.name not in fed)
    order = [spec.name for spec in outputs] + [state.output for state in states]
    adapter.settle([spec.name for spec in raw], [places[name] for name in order])
    _refuse_no_output(adapter, outputs)
    _refuse_uncopyable(adapter)
    return Found(
        module=adapter,
        graph=None,
        inputs=tuple(spec for spec in inputs if spec.name not in {state.input for state in states}),
        outputs=outputs,
        states=states,
        sha256=weights_sha256(adapter.network),
        notes=(*notes, *_told_outputs(outputs)),
    )


def in_order(inputs: Sequence[TensorSpec], pairs: Sequence[tuple[str, str]]) -> tuple[TensorSpec, ...]:
    """The inputs, then the states in the order of their pairs.

    Raises:
        UsageError: a state names an input that is not there, or one twice.
    """
    by_name = {spec.name: spec for spec in inputs}
    names = [name for name, _ in pairs]
    for name, output in pairs:
        if name not in by_name:
            raise UsageError(
                f"--state {name}={output}: there is no input {name!r}",
                meant(name, by_name) + f"; or give --input {name}=float32[...]",
            )
        if names.count(name) > 1:
            raise UsageError(f"--state: {name!r} stands twice", "one output feeds a state")
    return (*(spec for spec in inputs if spec.name not in names), *(by_name[name] for name in names))


def _renamed(outputs: Sequence[TensorSpec], inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Outputs with names that no input and no other output has."""
    taken = {spec.name for spec in inputs}
    renamed = []
    for spec in outputs:
        name = spec.name
        if name in taken:
            name = TOP if len(outputs) == 1 and TOP not in taken else f"{name}.out"
        count = 0
        unique = name
        while unique in taken:
            count += 1
            unique = f"{name}.{count}"
        taken.add(unique)
        shape = tuple(
            f"{unique}.{axis}" if dim == f"{spec.name}.{axis}" else dim for axis, dim in enumerate(spec.shape)
        )
        renamed.append(TensorSpec(unique, shape, spec.dtype))
    return renamed


def _state(
    pair: tuple[str, str],
    inputs: dict[str, TensorSpec],
    outputs: Sequence[TensorSpec],
    places: dict[str, int],
) -> State:
    name, output = pair
    if output not in places:
        raise UsageError(
            f"--state {name}={output}: there is no output {output!r}",
            meant(output, [spec.name for spec in outputs]),
        )
    before, after = inputs[name], outputs[places[output]]
    if before.dtype != "float32" or after.dtype != "float32":
        raise UnsupportedError(
            f"the state {name!r} is {before.dtype} and comes back as {after.dtype}", "states are float32"
        )
    if before.shape != after.shape:
        raise UnsupportedError(
            f"the state {name!r} is {_told(before)} and comes back as {_told(after)}",
            "a state keeps its shape from call to call",
        )
    return State(name, after.name, before.shape)


def _told(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, spec.shape))}]"


def _refuse_no_output(adapter: Adapter, outputs: Sequence[TensorSpec]) -> None:
    if not outputs:
        raise UsageError(
            f"every output of {type(adapter.network).__name__} is a state", "leave one that is the answer"
        )


def _refuse_uncopyable(adapter: Adapter) -> None:
    """The exporter works on a copy of the network, made around the very same weights."""
    shared: dict[int, Any] = {id(each): each for each in (*adapter.parameters(), *adapter.buffers())}
    try:
        copy.deepcopy(adapter, shared)
    except Exception as error:
        raise UnsupportedError(
            f"{type(adapter.network).__name__} cannot be copied: {told(error)}",
            "keep locks, files, generators and results of training out of the module's attributes",
        ) from error


def _told_outputs(outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    told = ", ".join(f"{spec.name} {spec.dtype}{_told(spec)}" for spec in outputs)
    return (f"outputs found by running the network: {told}",)


def weights_sha256(network: nn.Module) -> str:
    """Names, types, shapes and bytes of all parameters and buffers; a tensor that is shared counts once."""
    digest = hashlib.sha256()
    seen: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    tensors.update(network.named_buffers(remove_duplicate=False))
    for name, tensor in sorted(tensors.items()):
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        known = seen.setdefault(place, name) if tensor.numel() else name
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {known}\n".encode())
        if known == name:
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
