"""Builds a kit's engine on the device that will run it, proves it there, and times it.

The kit is left as it is: what is built goes into a sibling bundle, written whole or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional
from uuid import uuid4

from ._build_job import Job
from ._cuda import require_gpu
from .decode import DECODERS
from .engines._tensorrt import gpu_index
from .errors import BadFileError, MissingPackageError, SystemRefusedError, UsageError
from .manifest import BOXES, FILE_NAME, Manifest
from .plans import fields
from .plans.features import features_of, load
from .plans.monitor import Progress
from .plans.request import DLA_CORES, GPUS, WORKSPACE_MB, BuildRequest, read_request

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_TABLE: fields.Field = (fields.table, "a table")
_MANIFEST = {
    "device": (fields.text, "the name of a device"),
    "limits": _TABLE,
    "recipe": _TABLE,
    "plan": _TABLE,
    "versions": _TABLE,
    "lowering": (fields.every(fields.text), "a list of sentences"),
}
_ENGINE = {"build": _TABLE, "precision": (fields.text, "a precision"), "settings": _TABLE}
_LABELS = {
    "values": (fields.every(fields.text), "a list of strings"),
    "decoder": (fields.one_of(*DECODERS, BOXES), "one of " + ", ".join((*DECODERS, BOXES))),
}
_LIMIT: fields.Field = (fields.optional(fields.number), "a number")


@dataclass(frozen=True)
class BuildOptions:
    """What the command line lays over the kit: `device` such as `GPU.1`, a DLA core, a workspace."""

    device: Optional[str] = None
    workspace_mb: Optional[int] = None
    dla: Optional[int] = None
    bench: bool = True
    output: Optional[Path] = None


@dataclass(frozen=True)
class Outcome:
    """The sibling bundle, its report as data, and the exit code that goes with it."""

    bundle: Path
    report: Mapping[str, Any]
    exit_code: int


def _quiet(what: str, done: int, total: int) -> None:
    pass


def build_bundle(
    folder: Path, manifest: Manifest, options: BuildOptions = BuildOptions(), progress: Progress = _quiet
) -> Outcome:
    """Build the plan, prove it and time it; write a sibling bundle that holds all of it.

    Exit code 0: it passed; 1: it did not; 5: it was built, and there is no GPU to prove it on.

    Raises:
        HardwareError: the builder needs a GPU and there is none; nothing of it is touched then.
        MissingPackageError: there is a GPU, and no TensorRT.
        UnsupportedError: this TensorRT does not take the graph or the precision.
        UsageError: the sibling exists already or has no place, or an option is out of range.
        BadFileError: the manifest does not say how to build.
        SystemRefusedError: memory or disk is full.
    """
    folder = folder.resolve()
    target = options.output or folder.with_name(folder.name + "-built")
    _refuse_place(folder, target)
    _refuse_options(options)
    _refuse_manifest(folder, manifest)
    request = _request(manifest, options)
    _require_builder(manifest.engine["kind"], request.gpu)
    device = options.device or manifest.device
    with _fresh_folder(folder, target) as fresh:
        job = Job(folder, fresh, request, replace(manifest, device=device.upper()), progress)
        told, code = job.run(target, options.bench)
    return Outcome(target, told, code)


def _refuse_place(folder: Path, target: Path) -> None:
    """Raise UsageError unless `target` is new, in a folder that is there and outside the kit."""
    place = target.resolve()
    if place == folder or folder in place.parents:
        raise UsageError("{} is inside the kit".format(target), "build to a folder beside it")
    if not place.parent.is_dir():
        raise UsageError("there is no folder {}".format(place.parent), "make it, then build again")
    if os.path.lexists(str(target)):
        raise UsageError("{} exists already".format(target), "move it away, then build again")


def _refuse_options(options: BuildOptions) -> None:
    gpu = None if options.device is None else _gpu(options.device)
    ranges = {
        "--workspace-mb": (options.workspace_mb, WORKSPACE_MB),
        "--dla": (options.dla, DLA_CORES),
        "--device": (gpu, GPUS),
    }
    for name, (value, (low, high)) in ranges.items():
        if value is not None and not low <= value <= high:
            raise UsageError(
                "{} {} is out of range".format(name, value), "it goes from {} to {}".format(low, high)
            )


def _gpu(device: str) -> int:
    try:
        return gpu_index(device)
    except ValueError as cause:
        raise UsageError("there is no device {}".format(device), "use GPU, or GPU.1") from cause


def _refuse_manifest(folder: Path, manifest: Manifest) -> None:
    """Raise BadFileError for what the build or its report would stumble over when all is done."""
    if not manifest.engine.get("build"):
        raise BadFileError("{} does not say how to build an engine".format(folder), "compile it again")
    try:
        fields.refuse({name: getattr(manifest, name) for name in _MANIFEST}, _MANIFEST)
        engine = {name: manifest.engine.get(name) for name in _ENGINE}
        fields.refuse(engine, _ENGINE, "engine.")
        fields.refuse(manifest.limits, dict.fromkeys(manifest.limits, _LIMIT), "limits.")
        fields.refuse(vars(manifest.labels) if manifest.labels else {}, _LABELS, "labels.")
        limits, target = (manifest.recipe.get(name, {}) for name in ("limits", "target"))
        fields.refuse({"limits": limits, "target": target}, {"limits": _TABLE, "target": _TABLE}, "recipe.")
        fields.refuse({"p50_ms": limits.get("p50_ms")}, {"p50_ms": _LIMIT}, "recipe.limits.")
    except ValueError as error:
        raise BadFileError(
            "{}: its manifest is wrong: {}".format(folder, error), "compile it again"
        ) from error


def _request(manifest: Manifest, options: BuildOptions) -> BuildRequest:
    request = read_request(manifest.engine["build"])
    return replace(
        request,
        gpu=_gpu(options.device) if options.device else request.gpu,
        dla_core=request.dla_core if options.dla is None else options.dla,
        workspace_bytes=(options.workspace_mb << 20) if options.workspace_mb else request.workspace_bytes,
    )


def _require_builder(flavour: str, gpu: int) -> None:
    """Refuse what cannot be built here before anything is written; a missing GPU is said first."""
    try:
        ahead_of_time = features_of(load(flavour)).ahead_of_time
    except MissingPackageError:
        require_gpu(gpu)
        raise
    if not ahead_of_time:
        require_gpu(gpu)


@contextmanager
def _fresh_folder(folder: Path, target: Path) -> Iterator[Path]:
    """A copy of the kit without engine and verdict, that becomes `target` if all goes well.

    Its name is its own: another build of the same kit may be under way.
    """
    fresh = target.with_name(".{}.{}.tmp".format(target.name, uuid4().hex))
    skipped = shutil.ignore_patterns("__pycache__", "engine", FILE_NAME, "report.*")
    try:
        shutil.copytree(str(folder), str(fresh), ignore=skipped)
        yield fresh
        _rename(fresh, target)
    except OSError as error:
        raise SystemRefusedError(
            "{} cannot be written: {}".format(target, error), "look at the free space and the permissions"
        ) from error
    finally:
        shutil.rmtree(str(fresh), ignore_errors=True)


def _rename(fresh: Path, target: Path) -> None:
    try:
        if os.path.lexists(str(target)):
            raise FileExistsError(errno.EEXIST, "it is there", str(target))
        fresh.rename(target)
    except OSError as cause:
        if cause.errno not in _TAKEN:
            raise
        raise UsageError(
            "{} appeared while the engine was built, and is left as it is".format(target),
            "move it away, then build again",
        ) from cause
