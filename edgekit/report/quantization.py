"""What a search or a comparison of precisions measured, as rows for the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Told = Mapping[str, Any]
SHOWN = 12
"""Layers in the terminal's table; the page has all."""
WIDTH, ROW, LEFT, RIGHT = 960, 22, 330, 150
_STYLE = """
.ek-plan{font:12px system-ui,sans-serif;color:#1b1f24;--int8:#0969da;--float:#bf8700;--soft:#57606a}
.ek-plan text{fill:currentColor}.ek-plan .soft{fill:var(--soft)}
.ek-plan .int8{fill:var(--int8)}.ek-plan .float{fill:var(--float)}
@media (prefers-color-scheme:dark){.ek-plan{color:#e6edf3;--int8:#58a6ff;--float:#d29922;--soft:#9198a1}}
"""


def sensitivity_rows(told: Told) -> list[dict[str, str]]:
    """The layers that do the most to the output, worst first."""
    found = sorted(told.get("sensitivity", ()), key=lambda row: -row["error"])
    total = sum(row["macs"] for row in found) or 1
    return [
        {
            "layer": row["layer"],
            "module": row["module"],
            "type": row["op"],
            "error alone": share(row["error"]),
            "work": share(row["macs"] / total),
            "plan": row["precision"],
        }
        for row in found
    ]


def candidate_rows(told: Told) -> list[dict[str, str]]:
    """What was built and judged; what was chosen carries a mark."""
    return [
        {
            "": "*" if row["chosen"] else "",
            "candidate": row["name"],
            "engine runs": ", ".join(f"{count} {kind}" for kind, count in row["layers"].items()),
            "error": share(row["rel_l2"]),
            "drop": "" if row["drop"] is None else f"{100 * row['drop']:+.2f}",
            "limits": "kept" if row["keeps"] else "missed",
            "p50 ms": "" if row["p50_ms"] is None else f"{row['p50_ms']:.2f}",
        }
        for row in told["candidates"]
    ]


def share(value: float) -> str:
    """A share as a person reads it."""
    return f"{100 * value:.3g}%"


def lines(told: Told) -> Iterator[tuple[str, str]]:
    """The facts in a line each, the verdict last."""
    if "trials" in told:
        cut = ", interrupted: the best so far" if told["interrupted"] else ""
        yield (
            "search",
            f"{told['trials']} engines tried, calibrated on {told['calibration_samples']} samples, "
            f"judged on {told['judged_on']} others{cut}",
        )
    yield "ship", told["verdict"]


def picture(told: Told) -> str:
    """Each layer's own error as a bar on a logarithmic scale, in the order of the network; `<svg>`."""
    rows = told.get("sensitivity", ())
    if not rows:
        return ""
    ends = _ends([row["error"] for row in rows])
    bars = "".join(_bar(row, place, ends) for place, row in enumerate(rows))
    height = ROW * (len(rows) + 2)
    return (
        f'<svg class="ek-plan" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="100%" role="img" aria-label="Error at the output when one layer alone is int8">'
        f"<style>{_STYLE}</style>{_legend()}{bars}</svg>"
    )


def _legend() -> str:
    said = (("int8", LEFT, "int8 in the plan"), ("float", LEFT + 140, "left in float"))
    return "".join(
        f'<rect class="{kind}" x="{x}" y="6" width="10" height="10"/><text x="{x + 15}" y="15">{words}</text>'
        for kind, x, words in said
    )


def _ends(errors: Sequence[float]) -> tuple[float, float]:
    from math import ceil, floor, log10

    known = [log10(error) for error in errors if error > 0] or [0.0]
    return float(floor(min(known))), float(max(ceil(max(known)), floor(min(known)) + 1))


def _bar(row: Told, place: int, ends: tuple[float, float]) -> str:
    from math import log10

    low, high = ends
    y = ROW * (place + 1)
    reach = 0.0 if row["error"] <= 0 else (log10(row["error"]) - low) / (high - low)
    width = max(reach * (WIDTH - LEFT - RIGHT), 1)
    kind = "int8" if row["precision"] == "int8" else "float"
    name = row["layer"] if len(row["layer"]) <= 46 else "…" + row["layer"][-45:]
    title = escape(f"{row['layer']} of module {row['module']}, {row['op']}")
    return (
        f"<g><title>{title}</title>"
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y + 3}" width="{width:.1f}" height="{ROW - 7}"/>'
        f'<text class="soft" x="{LEFT + width + 6:.1f}" y="{y + 14}">{share(row["error"])}'
        f" {escape(row['precision'])}</text></g>"
    )
