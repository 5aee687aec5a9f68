"""The story of an export: PyTorch in, one proved ONNX file out, or nothing at all."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.exporting.blame import NetworkError, users_network
from edgekit.exporting.recheck import ranges_of, recheck, state_inputs
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.spec import Artifact

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from edgekit.exporting.capture import Captured

OPSET = 18
"""What the exporter is written in: any other number goes through a version converter."""
_LARGEST_FILE = 2**31 - 1


def export_onnx(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    states: Sequence[State],
    path: Path,
    *,
    opset: int = OPSET,
    shapes: Sequence[Mapping[str, int]] | None = None,
    seed: int = 0,
) -> Artifact:
    """Writes `module`, in evaluation mode, to `path` as ONNX.

    The module is called as `module(*inputs, *states)` and returns the outputs, then the final states
    if there are states. `shapes` are the sizes of the dynamic dimensions to check against PyTorch,
    by default a spread over their ranges. The caller's module is not changed. The same module,
    options and versions give the same bytes.

    Raises UsageError for an unknown opset, BadFileError for NaN or infinite weights, UnsupportedError
    if the network cannot be expressed or the graph differs from it in every way there is to export it,
    with the reason of each, MissingPackageError without ONNX Runtime.
    """
    from edgekit.exporting.attempts import first_that_works, more_shapes
    from edgekit.exporting.capture import Asked
    from edgekit.exporting.recurrent import evaluation_copy

    _refuse_unknown_opset(opset)
    refuse_bad_weights(module)
    reference = evaluation_copy(module)
    every_input = (*inputs, *state_inputs(inputs, states))
    every_output = (*outputs, *(TensorSpec(state.output, state.shape) for state in states))
    sizes = _trace_sizes(every_input)
    asked = Asked(inputs=every_input, outputs=[spec.name for spec in every_output], sizes=sizes, opset=opset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        draft = Path(folder) / "model.onnx"

        def prove(made: Captured, network: nn.Module, wide: bool) -> tuple[float, tuple[TensorSpec, ...]]:
            graph = made.graph
            _finish(made, reference, every_input, every_output, opset)
            draft.write_bytes(_serialized(graph))
            looked_at = more_shapes(every_input, sizes) if wide and shapes is None else shapes
            error = recheck(draft, network, inputs, states, looked_at, seed=seed)
            return error, _output_specs(graph, outputs)

        way, (error, found) = first_that_works(reference, asked, prove)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        draft.replace(path)
    return Artifact(
        kind="onnx",
        path=path,
        sha256=digest,
        inputs=tuple(inputs),
        outputs=found,
        states=tuple(states),
        made_by={"step": "export", "opset": opset, "way": way, "recheck_rel_l2": error, **_versions()},
    )


def _refuse_unknown_opset(opset: int) -> None:
    import onnxscript

    if not hasattr(onnxscript, f"opset{opset}"):
        raise UsageError(
            f"opset {opset} is unknown to the exporter", f"use {OPSET}, which every target takes"
        )


def refuse_bad_weights(module: nn.Module) -> None:
    """Raises BadFileError for the first parameter that is not finite, or buffer that holds NaN.

    Infinite buffers are legitimate: attention masks are made of them.
    """
    import torch

    network = users_network(module)
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise _bad_weight(name, "NaN" if torch.isnan(parameter).any() else "infinite values")
    for name, buffer in network.named_buffers():
        if torch.isnan(buffer).any():
            raise _bad_weight(name, "NaN")


def _bad_weight(name: str, what: str) -> BadFileError:
    return BadFileError(f"the weight '{name}' holds {what}", "train again or load another checkpoint")


def _finish(
    made: Captured,
    reference: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    opset: int,
) -> None:
    """Makes the exporter's graph the canonical one, in place, in the names of the user's network."""
    from edgekit.exporting.capture import quiet
    from edgekit.exporting.cleanup import clean

    model = made.graph
    if model.opset_imports.get("") != opset:
        raise UnsupportedError(f"the network has no form in opset {opset}", f"use {OPSET}")
    wrapped = users_network(reference) is not reference
    modules = {name for name, _ in reference.named_modules()}
    with quiet():
        clean(model, modules, made.weights, inside="network" if wrapped else "")
    _name_dimensions(model, inputs, outputs)


def _trace_sizes(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """A size for each dynamic dimension: never 1 where it may be more, and no two alike if possible."""
    sizes: dict[str, int] = {}
    for dim, (low, high) in ranges_of(inputs).items():
        wanted = max(2, low) if dim == "batch" else max(2, low, min(high, 2 * low + 16) // 8 * 8)
        while wanted in sizes.values() and wanted < high:
            wanted += 1
        sizes[dim] = min(wanted, high)
    return sizes


def _name_dimensions(model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Writes the asked names of dimensions, after checking that none was fixed on the way."""
    import onnx_ir as ir

    from edgekit.exporting.cleanup import rename_dimensions

    symbols: dict[str, str] = {}
    for spec, value in zip(inputs, model.graph.inputs, strict=True):
        for asked, got in zip(spec.shape, value.shape or (), strict=True):
            symbols.update(_symbol(spec, asked, got))
    rename_dimensions(model, symbols)
    for spec, value in zip(outputs, model.graph.outputs, strict=True):
        if spec.shape and value.shape is not None:
            _refuse_other_shape(spec, value.shape)
            value.shape = ir.Shape(
                [ir.SymbolicDim(dim) if isinstance(dim, str) else dim for dim in spec.shape]
            )


def _symbol(spec: TensorSpec, asked: int | str, got: object) -> dict[str, str]:
    """The exporter's name of a dynamic dimension -> ours."""
    if isinstance(asked, int):
        return {}
    if isinstance(got, int) and spec.ranges.get(asked) != (got, got):
        raise UnsupportedError(
            f"the dimension '{asked}' of input '{spec.name}' was fixed to {got} by the network",
            "a loop or a branch in Python depends on it: use tensor operations, or a recurrent layer",
        )
    return {str(got): asked}


def _refuse_other_shape(spec: TensorSpec, found: ir.Shape) -> None:
    same = len(found) == len(spec.shape) and all(
        not isinstance(want, int) or not isinstance(have, int) or want == have
        for want, have in zip(spec.shape, found, strict=True)
    )
    if not same:
        raise NetworkError(
            f"output '{spec.name}' has shape {tuple(map(str, found))}, declared is {spec.shape}",
            "correct the declared outputs of the model",
        )


def _output_specs(model: ir.Model, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The outputs as the graph really has them."""
    return tuple(
        TensorSpec(
            spec.name,
            tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ()),
            value.dtype.numpy().name if value.dtype else spec.dtype,
            spec.ranges,
        )
        for spec, value in zip(outputs, model.graph.outputs, strict=False)
    )


def _serialized(model: ir.Model) -> bytes:
    import onnx_ir as ir

    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    if proto.ByteSize() > _LARGEST_FILE:
        raise UnsupportedError("the graph is larger than the 2 GiB that one ONNX file holds")
    return bytes(proto.SerializeToString(deterministic=True))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "onnx", "onnxscript")}
