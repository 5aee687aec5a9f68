"""Builds a deferred bundle's engine on the device that will run it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from .engines.tensorrt import build as build_plan
from .errors import BadFileError, SystemRefusedError, UsageError
from .manifest import FILE_NAME, Manifest, hashes, write_manifest


def build_bundle(folder: Path, manifest: Manifest) -> Path:
    """Build the plan and write a sibling bundle that holds it; the kit itself is left as it is.

    Raises:
        HardwareError: there is no GPU, or TensorRT is not installed.
        UnsupportedError: this TensorRT does not take the graph or the precision.
        UsageError: the sibling exists already.
        BadFileError: the manifest does not say how to build.
    """
    kit = manifest.engine.get("build")
    if not kit:
        raise BadFileError("{} does not say how to build an engine".format(folder), "compile it again")
    place = folder.with_name(folder.name + "-built")
    if place.exists():
        raise UsageError("{} exists already".format(place), "move it away, then build again")
    fresh = folder.with_name("." + place.name + ".tmp")
    shutil.rmtree(str(fresh), ignore_errors=True)
    try:
        _furnish(folder, fresh)
        engine = fresh / kit["engine"]
        engine.parent.mkdir()
        build_plan(folder / kit["graph"], kit["profiles"], kit["precision"], engine, kit["workspace_bytes"])
        _sign(fresh, manifest, kit["engine"])
        fresh.rename(place)
    except OSError as error:
        raise SystemRefusedError("{} cannot be written: {}".format(place, error)) from error
    finally:
        shutil.rmtree(str(fresh), ignore_errors=True)
    return place


def _furnish(folder: Path, fresh: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__", "engine", FILE_NAME, "report.*")
    shutil.copytree(str(folder), str(fresh), ignore=skipped)


def _sign(fresh: Path, manifest: Manifest, engine: str) -> None:
    told = dict(manifest.engine, file=engine, precision=manifest.precision)
    signed = replace(manifest, state="built", passed=None, engine=told, files=hashes(fresh))
    write_manifest(signed, fresh)
