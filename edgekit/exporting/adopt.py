"""The counterpart of `export_onnx` for a graph that exists: a user's ONNX file in edgekit's one form."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.data._array_checks import batch_axis
from edgekit.exporting._adopt_graph import ConversionError, canonical
from edgekit.exporting._adopt_half import NOTE as HALF_NOTE
from edgekit.exporting._adopt_half import widened
from edgekit.exporting._adopt_quantized import notes as quantized_notes
from edgekit.exporting.recheck import Array, Feeds, compare, example, state_inputs, unseen_shapes
from edgekit.runtime.engines import check_feeds
from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec, with_states
from edgekit.sources._onnx_boxes import before_suppression
from edgekit.sources._onnx_file import LARGEST, read_with_digest
from edgekit.sources._onnx_operators import opset_of
from edgekit.sources._onnx_probe import CannotRunError, Pools, Program, draw, pools
from edgekit.sources._onnx_walk import is_half
from edgekit.sources._onnx_windows import Watched
from edgekit.spec import Artifact, Found, Sample

if TYPE_CHECKING:
    import onnx

OPSET = 18
_OLDEST = 13
"""The oldest opset that a graph is left in: Q/DQ nodes are per channel from here on."""
_REAL_SAMPLES = 4


def adopt_onnx(
    found: Found,
    path: Path,
    *,
    opset: int = OPSET,
    shapes: Sequence[Mapping[str, int]] | None = None,
    seed: int = 0,
    samples: Sequence[Sample] = (),
) -> Artifact:
    """Writes the file `found.graph` to `path` as one canonical ONNX file.

    External data and local functions are inlined, constants are initializers, float16 becomes float32
    (`_adopt_half`), an older opset is brought to `opset` where the converter can, hidden states are last.
    Then it is run against the file at unseen shapes (`shapes`: sizes of the dynamic dimensions) and on
    `samples`. The same file gives the same bytes in any folder.

    Raises BadFileError and UnsupportedError as `sources.graph.load` does, BadFileError if the file
    changed since, and UnsupportedError if the canonical graph is not the file.
    """
    if found.graph is None:
        raise ValueError("what was found is a module, not a graph")
    model, digest = read_with_digest(found.graph)
    if digest != found.sha256:
        raise BadFileError(f"{found.graph} was changed while it was read", "start again")
    half = is_half(model)
    model = widened(before_suppression(model)[0])
    trials = _Trials(found, Watched(found.graph, model), shapes, seed, samples)
    own = opset_of(found.graph, model.opset_import)
    path.parent.mkdir(parents=True, exist_ok=True)
    content, version, error, notes = _first_that_is_the_file(found, model, trials, own, opset)
    with tempfile.TemporaryDirectory(prefix=".adopt-", dir=path.parent) as folder:
        draft = Path(folder) / "model.onnx"
        draft.write_bytes(content)
        draft.replace(path)
    return Artifact(
        kind="onnx",
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=found.inputs,
        outputs=found.outputs,
        states=found.states,
        made_by={
            "step": "adopt",
            "opset": version,
            "recheck_rel_l2": error,
            "notes": (*([HALF_NOTE] if half else []), *notes),
            **_versions(),
        },
    )


def _first_that_is_the_file(
    found: Found, model: onnx.ModelProto, trials: _Trials, own: int, opset: int
) -> tuple[bytes, int, float, tuple[str, ...]]:
    """Bytes, opset, largest error and notes of the first opset in which the graph is the file."""
    inputs, outputs = with_states(found.inputs, found.outputs, found.states)
    failed: list[str] = []
    cause: Exception | None = None
    for version in dict.fromkeys((max(own, opset), max(own, _OLDEST))):
        try:
            draft = canonical(model, inputs, outputs, version)
            error = trials.compare(Program(Path("the canonical graph"), draft))
        except (ConversionError, UnsupportedError, BadFileError) as refusal:
            failed.append(f"in opset {version}: {refusal}")
            cause = refusal
        else:
            notes = (*_notes(own, version, failed), *quantized_notes(draft))
            return _serialized(draft), version, error, notes
    raise UnsupportedError(
        f"{found.graph} has no canonical form that gives the same results: {'; '.join(failed)}",
        "export it again with opset 18",
    ) from cause


def _notes(own: int, version: int, failed: Sequence[str]) -> tuple[str, ...]:
    if failed:
        return (f"the graph is left in opset {version}: {failed[0]}",)
    return (f"opset {own} -> {version}",) if own != version else ()


def _serialized(model: onnx.ModelProto) -> bytes:
    if model.ByteSize() > LARGEST:
        raise UnsupportedError("the graph is larger than the 2 GB that one ONNX file holds")
    return bytes(model.SerializeToString(deterministic=True))


class _Trials:
    """What the file itself answers, at unseen shapes and to real samples.

    Raises UnsupportedError where the file does not run.
    """

    def __init__(
        self,
        found: Found,
        original: Program,
        shapes: Sequence[Mapping[str, int]] | None,
        seed: int,
        samples: Sequence[Sample],
    ) -> None:
        inputs = (*found.inputs, *state_inputs(found.inputs, found.states))
        sizes = list(unseen_shapes(inputs) if shapes is None else shapes)
        values = _accepted(original, inputs, sizes[0], samples)
        self._answers: list[tuple[Feeds, Feeds]] = []
        try:
            for at in sizes:
                self._ask(original, _fed(inputs, at, values, seed))
        except MemoryError as error:
            raise UnsupportedError(
                f"{found.graph} at {at} is more than the memory here holds", "narrow the ranges with --input"
            ) from error
        for sample in samples[:_REAL_SAMPLES]:
            self._ask(original, _real(found, sample))

    def _ask(self, original: Program, feeds: Feeds) -> None:
        self._answers.append((feeds, _answer(original, feeds)))

    def compare(self, program: Program) -> float:
        """The largest relative L2 error of a program; raises UnsupportedError where it is too large."""
        return max(compare(program.run, feeds, expected) for feeds, expected in self._answers)


def _accepted(
    original: Program, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], samples: Sequence[Sample]
) -> Pools:
    """The values of integer inputs that the file runs with; the first ones where none does."""
    candidates = list(pools(inputs, samples))
    for values in candidates:
        with contextlib.suppress(CannotRunError):
            original.run(_fed(inputs, sizes, values, 0))
            return values
    return candidates[0]


def _fed(
    inputs: Sequence[TensorSpec], sizes: Mapping[str, int], values: Pools, seed: int
) -> dict[str, Array]:
    drawn = draw([spec for spec in inputs if spec.name in values], sizes, values, seed)
    return {**example(inputs, sizes, seed), **drawn}


def _real(found: Found, sample: Sample) -> dict[str, Array]:
    """A sample as a batch, with the states as they begin; raises BadFileError if it does not fit."""
    feeds: dict[str, Array] = {}
    for spec, array in zip(found.inputs, sample.inputs, strict=True):
        feeds[spec.name] = _as_batch(spec, array).astype(spec.dtype)
    check_feeds(feeds, found.inputs)
    sizes = {
        dim: size
        for spec in found.inputs
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    for state in found.states:
        shape = TensorSpec(state.input, state.shape).at(sizes)
        feeds[state.input] = np.full(shape, state.init, np.float32)
    return feeds


def _as_batch(spec: TensorSpec, array: Array) -> Array:
    """A sample as often as the smallest batch needs it."""
    axis = batch_axis(spec)
    if axis is None:
        return np.asarray(array)
    count = spec.ranges.get(str(spec.shape[axis]), (1, 1))[0]
    return np.repeat(np.expand_dims(array, axis), max(1, count), axis)


def _answer(original: Program, feeds: Feeds) -> dict[str, Array]:
    try:
        return original.run(feeds)
    except CannotRunError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise UnsupportedError(
            f"the file itself does not run at {shapes}: {error}",
            "give --input sizes that it takes: a fixed one, or a range in which every size runs",
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("onnx", "onnxruntime")}
