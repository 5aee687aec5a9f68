"""What TensorRT and TensorRT-RTX have in common on the workstation: from a graph to a build request."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from edgekit.runtime.engines.tensorrt import gpu_index
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.plans import place, timing_cache
from edgekit.runtime.plans.child import build_in_child
from edgekit.runtime.plans.features import compute_capabilities, load
from edgekit.runtime.plans.request import PLACES, BuildRequest, Built, Profile, Variant, refuse_profiles
from edgekit.runtime.session import HOST_CODE
from edgekit.spec import Build, Progress, Shapes
from edgekit.targets._lowering import read
from edgekit.targets._plan.cures import cured
from edgekit.targets._plan.profiles import BATCH, limits_of, profiles
from edgekit.targets._plan.variants import PlanGraph, variants
from edgekit.targets._recurrent import RECURRENT, in_float

WORKSPACE_MB = 1024
AMPERE = 8
MOST_WORKSPACE_MB = 1 << 20
DLA_PRECISIONS = ("fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How a plan is built.

    `workspace_mb` 0 takes what suits the board, `usual_batch` is the batch to tune for, `buckets`
    cuts a dynamic dimension into so many optimization profiles, by the sizes that the data has.
    `largest_batch` and `ranges` narrow what the inputs declare: memory grows with the largest shape.
    `rest` is the precision of what stays in float in an int8 plan; `dla` is the number of a DLA
    core, -1 for the GPU alone.
    """

    device: str = "GPU"
    threads: int = 0
    workspace_mb: int = 0
    usual_batch: int = 1
    largest_batch: int = 16
    buckets: int = 3
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rest: str = "fp16"
    dla: int = -1
    hardware_compatible: bool = False
    version_compatible: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if min(self.buckets, self.usual_batch, self.largest_batch) < 1 or self.workspace_mb < 0:
            raise ValueError("buckets, usual_batch and largest_batch begin at 1, workspace_mb at 0")
        if self.usual_batch > self.largest_batch:
            raise ValueError(f"usual_batch {self.usual_batch} is above largest_batch {self.largest_batch}")
        if self.workspace_mb > MOST_WORKSPACE_MB:
            raise ValueError(f"workspace_mb is at most {MOST_WORKSPACE_MB}")
        if self.rest not in ("fp32", "fp16", "bf16"):
            raise ValueError(f"rest is one of fp32, fp16 and bf16, not {self.rest!r}")


def request(
    graph: Path,
    shapes: Shapes,
    precision: str,
    options: PlanOptions,
    *,
    flavour: str = "tensorrt",
    capabilities: tuple[str, ...] = (),
) -> BuildRequest:
    """What to build from `graph`; the forms that other versions need are written beside it, in `graphs/`.

    Raises:
        UsageError: a range leaves no valid optimization profile.
        UnsupportedError: the DLA does not compute in that precision.
    """
    if options.dla >= 0 and precision not in DLA_PRECISIONS:
        raise UnsupportedError(f"the DLA does not compute in {precision}", "ask for fp16 or int8")
    tuned = profiles(shapes, options.usual_batch, _narrowed(options), options.buckets)
    refuse_profiles(tuned)
    model, cures = cured(read(graph))
    said = tuple(f"{cure.node}: {cure.cure}" for cure in cures)
    forms = variants(model, precision, options.rest)
    if flavour == "tensorrt_rtx":
        forms = [form for form in forms if form.typing == "strong"]
    return BuildRequest(
        variants=tuple(_written(form, graph, said) for form in forms),
        precision=precision,
        profiles=tuned,
        workspace_bytes=(options.workspace_mb or WORKSPACE_MB) << 20,
        dla_core=options.dla if options.dla >= 0 else None,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        compute_capabilities=capabilities,
        gpu=gpu_index(options.device),
    )


def _narrowed(options: PlanOptions) -> dict[str, tuple[int, int]]:
    return {BATCH: (1, options.largest_batch), **options.ranges}


def ranges(shapes: Shapes, options: PlanOptions) -> dict[str, tuple[int, int]]:
    """The sizes that the engine takes, which may be fewer than the network's."""
    return limits_of(shapes, _narrowed(options))


def _written(form: PlanGraph, graph: Path, cures: tuple[str, ...]) -> Variant:
    """The variant with its file; one that is the canonical graph needs no second file."""
    file = graph.name
    if not (cures or form.lowering):
        return Variant(file, form.typing, form.oldest, form.needs, form.opset)
    file = f"graphs/{form.name}.onnx"
    place = graph.parent / file
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(form.model.SerializeToString(deterministic=True))
    return Variant(file, form.typing, form.oldest, form.needs, form.opset, (*cures, *form.lowering))


def trtexec(asked: BuildRequest) -> dict[str, str]:
    """For each variant the `trtexec` line that builds about the same plan, by what it is for.

    trtexec takes one optimization profile here: the one that spans the whole range.
    """
    return {_fits(variant): _line(asked, variant) for variant in asked.variants}


def _fits(variant: Variant) -> str:
    if variant.typing == "strong":
        return "TensorRT 10.12 and newer"
    return f"TensorRT {variant.oldest} and newer" if variant.oldest else "TensorRT with precision flags"


def _line(asked: BuildRequest, variant: Variant) -> str:
    span = _span(asked.profiles)
    words = ["trtexec", f"--onnx={variant.file}"]
    words += [f"--{place}Shapes={_listed(span, number)}" for number, place in enumerate(PLACES) if span]
    words += [f"--memPoolSize=workspace:{asked.workspace_bytes >> 20}", "--noTF32"]
    flags = {"fp32": [], "fp16": ["--fp16"], "bf16": ["--bf16"], "int8": ["--int8", "--fp16"]}
    words += ["--stronglyTyped"] if variant.typing == "strong" else flags[asked.precision]
    if asked.dla_core is not None:
        words += [f"--useDLACore={asked.dla_core}", "--allowGPUFallback"]
    words += ["--versionCompatible"] if asked.version_compatible else []
    words += ["--hardwareCompatibilityLevel=ampere+"] if asked.hardware_compatible else []
    return " ".join([*words, f"--saveEngine={asked.engine}"])


def _span(tuned: tuple[Mapping[str, Profile], ...]) -> dict[str, Profile]:
    """One profile over all: the smallest and largest of any, the usual of the middle one."""
    if not tuned:
        return {}
    middle = tuned[len(tuned) // 2]

    def over(name: str, place: int, choose: Callable[[tuple[int, ...]], int]) -> tuple[int, ...]:
        return tuple(
            choose(sizes) for sizes in zip(*(profile[name][place] for profile in tuned), strict=True)
        )

    return {name: (over(name, 0, min), shapes[1], over(name, 2, max)) for name, shapes in middle.items()}


def _listed(span: Mapping[str, Profile], place: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shapes[place]))}" for name, shapes in span.items())


def built_here(
    flavour: str,
    graph: Path,
    shapes: Shapes,
    precision: str,
    options: PlanOptions,
    out: Path,
    progress: Progress,
    *,
    capabilities: tuple[str, ...] = (),
    deferred: str = "",
    notes: tuple[str, ...] = (),
) -> Build:
    """Build `model.engine` in the folder `out`, with the Python module `flavour`, in a child process."""
    asked = request(graph, shapes, precision, options, flavour=flavour, capabilities=capabilities)
    known = timing_cache.read(flavour, asked.gpu)
    built = build_in_child(flavour, asked, graph.parent, progress, known)
    if built.timing_cache:
        timing_cache.write(flavour, asked.gpu, built.timing_cache)
    out.mkdir(parents=True, exist_ok=True)
    engine = out / "model.engine"
    engine.write_bytes(built.plan)
    if asked.version_compatible:
        os.environ[HOST_CODE] = "1"  # what was just built here may run here
    return Build(
        engine=engine,
        lowering=built.variant.lowering,
        settings=_settings(asked, built, options),
        deferred=deferred,
        kit={"request": asked.told()},
        ranges=ranges(shapes, options),
        layers=told_layers(built),
        built_on={} if capabilities else place.here(load(flavour), asked.gpu),
        notes=(*built.notes, *_float_layers(graph, precision, options), *notes),
    )


def _float_layers(graph: Path, precision: str, options: PlanOptions) -> tuple[str, ...]:
    return in_float(read(graph), RECURRENT, options.rest, "TensorRT") if precision == "int8" else ()


def _settings(asked: BuildRequest, built: Built, options: PlanOptions) -> dict[str, Any]:
    return {
        "device": options.device,
        "precision": asked.precision,
        "threads": 0,
        "typing": built.typing,
        "opset": built.variant.opset,
        "profiles": [dict(profile) for profile in asked.profiles],
        "compute_capabilities": list(asked.compute_capabilities),
        "cuda_graph": options.cuda_graph,
        "build_seconds": round(built.seconds, 2),
    }


def told_layers(built: Built) -> dict[str, int]:
    """How many of the layers that compute the builder put into each precision."""
    return dict(sorted(Counter(layer.precision for layer in built.layers).items()))


def usual_capabilities() -> tuple[str, ...]:
    """The compute capabilities from Ampere on that the installed TensorRT-RTX has a name for.

    Turing (7.5) is built for when it is asked for: with it among them, fp32 matrix products are
    refused and no layer becomes int8 (tried on TensorRT-RTX 1.7.1).
    """
    every = compute_capabilities(load("tensorrt_rtx"))
    return tuple(one for one in every if int(one.split(".")[0]) >= AMPERE)


def trial(graph: Path, shapes: Shapes, precision: str, options: PlanOptions) -> dict[str, Any] | None:
    """Parse and build with the TensorRT-RTX that is installed; None where it is not.

    It is not the board's TensorRT: it shows that NVIDIA's parser and compiler of today take the
    graph, not that those of the board's version do.
    """
    if find_spec("tensorrt_rtx") is None:
        return None
    module = load("tensorrt_rtx")
    said: dict[str, Any] = {"by": f"TensorRT-RTX {module.__version__}", "built": False}
    with TemporaryDirectory(prefix="edgekit-") as scratch:
        canonical = Path(scratch) / "model.onnx"
        copyfile(graph, canonical)
        asked = request(
            canonical, shapes, precision, options, flavour="tensorrt_rtx",
            capabilities=usual_capabilities(),
        )  # fmt: skip
        try:
            built = build_in_child("tensorrt_rtx", asked, canonical.parent)
        except UnsupportedError as error:
            return {**said, "said": error.message}
    return {**said, "built": True, "seconds": round(built.seconds, 2), "layers": told_layers(built)}
