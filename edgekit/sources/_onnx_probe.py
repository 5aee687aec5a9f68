"""Runs an ONNX file to see what its shapes really are."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.engines import usable_cores
from edgekit.runtime.errors import BadFileError, MissingPackageError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._onnx_walk import every_node, settle_type
from edgekit.spec import Sample

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = np.ndarray[Any, Any]
Pools = Mapping[str, Array]
"""The values that inputs which are not floating are drawn from."""
_YOUNGEST_FORMAT = 10
_FATAL = 4
LIMIT_S = 120.0
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |/\S+\.(?:cc|h):\d+ (?:.*?\) (?=[A-Z]))?")
_LONGEST = 400


class CannotRunError(Exception):
    """ONNX Runtime refused to run at some sizes; the message is its reason."""


class TakesTooLongError(CannotRunError):
    """A run was stopped: a loop in the graph may have no end."""


class Program:
    """An ONNX model in ONNX Runtime as a plain evaluator: its optimizations are off, in fp32 and fp16 alike.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
        BadFileError: the graph is not whole, or contradicts itself.
        UnsupportedError: ONNX Runtime has no kernel for a node, or does not know the opset.
    """

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self._session = _session(path, model)
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Named arrays in, named arrays out; raises CannotRunError, after `LIMIT_S` at the latest."""
        import onnxruntime

        names = list(outputs or self.outputs)
        settings = onnxruntime.RunOptions()
        watch = threading.Timer(LIMIT_S, setattr, (settings, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            return dict(zip(names, self._session.run(names, dict(feeds), settings), strict=True))
        except Exception as error:
            if settings.terminate:
                raise TakesTooLongError(f"one run takes longer than {LIMIT_S:g} s") from error
            raise CannotRunError(_said(error)) from error
        finally:
            watch.cancel()


def _session(path: Path, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "ONNX Runtime, which runs the file to see its shapes, is not installed",
            "pip install 'edgekit-deploy[onnxruntime]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = readable(model).SerializeToString()
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise UnsupportedError(
            f"{path}: ONNX Runtime, the reference, has no kernel: {_said(error)}",
            "export it with other operators or types",
        ) from error
    except Exception as error:
        raise _refusal(path, _said(error)) from error


def _said(error: BaseException) -> str:
    """The first line of ONNX Runtime's message, without its codes and the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _NOISE.sub("", lines[0])[:_LONGEST] if lines else type(error).__name__


def readable(model: onnx.ModelProto, inputs: Sequence[TensorSpec] = ()) -> onnx.ModelProto:
    """As it is, but for what only ONNX Runtime minds: the format's number, 0 as a size, names given twice.

    `inputs` give their shape to those that have none in the file.
    """
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, format_for(model))
    known = {spec.name: list(spec.shape) for spec in inputs}
    for value in copy.graph.input:
        tensor = value.type.tensor_type
        if value.name in known and not tensor.HasField("shape"):
            value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, known[value.name]))
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")
    taken: set[str] = set()
    for node in every_node(copy):
        settle_type(node)
        node.name = "" if node.name in taken else node.name
        taken.add(node.name)
    return copy


def format_for(model: onnx.ModelProto) -> int:
    """The lowest version of the file format that the model's opsets can be written in, 10 at least."""
    from onnx import helper

    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(_YOUNGEST_FORMAT, int(helper.find_min_ir_version_for(standard, ignore_unknown=True)))


def _refusal(path: Path, reason: str) -> BadFileError | UnsupportedError:
    if "opset" in reason.lower() or "ir version" in reason.lower():
        return UnsupportedError(
            f"{path} is too new for the installed ONNX Runtime: {reason}", "export it again with opset 18"
        )
    return BadFileError(f"{path} is no graph that can run: {reason}", "export it again")


def without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that claims no shape inside or at its outputs: what runs is then what is."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def pools(specs: Sequence[TensorSpec], samples: Sequence[Sample]) -> Iterator[Pools]:
    """What inputs that are not floating may hold: the values in samples, or 0 and 1; else 1 alone.

    The arrays of a sample are for the first of `specs`, in order.
    """
    shown = {
        spec.name: np.unique(np.concatenate([np.asarray(sample.inputs[place]).ravel() for sample in samples]))
        for place, spec in enumerate(specs)
        if samples and place < len(samples[0].inputs)
    }
    exact = [spec for spec in specs if not np.issubdtype(np.dtype(spec.dtype), np.floating)]
    yield {spec.name: shown.get(spec.name, np.array([0, 1])).astype(spec.dtype) for spec in exact}
    if exact:
        yield {spec.name: np.ones(1, spec.dtype) for spec in exact}


def draw(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], values: Pools, seed: int = 0
) -> dict[str, Array]:
    """Seeded inputs: standard normal numbers, or drawn from `values`."""
    feeds = {}
    for spec in specs:
        random = np.random.default_rng((seed, zlib.crc32(spec.name.encode())))
        shape = spec.at(sizes)
        if spec.name in values:
            feeds[spec.name] = random.choice(values[spec.name], shape)
        else:
            feeds[spec.name] = random.standard_normal(shape).astype(spec.dtype)
    return feeds


def refuse_lies(path: Path, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """Raises BadFileError where a size recorded inside the graph is not the one it has when it runs."""
    from onnx import TensorProto, helper

    copy = without_shapes(model)
    made = {name for node in copy.graph.node for name in node.output}
    recorded = [
        value
        for value in model.graph.value_info
        if value.name in made and value.type.tensor_type.HasField("shape")
    ]
    if not recorded:
        return
    asked = {value.name: f"edgekit.shape.{place}" for place, value in enumerate(recorded)}
    del copy.graph.output[:]
    for name, shape in asked.items():
        copy.graph.node.append(helper.make_node("Shape", [name], [shape]))
        copy.graph.output.append(helper.make_tensor_value_info(shape, TensorProto.INT64, None))
    try:
        found = Program(path, copy).run(feeds)
    except CannotRunError as error:
        raise BadFileError(
            f"{path} does not run with its shapes looked at: {error}", "export it again"
        ) from error
    for value in recorded:
        refuse_other_shape(path, value, tuple(found[asked[value.name]].tolist()))


def refuse_other_shape(path: Path, value: onnx.ValueInfoProto, found: tuple[int, ...]) -> None:
    """Raises BadFileError where a declared size is another than the one found."""
    if not value.type.tensor_type.HasField("shape"):
        return
    declared = value.type.tensor_type.shape.dim
    same = len(declared) == len(found) and all(
        dim.dim_value <= 0 or dim.dim_value == size for dim, size in zip(declared, found, strict=True)
    )
    if not same:
        told = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in declared)
        raise BadFileError(
            f"{path} declares '{value.name}' as ({told}), and running it gives {found}",
            "export it again with all dynamic axes named, or fix the sizes with --input",
        )
