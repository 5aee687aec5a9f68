"""Draws docs/compile.svg from a report: what the terminal shows for it.

python docs/picture.py build/crnn-openvino-int8/report.json docs/compile.svg
"""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from edgekit.report import Report, show
from edgekit.runtime.proof import Check

FONT_FACE = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""Rich's picture would fetch its font from elsewhere; the reader's own monospace font does."""


def main(source: Path, picture: Path) -> None:
    """Print the report to a recording console and write what it recorded."""
    told = json.loads(source.read_text(encoding="utf-8"))
    checks = tuple(
        Check(one["name"], float("nan") if one["value"] is None else one["value"], one["limit"], one["unit"],
              one["bound"] == "min")
        for one in told["checks"]
    )  # fmt: skip
    kept = {item.name: told[item.name] for item in fields(Report) if item.name != "checks"}
    console = Console(record=True, width=134, file=io.StringIO())
    console.print(
        f"[bold]$ edgekit compile {told['model']} --target {told['target']}[/bold]", highlight=False
    )
    show(Report(**{**kept, "checks": checks}), console)
    drawn = console.export_svg(title="edgekit", theme=MONOKAI, unique_id="edgekit")
    drawn = FONT_FACE.sub("", drawn).replace("Fira Code,", "").replace("Fira Code", "monospace")
    picture.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
