"""A user's own ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.sources._onnx_boxes import before_suppression
from edgekit.sources._onnx_declared import declared_inputs, refuse_strange_outputs, spec_of, with_batch
from edgekit.sources._onnx_dims import settle, told
from edgekit.sources._onnx_file import read_graph, read_with_digest
from edgekit.sources._onnx_probe import Program, draw, refuse_lies, without_shapes
from edgekit.sources._onnx_sizes import Trial, first_trial, narrow, outputs_of
from edgekit.sources._onnx_walk import every_node
from edgekit.sources._onnx_windows import Watched
from edgekit.spec import Found, Own, Sample

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
    "Dropout",
}  # fmt: skip


def takes(source: str) -> bool:
    """Whether `source` names an ONNX file."""
    return source.lower().endswith(SUFFIX)


def data_inputs(own: Own) -> tuple[TensorSpec, ...]:
    """The inputs that data is read for: as the user says them, else as the file alone does.

    Where neither gives every shape, what the user says.
    """
    path = own.folder / own.source
    declared, _ = with_batch(declared_inputs(path, read_graph(path)))
    said = {spec.name: spec for spec in own.inputs}
    if not said.keys() <= {one.name for one in declared}:
        return own.inputs
    known = [said.get(one.name) or spec_of(one) for one in declared]
    return tuple(spec for spec in known if spec is not None) if all(known) else own.inputs


def load(own: Own, weights: Path | None, samples: Sequence[Sample]) -> Found:
    """What the file is fed and what it gives: from the file, `own`, samples, and from running it.

    `samples` have one array for each input that is no state, without the batch axis. The inputs keep
    the file's order and names, and the states stand apart. ONNX Runtime is the reference. A
    NonMaxSuppression at the end is no part of the network: see `before_suppression`.

    Raises:
        UsageError: `weights` are given, or what is said of inputs or states contradicts the file.
        BadFileError: the file is not what it claims (see `read_model`), or its shapes are not what they
            are when it runs; a sample does not fit.
        UnsupportedError: an operator, type or size that cannot be had.
        MissingPackageError: ONNX Runtime is not installed.
    """
    path = own.folder / own.source
    if weights is not None:
        raise UsageError(f"--weights {weights}: an ONNX file holds its own weights", "leave --weights out")
    model, digest = read_with_digest(path)
    model, ending = before_suppression(model)
    names = [name for name, _ in own.states]
    declared, batch = with_batch(declared_inputs(path, model))
    _refuse_unknown(
        path, own.states, [one.name for one in declared], [one.name for one in model.graph.output]
    )
    refuse_strange_outputs(path, model)
    settled = settle(declared, own.inputs, samples, names)
    Program(path, model)
    program = Watched(path, without_shapes(model))
    trial = first_trial(path, program, settled, samples)
    _refuse_random(path, program, trial, model)
    trial = narrow(path, program, trial, settled.free)
    refuse_lies(path, model, draw(trial.specs, trial.sizes, trial.values))
    outputs = outputs_of(path, program, trial, model.graph.output)
    ending = ending.seen(trial.at(program, {})[1])
    states = _states(path, own.states, trial.specs, outputs)
    fed = tuple(spec for spec in trial.specs if spec.name not in names)
    return Found(
        module=None,
        graph=path,
        inputs=fed,
        outputs=_others(path, outputs, states),
        states=states,
        sha256=digest,
        notes=(
            *_renaming(batch, fed),
            *settled.notes,
            *trial.notes,
            *(told(fed) if not own.inputs else ()),
            *([ending.note] if ending.note else []),
        ),
        detection=ending.detection,
    )


def _refuse_random(path: Path, program: Program, trial: Trial, model: onnx.ModelProto) -> None:
    """Nothing can be proved of a network that answers differently each time."""
    (_, first), (_, second) = trial.at(program, {}), trial.at(program, {})
    for name, array in first.items():
        if not np.array_equal(array, second[name], equal_nan=array.dtype.kind == "f"):
            nodes = [node.name or node.op_type for node in every_node(model) if node.op_type in _RANDOM]
            raise UnsupportedError(
                f"{path}: the output '{name}' differs from run to run"
                + (f", because of the node '{nodes[0]}'" if nodes else ""),
                "export it in evaluation mode (module.eval()), and feed random numbers as an input",
            )


def _renaming(batch: str, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    used = any("batch" in spec.dynamic for spec in inputs)
    return (f"the file's dimension '{batch}' is called 'batch'",) if batch and used else ()


def _refuse_unknown(
    path: Path, pairs: Sequence[tuple[str, str]], inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    for pair in pairs:
        for word, known, kind in zip(pair, (inputs, outputs), ("input", "output"), strict=True):
            if word not in known:
                raise UsageError(
                    f"--state {pair[0]}={pair[1]}: {path} has no {kind} '{word}'",
                    f"it has: {', '.join(known)}",
                )


def _states(
    path: Path,
    pairs: Sequence[tuple[str, str]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> tuple[State, ...]:
    entries = {spec.name: spec for spec in inputs}
    results = {spec.name: spec for spec in outputs}
    fed = {dim for spec in inputs if spec.name not in dict(pairs) for dim in spec.dynamic}
    return tuple(_state(path, entries, results, fed, *pair) for pair in pairs)


def _state(
    path: Path,
    inputs: dict[str, TensorSpec],
    outputs: dict[str, TensorSpec],
    fed: set[str],
    name: str,
    output: str,
) -> State:
    before, after = inputs[name], outputs[output]
    if before.dtype != "float32" or after.dtype != "float32":
        raise UnsupportedError(
            f"the state '{name}' is {before.dtype}, '{output}' is {after.dtype}: hidden states are float32",
            "export it with float32 states, or leave --state out and feed it by hand",
        )
    if before.shape != after.shape:
        raise UsageError(
            f"--state {name}={output}: '{name}' is {before.shape}, '{output}' is {after.shape}",
            "a state has one shape: pair other tensors",
        )
    for dim in before.dynamic:
        if dim not in fed:
            raise UsageError(
                f"the state '{name}' has the dimension '{dim}', which no input has",
                f"fix it: --input {name}=float32[...] with sizes, or the name of an input's dimension",
            )
    return State(name, output, before.shape)


def _others(path: Path, outputs: Sequence[TensorSpec], states: Sequence[State]) -> tuple[TensorSpec, ...]:
    """The outputs that are no states."""
    fed_back = {state.output for state in states}
    found = tuple(spec for spec in outputs if spec.name not in fed_back)
    if not found:
        raise UsageError(f"every output of {path} is a state", "leave one output that is an answer")
    return found
