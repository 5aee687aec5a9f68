"""What a network takes: as the user said, as the factory declares, or as real samples show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from edgekit.declare import DEFAULT_RANGES, EXAMPLE, TYPES, parse_inputs, parse_state, told_input
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._adapter import adapt
from edgekit.sources._binding import bind, parameters_of, told_forward
from edgekit.sources._probe import run

if TYPE_CHECKING:
    from edgekit.spec import Own, Sample

INPUTS, STATES = "edgekit_inputs", "edgekit_states"
"""What a factory may declare: lists of texts as `--input` and `--state` take them."""
_NARROWER = {"float64": "float32"}


def states_of(own: Own, network: nn.Module) -> tuple[tuple[str, str], ...]:
    """Pairs of an input and the output that feeds it: the user's, else the factory's own."""
    return own.states or tuple(parse_state(text) for text in _declared(network, STATES))


def inputs_of(
    own: Own, network: nn.Module, samples: Sequence[Sample], names: Sequence[str]
) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """Every input, states included, and what is to be said of how they were found.

    Raises:
        UsageError: nothing says what the network takes, or what says it contradicts itself.
    """
    states = {name for name, _ in states_of(own, network)}
    if own.inputs and not (samples and {spec.name for spec in own.inputs} <= states):
        return own.inputs, ()
    if texts := _declared(network, INPUTS):
        return (*parse_inputs(texts),), (f"inputs as the factory declares them: {', '.join(texts)}",)
    if samples:
        return _from_samples(own, network, samples, _names(network, samples, names, states))
    raise UsageError(
        f"nothing says what {told_forward(network)} takes",
        f"add {_example(network)} with the true sizes, or --calibration FILE.npz",
    )


def _declared(network: nn.Module, attribute: str) -> tuple[str, ...]:
    found = getattr(network, attribute, ())
    if isinstance(found, str) or not all(isinstance(text, str) for text in found):
        raise UsageError(f"{attribute} is {found!r}, not a list of texts", EXAMPLE)
    return tuple(found)


def _names(
    network: nn.Module, samples: Sequence[Sample], names: Sequence[str], states: set[str]
) -> list[str]:
    """A name for each array of a sample: the data's own, else those of forward's parameters."""
    count = len(samples[0].inputs)
    if any(len(sample.inputs) != count for sample in samples):
        raise UsageError("the samples do not all have the same number of arrays", "one array per input")
    if names:
        if len(names) != count:
            raise UsageError(f"{len(names)} names for {count} arrays a sample", "one name per array")
        return list(names)
    named = _wanted(network)
    named = [name for name in named if name not in states or count >= len(named)]
    return named[:count] if len(named) >= count else [f"input_{index}" for index in range(count)]


def _from_samples(
    own: Own, network: nn.Module, samples: Sequence[Sample], names: Sequence[str]
) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """The shapes that the samples have, in ranges a little wider where the network bears it."""
    known = tuple(spec for spec in own.inputs if spec.name not in names)
    seen = _observed(samples, names)
    fails = _trial(network, (*seen, *known))
    if error := fails((*seen, *known), {**_ends(seen, 1), **_ends(known, 1), "batch": 2}):
        seen = [_at_batch_one(spec) for spec in seen]
        if fails((*seen, *known), {**_ends(seen, 1), **_ends(known, 1), "batch": 1}):
            raise error
    specs = seen
    for end in (0, 1):
        wider = [_widened(spec, end) for spec in specs]
        if not fails((*wider, *known), {**_ends(wider, end), **_ends(known, end), "batch": 1}):
            specs = wider
    origin = f"was inferred from {len(samples)} sample{'s' if len(samples) > 1 else ''}"
    told = [
        f"input {told_input(spec)} {origin}{_told_seen(spec, old)}"
        for spec, old in zip(specs, seen, strict=True)
    ]
    return (*specs, *known), tuple(told)


def _trial(
    network: nn.Module, inputs: Sequence[TensorSpec]
) -> Callable[[Sequence[TensorSpec], Mapping[str, int]], UsageError | None]:
    """What is wrong when the network runs at given sizes; None if nothing is."""
    adapter = adapt(network, bind(network, [spec.name for spec in inputs]), None, len(inputs))

    def fails(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> UsageError | None:
        try:
            run(adapter, specs, sizes)
        except UsageError as error:
            return error
        return None

    return fails


def _ends(specs: Sequence[TensorSpec], end: int) -> dict[str, int]:
    """The smallest (`end` 0) or largest size of every dimension."""
    return {dim: bounds[end] for spec in specs for dim, bounds in spec.ranges.items()}


def _observed(samples: Sequence[Sample], names: Sequence[str]) -> list[TensorSpec]:
    """One input per array of a sample; axes that change alike from sample to sample are one dimension."""
    dims: dict[tuple[int, ...], str] = {}
    specs = []
    for place, name in enumerate(names):
        axes = _axes(name, [sample.inputs[place].shape for sample in samples])
        shape: list[int | str] = ["batch"]
        ranges = {"batch": DEFAULT_RANGES["batch"]}
        for axis, sizes in enumerate(axes, 1):
            if len(set(sizes)) == 1:
                shape.append(sizes[0])
                continue
            if dims.get(sizes, "batch") in shape:
                dims[sizes] = _dimension(name, axis, len(axes) + 1, {*dims.values()})
            shape.append(dims[sizes])
            ranges[dims[sizes]] = (min(sizes), max(sizes))
        specs.append(TensorSpec(name, tuple(shape), _type(name, samples[0].inputs[place]), ranges))
    return specs


def _axes(name: str, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The sizes of each axis, sample by sample."""
    ranks = sorted({len(shape) for shape in shapes})
    if len(ranks) > 1:
        raise UsageError(
            f"the samples of {name!r} have {ranks[0]} to {ranks[-1]} dimensions",
            "give every sample the same number of dimensions",
        )
    return list(zip(*shapes, strict=True))


def _dimension(name: str, axis: int, rank: int, taken: set[str]) -> str:
    """A speaking name where the axis has a usual meaning, else `image_2`."""
    usual = {(4, 2): "height", (4, 3): "width"}.get((rank, axis), "time" if rank in (2, 3) else "")
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)
    return usual if usual and usual not in taken else f"{plain}_{axis}"


def _type(name: str, array: Any) -> str:
    dtype = _NARROWER.get(array.dtype.name, array.dtype.name)
    if dtype not in TYPES:
        raise UsageError(f"the samples of {name!r} are {dtype}", f"save them as one of {', '.join(TYPES)}")
    return str(dtype)


def _at_batch_one(spec: TensorSpec) -> TensorSpec:
    ranges = {dim: bounds for dim, bounds in spec.ranges.items() if dim != "batch"}
    return TensorSpec(spec.name, (1, *spec.shape[1:]), spec.dtype, ranges)


def _widened(spec: TensorSpec, end: int) -> TensorSpec:
    """One end of the ranges moved to the next power of two; the batch has its range already."""
    ranges = dict(spec.ranges)
    for dim, (low, high) in spec.ranges.items():
        if dim != "batch":
            ranges[dim] = (low, 1 << (high - 1).bit_length()) if end else (1 << (low.bit_length() - 1), high)
    return TensorSpec(spec.name, spec.shape, spec.dtype, ranges)


def _told_seen(spec: TensorSpec, observed: TensorSpec) -> str:
    wider = [dim for dim in spec.dynamic if spec.ranges[dim] != observed.ranges[dim]]
    told = ", ".join(f"{dim} {observed.ranges[dim][0]}..{observed.ranges[dim][1]}" for dim in wider)
    fixed = "; it takes one at a time" if spec.shape[:1] == (1,) else ""
    return (f"; they have {told}" if told else "") + fixed


def _wanted(network: nn.Module, optional: bool = True) -> list[str]:
    """Names of forward's parameters, or of those without a default."""
    return [
        each.name
        for each in parameters_of(network)
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and (optional or each.default is each.empty)
    ]


def _example(network: nn.Module) -> str:
    """`--input` for each argument that forward wants, with a guess at the sizes from the first layer."""
    first = next(_guesses(network), "float32[batch,16]")
    names = _wanted(network, optional=False) or ["input"]
    told = [f"--input {name}={'float32[batch,16]' if index else first}" for index, name in enumerate(names)]
    return " ".join(told)


def _guesses(network: nn.Module) -> Iterator[str]:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            yield f"float32[batch,{layer.in_channels},224,224]"
        elif isinstance(layer, nn.Conv1d):
            yield f"float32[batch,{layer.in_channels},time:16..1024]"
        elif isinstance(layer, nn.Embedding):
            yield "int64[batch,time:1..128]"
        elif isinstance(layer, nn.RNNBase):
            yield f"float32[batch,time:1..256,{layer.input_size}]"
        elif isinstance(layer, nn.Linear):
            yield f"float32[batch,{layer.in_features}]"
