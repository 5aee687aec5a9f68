"""From a PyTorch module to an ONNX graph: the ways that torch has, each as it is, failures included."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from edgekit.exporting.blame import NetworkError, users_network
from edgekit.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn
    from torch.onnx import ONNXProgram


@dataclass(frozen=True)
class Captured:
    """The exporter's graph, and the names of the weights in the network that it was made from."""

    graph: ir.Model
    weights: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the graph is to be: every input, states included, the names of all outputs, the opset.

    `sizes` are those of the dynamic dimensions while tracing.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[str]
    sizes: Mapping[str, int]
    opset: int

    @property
    def moving(self) -> dict[str, tuple[int, int | None]]:
        """The dimensions that stay dynamic, with their ranges: one with a single size is a fixed one."""
        told = {dim: spec.ranges[dim] for spec in self.inputs for dim in spec.dynamic if dim in spec.ranges}
        ranges: dict[str, tuple[int, int | None]] = {
            dim: told.get(dim, (1, None)) for spec in self.inputs for dim in spec.dynamic
        }
        return {
            dim: (low, high) for dim, (low, high) in ranges.items() if low != high and self.sizes[dim] != 1
        }


def by_export(
    network: nn.Module, asked: Asked, *, free: bool = False, defer: bool = False, strict: bool = False
) -> Captured:
    """Through torch.export, traced once at `asked.sizes`, recurrent layers kept whole.

    `free` lets the program narrow the ranges of the sizes, `defer` lets it leave checks of sizes to
    run time: what comes out must be checked over the whole ranges. `strict` reads the Python code
    instead of running it. `network` is changed.
    """
    import torch
    from torch.fx.experimental import _config

    args = tuple(torch.zeros(spec.at(asked.sizes), dtype=getattr(torch, spec.dtype)) for spec in asked.inputs)
    whole = _whole(network)
    with quiet(), torch.no_grad(), _plain(whole) if strict else contextlib.nullcontext():
        # As torch's own ONNX exporter does: a dynamic size may be 1 without being a case of its own.
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                whole,
                args,
                dynamic_shapes=_dimensions(asked, free),
                strict=strict,
                prefer_deferred_runtime_asserts_over_guards=defer,
            )
        _refuse_wrong_count(program, asked.outputs)
        return Captured(_translated(program, asked), frozenset(whole.state_dict()))


def _translated(program: torch.export.ExportedProgram, asked: Asked) -> ir.Model:
    import torch

    from edgekit.exporting.recurrent_op import translations

    translated = torch.onnx.export(
        program,
        args=(),
        dynamo=True,
        opset_version=asked.opset,
        input_names=[spec.name for spec in asked.inputs],
        output_names=list(asked.outputs),
        custom_translation_table=translations(asked.opset),
        verbose=False,
    )
    return cast("ONNXProgram", translated).model


def _whole(network: nn.Module) -> nn.Module:
    """The recurrent layers of the user's network swapped for whole ones; their names are the user's."""
    from edgekit.exporting.recurrent import keep_recurrent_whole

    inner = users_network(network)
    swapped = keep_recurrent_whole(inner)
    if inner is network:
        return swapped
    network.network = swapped
    return network


def _dimensions(asked: Asked, free: bool) -> Any:
    """`dynamic_shapes` of torch.export: the same name is the same dimension, everywhere."""
    from torch.export import Dim

    made: dict[str, Any] = {
        dim: Dim.DYNAMIC(min=low, max=high) if free else Dim(dim, min=low, max=high)
        for dim, (low, high) in asked.moving.items()
    }
    return tuple(
        {axis: made[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in made}
        for spec in asked.inputs
    )


def _refuse_wrong_count(program: torch.export.ExportedProgram, names: Sequence[str]) -> None:
    found = len(program.graph_signature.user_outputs)
    if found != len(names):
        raise NetworkError(
            f"the network returns {found} tensors, but {len(names)} outputs are named: {', '.join(names)}",
            "return exactly the declared outputs, then the final states",
        )


def by_script(network: nn.Module, asked: Asked) -> Captured:
    """Through a TorchScript trace; recurrent layers are single nodes there by themselves.

    A trace fixes what Python computes: the graph must be checked over the whole ranges. Raises
    ReadsValues where Python decides by a tensor's values, which no check of sizes would find.
    """
    import onnx
    import onnx_ir as ir
    import torch
    from onnxscript import optimizer

    from edgekit.exporting.recheck import example
    from edgekit.exporting.values import refuse_reading

    args = tuple(torch.from_numpy(array) for array in example(asked.inputs, asked.sizes, 0).values())
    file = io.BytesIO()
    with quiet() as warned, torch.no_grad(), _without_fast_path(), _without_log():
        torch.onnx.export(
            network,
            args,
            file,  # type: ignore[arg-type]  # a buffer is taken too
            dynamo=False,
            opset_version=asked.opset,
            input_names=[spec.name for spec in asked.inputs],
            output_names=list(asked.outputs),
            dynamic_axes=_moving_axes(asked),
        )
    baked = [each for each in warned if each.category.__name__ == "TracerWarning"]
    if baked:
        refuse_reading(network, args, [str(each.message) for each in baked])
    model = ir.from_proto(onnx.load_from_string(file.getvalue()))
    with quiet():
        optimizer.optimize(model)
    return Captured(model, frozenset(network.state_dict()))


def _moving_axes(asked: Asked) -> dict[str, dict[int, str]]:
    moving = asked.moving
    return {
        spec.name: {
            axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in moving
        }
        for spec in asked.inputs
    }


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    """PyTorch's fused encoder layer has no ONNX form; its parts have."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """A failing trace prints its graph past sys.stdout, where edgekit's own answer goes."""
    import torch

    with mock.patch.object(torch._C, "_jit_onnx_log", return_value=None, create=True):
        yield


@contextlib.contextmanager
def _plain(network: nn.Module) -> Iterator[None]:
    """torch cannot read Python code that redirects stdout, as adapters do: here it is silent anyway."""
    home = sys.modules.get(type(network).__module__)
    if users_network(network) is network or not hasattr(home, "prints_aside"):
        yield
        return
    with mock.patch.object(home, "prints_aside", contextlib.nullcontext):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Silences the exporter: it warns, logs and prints by the dozen, on success too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("always")
            yield warned
    finally:
        logging.disable(before)
