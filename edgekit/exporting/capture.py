"""From a PyTorch module to the exporter's ONNX graph, with failures told in the user's terms."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit.runtime.errors import EdgekitError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn
    from torch.onnx import ONNXProgram


def capture(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    sizes: Mapping[str, int],
    opset: int,
) -> ir.Model:
    """Traces `module` once, at `sizes`, and translates it to ONNX.

    `names` are the names of the outputs. Raises UnsupportedError with the exporter's reason and the
    line of the network where it happened.
    """
    import torch
    from torch.fx.experimental import _config

    from edgekit.exporting.recurrent_op import translations

    args = tuple(torch.zeros(spec.at(sizes), dtype=getattr(torch, spec.dtype)) for spec in inputs)
    with _quiet(), torch.no_grad(), _explained(module):
        # As torch's own ONNX exporter does: a dynamic size may be 1 without being a case of its own.
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                module, args, dynamic_shapes=_dimensions(inputs, sizes), strict=False
            )
        _refuse_wrong_count(program, names)
        translated = torch.onnx.export(
            program,
            args=(),
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in inputs],
            output_names=list(names),
            custom_translation_table=translations(opset),
            verbose=False,
        )
    return cast("ONNXProgram", translated).model


def _dimensions(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> Any:
    """`dynamic_shapes` of torch.export: the same name is the same dimension, everywhere."""
    from torch.export import Dim

    ranges = {dim: spec.ranges[dim] for spec in inputs for dim in spec.dynamic if dim in spec.ranges}
    made: dict[str, Any] = {}
    for spec in inputs:
        for dim in spec.dynamic:
            low, high = ranges.get(dim, (1, None))
            if low != high and sizes[dim] != 1:  # a single size is a fixed dimension
                made.setdefault(dim, Dim(dim, min=low, max=high))
    return tuple(
        {axis: made[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in made}
        for spec in inputs
    )


def _refuse_wrong_count(program: torch.export.ExportedProgram, names: Sequence[str]) -> None:
    found = len(program.graph_signature.user_outputs)
    if found != len(names):
        raise UnsupportedError(
            f"the network returns {found} tensors, but {len(names)} outputs are named: {', '.join(names)}",
            "return exactly the declared outputs, then the final states",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter: it warns, logs and prints by the dozen, on success too."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _explained(module: nn.Module) -> Iterator[None]:
    """Turns whatever the exporter raises into one sentence with the user's line."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        where = _user_line(error)
        raise UnsupportedError(
            f"{type(module).__name__} cannot be exported to ONNX: {_reason(error)}"
            + (f" (at {where})" if where else ""),
            _cure(error),
        ) from error


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, the deepest first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain[::-1]


def _reason(error: BaseException) -> str:
    """The first sentence that says something, from the deepest cause that has words."""
    texts = [str(cause).strip() for cause in _chain(error)]
    lines = next((text for text in texts if text), type(error).__name__).splitlines()
    violated = [line.strip(" -") for line in lines if line.startswith("  - ")]
    return (violated or lines)[0].split(". ")[0].strip()


def _cure(error: BaseException) -> str:
    if "in the specified range" in str(error):
        return "give that dimension a range in which every size works"
    return "rewrite that part with tensor operations whose shapes follow the inputs"


def _user_line(error: BaseException) -> str:
    """`file:line: code` of the innermost frame outside the libraries, if there is one."""
    for cause in _chain(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if _is_users(frame.filename):
                return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return ""


def _is_users(filename: str) -> bool:
    here = str(Path(__file__).parent)
    return not ("site-packages" in filename or filename.startswith(("<", here)))
