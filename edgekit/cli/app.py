"""The verbs. Each imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import options, output
from edgekit.runtime.errors import (
    EdgekitError,
    HardwareError,
    SystemRefusedError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from edgekit.report import Report
    from edgekit.spec import Recipe

app = typer.Typer(
    help="From a trained network to a proved engine on the device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


INTERRUPTED = 130


class Kind(StrEnum):
    """What `edgekit list` can list."""

    models = "models"
    targets = "targets"
    data = "data"
    methods = "methods"
    boards = "boards"
    recipes = "recipes"


def run(arguments: Sequence[str]) -> int:
    """Run the command line; answers with the exit code and never with a traceback."""
    as_json = "--json" in arguments
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="edgekit")
        sys.stdout.flush()
        if code == INTERRUPTED:  # Typer turns KeyboardInterrupt into this
            return _interrupted(as_json)
        return code if isinstance(code, int) else 0
    except EdgekitError as error:
        return output.refuse(error, as_json)
    except typer.TyperException as error:
        return output.refuse(UsageError(error.format_message(), _help_hint(arguments)), as_json)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read standard output has gone
        return 0
    except OSError as error:
        said = f"the system refused: {error.strerror or error}"
        return output.refuse(SystemRefusedError(said, "look at the free space and the permissions"), as_json)
    except Exception as error:  # noqa: BLE001  the last line of defence: every bug becomes exit 70
        return _bug(error, as_json)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted(as_json: bool) -> int:
    stop = EdgekitError("interrupted: nothing half-written is left")
    stop.code = "interrupted"
    output.refuse(stop, as_json)
    return INTERRUPTED


def _bug(error: Exception, as_json: bool) -> int:
    with tempfile.NamedTemporaryFile(
        "w", prefix="edgekit-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(f"edgekit {' '.join(sys.argv[1:])}\n")
        traceback.print_exception(error, file=log)
    said = f"a bug in edgekit: {type(error).__name__}: {error}"
    return output.refuse(EdgekitError(said, f"report it with the log {log.name}"), as_json)


def _help_hint(arguments: Sequence[str]) -> str:
    verb = next((word for word in arguments if word in VERBS), "")
    return f"edgekit {verb} --help".replace("  ", " ")


def _recipe(
    model: str,
    changes: Sequence[str] | None,
    **said: Any,
) -> Recipe:
    from edgekit import pipeline

    return pipeline.load(model, overrides=changes or (), **said)


def _finish(report: Report, as_json: bool, quiet: bool, asked: bool = False) -> int:
    """Print a report; 0 passed, 1 a check failed, 5 not proved because the hardware is elsewhere.

    `asked` means that just that was asked for: a kit, or an engine for GPUs that are not here.
    """
    output.tell(report, as_json, quiet)
    if report.passed is None:
        return 0 if asked else HardwareError.exit_code
    return 0 if report.passed else 1


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], json: options.Json = False) -> int:
    """Say what there is to choose from."""
    from edgekit import catalog

    output.table(catalog.rows(kind.value), json, empty=f"there are no {kind.value}")
    return 0


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Also say what this model meets on the board.")
    ] = None,
    board: options.Board = None,
    target: options.Target = None,
    precision: options.Precision = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Say what this machine can do, or a board, and what is missing for the rest."""
    from edgekit import pipeline

    with output.progress(quiet, verbose) as progress:
        rows = pipeline.doctor(board, model, target, precision, progress)
    output.table(rows, json, empty="")
    return 0


@app.command("check-target")
def check_target(
    model: options.ModelOrGraph,
    target: options.Target = None,
    board: options.Board = None,
    precision: options.Precision = None,
    weights: options.Weights = None,
    calibration: options.Calibration = None,
    input_: options.Input = None,
    state: options.State = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Say whether a model can go to a target and board, node by node, before anything is built."""
    from edgekit import pipeline

    said = {
        "target": target, "board": board, "precision": precision, "weights": weights,
        "calibration": calibration, "network": _network(input_, state), "seed": seed, "overrides": set_ or (),
    }  # fmt: skip
    with output.progress(quiet, verbose) as progress:
        found = pipeline.check_target(model, said, progress)
    output.examined(found, json, quiet)
    return 0 if found.passed else UnsupportedError.exit_code


@app.command()
def train(
    model: options.Model,
    out: options.Output = None,
    device: options.Device = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a recipe from nothing and keep the best weights."""
    from edgekit import pipeline

    recipe = _recipe(model, set_, seed=seed)
    with output.training(quiet, verbose) as progress:
        artifact = pipeline.train(recipe, out, device, progress)
    output.trained(artifact, json, quiet)
    return 0


@app.command()
def export(
    model: options.Model,
    out: options.Output = None,
    weights: options.Weights = None,
    input_: options.Input = None,
    state: options.State = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Write the ONNX graph, checked against PyTorch at shapes it was never traced at."""
    from edgekit import pipeline

    recipe = _recipe(model, set_, weights=weights, network=_network(input_, state), seed=seed)
    with output.progress(quiet, verbose) as progress:
        artifact = pipeline.export(recipe, out, progress)
    output.exported(artifact, json, quiet)
    return 0


@app.command()
def quantize(
    model: options.Model,
    target: options.Target = None,
    out: options.Output = None,
    device: options.Device = None,
    weights: options.Weights = None,
    data: options.Data = None,
    calibration: options.Calibration = None,
    input_: options.Input = None,
    state: options.State = None,
    metric: options.Metric = None,
    preprocess: options.Preprocessing = None,
    decode: options.Decoding = None,
    labels: options.ClassNames = None,
    max_drop: options.MaxDrop = None,
    max_error: options.MaxError = None,
    plan: options.Plan = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Quantize to int8 and prove it on a target: `compile --precision int8` with its plan shown."""
    from edgekit import pipeline

    recipe = _recipe(
        model, set_, target=target, precision="int8", device=device, weights=weights, data=data,
        calibration=calibration, network=_network(input_, state, metric, preprocess, decode, labels),
        **_shares(max_drop, max_error), plan=plan, any_precision=True, seed=seed,
    )  # fmt: skip
    with output.progress(quiet, verbose) as progress:
        report = pipeline.compile(recipe, out, progress)
    if not (json or quiet or (report.quantization and "sensitivity" in report.quantization)):
        rows = [{"layer": layer, "precision": precision} for layer, precision in report.plan.items()]
        output.table(rows, as_json=False, empty="no layer is quantized")
    return _finish(report, json, quiet)


@app.command()
def compile(
    model: options.Model,
    target: options.Target = None,
    precision: options.Precision = None,
    out: options.Output = None,
    device: options.Device = None,
    weights: options.Weights = None,
    data: options.Data = None,
    calibration: options.Calibration = None,
    board: options.Board = None,
    compute_capability: options.Capabilities = None,
    kit: options.Kit = False,
    input_: options.Input = None,
    state: options.State = None,
    metric: options.Metric = None,
    preprocess: options.Preprocessing = None,
    decode: options.Decoding = None,
    labels: options.ClassNames = None,
    max_drop: options.MaxDrop = None,
    max_error: options.MaxError = None,
    plan: options.Plan = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Make a proved bundle: export, quantize, compile, then parity, accuracy and latency."""
    from edgekit import pipeline

    recipe = _recipe(
        model, set_, target=target, precision=precision, device=device, weights=weights, data=data,
        calibration=calibration, board=board, compute_capabilities=_capabilities(compute_capability),
        network=_network(input_, state, metric, preprocess, decode, labels),
        **_shares(max_drop, max_error), plan=plan, seed=seed,
    )  # fmt: skip
    with output.progress(quiet, verbose) as progress:
        report = pipeline.compile(recipe, out, progress)
    return _finish(report, json, quiet, asked=kit or compute_capability is not None)


def _network(
    inputs: Sequence[str] | None,
    states: Sequence[str] | None,
    metric: str | None = None,
    preprocess: str | None = None,
    decode: str | None = None,
    labels: Path | None = None,
) -> dict[str, Any] | None:
    """What was said of a network of the user's own; None when nothing was."""
    said = {
        "inputs": inputs, "states": states, "metric": metric, "preprocess": preprocess, "decode": decode,
        "labels": str(labels or ""),
    }  # fmt: skip
    return {key: value for key, value in said.items() if value} or None


def _shares(max_drop: str | None, max_error: Sequence[str] | None) -> dict[str, Any]:
    """The limits that were given, as shares."""
    from edgekit.declare import parse_errors, parse_share

    common, by_output = parse_errors(max_error or ())
    drop = None if max_drop is None else parse_share(max_drop, "--max-drop")
    said = {"max_drop": drop, "max_error": common, "max_errors": by_output or None}
    return {key: value for key, value in said.items() if value is not None}


def _capabilities(said: str | None) -> tuple[str, ...]:
    """`8.6,8.9` in parts; anything else is refused before work begins."""
    parts = tuple(part.strip() for part in said.split(",")) if said else ()
    if said is not None and not (parts and all(re.fullmatch(r"\d{1,2}\.\d", part) for part in parts)):
        raise UsageError(f"{said!r} is no list of compute capabilities", "write them as 8.6,8.9,12.0")
    return tuple(dict.fromkeys(parts))


@app.command()
def check(
    model: options.ModelOrBundle,
    target: options.Target = None,
    precision: options.Precision = None,
    device: options.Device = None,
    weights: options.Weights = None,
    data: options.Data = None,
    calibration: options.Calibration = None,
    input_: options.Input = None,
    state: options.State = None,
    metric: options.Metric = None,
    preprocess: options.Preprocessing = None,
    decode: options.Decoding = None,
    labels: options.ClassNames = None,
    max_drop: options.MaxDrop = None,
    max_error: options.MaxError = None,
    layers: options.Layers = False,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Prove parity and accuracy, of a bundle or of what a model would become."""
    from edgekit import pipeline

    said = {
        "target": target, "precision": precision, "weights": weights, "calibration": calibration,
        "seed": seed, "network": _network(input_, state, metric, preprocess, decode, labels),
        **_shares(max_drop, max_error),
    }  # fmt: skip
    subject = _subject(model, set_, said, device=device, data=data)
    if layers:
        with output.progress(quiet, verbose) as progress:
            found, page = pipeline.layers(subject, progress)
        return output.layers(found, page, json, quiet)
    with output.progress(quiet, verbose) as progress:
        report = pipeline.check(subject, progress, device, data)
    return _finish(report, json, quiet)


@app.command()
def bench(
    model: options.ModelOrBundle,
    target: options.Target = None,
    precision: options.Precision = None,
    device: options.Device = None,
    weights: options.Weights = None,
    input_: options.Input = None,
    state: options.State = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure latency against PyTorch, one process each, in turn."""
    from edgekit import pipeline

    said = {
        "target": target,
        "precision": precision,
        "weights": weights,
        "seed": seed,
        "network": _network(input_, state),
    }
    subject = _subject(model, set_, said, device=device)
    with output.progress(quiet, verbose) as progress:
        report = pipeline.bench(subject, progress, device)
    return _finish(report, json, quiet)


@app.command()
def sweep(
    models: options.Models = None,
    target: options.Targets = None,
    precision: options.Precisions = None,
    out: options.Folder = None,
    jobs: options.Jobs = 0,
    compute_capability: options.Capabilities = None,
    fresh: options.Fresh = False,
    seed: options.Seed = None,
    set_: options.Set = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Build and prove every model on every target in every precision; goes on where it was."""
    from edgekit import pipeline

    with output.sweeping(quiet, verbose) as watch:
        found = pipeline.sweep(
            models or (), targets=target or (), precisions=precision or (), output=out, jobs=jobs,
            fresh=fresh, compute_capabilities=_capabilities(compute_capability), seed=seed,
            overrides=set_ or (), watch=watch,
        )  # fmt: skip
    output.swept(found, out or pipeline.SWEPT_OUTPUT, json, quiet)
    return found.exit_code


def _subject(model: str, changes: Sequence[str] | None, said: dict[str, Any], **either: Any) -> Recipe | Path:
    """A bundle's folder, or the recipe that MODEL names."""
    from edgekit import registry

    if not (Path(model) / "manifest.json").is_file() and (
        registry.is_recipe(model) or not Path(model).is_dir()
    ):
        return _recipe(model, changes, **said, **either)
    given = {**said, "set": changes}
    if strange := [name for name, value in given.items() if value is not None and value != []]:
        raise UsageError(
            f"{model} is a bundle: --{strange[0]} cannot change it any more", "compile another one with it"
        )
    return Path(model)


@app.command("run")
def run_(
    bundle: options.Bundle,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, sequences, clips, texts, or .npz feeds.")
    ],
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> int:
    """Run a bundle on images, sequences, clips, texts or named arrays, and print what it says."""
    from edgekit import pipeline

    output.answers(pipeline.run(bundle, inputs, device), json, many=len(inputs) > 1)
    return 0


VERBS = (
    "list", "doctor", "check-target", "train", "export", "quantize", "compile", "check", "bench", "sweep",
    "run",
)  # fmt: skip
