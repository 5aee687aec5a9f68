"""Can this model go to that target and board? Rules first, then a trial build with what is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit import boards, registry
from edgekit.runtime.errors import BadFileError, EdgekitError, UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.spec import Choice, Problem, Progress, Recipe, Shapes, silent
from edgekit.steps.compile import shapes_of, target_of
from edgekit.steps.export import export
from edgekit.steps.load import load
from edgekit.steps.quantize import quantize

if TYPE_CHECKING:
    import onnx

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What a model meets on a target. `trial` says what a real build came to; None: none was made."""

    model: str
    target: str
    board: str
    precision: str
    versions: tuple[str, ...]
    findings: tuple[Problem, ...]
    trial: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is known against it."""
        refused = any(finding.severity == "error" for finding in self.findings)
        return not refused and (self.trial is None or bool(self.trial["built"]))

    def told(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"schema": SCHEMA, **asdict(self), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Where a model is to go, and in which precision."""

    target: Choice
    precision: str
    board: str = ""
    device: str = ""


def check_recipe(recipe: Recipe, progress: Progress = silent) -> Examination:
    """Examine what a recipe's network becomes, quantized when it is for int8.

    Raises:
        UsageError, BadFileError: as `load`.
        UnsupportedError: it cannot be exported, or the board cannot take the target at all.
    """
    aim = Aim(target=recipe.target, precision=recipe.precision, board=recipe.board, device=recipe.device)
    _, options = target_of(aim.target, aim.board, aim.device, aim.precision)
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        progress("export", 0, 0)
        network = load(recipe)
        graph = export(network, recipe, Path(scratch) / "model.onnx")
        shapes = shapes_of(network, graph, recipe, options)
        if recipe.precision == "int8":
            made = quantize(network, graph, replace(recipe, search=None), graph.path, progress)
            graph, recipe = made.graph, made.recipe
        return _examine(aim, recipe.name, graph.path, shapes, progress)


def check_graph(
    path: Path, target: str, precision: str | None = None, board: str = "", progress: Progress = silent
) -> Examination:
    """Examine an ONNX file; without a precision it is int8 when it has Q/DQ nodes, else fp32.

    Raises:
        BadFileError: the file is missing or no ONNX model.
    """
    model = read_graph(path)
    quantized = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    said = precision or ("int8" if quantized else "fp32")
    aim = Aim(target=Choice(name=registry.resolve("target", target)), precision=said, board=board)
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        import onnx

        whole = Path(scratch) / "model.onnx"
        onnx.save(model, whole)
        return _examine(aim, str(path), whole, Shapes(inputs=declared_inputs(model)), progress)


def _examine(aim: Aim, name: str, graph: Path, shapes: Shapes, progress: Progress) -> Examination:
    import onnx

    target, options = target_of(aim.target, aim.board, aim.device, aim.precision)
    model = onnx.load(graph)
    versions = boards.versions(boards.read(aim.board)) if aim.board and aim.target.name == "tensorrt" else ()
    examine = getattr(target, "examine", None)
    findings = examine(model, aim.precision, versions) if examine else target.supports(model, aim.precision)
    trial = None
    if not any(finding.severity == "error" for finding in findings):
        progress("trial build", 0, 0)
        trial = _trial(target, graph, shapes, aim.precision, options)
    return Examination(
        model=name,
        target=aim.target.name,
        board=aim.board,
        precision=aim.precision,
        versions=tuple(versions),
        findings=tuple(findings),
        trial=trial,
    )


def _trial(
    target: Any, graph: Path, shapes: Shapes, precision: str, options: Any
) -> Mapping[str, Any] | None:
    """The target's own trial, or its compilation into a folder that is thrown away."""
    if hasattr(target, "trial"):
        said: Mapping[str, Any] | None = target.trial(graph, shapes, precision, options)
        return said
    if hasattr(target, "compile_module") or not all(map(registry.available, target.REQUIRES)):
        return None
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        name = target.__name__.rpartition(".")[2]
        try:
            target.compile(graph, shapes, precision, options, Path(scratch) / "engine", silent)
        except UnsupportedError as error:
            return {"by": name, "built": False, "said": error.message}
    return {"by": name, "built": True}


def read_graph(path: Path) -> onnx.ModelProto:
    """An ONNX file with its external data.

    Raises:
        BadFileError: it is missing, cut short, or no ONNX model.
    """
    registry.require(("onnx",))
    import onnx

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BadFileError(f"{path} {what}", "give the path of an ONNX file")
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise ValueError("it has no nodes")
        for tensor in model.graph.initializer:
            onnx.checker.check_tensor(tensor)
    except EdgekitError:
        raise
    except Exception as error:  # protobuf and onnx raise whatever they like
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFileError(f"{path} is not an ONNX model: {reason}", "export it again") from error
    return model


def declared_inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs that an ONNX file declares; a dimension without a name gets one.

    Raises:
        UsageError: an input has no shape at all.
    """
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            raise UsageError(f"the input {value.name!r} declares no shape", "export it with its shape")
        dims = tuple(
            dim.dim_param or (int(dim.dim_value) if dim.dim_value > 0 else f"{value.name}.{axis}")
            for axis, dim in enumerate(kind.shape.dim)
        )
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        found.append(TensorSpec(value.name, dims, dtype))
    return tuple(found)


def by_severity(findings: Sequence[Problem]) -> list[Problem]:
    """What stops it first, then what hurts, then what is cured."""
    order = {"error": 0, "warning": 1, "cured": 2}
    return sorted(findings, key=lambda finding: order.get(finding.severity, 3))


def model_findings(found: Examination) -> list[dict[str, Any]]:
    """The findings as rows of `edgekit doctor`."""
    rows = [
        {"what": f"{found.model}: {one.severity}", "found": f"{one.node}: {one.reason}", "advice": one.cure}
        for one in by_severity(found.findings)
    ]
    verdict = "can go there" if found.passed else "cannot go there"
    advice = (
        f"edgekit compile {found.model} --target {found.target} --board {found.board}" if found.passed else ""
    )
    return [*rows, {"what": found.model, "found": f"{verdict} in {found.precision}", "advice": advice}]
