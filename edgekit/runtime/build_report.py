"""The report of a build on the board: the same document that `edgekit compile` writes."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from .engines import usable_cores
from .manifest import Manifest
from .proof import Check

SCHEMA = 1
FILE = "report.json"


def report(
    manifest: Manifest,
    *,
    bundle: Path,
    checks: Sequence[Check],
    latency: Optional[Mapping[str, Any]],
    layers: Mapping[str, int],
    environment: Mapping[str, Any],
    timings: Mapping[str, float],
    notes: Sequence[str],
) -> Dict[str, Any]:
    """The content of `report.json`; its keys are those of `edgekit compile` in the same schema."""
    built = "copy it to a machine with such a GPU and run there: python3 run.py check"
    return {
        "schema": SCHEMA,
        "model": manifest.model,
        "target": manifest.target,
        "device": manifest.device,
        "precision": manifest.precision,
        "state": manifest.state,
        "bundle": str(bundle),
        "accuracy": None,
        "latency": None if latency is None else dict(latency),
        "layers": dict(layers),
        "plan": dict(manifest.plan),
        "environment": dict(environment),
        "timings_s": dict(timings),
        "notes": list(notes),
        "next": built if manifest.state == "built" else "",
        "quantization": None,
        "board": manifest.recipe.get("target", {}).get("board", ""),
        "passed": manifest.passed,
        "checks": [check.told() for check in checks],
    }


def environment(manifest: Manifest) -> Dict[str, Any]:
    """The machine, its GPU and the packages that had a part."""
    return {
        "system": platform.platform(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **dict(manifest.engine.get("built_on") or {}),
    }


def write_report(told: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json`."""
    path = folder / FILE
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def lines(told: Mapping[str, Any]) -> List[str]:
    """The report for a terminal."""
    found = ["{} {:<16} {:.6g}".format(_mark(one), one["name"], _value(one)) for one in told["checks"]]
    latency = told["latency"]
    if latency:
        found.append(
            "p50 {p50_ms:.2f} ms  p90 {p90_ms:.2f} ms  p99 {p99_ms:.2f} ms".format(**latency["target"])
        )
    if told["layers"]:
        counted = ", ".join("{} {}".format(count, kind) for kind, count in told["layers"].items())
        found.append("layers: " + counted)
    found += ["note: " + note for note in told["notes"]]
    found.append("bundle: " + told["bundle"])
    if told["next"]:
        found.append("next: " + told["next"])
    verdict = {True: "PASSED", False: "FAILED", None: told["state"].upper() + ", not verified here"}
    return [*found, verdict[told["passed"]]]


def _mark(one: Mapping[str, Any]) -> str:
    return "ok  " if one["passed"] else "FAIL"


def _value(one: Mapping[str, Any]) -> float:
    return float("nan") if one["value"] is None else float(one["value"])
