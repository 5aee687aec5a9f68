"""What a person or a program sees: tables on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import EdgekitError

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from edgekit.report import Report
    from edgekit.report.sweep import Sweep
    from edgekit.spec import Artifact
    from edgekit.steps.check_target import Examination
    from edgekit.steps.layers import LayerReport
    from edgekit.steps.sweep import Standing, Watch
    from edgekit.steps.train import TrainProgress

LOG_EVERY_S = 10.0
PROSE = ("about", "advice", "found")
WIDE = 200
SEVERITY = {"error": "bold red", "warning": "yellow", "cured": "green"}

Told = Callable[[str, int, int], None]


def refuse(error: EdgekitError, as_json: bool) -> int:
    """Say one sentence and what to do next; answers with the exit code."""
    if as_json:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        _print_if_possible(json.dumps({"error": body}, ensure_ascii=False))
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text("error: ", style="bold red") + Text(error.message, style="default"))
    if error.hint:
        console.print(Text("  try: ", style="bold") + Text(error.hint, style="default"))
    return error.exit_code


def _print_if_possible(document: str) -> None:
    """Standard output may be the very thing that failed; the exit code then has to do."""
    try:
        print(document, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def tell(report: Report, as_json: bool, quiet: bool) -> None:
    """Print a report."""
    if as_json:
        print(report.json())
    elif not quiet:
        from rich.console import Console

        from edgekit.report import show

        show(report, Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDE))


def table(rows: list[dict[str, Any]], as_json: bool, empty: str) -> None:
    """Print rows that share their keys."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print(empty)
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in rows[0]:
        grid.add_column(column, no_wrap=column not in PROSE)
    for row in rows:
        grid.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else WIDE).print(grid)


@contextmanager
def progress(quiet: bool, verbose: bool) -> Iterator[Told]:
    """A bar on standard error for the step at hand, when that is a terminal."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")
    logging.getLogger("edgekit").setLevel(logging.DEBUG if verbose else logging.ERROR)
    if quiet or not sys.stderr.isatty():
        yield _lines if verbose else _nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def told(what: str, done: int, total: int) -> None:
            if bar.tasks[0].description != what:
                bar.reset(task, description=what)
            bar.update(task, completed=done, total=total or None)

        yield told


def _lines(what: str, done: int, total: int) -> None:
    if done in (0, total):
        print(f"{what}{f': {total}' if total else ''}", file=sys.stderr)


def _nothing(what: str, done: int, total: int) -> None:
    pass


@contextmanager
def training(quiet: bool, verbose: bool) -> Iterator[Callable[[TrainProgress], None]]:
    """A bar with loss, metric and time left; in a log, a line now and then."""
    with progress(quiet, verbose) as bar:
        last = [0.0]

        def told(now: TrainProgress) -> None:
            metric = "" if now.metric is None else f", metric {now.metric:.4f}"
            bar(f"training: loss {now.loss:.4f}{metric}", now.step, now.total)
            if not quiet and not sys.stderr.isatty() and monotonic() - last[0] > LOG_EVERY_S:
                last[0] = monotonic()
                left = f"{now.seconds_left:.0f} s left"
                print(f"step {now.step}/{now.total}: loss {now.loss:.4f}{metric}, {left}", file=sys.stderr)

        yield told


@contextmanager
def sweeping(quiet: bool, verbose: bool) -> Iterator[Watch]:
    """What is being built and how much is left, live on a terminal; a line for each cell that is done."""
    with ExitStack() as stack:
        live = None if quiet or not sys.stderr.isatty() else stack.enter_context(_live())

        def watch(now: Standing) -> None:
            if now.finished is not None and not quiet:
                _print_finished(now, live)
            if live is not None:
                live.update(_board(now))
            elif verbose and not quiet and now.finished is None:
                _print_running(now)

        yield watch


def _live() -> Live:
    """Drawn twice a second: more would be seen in the latencies."""
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), refresh_per_second=2, transient=True)


def _board(now: Standing) -> Table:
    """A bar for all cells, and below it a line for each that is being worked on."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    left = "" if now.left_s is None else f"about {_span(now.left_s)} left"
    grid.add_row(
        Text(now.step, "bold"),
        ProgressBar(now.total, now.done, 30),
        Text(f"{now.done}/{now.total} cells"),
        left,
    )
    for one in now.running:
        share = f"{one.done}/{one.total}" if one.total else ""
        grid.add_row("", Text(one.cell), Text(f"{one.doing} {share}"), Text(_span(one.seconds), "dim"))
    return grid


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _print_finished(now: Standing, live: Live | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from edgekit.report.sweep import cells

    if (row := now.finished) is None:
        return
    said = cells(row)
    facts = [f"{name} {said[name]}" for name in ("error", "p50 ms", "speedup") if said[name]]
    style = "red" if row.wrong else "green" if row.passed else "yellow"
    verdict = "passed" if row.passed else said["verdict"] if row.wrong else f"{row.state}, {said['verdict']}"
    line = Text(f"{now.done}/{now.total} ", "dim") + Text(f"{row.name}: ") + Text(verdict, style)
    line.append("".join(f", {fact}" for fact in facts) + f" ({_span(row.seconds.get(now.step, 0))})", "dim")
    (live.console if live else Console(stderr=True, soft_wrap=True)).print(line, highlight=False)


def _print_running(now: Standing) -> None:
    for one in now.running:
        share = f" {one.done}/{one.total}" if one.total else ""
        print(f"{one.cell}: {one.doing}{share}, {_span(one.seconds)}", file=sys.stderr)


def swept(found: Sweep, folder: Path, as_json: bool, quiet: bool) -> None:
    """Print what a sweep came to: a row for each cell, how many came to what, and where the page is."""
    from edgekit.report.sweep import doubts, sentence

    if as_json:
        print(found.json())
    elif not quiet:
        _print_swept(found)
        print(sentence(found))
        for doubt in doubts(found):
            print(f"doubtful: {doubt}")
        print(folder / "sweep.html")


def _print_swept(found: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from edgekit.report.sweep import COLUMNS, NUMBERS, cells

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        side: Any = "right" if column in NUMBERS else "left"
        grid.add_column(column, justify=side, no_wrap=column != COLUMNS[-1])
    for row in found.rows:
        style = "bold red" if row.wrong else "" if row.passed else "dim"
        grid.add_row(*map(Text, cells(row).values()), style=style)
    Console(width=None if sys.stdout.isatty() else WIDE).print(grid)


def trained(artifact: Artifact, as_json: bool, quiet: bool) -> None:
    """Say what a training came to."""
    told = {"weights": str(artifact.path), **artifact.made_by}
    if as_json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
    elif not quiet:
        scores = told["scores"]
        test = scores["test"]
        print(f"{scores['metric']} {100 * test['value']:.2f}% on {test['n']} held-out samples")
        print(f"{artifact.path}: {told['parameters']} parameters, {told['seconds']:.0f} s")


def examined(found: Examination, as_json: bool, quiet: bool) -> None:
    """Say what a model meets on a target: what stops it first, the verdict last."""
    if as_json:
        print(json.dumps(found.told(), indent=1, ensure_ascii=False))
        return
    if quiet:
        return
    from rich.console import Console
    from rich.text import Text

    from edgekit.steps.check_target import by_severity

    console = Console(soft_wrap=True, highlight=False)
    console.print(_aim(found), style="bold")
    for one in by_severity(found.findings):
        where = " of module ".join(part for part in (one.node, one.module) if part)
        console.print(Text(f"{one.severity:<8}", SEVERITY.get(one.severity, "")), Text(where or "the graph"))
        for word, said in (("", one.reason), ("where: ", one.versions), ("cure: ", one.cure)):
            if said:
                console.print(Text(f"         {word}{said}"))
    console.print(Text("trial    ", "cyan"), Text(trial_line(found)), sep="")
    console.print(
        "[bold green]CAN GO THERE[/bold green]" if found.passed else "[bold red]CANNOT GO THERE[/bold red]"
    )


def _aim(found: Examination) -> str:
    at = f" on {found.board}" if found.board else ""
    versions = f" (TensorRT {', '.join(found.versions)})" if found.versions else ""
    return f"{found.model} for {found.target}{at}{versions}, {found.precision}"


def trial_line(found: Examination) -> str:
    """What the trial build came to, and what it does not show."""
    trial = found.trial
    if trial is None:
        refused = any(one.severity == "error" for one in found.findings)
        return "none: the rules refuse it already" if refused else "none: tensorrt-rtx is not installed here"
    foreign = ", which is not the TensorRT of the board" if found.target == "tensorrt" else ""
    if not trial["built"]:
        return f"{trial['by']}{foreign}, refused it: {trial['said']}"
    layers = ", ".join(f"{count} {precision}" for precision, count in trial.get("layers", {}).items())
    return f"{trial['by']}{foreign}, built it" + (f": {layers} layers" if layers else "")


def layers(found: LayerReport, page: Path, as_json: bool, quiet: bool) -> int:
    """Say where reference and engine part; 1 when the error jumps at a layer."""
    if as_json:
        print(json.dumps({**found.told(), "page": str(page)}, indent=1, ensure_ascii=False))
    elif not quiet:
        from edgekit.steps.layers import COLUMNS

        rows = [dict(zip(COLUMNS, row.cells(), strict=True)) for row in found.rows]
        table(rows, as_json=False, empty="no layer is in both graphs")
        print(found.sentence())
        print(page)
    return 1 if found.first_jump or found.wrong_export else 0


def exported(artifact: Artifact, as_json: bool, quiet: bool) -> None:
    """Say where the graph is and what goes in and out."""
    ends = {"inputs": artifact.inputs, "outputs": artifact.outputs}
    named = {end: {spec.name: list(spec.shape) for spec in specs} for end, specs in ends.items()}
    if as_json:
        print(json.dumps({"path": str(artifact.path), "sha256": artifact.sha256, **named}, indent=1))
    elif not quiet:
        print(artifact.path)
        for end, specs in named.items():
            for name, shape in specs.items():
                print(f"  {end[:-1]:<7} {name} [{', '.join(map(str, shape))}]")


def answers(said: Iterator[tuple[str | Path, Any]], as_json: bool, many: bool) -> None:
    """Print what a bundle said of each input, as it says it; as JSON, all in one document."""
    from edgekit.runtime.answers import lines, told

    if as_json:
        rows = [
            {"input": str(path), "answer": _shapes(what) if _is_feed(path) else told(what)}
            for path, what in said
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for path, what in said:
        for line in [str(_shapes(what))] if _is_feed(path) else lines(what):
            print(f"{path}\t{line}" if many else line)


def _is_feed(source: str | Path) -> bool:
    """Named arrays in, named arrays out; anything else is an image or a text."""
    return Path(source).suffix.lower() == ".npz"


def _shapes(outputs: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in outputs.items()}
