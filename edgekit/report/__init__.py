"""What was found, as data, as a table in the terminal and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from edgekit.report import quantization as plans
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.proof import Check

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
FILE = "report.json"
PARTS = {
    "h2d_ms": "copy in",
    "compute_ms": "compute",
    "d2h_ms": "copy out",
    "end_to_end_ms": "end to end",
}
SIDE = ("p50_ms", "p90_ms", "p99_ms", "throughput", "peak_mb")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of `report.json`; its keys are stable within a schema."""

    model: str
    target: str
    device: str
    precision: str
    state: str
    bundle: str | None
    checks: tuple[Check, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    plan: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    next: str = ""
    board: str = ""
    quantization: Mapping[str, Any] | None = None
    """What a search or a comparison of precisions measured: sensitivity, candidates, verdict."""
    blame: str = ""
    """The layers that kept a search from keeping the limits."""

    @property
    def passed(self) -> bool | None:
        """Whether every check passed; None when none failed and the engine itself was not proved."""
        if not all(check.passed for check in self.checks):
            return False
        return True if self.state == "proved" else None

    def told(self) -> dict[str, Any]:
        """As it is written: plain data, `passed` included."""
        body = {key: value for key, value in asdict(self).items() if key not in ("checks", "blame")}
        checks = [check.told() for check in self.checks]
        return {"schema": SCHEMA, **body, "passed": self.passed, "checks": checks}

    def json(self) -> str:
        """One JSON document."""
        return json.dumps(self.told(), indent=1, ensure_ascii=False)


def read(folder: Path) -> Report:
    """The report of the bundle in `folder`.

    Raises:
        BadFileError: it is missing or not what it claims.
    """
    path = folder / FILE
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFileError(f"{path} is no report: {error}", "compile the bundle again") from error


def _parsed(told: Mapping[str, Any]) -> Report:
    body = {key: value for key, value in told.items() if key not in ("schema", "passed")}
    checks = tuple(
        Check(
            name=check["name"],
            value=_value(check),
            limit=check["limit"],
            unit=check["unit"],
            at_least=check["bound"] == "min",
        )
        for check in body["checks"]
    )
    return Report(**{**body, "checks": checks, "notes": tuple(body["notes"])})


def _value(check: Mapping[str, Any]) -> float:
    """JSON has neither infinity nor NaN: what passed was infinite, what failed may have been either."""
    if check["value"] is None:
        return math.inf if check["passed"] else math.nan
    return float(check["value"])


def show(report: Report, console: Console) -> None:
    """Print a report as an engineer wants to read it: verdict last, failed lines in red."""
    from rich.table import Table
    from rich.text import Text

    console.print(_title(report), style="bold", highlight=False)
    if report.checks:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column, side in (("check", "left"), ("value", "right"), ("limit", "right"), ("", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        for check in report.checks:
            style = "" if check.passed else "bold red"
            table.add_row(check.name, *_row(check), Text(_mark(check)), style=style)
        console.print(table)
    if report.quantization:
        _show_rows(plans.sensitivity_rows(report.quantization), console, plans.SHOWN)
        _show_rows(plans.candidate_rows(report.quantization), console)
    for name, line in lines(report):
        console.print(f"[cyan]{name:<9}[/cyan]", Text(line), highlight=False)
    console.print(_verdict(report))


def _show_rows(rows: list[dict[str, str]], console: Console, most: int = 1000) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in rows[0]:
        table.add_column(column)
    for row in rows[:most]:
        table.add_row(*map(Text, row.values()))
    console.print(table)
    if len(rows) > most:
        console.print(f"and {len(rows) - most} layers that do less", style="dim")


def _title(report: Report) -> str:
    place = report.board or report.device
    return f"{report.model} on {report.target} ({place}), {report.precision}"


def _row(check: Check) -> tuple[str, str]:
    unit = f" {check.unit}" if check.unit else ""
    if check.limit is None:
        return f"{check.value:.4g}{unit}", ""
    return f"{check.value:.4g}{unit}", f"{'>=' if check.at_least else '<='} {check.limit:g}{unit}"


def _mark(check: Check) -> str:
    if check.limit is None:
        return "measured"
    return "ok" if check.passed else "FAILED"


def _verdict(report: Report) -> str:
    if report.passed is None:
        return f"[yellow]{report.state.upper()}, not verified here[/yellow]"
    return "[bold green]PASSED[/bold green]" if report.passed else "[bold red]FAILED[/bold red]"


def lines(report: Report) -> list[tuple[str, str]]:
    """The facts beside the checks, one line each."""
    found: list[tuple[str, str]] = []
    if report.accuracy:
        found.append(("accuracy", accuracy_line(report.accuracy)))
    if report.latency:
        found += [("latency", line) for line in latency_lines(report.latency)]
    if report.layers:
        counted = ", ".join(f"{count} {precision}" for precision, count in report.layers.items())
        who = "engine runs" if report.state == "proved" else "builder made"
        found.append(("layers", f"as the {who} them: {counted}"))
    if report.quantization:
        found += plans.lines(report.quantization)
    found += [("note", note) for note in report.notes]
    if report.timings_s:
        spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in report.timings_s.items())
        found.append(("seconds", spent))
    if report.bundle:
        found.append(("bundle", report.bundle))
    if report.next:
        found.append(("next", report.next))
    return found


def accuracy_line(accuracy: Mapping[str, Any]) -> str:
    """Both scores and the drop, and whether the drop is more than noise."""
    verdict = "beyond the noise" if accuracy["significant"] else "inside the noise"
    share = accuracy.get("share", True)
    factor, unit, points, digits = (100, "%", " points", 2) if share else (1, "", "", 4)
    sure = "too few samples to say how sure that is"
    if accuracy["drop_interval"] is not None:
        low, high = (factor * bound for bound in accuracy["drop_interval"])
        sure = f"95% interval [{low:+.{digits}f}, {high:+.{digits}f}]: {verdict}"
    before, after = (f"{factor * accuracy[side]:.{digits}f}{unit}" for side in ("reference", "target"))
    return (
        f"{accuracy['metric']} {before} -> {after} on {accuracy['samples']} held-out samples; "
        f"drop {factor * accuracy['drop']:+.{digits}f}{points}, {sure}"
    )


def latency_lines(latency: Mapping[str, Any]) -> list[str]:
    """One line for sizes as they come, one for the fixed size, when they were measured."""
    name = latency.get("reference_engine", "PyTorch")
    pair = _pair(latency, name)
    found = [f"sizes as they come: {pair}"] if latency.get("fixed_shape") else [pair]
    if fixed := latency.get("fixed_shape"):
        shape = ", ".join(f"{dim} {size}" for dim, size in fixed["shape"].items())
        found.append(f"fixed to {shape}: {_pair(fixed, name)}")
    if parts := latency["target"].get("parts"):
        found.append(
            "of that, on the device: " + ", ".join(f"{PARTS[part]} {parts[part]:.3f} ms" for part in parts)
        )
    threads = latency.get("threads")
    found.append(f"boundary: {latency['boundary']}, arrays in and out, batch 1, {threads} threads")
    return found


def _pair(latency: Mapping[str, Any], name: str = "PyTorch") -> str:
    target, reference = latency["target"], latency.get("reference")
    own = (
        f"p50 {target['p50_ms']:.2f} ms, p90 {target['p90_ms']:.2f}, p99 {target['p99_ms']:.2f}, "
        f"{target['throughput']:.0f}/s, {target['peak_mb']} MB"
    )
    if not reference:
        return own
    faster = f"{latency['speedup']:.2f} times as fast"
    return f"{own}; {name} p50 {reference['p50_ms']:.2f} ms: {faster}"


PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
h1 { font-size: 1.4rem; margin-bottom: .3rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: .3rem; color: #fff; font-weight: 600 }
.true { background: #1a7f37 } .false { background: #cf222e } .none { background: #9a6700 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .3rem .8rem .3rem 0 }
tr + tr td { border-top: 1px solid #d8dee4 } td.n { font-variant-numeric: tabular-nums; white-space: nowrap }
tr.failed td { color: #cf222e; font-weight: 600 } dt { color: #57606a } dd { margin: 0 0 .5rem }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3 } tr + tr td { border-color: #30363d } dt { color: #9198a1 }
}
</style>
<h1>$title</h1><p><span class="verdict $class">$verdict</span></p>
$body
</html>
""")


def html(report: Report) -> str:
    """The same as a page that needs nothing from outside."""
    parts = []
    if report.checks:
        rows = "".join(_html_row(check) for check in report.checks)
        head = "<tr><th>check<th>value<th>limit<th></tr>"
        parts.append(f"<h2>Checks</h2><table>{head}{rows}</table>")
    if report.latency:
        parts.append(f"<h2>Latency</h2><table>{_html_latency(report.latency)}</table>")
    if report.quantization:
        parts += _html_quantization(report.quantization)
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(line)}</dd>" for name, line in lines(report))
    parts.append(f"<h2>Measured</h2><dl>{facts}</dl>")
    parts += [
        f"<h2>{title}</h2><table>{_html_table(table)}</table>"
        for title, table in (("Quantization plan", report.plan), ("Environment", report.environment))
        if table
    ]
    verdict = {True: "passed", False: "failed", None: f"{report.state}, not verified here"}[report.passed]
    return PAGE.substitute(
        title=escape(_title(report)),
        verdict=escape(verdict),
        body="\n".join(parts),
        **{"class": str(report.passed).lower()},
    )


def _html_quantization(told: Mapping[str, Any]) -> list[str]:
    """Which precision to ship, and what each layer does to the output."""
    parts = [f"<h2>Which precision to ship</h2><p>{escape(told['verdict'])}</p>"]
    parts.append(f"<table>{_html_rows(plans.candidate_rows(told))}</table>")
    if picture := plans.picture(told):
        parts.append(f"<h2>Error at the output when one layer alone is int8</h2>{picture}")
    return parts


def _html_rows(rows: list[dict[str, str]]) -> str:
    head = "".join(f"<th>{escape(column)}" for column in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td class=n>{escape(cell)}" for cell in row.values()) + "</tr>" for row in rows
    )
    return f"<tr>{head}</tr>{body}"


def _html_row(check: Check) -> str:
    value, limit = map(escape, _row(check))
    style = "" if check.passed else " class=failed"
    return f"<tr{style}><td>{escape(check.name)}<td class=n>{value}<td class=n>{limit}<td>{_mark(check)}</tr>"


def _html_latency(latency: Mapping[str, Any]) -> str:
    sizes = [("sizes as they come" if "fixed_shape" in latency else "", latency)]
    if fixed := latency.get("fixed_shape"):
        shape = ", ".join(f"{dim} {size}" for dim, size in fixed["shape"].items())
        sizes.append((f"fixed to {shape}", fixed))
    head = "<tr><th><th>runner<th>p50 ms<th>p90<th>p99<th>per second<th>peak MB</tr>"
    return head + "".join(
        f"<tr><td>{escape(size)}<td>{runner}" + "".join(f"<td class=n>{side[key]}" for key in SIDE) + "</tr>"
        for size, pair in sizes
        for runner, side in (("PyTorch", pair.get("reference")), ("engine", pair["target"]))
        if side
    )


def _html_table(table: Mapping[str, Any]) -> str:
    return "".join(f"<tr><td>{escape(str(key))}<td>{escape(str(value))}</tr>" for key, value in table.items())
