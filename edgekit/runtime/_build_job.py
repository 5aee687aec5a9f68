"""The work of `build.py` in the folder that becomes the built bundle: build, prove, time, sign."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ._cuda import require_gpu
from .build_report import environment, report, write_report
from .engines import Layer
from .errors import BadFileError, HardwareError
from .face import golden_checks, measure
from .manifest import Manifest, hashes, write_manifest
from .plans import place, timing_cache
from .plans.child import build_in_child
from .plans.features import load
from .plans.monitor import Progress
from .plans.request import BuildRequest, Built
from .proof import Check
from .session import HOST_CODE, open_bundle

TRIES = 3
"""Kernel choice is not deterministic: a build that fails parity is tried again, timed anew."""

TIMES = "engine/timing.cache"


class Job:
    """One kit on its way to a proved bundle in the folder `fresh`."""

    def __init__(
        self, kit: Path, fresh: Path, request: BuildRequest, manifest: Manifest, progress: Progress
    ) -> None:
        self._kit, self._fresh, self._request, self._progress = kit, fresh, request, progress
        self._manifest = manifest
        self._flavour: str = manifest.engine["kind"]
        self._notes: List[str] = []
        self._seconds: Dict[str, float] = {}

    def run(self, target: Path, bench: bool) -> Tuple[Dict[str, Any], int]:
        """Build until parity holds, time the engine, write report and manifest; with the exit code."""
        missing = _missing_gpu(self._request.gpu)
        checks, layers = self._build_and_prove(missing)
        latency = None
        if not missing and bench:
            checks, latency = self._timed(checks)
        if self._manifest.precision == "int8":
            checks.append(Check("layers.int8", layers.get("int8", 0), 1, at_least=True))
        failed = not all(check.passed for check in checks)
        self._manifest = replace(
            self._manifest,
            state="built" if missing else "proved",
            passed=False if failed else None if missing else True,
        )
        told = report(
            self._manifest,
            bundle=target,
            checks=checks,
            latency=latency,
            layers=layers,
            environment=environment(self._manifest),
            timings=self._seconds,
            notes=[*self._manifest.lowering, *self._notes, *([missing] if missing else [])],
        )
        write_report(told, self._fresh)
        self._sign()
        return told, 1 if failed else 5 if missing else 0

    def _build_and_prove(self, missing: str) -> Tuple[List[Check], Dict[str, int]]:
        known = None if missing else timing_cache.read(self._flavour, self._request.gpu)
        for attempt in range(1, TRIES + 1):
            built = self._built(None if attempt > 1 else known)
            if missing:
                return [], _counted(built.layers)
            checks, layers = self._proved()
            if all(check.passed for check in checks):
                if built.timing_cache:
                    timing_cache.write(self._flavour, self._request.gpu, built.timing_cache)
                break
            self._notes.append("build {} of {} failed parity".format(attempt, TRIES))
        return checks, layers

    def _built(self, known: Optional[bytes]) -> Built:
        """Build the engine into the folder and say in the manifest what it is."""
        with self._clock("build"):
            built = build_in_child(self._flavour, self._request, self._kit, self._progress, known)
        engine = _inside(self._fresh, self._request.engine)
        engine.parent.mkdir(parents=True, exist_ok=True)
        engine.write_bytes(built.plan)
        if self._request.version_compatible:
            os.environ[HOST_CODE] = "1"  # what was just built here may run here
        if built.timing_cache:
            (self._fresh / TIMES).write_bytes(built.timing_cache)
        self._notes += [note for note in built.notes if note not in self._notes]
        self._describe(built)
        return built

    def _describe(self, built: Built) -> None:
        where = place.here(load(self._flavour), self._request.gpu)
        engine = dict(
            self._manifest.engine,
            file=self._request.engine,
            build=self._request.told(),
            typing=built.typing,
            opset=built.variant.opset,
            layers=_counted(built.layers),
            # An engine for named compute capabilities is tied to no machine.
            built_on={} if self._request.compute_capabilities else where,
        )
        engine.pop("deferred", None)
        new = [change for change in built.variant.lowering if change not in self._manifest.lowering]
        self._manifest = replace(
            self._manifest,
            state="built",
            passed=None,
            engine=engine,
            lowering=tuple(self._manifest.lowering) + tuple(new),
            versions=dict(self._manifest.versions, **{where["flavour"]: where["version"]}),
        )
        self._sign()

    def _proved(self) -> Tuple[List[Check], Dict[str, int]]:
        self._progress("proving parity with the recorded outputs", 0, 0)
        with self._clock("prove"), open_bundle(self._fresh) as session:
            checks = golden_checks(session, self._fresh)
            counted = _counted(session.runner.layers())
            settings = dict(self._manifest.engine.get("settings", {}), **session.runner.settings)
        engine = dict(self._manifest.engine, settings=settings, layers=counted)
        self._manifest = replace(self._manifest, engine=engine)
        return checks, counted

    def _timed(self, checks: List[Check]) -> Tuple[List[Check], Dict[str, Any]]:
        self._progress("measuring latency", 0, 0)
        with self._clock("bench"):
            told = measure(self._fresh)
        settings = told.pop("settings")
        limit = self._manifest.recipe.get("limits", {}).get("p50_ms")
        found = Check("latency.p50", told["p50_ms"], limit, "ms")
        boundary = told.pop("boundary")
        latency = {"boundary": boundary, "threads": settings.get("threads"), "reference": None}
        return [*checks, found], dict(latency, target=told, speedup=None)

    def _sign(self) -> None:
        self._manifest = replace(self._manifest, files=hashes(self._fresh))
        write_manifest(self._manifest, self._fresh)

    @contextmanager
    def _clock(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[step] = round(self._seconds.get(step, 0.0) + time.perf_counter() - start, 3)


def _missing_gpu(gpu: int) -> str:
    """Why the engine cannot be proved here; empty when it can."""
    try:
        require_gpu(gpu)
    except HardwareError as error:
        return "built; proving it needs a GPU: {}".format(error.message)
    return ""


def _inside(folder: Path, file: str) -> Path:
    path = (folder / file).resolve()
    if folder.resolve() not in path.parents:
        raise BadFileError("{}: {!r} leaves the bundle".format(folder, file), "do not use this bundle")
    return path


def _counted(layers: List[Layer]) -> Dict[str, int]:
    """How many layers there are in each precision."""
    return dict(sorted(Counter(layer.precision for layer in layers).items()))
