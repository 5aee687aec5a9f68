"""The whole story, one step per line: read this file first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekit import boards, bundle, precision_plan, registry
from edgekit import recipe as recipes
from edgekit.report import Report
from edgekit.report import read as read_report
from edgekit.runtime.errors import BadFileError, EdgekitError, HardwareError, UnsupportedError, UsageError
from edgekit.runtime.face import prove as prove_recorded
from edgekit.runtime.face import read_feeds
from edgekit.runtime.manifest import Manifest, hashes, read_manifest, verify, with_states, write_manifest
from edgekit.runtime.proof import GOLDEN, Check
from edgekit.runtime.session import Session, open_bundle, open_runner
from edgekit.spec import PRECISIONS, Artifact, Build, Choice, Limits, Progress, Recipe, Search, silent
from edgekit.steps import describe, own, prove
from edgekit.steps._graphs import prove_graphs
from edgekit.steps.check_target import Examination, check_graph, check_recipe, model_findings
from edgekit.steps.compile import compile_engine
from edgekit.steps.doctor import board_findings, findings
from edgekit.steps.export import export as export_graph
from edgekit.steps.export import notes as export_notes
from edgekit.steps.layers import LayerReport, compare_layers, engine_graph_of
from edgekit.steps.layers import page as layers_page
from edgekit.steps.load import Network, samples
from edgekit.steps.load import load as load_network
from edgekit.steps.prove import Proof, Trial
from edgekit.steps.quantize import quantize as quantize_graph
from edgekit.steps.sweep import HALF, Sweep, Watch, half_of, unseen
from edgekit.steps.sweep import sweep as sweep_cells
from edgekit.steps.train import TrainProgress
from edgekit.steps.train import train as train_network
from edgekit.steps.worth import worth

PROOFS = ("parity", "accuracy", "latency")
SWEPT_TARGETS = ("onnxruntime", "openvino", "tensorrt_rtx")
SWEPT_PRECISIONS = ("fp32", HALF, "int8")
SWEPT_OUTPUT = Path("build") / "sweep"


def load(
    model: str,
    *,
    target: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    board: str | None = None,
    compute_capabilities: Sequence[str] = (),
    network: Mapping[str, Any] | None = None,
    module: Any = None,
    max_drop: float | None = None,
    max_error: float | None = None,
    max_errors: Mapping[str, float] | None = None,
    plan: str | Path | None = None,
    any_precision: bool = False,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """The recipe that MODEL names, with what the command line says laid over it.

    `compute_capabilities` such as 8.6 are the GPUs that TensorRT-RTX builds for. `network` says what
    MODEL does not of a user's own network: `inputs`, `states`, `preprocess`, `decode`, `labels`,
    `metric`, as texts; `module` is that network where Python hands it over.
    `max_drop` and `max_error` are shares: of the metric, and relative L2; `max_errors` are relative L2
    of single outputs by name. Either, with int8, starts a search for the fastest plan that keeps them,
    or with `any_precision` for the fastest engine of any precision; `plan` is a file that says the
    precision of layers.

    Raises:
        UsageError: an unknown name, or a recipe with faults; all of them are named.
        BadFileError: the recipe, the model file or a folder is missing or not what it claims.
    """
    recipe = _read(model, network or {}, overrides, target, module)
    if precision is not None and precision not in PRECISIONS:
        hint = registry.did_you_mean(precision, PRECISIONS)
        raise UsageError(f"there is no precision called {precision!r}", hint)
    if seed is not None and (fault := recipes.seed_fault(seed)):
        raise UsageError(fault, "give another --seed")
    if plan is not None:
        recipe = precision_plan.laid_over(recipe, precision_plan.read(Path(plan)))
    folders = {"test": data, "calibration": calibration}
    precision = precision or recipe.precision
    return replace(
        _built_for(recipe, compute_capabilities),
        limits=_limits(recipe.limits, precision, max_drop, max_error, max_errors or {}),
        board=boards.read(board).name if board else recipe.board,
        precision=precision,
        search=_search(recipe, any_precision, bool(max_drop or max_error or max_errors)),
        device=(device or recipe.device).upper(),
        weights=Path(weights) if weights else recipe.weights,
        seed=recipe.seed if seed is None else seed,
        folders={**recipe.folders, **{split: Path(place) for split, place in folders.items() if place}},
    )


def _read(
    model: str,
    network: Mapping[str, Any],
    overrides: Sequence[str],
    target: str | None,
    module: Any = None,
) -> Recipe:
    """A built-in or a recipe's file; else a network of the user's own."""
    if module is not None:
        recipe = recipes.read_own(model, network, overrides, target)
        return replace(recipe, own=replace(recipe.own, module=module) if recipe.own else None)
    if model.endswith(".toml") or registry.is_recipe(model) or not own.takes(model):
        if said := [key for key, value in network.items() if value]:
            raise UsageError(
                f"{model} is a recipe, which says its {said[0]} itself",
                "leave the option out; it is for a network of your own: module:function or a file",
            )
        return recipes.read(model, overrides, target)
    return recipes.read_own(model, network, overrides, target)


def _limits(
    limits: Limits,
    precision: str,
    max_drop: float | None,
    max_error: float | None,
    max_errors: Mapping[str, float],
) -> Limits:
    if max_drop is not None:
        limits = replace(limits, max_drop=max_drop)
    if max_error is not None:
        # What int8 is compared with, or gives way to, has to keep the same promise.
        held = PRECISIONS if precision == "int8" else (precision,)
        limits = replace(limits, rel_l2={**limits.rel_l2, **dict.fromkeys(held, max_error)})
    return replace(limits, outputs={**limits.outputs, **max_errors})


def _search(recipe: Recipe, any_precision: bool, budget: bool) -> Search | None:
    """A budget that was given is searched for; the caps are the recipe's."""
    if not budget:
        return recipe.search
    return replace(recipe.search or Search(), any_precision=any_precision)


def _built_for(recipe: Recipe, compute_capabilities: Sequence[str]) -> Recipe:
    if not compute_capabilities:
        return recipe
    if recipe.target.name != "tensorrt_rtx":
        raise UsageError(
            f"--compute-capability is for the target tensorrt-rtx, not for {recipe.target.name}",
            "TensorRT builds for the GPU that is there: leave it out, or take --target tensorrt-rtx",
        )
    options = {**recipe.target.options, "compute_capabilities": tuple(compute_capabilities)}
    return replace(recipe, target=Choice(name=recipe.target.name, options=options))


def compile(
    recipe: Recipe,
    output: str | Path | None = None,
    progress: Progress = silent,
    proofs: Sequence[str] = PROOFS,
    threads: int | None = None,
) -> Report:
    """From a recipe to a proved bundle in `output`; the report says whether it passed.

    Without the latency among `proofs` it can be built beside others, with its share of `threads`;
    `timed` measures it when nothing else runs.

    Raises:
        EdgekitError: something could not be done; nothing half-written is left.
    """
    place = Path(output or bundle.default_output(recipe.name, recipe.target.name, recipe.precision))
    with bundle.workspace(place) as work:
        manifest, report = make(recipe, work, proofs, progress, threads)
        if output is None:  # a search may have chosen another precision
            place = bundle.default_output(recipe.name, recipe.target.name, report.precision)
        report = replace(report, bundle=str(place), next=_next(report, place))
        bundle.furnish(work)
        bundle.sign_off(work, place, manifest, report)
    return report


def make(
    recipe: Recipe,
    work: Path,
    proofs: Sequence[str],
    progress: Progress = silent,
    threads: int | None = None,
) -> tuple[Manifest, Report]:
    """Load, export, quantize, compile and prove, in the folder `work`."""
    clock = Clock(progress)
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        with clock("load"):
            network = load_network(recipe)
        with clock("export"):
            float_graph = export_graph(network, recipe, Path(scratch) / "float.onnx")
        with clock("quantize"):
            quantized = quantize_graph(network, float_graph, recipe, work / "model.onnx", progress)
            graph, recipe = quantized.graph, quantized.recipe
        with clock("compile"):
            build = compile_engine(network, graph, recipe, work / "engine", progress)
        plan = describe.plan(quantized.plan, recipe, build)
        if plan:
            precision_plan.write(recipe, plan, work / precision_plan.FILE, quantized.parted)
        manifest = describe.manifest(recipe, network, graph, build, plan, work)
        write_manifest(replace(manifest, files=hashes(work)), work)
        with clock("prove"):
            held_out = quantized.proving or samples(recipe, "test", network)
            trial = Trial(
                network=network, recipe=recipe, held_out=held_out, progress=progress, threads=threads
            )
            if build.deferred:
                proof = _prove_graphs(trial, work, manifest, build)
            else:
                manifest, proof = _prove(trial, work, manifest, proofs)
        with clock("compare"):
            told = quantized.told
            if told is None and recipe.precision == "int8" and proofs == PROOFS and not build.deferred:
                told = worth(trial, float_graph, work, manifest, Path(scratch))
    notes = (*network.notes, *export_notes(graph), *quantized.notes, *build.notes)
    proof = replace(proof, checks=(*proof.checks, *quantized.checks))
    report = _report(recipe, manifest, proof, clock.seconds, notes)
    return manifest, replace(report, quantization=told or None, blame=quantized.blame)


def _prove(trial: Trial, work: Path, manifest: Manifest, proofs: Sequence[str]) -> tuple[Manifest, Proof]:
    """Record the golden pairs, then hold the engine against the reference."""
    with prove.reference_session(trial.network, manifest) as reference:
        if not (work / GOLDEN).exists():
            prove.record(trial, reference, work / GOLDEN)
        with Session(manifest, open_runner(work, manifest, threads=trial.threads)) as target:
            proof = prove.prove(trial, reference, target, proofs)
            settings = dict(target.runner.settings)
            if trial.threads is not None:
                settings.pop("threads", None)  # those of the proof, not those that it ships with
            manifest = describe.settled(manifest, settings)
    if "latency" in proofs:
        proof = prove.with_latency(proof, trial, work, manifest)
    return replace(manifest, state="proved"), proof


def _prove_graphs(trial: Trial, work: Path, manifest: Manifest, build: Build) -> Proof:
    """Record the golden pairs; no engine can run here, so prove the graphs that it is built from."""
    with prove.reference_session(trial.network, manifest) as reference:
        prove.record(trial, reference, work / GOLDEN)
        return prove_graphs(trial, reference, work, manifest, build)


def timed(folder: Path, progress: Progress = silent) -> Report:
    """Measure the latency of the proved bundle in `folder`, and exchange the bundle for one that says it.

    Raises:
        BadFileError: the folder is no bundle, a file of it was altered, or its network is another by now.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest)
    recipe = _recipe_of(folder, manifest, None, None)
    network = _network_of(recipe, folder, manifest)
    held_out = samples(recipe, "test", network)
    trial = Trial(network=network, recipe=recipe, held_out=held_out, progress=progress)
    known = read_report(folder)
    clock = Clock(progress)
    with bundle.workspace(folder) as work:
        shutil.copytree(folder, work, dirs_exist_ok=True)
        with clock("time"):
            checks, told = prove.latency(trial, work, manifest)
        others = (check for check in known.checks if not check.name.startswith("latency."))
        report = replace(known, checks=(*others, *checks), latency=told)
        report = replace(
            report, next=known.next or _next(report, folder), timings_s={**known.timings_s, **clock.seconds}
        )
        bundle.sign_off(work, folder, manifest, report)
    return report


def _report(
    recipe: Recipe, manifest: Manifest, proof: Proof, seconds: Mapping[str, float], notes: Sequence[str] = ()
) -> Report:
    deferred = manifest.engine.get("deferred", "")
    return Report(
        model=recipe.name,
        target=recipe.target.name,
        device=manifest.device,
        precision=recipe.precision,
        state=manifest.state,
        bundle=None,
        checks=proof.checks,
        accuracy=proof.accuracy,
        latency=proof.latency,
        layers=proof.layers,
        plan=manifest.plan,
        environment=describe.environment(),
        timings_s=seconds,
        notes=(*manifest.lowering, *notes, *([deferred] if deferred else [])),
        board=recipe.board,
    )


def _next(report: Report, place: Path) -> str:
    if report.blame and report.passed is False:
        return f"no int8 plan keeps the limits; most of the error is made by {report.blame}"
    if any(check.name == "layers.int8" and not check.passed for check in report.checks):
        return f"no layer runs in int8 on {report.target}: use --precision fp32, or another target"
    if report.passed is False and report.precision != "fp32" and report.state == "proved":
        return f"edgekit check {place} --layers names the layer where reference and engine part"
    if report.state == "deferred":
        return f"copy {place} to the device and run there: python3 run.py build"
    if report.state == "built":
        return f"copy {place} to a machine with such a GPU and run there: python3 run.py check"
    return ""


def check_target(model: str, said: Mapping[str, Any], progress: Progress = silent) -> Examination:
    """What a recipe or an ONNX file meets on a target and board; `said` is as for `load`.

    Raises:
        EdgekitError: as `load`; UnsupportedError when the board cannot take the target at all.
    """
    if not model.endswith(".onnx"):
        return check_recipe(load(model, **said), progress)
    if strange := [key for key in ("weights", "calibration", "seed", "overrides") if said.get(key)]:
        raise UsageError(f"{model} is a graph: --{strange[0]} means nothing for it", "leave it out")
    if not said.get("target"):
        raise UsageError(f"{model} does not say where it is to go", "give --target")
    board = boards.read(said["board"]).name if said.get("board") else ""
    return check_graph(Path(model), said["target"], said.get("precision"), board, progress)


def doctor(
    board: str | None = None,
    model: str | None = None,
    target: str | None = None,
    precision: str | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """What this machine can do; or what a board can, and what a model meets there.

    Raises:
        UsageError: there is no such board, or a model is given without one.
    """
    if board is None:
        if model is not None:
            raise UsageError("a model is examined for a board", "give --board, see `edgekit list boards`")
        return findings()
    rows = board_findings(boards.read(board).name)
    if model is None:
        return rows
    name = target or boards.read(board).targets[0]
    found = check_target(model, {"target": name, "board": board, "precision": precision}, progress)
    return rows + model_findings(found)


def sweep(
    models: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[str] = (),
    output: str | Path | None = None,
    jobs: int = 0,
    fresh: bool = False,
    compute_capabilities: Sequence[str] = (),
    seed: int | None = None,
    overrides: Sequence[str] = (),
    watch: Watch = unseen,
) -> Sweep:
    """Build and prove every cell of models x targets x precisions; a cell that cannot be is a row too.

    Left out, `models` are the built-in recipes that have weights, `targets` are SWEPT_TARGETS, and
    `precisions` fp32, `half` (the target's fastest half precision) and int8. The bundles and `sweep.json`
    go into `output`, by default `build/sweep`. The rest is as for `load` and `steps.sweep.sweep`.

    Raises:
        UsageError: an unknown name, a bad recipe, or a recipe without weights; nothing is built then.
        EdgekitError: as `steps.sweep.sweep`.
    """
    aims = [registry.resolve("target", target) for target in targets or SWEPT_TARGETS]
    if compute_capabilities and "tensorrt_rtx" not in aims:
        raise UsageError(
            "--compute-capability is for the target tensorrt-rtx, which is not swept",
            "add --target tensorrt-rtx",
        )
    cells: dict[tuple[str, str, str], Recipe] = {}
    for model, target in product(models or recipes.with_weights(), aims):
        built_for = compute_capabilities if target == "tensorrt_rtx" else ()
        for precision in precisions or SWEPT_PRECISIONS:
            recipe = load(
                model, target=target, precision=None if precision == HALF else precision,
                compute_capabilities=built_for, seed=seed, overrides=overrides,
            )  # fmt: skip
            if precision == HALF:
                recipe = replace(recipe, precision=half_of(recipe))
            if recipe.precision:
                cells[model, target, recipe.precision] = recipe
    return sweep_cells(tuple(cells.values()), Path(output or SWEPT_OUTPUT), jobs, fresh, watch)


def train(
    recipe: Recipe,
    output: Path | None = None,
    device: str | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> Artifact:
    """Train from nothing; writes `NAME.safetensors` and its provenance into `output` (default `build`).

    Raises:
        EdgekitError: as `steps.train.train`.
    """
    if device is not None:
        recipe = replace(recipe, train={**recipe.train, "device": device.lower()})
    return train_network(recipe, output or Path("build"), progress, describe.command())


def export(recipe: Recipe, output: Path | None = None, progress: Progress = silent) -> Artifact:
    """Write the canonical float graph alone; default `build/MODEL.onnx`.

    Raises:
        EdgekitError: as `compile`.
    """
    clock = Clock(progress)
    with clock("load"):
        network = load_network(recipe)
    with clock("export"), bundle.whole_file(output, f"{recipe.name}.onnx") as (fresh, place):
        graph = export_graph(network, recipe, fresh)
    return replace(graph, path=place)


def check(
    model: Recipe | Path, progress: Progress = silent, device: str | None = None, data: Path | None = None
) -> Report:
    """Prove parity and accuracy: of a bundle, hashes first, or of what a recipe would become.

    Raises:
        BadFileError: the folder is no bundle, or a file of it was altered.
        HardwareError: the bundle holds no engine yet.
    """
    return _prove_only(model, ("parity", "accuracy"), progress, device, data)


def layers(model: Recipe | Path, progress: Progress = silent) -> tuple[LayerReport, Path]:
    """Where reference and engine part, layer by layer; also written as a page beside the bundle.

    Raises:
        BadFileError: the folder is no bundle, or a file of it was altered.
        UsageError: the reference is not here, or the target has no graph to look into.
    """
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        work = Path(scratch) / "bundle"
        if isinstance(model, Path):
            manifest, folder = read_manifest(model), model
            verify(model, manifest)
            recipe = _recipe_of(model, manifest, None, None)
            page = model.with_name(f"{model.name}-layers.html")
        else:
            work.mkdir()
            manifest, _ = make(model, work, (), progress)
            recipe, folder = model, work
            page = Path("build") / f"{model.name}-{model.target.name}-{model.precision}-layers.html"
        network = load_network(recipe)
        graph = export_graph(network, recipe, Path(scratch) / "float.onnx")
        held_out = samples(recipe, "test", network)
        feeds = prove.spread(Trial(network=network, recipe=recipe, held_out=held_out), prove.GOLDEN)
        engine = engine_graph_of(folder, manifest, Path(scratch))
        report = compare_layers(graph.path, engine, feeds, network.module, progress)
    with bundle.whole_file(page, page.name) as (fresh, place):
        title = f"{recipe.name} on {recipe.target.name}, {recipe.precision}: SQNR by depth"
        fresh.write_text(layers_page(report, title), encoding="utf-8")
    return report, place


def bench(model: Recipe | Path, progress: Progress = silent, device: str | None = None) -> Report:
    """Measure latency against PyTorch: of a bundle, or of what a recipe would become.

    Raises:
        BadFileError: the folder is no bundle, or a file of it was altered.
        HardwareError: the bundle holds no engine yet.
    """
    return _prove_only(model, ("latency",), progress, device)


def run(
    folder: Path, inputs: Sequence[str | Path], device: str | None = None
) -> Iterator[tuple[str | Path, Any]]:
    """What a bundle says of each image or text, or the outputs for each `.npz` of named arrays.

    Raises:
        BadFileError: the folder is no bundle, a file of it was altered, or an input is no image or text.
    """
    with open_bundle(folder, device) as session:
        for source in inputs:
            feeds = Path(source).suffix.lower() == ".npz"
            yield source, session.infer(read_feeds(Path(source))) if feeds else session.predict(source)


def _prove_only(
    model: Recipe | Path,
    proofs: Sequence[str],
    progress: Progress,
    device: str | None = None,
    data: Path | None = None,
) -> Report:
    if isinstance(model, Path):
        return _again(model, proofs, progress, device, data)
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        return make(model, Path(scratch), proofs, progress)[1]


def _again(
    folder: Path, proofs: Sequence[str], progress: Progress, device: str | None, data: Path | None
) -> Report:
    """Prove the bundle in `folder` against the network that it was made from.

    Where a user's network is not here any more, parity with the recorded pairs is all there is.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if manifest.state == "deferred":
        raise HardwareError(
            f"{folder} holds no engine yet: {manifest.engine.get('deferred', '')}",
            "copy it to the device and run there: python3 run.py build",
        )
    clock = Clock(progress)
    with clock("prove"):
        recipe = _recipe_of(folder, manifest, device, data)
        recorded = prove_recorded(folder, device) if "parity" in proofs else []
        manifest = replace(manifest, device=device or manifest.device)
        try:
            network = _network_of(recipe, folder, manifest)
        except (UsageError, UnsupportedError, BadFileError) as error:
            absent = own.absence(recipe, error)
            if absent is None or data or not recorded:
                raise
            return replace(_recorded(recipe, manifest, recorded, absent), bundle=str(folder))
        held_out = samples(recipe, "test", network)
        trial = Trial(network=network, recipe=recipe, held_out=held_out, progress=progress)
        manifest, proof = _prove(trial, folder, manifest, proofs)
    proof = replace(proof, checks=(*recorded, *proof.checks))
    return replace(_report(recipe, manifest, proof, clock.seconds), bundle=str(folder))


def _network_of(recipe: Recipe, folder: Path, manifest: Manifest) -> Network:
    """The network that the bundle in `folder` was made from.

    Raises:
        BadFileError: its weights are others by now.
        UsageError: it takes or returns something else by now.
    """
    network = load_network(recipe)
    source = recipe.own.source if recipe.own else recipe.name
    if network.weights_sha256 != manifest.recipe.get("weights_sha256"):
        raise BadFileError(
            f"the weights {recipe.weights or f'of {source}'} are not those that {folder} was made from",
            f"prove the bundle by itself: python {folder}/run.py check",
        )
    for verb, now, then in zip(
        ("takes", "returns"),
        with_states(network.inputs, network.outputs, network.states),
        (manifest.inputs, manifest.outputs),
        strict=True,
    ):
        names, before = ([spec.name for spec in specs] for specs in (now, then))
        if names != before:
            raise UsageError(
                f"{source} {verb} {', '.join(names)}; when {folder} was made it was {', '.join(before)}",
                "compile the bundle again",
            )
    return network


def _recorded(recipe: Recipe, manifest: Manifest, checks: Sequence[Check], absent: EdgekitError) -> Report:
    """What the pairs recorded in a bundle say, where the network that made them is not here."""
    note = f"the network is not here: held against the recorded pairs alone ({absent.message})"
    return _report(recipe, manifest, Proof(checks=tuple(checks)), {}, (note,))


def _recipe_of(folder: Path, manifest: Manifest, device: str | None, data: Path | None) -> Recipe:
    table = {key: value for key, value in manifest.recipe.items() if key != "weights_sha256"}
    try:
        recipe = recipes.parse(table, f"of {folder}", folder)
    except UsageError as error:
        raise BadFileError(
            f"{folder} does not say what it was made from: {error.message}", "compile the bundle again"
        ) from error
    folders = {**recipe.folders, "test": data} if data else recipe.folders
    return replace(recipe, device=device or recipe.device, folders=folders)


class Clock:
    """Seconds spent in each step; a step is also said to `progress`."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._progress(step, 0, 0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(time.perf_counter() - start, 3)
