"""A cell's process that does at once what the name of its recipe says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import bundle, report
from edgekit.cli import cell
from edgekit.report import Report
from edgekit.runtime.errors import HardwareError, UnsupportedError
from edgekit.runtime.manifest import Manifest, TensorSpec, read_manifest
from edgekit.runtime.proof import Check

SIDE = {"p50_ms": 1.0, "p90_ms": 1.5, "p99_ms": 2.0, "throughput": 900.0, "peak_mb": 50.0}
LATENCY = {"boundary": "engine", "threads": 1, "reference": SIDE, "target": SIDE, "speedup": 1.0}


def act(request: Mapping[str, Any], progress: cell._Progress) -> None:
    progress("acting", 1, 2)
    name, place = request["recipe"]["name"], Path(request["place"])
    if name == "refused":
        raise UnsupportedError("it cannot go there:\n  - node 'a': too odd", "take another")
    if name == "absent":
        raise HardwareError("there is no such device")
    with bundle.workspace(place) as work:
        if name == request["step"]:  # a cell called building or timing never ends that
            (work / "half").write_text("")
            time.sleep(60)
        if name == "crash":
            (work / "half").write_text("")
            print("an engine's last words")
            sys.stdout.flush()
            progress._answers.write('{"doi')
            progress._answers.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "bug":
            raise ZeroDivisionError("a mistake")
        _make(request, work, place)


def _make(request: Mapping[str, Any], work: Path, place: Path) -> None:
    recipe = request["recipe"]
    if request["step"] == "timing":
        manifest, told = read_manifest(place), replace(report.read(place), latency=LATENCY)
    else:
        error = 0.5 if recipe["name"] == "wrong" else 0.01
        told = Report(
            model=recipe["name"], target=recipe["target"]["name"], device="CPU",
            precision=recipe["target"]["precision"], bundle=str(place),
            state="built" if recipe["name"] == "built" else "proved",
            checks=(Check("parity.rel_l2", error, 0.1),), notes=("proving it needs a GPU",),
        )  # fmt: skip
        manifest = _manifest(told)
    (work / "engine").mkdir()
    (work / "engine" / "model.onnx").write_text("engine" * 1000)
    bundle.sign_off(work, place, manifest, told)


def _manifest(told: Report) -> Manifest:
    spec = TensorSpec("x", ("batch", 2))
    return Manifest(
        model=told.model, target=told.target, precision=told.precision, device="CPU", state=told.state,
        passed=None, engine={"kind": told.target, "file": "engine/model.onnx"}, inputs=(spec,),
        outputs=(spec,), files={"engine/model.onnx": ""},
    )  # fmt: skip


if __name__ == "__main__":
    cell._do = act
    sys.exit(cell.main())
