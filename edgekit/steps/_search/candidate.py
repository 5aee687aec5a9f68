"""A plan made into an engine: what a search builds, judges and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.runtime.manifest import Manifest, hashes, write_manifest
from edgekit.runtime.session import Session, open_runner
from edgekit.spec import Artifact, Choice, Recipe
from edgekit.steps import describe
from edgekit.steps._graphs import GraphRunner
from edgekit.steps._search.judge import NOTHING, Judge, Verdict
from edgekit.steps.compile import compile_engine
from edgekit.steps.load import Network
from edgekit.steps.prove import count_layers


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is asked for: a precision; for int8 its layers, options of the method, what the rest runs in."""

    precision: str
    quantized: tuple[str, ...] = ()
    method: Mapping[str, Any] = field(default_factory=dict)
    rest: str = ""

    @property
    def name(self) -> str:
        """As a person calls it: `int8, 12 layers, the rest bf16`."""
        if self.precision != "int8":
            return self.precision
        rest = f", the rest {self.rest}" if self.rest else ""
        by = f", {self.method['calibrator']}" if "calibrator" in self.method else ""
        by += ", smoothed" if self.method.get("smooth") else ""
        by += ", equalized" if self.method.get("equalization") else ""
        return f"int8 in {len(self.quantized)} layers{rest}{by}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that was built and judged; `folder` opens as a bundle. `p50_ms` None: it was not timed."""

    form: Form
    graph: Artifact
    folder: Path
    verdict: Verdict
    layers: Mapping[str, int]
    p50_ms: float | None = None
    runs_here: bool = True
    refusal: str = ""
    """Why the target did not take it; empty: it did."""

    @property
    def keeps(self) -> bool:
        """Whether the limits hold, and int8 is not only a name."""
        really = self.form.precision != "int8" or self.layers.get("int8", 0) > 0
        return self.verdict.keeps and really and not self.refusal

    def line(self) -> str:
        """As a log says it."""
        if self.refusal:
            return f"{self.form.name}: refused, {self.refusal}"
        kept = "kept" if self.keeps else "missed"
        return f"{self.form.name}: error {100 * self.verdict.rel_l2:.3g}%, limits {kept}"

    def told(self) -> dict[str, Any]:
        """As it stands in `report.json`."""
        return {
            "name": self.form.name,
            "precision": self.form.precision,
            "rest": self.form.rest,
            "method": dict(self.form.method),
            "layers": dict(self.layers),
            "rel_l2": self.verdict.rel_l2,
            "drop": self.verdict.drop,
            "keeps": self.keeps,
            "p50_ms": self.p50_ms,
            "refusal": self.refusal,
        }


def recipe_for(recipe: Recipe, form: Form) -> Recipe:
    """The recipe with what a form asks for."""
    made = replace(recipe, precision=form.precision)
    if form.method:
        options = {**recipe.quantization.options, **form.method}
        made = replace(made, quantization=Choice(name=recipe.quantization.name, options=options))
    if form.rest:
        options = {**recipe.target.options, "rest": form.rest}
        made = replace(made, target=Choice(name=recipe.target.name, options=options))
    return made


def build(
    network: Network, graph: Artifact, recipe: Recipe, form: Form, folder: Path, judge: Judge
) -> Candidate:
    """Compile `graph` in the folder `folder`, open it and judge it; a refusal is a candidate too."""
    try:
        return _built(network, graph, recipe, form, folder, judge)
    except (UnsupportedError, BadFileError) as error:
        return Candidate(
            form=form, graph=graph, folder=folder, verdict=NOTHING, layers={}, refusal=error.message
        )


def _built(
    network: Network, graph: Artifact, recipe: Recipe, form: Form, folder: Path, judge: Judge
) -> Candidate:
    wanted = recipe_for(recipe, form)
    made = compile_engine(network, graph, wanted, folder / "engine")
    manifest = describe.manifest(wanted, network, graph, made, {}, folder)
    write_manifest(replace(manifest, files=hashes(folder)), folder)
    if made.deferred:
        return _foretold(graph, manifest, form, folder, judge)
    with Session(manifest, open_runner(folder, manifest)) as session:
        verdict = judge(session.infer, form.precision)
        layers = count_layers(session)
    return Candidate(form=form, graph=graph, folder=folder, verdict=verdict, layers=layers)


def _foretold(graph: Artifact, manifest: Manifest, form: Form, folder: Path, judge: Judge) -> Candidate:
    """An engine that cannot run here is judged by its canonical graph, as ONNX Runtime computes it."""
    with Session(manifest, GraphRunner(graph.path)) as session:
        verdict = judge(session.infer, form.precision)
    layers = {"int8": len(form.quantized)} if form.quantized else {}
    return Candidate(form=form, graph=graph, folder=folder, verdict=verdict, layers=layers, runs_here=False)
