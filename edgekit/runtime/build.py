"""Builds a kit's engine on the device that will run it, proves it there, and times it.

The kit is left as it is: what is built goes into a sibling bundle, written whole or not at all.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from ._build_job import Job
from ._cuda import require_gpu
from .engines._tensorrt import gpu_index
from .errors import BadFileError, MissingPackageError, SystemRefusedError, UsageError
from .manifest import FILE_NAME, Manifest
from .plans.features import features_of, load
from .plans.monitor import Progress
from .plans.request import BuildRequest, read_request


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
        UsageError: the sibling exists already, or an option does not fit.
        BadFileError: the manifest does not say how to build.
        SystemRefusedError: memory or disk is full.
    """
    folder = folder.resolve()
    request = _request(folder, manifest, options)
    _require_builder(manifest.engine["kind"], request.gpu)
    device = options.device or manifest.device
    target = options.output or folder.with_name(folder.name + "-built")
    with _fresh_folder(folder, target) as fresh:
        job = Job(folder, fresh, request, replace(manifest, device=device.upper()), progress)
        told, code = job.run(target, options.bench)
    return Outcome(target, told, code)


def _request(folder: Path, manifest: Manifest, options: BuildOptions) -> BuildRequest:
    told = manifest.engine.get("build")
    if not told:
        raise BadFileError("{} does not say how to build an engine".format(folder), "compile it again")
    request = read_request(told)
    if options.workspace_mb is not None and options.workspace_mb < 1:
        raise UsageError("--workspace-mb {} is no size".format(options.workspace_mb), "give it in MB")
    return replace(
        request,
        gpu=gpu_index(options.device) if options.device else request.gpu,
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
    """A copy of the kit without engine and verdict, that becomes `target` if all goes well."""
    if target.exists():
        raise UsageError("{} exists already".format(target), "move it away, then build again")
    fresh = target.with_name("." + target.name + ".tmp")
    shutil.rmtree(str(fresh), ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "engine", FILE_NAME, "report.*")
    try:
        shutil.copytree(str(folder), str(fresh), ignore=skipped)
        yield fresh
        fresh.rename(target)
    except OSError as error:
        raise SystemRefusedError(
            "{} cannot be written: {}".format(target, error), "look at the free space and the permissions"
        ) from error
    finally:
        shutil.rmtree(str(fresh), ignore_errors=True)
