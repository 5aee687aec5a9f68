"""TensorRT and TensorRT-RTX on the GPU of this machine, as a Markdown table with GPU and versions.

    python benchmarks/gpu.py                       every built-in recipe, every precision
    python benchmarks/gpu.py crnn --target tensorrt --precision int8

Each row is one `edgekit compile` on the machine that has the GPU: the engine is built there, its parity
and accuracy are proved, and it is timed in turns with PyTorch, which runs on the CPU: the ratio says what
moving to the engine gains, not how fast PyTorch is on the GPU. `compute` is the time between two CUDA
events around the engine alone; `end to end` includes both copies. Where no engine can run the row says why.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TARGETS = ("tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
COLUMNS = (
    "model", "target", "precision", "state", "accuracy", "drop, 95% interval", "rel. L2", "layers",
    "copy in, ms", "compute, ms", "copy out, ms", "end to end p50, ms", "PyTorch on the CPU p50, ms",
)  # fmt: skip


def main() -> int:
    """Compile every row and print the table; 1 when a row failed, 5 when none could be proved here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="recipes; all built-in ones by default")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    told = parser.parse_args()
    print(machine() + "\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    states = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in told.models or recipes():
            for target in told.target or TARGETS:
                for precision in told.precision or PRECISIONS:
                    report = compiled(model, target, precision, Path(scratch))
                    states.append(report.get("passed"))
                    print(row(model, target, precision, report), flush=True)
    if False in states:
        return 1
    return 0 if True in states else 5


def edgekit(*arguments: str) -> Any:
    """What one command of the tool prints as JSON."""
    command = [sys.executable, "-m", "edgekit", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout)


def recipes() -> list[str]:
    """The names of the built-in recipes."""
    return [row["name"] for row in edgekit("list", "recipes")]


def machine() -> str:
    """The GPU and the versions that the table holds for."""
    wanted = ("nvidia gpu", "tensorrt", "tensorrt_rtx", "processor")
    found = {row["what"]: row["found"] for row in edgekit("doctor")}
    return "; ".join(f"{what}: {found[what]}" for what in wanted if what in found)


def compiled(model: str, target: str, precision: str, scratch: Path) -> dict[str, Any]:
    """The report of one bundle."""
    out = str(scratch / f"{model}-{target}-{precision}")
    report: dict[str, Any] = edgekit(
        "compile", model, "--target", target, "--precision", precision, "--output", out
    )
    return report


def row(model: str, target: str, precision: str, report: dict[str, Any]) -> str:
    """A line of the table; a refusal, or an engine that cannot run here, is a row with its reason."""
    ends = (model, target, precision)
    if "error" in report:
        return f"| {' | '.join(ends)} | {report['error']['code']}: {report['error']['message']} |"
    layers = ", ".join(f"{count} {kind}" for kind, count in report["layers"].items())
    if report["state"] != "proved":
        return f"| {' | '.join(ends)} | {report['state']}, not verified here | | | | {layers} |"
    accuracy, latency = report["accuracy"], report["latency"]
    low, high = (100 * bound for bound in accuracy["drop_interval"])
    error = next(check["value"] for check in report["checks"] if check["name"] == "parity.rel_l2")
    parts = latency["target"].get("parts", {})
    cells = (
        *ends,
        "passed" if report["passed"] else "FAILED",
        f"{100 * accuracy['target']:.2f}%",
        f"{100 * accuracy['drop']:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{error:.1e}",
        layers,
        *(f"{parts[part]:.3f}" if part in parts else "" for part in ("h2d_ms", "compute_ms", "d2h_ms")),
        f"{latency['target']['p50_ms']:.3f}",
        f"{latency['reference']['p50_ms']:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
