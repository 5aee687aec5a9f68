"""One model on every target and precision that runs here, as a Markdown table.

    python benchmarks/targets.py crnn

Each row is one `edgekit compile`: PyTorch and the engine are timed in processes of their own that take
turns, so a row's speed-up is a ratio within one run; compare rows by their speed-ups, not by their
milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROWS = (
    ("pytorch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
COLUMNS = (
    "target", "precision", "accuracy", "drop, 95% interval", "rel. L2", "p50 ms", "PyTorch p50 ms",
    "times as fast", "at one size",
)  # fmt: skip


def main() -> int:
    """Compile every row and print the table; 1 when a row did not pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="crnn")
    model = parser.parse_args().model
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    passed = True
    with tempfile.TemporaryDirectory() as scratch:
        for target, precision in ROWS:
            report = compiled(model, target, precision, Path(scratch))
            passed &= report.get("passed") is True
            print(row(target, precision, report), flush=True)
    return 0 if passed else 1


def compiled(model: str, target: str, precision: str, scratch: Path) -> dict[str, Any]:
    """The report of one bundle."""
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "compile",
        model,
        "--target",
        target,
        "--precision",
        precision,
    ]
    command += ["--output", str(scratch / f"{target}-{precision}"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def row(target: str, precision: str, report: dict[str, Any]) -> str:
    """A line of the table; a refusal is a row with its reason."""
    if "error" in report:
        return f"| {target} | {precision} | {report['error']['message']} |"
    accuracy, latency = report["accuracy"], report["latency"]
    low, high = (100 * bound for bound in accuracy["drop_interval"])
    error = next(check["value"] for check in report["checks"] if check["name"] == "parity.rel_l2")
    fixed = latency.get("fixed_shape", {}).get("speedup", "")
    cells = (
        target,
        precision,
        f"{100 * accuracy['target']:.2f}%",
        f"{100 * accuracy['drop']:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{error:.1e}",
        f"{latency['target']['p50_ms']:.2f}",
        f"{latency['reference']['p50_ms']:.2f}",
        f"{latency['speedup']:.2f}",
        f"{fixed:.2f}" if fixed else "",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
