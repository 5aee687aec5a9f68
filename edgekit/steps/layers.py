"""Where do the reference and the graph that an engine is made from part? Layer by layer, on real samples.

Both graphs are run by ONNX Runtime and every tensor that both have is compared. That shows what a
quantization or a cast does to the network; an engine's own kernels are proved by `check` without
`--layers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.registry import load as load_plugin
from edgekit.registry import require
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Manifest
from edgekit.spec import Progress, silent
from edgekit.steps._layers.activations import Feeds
from edgekit.steps._layers.causes import AMPLIFICATION, Investigation
from edgekit.steps._layers.compare import Compared, compare, sqnr_of
from edgekit.steps._layers.flow import open_flow
from edgekit.steps._layers.hooks import export_errors
from edgekit.steps._layers.match import Pair, incoming, pairs
from edgekit.steps._layers.origin import origin
from edgekit.steps._layers.plot import Point, plot
from edgekit.steps._layers.row import COLUMNS, GOOD_DB, JUMP_DB, LayerRow, words
from edgekit.targets._lowering import module_of

if TYPE_CHECKING:
    import torch

__all__ = ["COLUMNS", "LayerReport", "LayerRow", "compare_layers"]

SCHEMA = 1
EXPORT_REL_L2 = 1e-3
"""From here on the float graph is not the PyTorch network; rounding of float32 stays far below."""
WORST = 5


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """The rows in the order of the network, and the float nodes that have no counterpart in the engine."""

    rows: tuple[LayerRow, ...]
    unmatched: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    origin_tensor: str = ""
    exports: Mapping[str, float] = field(default_factory=dict)
    """Relative L2 of PyTorch against the float graph, per tensor that leaves a module."""

    @property
    def first_jump(self) -> LayerRow | None:
        """The first row at which the error jumps; see `JUMP_DB` and `GOOD_DB`."""
        return next((row for row in self.rows if row.jumps), None)

    @property
    def origin(self) -> LayerRow | None:
        """The row that the jump comes from: itself, or an earlier one whose error it makes larger."""
        found = next((row for row in self.rows if row.tensor == self.origin_tensor), None)
        return found or self.first_jump

    @property
    def worst(self) -> tuple[LayerRow, ...]:
        """The rows at which the error grows most, the worst first."""
        growing = [row for row in self.rows if row.fall_db > 0]
        return tuple(sorted(growing, key=lambda row: -row.fall_db)[:WORST])

    @property
    def wrong_export(self) -> LayerRow | None:
        """The first row at which the float graph is not PyTorch; None if its outputs are right."""
        if not any(self.exports.get(name, 0.0) > EXPORT_REL_L2 for name in self.outputs):
            return None
        return next((row for row in self.rows if (row.export_rel_l2 or 0.0) > EXPORT_REL_L2), None)

    def sentence(self) -> str:
        """What was found, in one sentence or two."""
        said = [_about_export(self.wrong_export)] if self.wrong_export else []
        row = self.first_jump
        if row is None:
            return "; ".join([*said, self._calm()])
        source = self.origin or row
        cause = f"; {source.cause or source.culprit}" if source.culprit else ""
        fall = f"SQNR {words(row.came_in_db)} -> {words(row.sqnr_db)}"
        if source is row:
            said.append(f"the error jumps at {row.where}: {fall}{cause}")
        else:
            said.append(f"the error comes from {source.where}{cause}; it shows at {row.where}: {fall}")
        return "; ".join(said)

    def _calm(self) -> str:
        known = [row for row in self.rows if not math.isnan(row.sqnr_db)]
        if not known:
            return "no layer could be compared: the two graphs have no floating tensor in common"
        low = min(known, key=lambda row: row.sqnr_db)
        if low.sqnr_db == math.inf:
            return f"no layer differs: all {len(known)} compared tensors are equal"
        lowest = f"the lowest SQNR is {words(low.sqnr_db)}, at {low.place} (node {low.node})"
        return f"the error jumps nowhere: {lowest}"

    def told(self) -> dict[str, Any]:
        """As `--json` prints it."""
        first = self.first_jump
        return {
            "schema": SCHEMA,
            "sentence": self.sentence(),
            "first_jump": first.told() if first else None,
            "origin": self.origin.told() if self.origin else None,
            "wrong_export": self.wrong_export.told() if self.wrong_export else None,
            "worst": [row.told() for row in self.worst],
            "rows": [row.told() for row in self.rows],
            "unmatched": list(self.unmatched),
            "jump": {"fall_db": JUMP_DB, "counted_from_db": GOOD_DB},
        }

    def svg(self) -> str:
        """SQNR by depth as an `<svg>` element that can stand in a page or alone."""
        points = [
            Point(
                name=row.place, title=row.title, own=row.sqnr_db, read=row.read_sqnr_db, mark=self._mark(row)
            )
            for row in self.rows
        ]
        return plot(points, GOOD_DB - JUMP_DB)

    def _mark(self, row: LayerRow) -> str:
        if row is self.first_jump:
            return f"the error jumps: {row.place}" if row is self.origin else f"it shows: {row.place}"
        return f"the error comes from {row.place}" if row is self.origin else ""


def compare_layers(
    float_graph: Path,
    engine_graph: Path,
    feeds: Sequence[Feeds],
    module: torch.nn.Module | None = None,
    progress: Progress = silent,
) -> LayerReport:
    """Compare the inner tensors of a float graph with those of the graph that an engine is made from.

    `feeds` are real samples, any sizes. With `module`, the reference in evaluation mode, the float
    graph itself is compared with PyTorch.

    Raises:
        UsageError: there are no feeds, or one lacks an input.
        BadFileError: a file is no ONNX model.
        UnsupportedError: ONNX Runtime cannot run one of the graphs, or the module fails.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    require(("onnx", "onnxruntime"))
    if not feeds:
        raise UsageError("there are no samples to compare the layers on", "give real samples with --data")
    reference, engine = open_flow(float_graph), open_flow(engine_graph)
    every = pairs(reference, engine)
    graphs = Investigation(reference, engine, every)
    found = compare(graphs, every, feeds, progress)
    exports = {}
    if module is not None:
        progress("comparing with PyTorch, module by module", 0, 0)
        exports = export_errors(module, reference, feeds, found.shapes)
    rows = _rows(graphs, every, found, exports)
    report = LayerReport(
        rows=tuple(rows), unmatched=tuple(found.alone), outputs=tuple(reference.outputs), exports=exports
    )
    return _explained(report, graphs, every, found, feeds)


def _about_export(row: LayerRow) -> str:
    return (
        f"the export itself is wrong from {row.where} on: relative L2 "
        f"{row.export_rel_l2:.2g} to PyTorch, before anything is quantized"
    )


def _rows(
    graphs: Investigation, every: Sequence[Pair], found: Compared, exports: Mapping[str, float]
) -> list[LayerRow]:
    sqnr = {name: sqnr_of(parity) for name, parity in found.own.items()}
    came_in = incoming(graphs.reference, sqnr)
    return [
        LayerRow(
            node=pair.node.name or pair.tensor,
            op_type=pair.node.op_type,
            module=module_of(pair.node),
            tensor=pair.tensor,
            depth=pair.depth,
            rel_l2=found.own[pair.tensor].rel_l2,
            sqnr_db=sqnr[pair.tensor],
            max_abs=found.own[pair.tensor].max_abs,
            came_in_db=came_in[pair.tensor],
            read_sqnr_db=min(map(sqnr_of, found.read.get(pair.tensor, {}).values()), default=None),
            culprit=graphs.structure(graphs.case(pair, found.own[pair.tensor])),
            export_rel_l2=exports.get(pair.tensor),
        )
        for pair in every
        if pair.tensor in found.own
    ]


def _explained(
    report: LayerReport,
    graphs: Investigation,
    every: Sequence[Pair],
    found: Compared,
    feeds: Sequence[Feeds],
) -> LayerReport:
    """The report with the cause measured where the error jumps and where it grows most."""
    first = report.first_jump
    cases = {
        pair.tensor: graphs.case(pair, found.own[pair.tensor]) for pair in every if pair.tensor in found.own
    }
    asked = {row.tensor for row in (*report.worst, *([first] if first else []))}
    causes = {tensor: graphs.measure(cases[tensor], feeds) for tensor in cases if tensor in asked}
    source = None
    if first and causes[first.tensor].kind == AMPLIFICATION:
        source = origin(graphs, cases[first.tensor], every, feeds)
    if source:
        causes.setdefault(source.tensor, graphs.measure(cases[source.tensor], feeds))
    rows = (
        replace(row, culprit=causes[row.tensor].kind, cause=causes[row.tensor].words)
        if row.tensor in causes
        else row
        for row in report.rows
    )
    return replace(report, rows=tuple(rows), origin_tensor=source.tensor if source else "")


def engine_graph_of(folder: Path, manifest: Manifest, scratch: Path) -> Path:
    """The graph that a bundle's engine is made from; lowered again where the bundle holds none."""
    import onnx

    engine = folder / (manifest.engine.get("file") or "")
    if engine.suffix == ".onnx":
        return engine
    if "build" in manifest.engine:
        variant: str = manifest.engine["build"]["variants"][0]["file"]
        return folder / variant
    model = onnx.load(folder / "model.onnx")
    target = load_plugin("target", manifest.target)
    if hasattr(target, "lower"):
        target.lower(model)
    path = scratch / "lowered.onnx"
    onnx.save(model, path)
    return path


def page(report: LayerReport, title: str) -> str:
    """The report as a page that needs nothing from outside."""
    head = "".join(f"<th>{escape(name)}" for name in COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}" for cell in row.cells()) + "</tr>" for row in report.rows
    )
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return PAGE.format(
        title=escape(title), sentence=escape(report.sentence()), plot=report.svg(), table=table
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.3rem }} table {{ border-collapse: collapse }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; font-variant-numeric: tabular-nums }}
@media (prefers-color-scheme: dark) {{ body {{ background: #0d1117; color: #e6edf3 }} }}
</style>
<h1>{title}</h1><p>{sentence}</p>
{plot}
{table}
</html>
"""
