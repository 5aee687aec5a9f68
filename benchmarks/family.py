"""The family on this machine, as the Markdown table of docs/family.md, from what a sweep wrote.

    edgekit sweep
    python benchmarks/family.py build/sweep/sweep.json

A cell is the p50 of a call at batch 1 in milliseconds, how many times as fast as PyTorch that is, and the
relative L2 error on the held-out samples. The sweep timed one cell after another, each against PyTorch in a
process of its own, in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Cell = Mapping[str, Any]


def main() -> None:
    """Print the table and what it was measured on."""
    parser = argparse.ArgumentParser(description="A sweep as a Markdown table.")
    parser.add_argument("sweep", type=Path, help="sweep.json in the sweep's folder")
    told = json.loads(parser.parse_args().sweep.read_text(encoding="utf-8"))
    print("\n".join(table(told["cells"])))
    print(f"\n{told['environment']}\n\ndoubts: {told['doubts']}")


def table(cells: Sequence[Cell]) -> list[str]:
    """A row for each model, a column for each target and precision that was timed."""
    timed = [cell for cell in cells if cell["latency"]]
    columns = list(dict.fromkeys((cell["target"], cell["precision"]) for cell in timed))
    found = {(cell["model"], cell["target"], cell["precision"]): cell for cell in timed}
    head = ["model", "PyTorch", *(f"{target} {precision}" for target, precision in columns)]
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *(
            f"| {model} | {_reference(timed, model):.2f} | "
            + " | ".join(_said(found.get((model, *column))) for column in columns)
            + " |"
            for model in dict.fromkeys(cell["model"] for cell in timed)
        ),
    ]


def _reference(timed: Sequence[Cell], model: str) -> float:
    """PyTorch's p50 beside the first of a model's cells."""
    found: float = next(cell for cell in timed if cell["model"] == model)["latency"]["reference"]["p50_ms"]
    return found


def _said(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    latency = cell["latency"]
    error = f", {cell['error']:.1%}" if cell["error"] >= 5e-4 else ""
    return f"{latency['target']['p50_ms']:.2f} ({latency['speedup']:.1f}x{error})"


if __name__ == "__main__":
    main()
