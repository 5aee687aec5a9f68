"""Is int8 worth it? The engine against the same target's floating precisions, in error and in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.runtime.manifest import Manifest
from edgekit.runtime.session import Session, open_runner
from edgekit.spec import Artifact
from edgekit.steps._search.candidate import Candidate, Form, build
from edgekit.steps._search.judge import Judge
from edgekit.steps._search.race import race, rivals
from edgekit.steps._search.samples import Subset
from edgekit.steps._search.verdict import sentence
from edgekit.steps.compile import target_of
from edgekit.steps.prove import Trial, count_layers, reference_session, spread

FEW = 32
MANY = 1000
"""Samples for a detector: mAP of a few images is mostly noise."""
TIMED = 8
BLOCKS = 3


def worth(
    trial: Trial, graph: Artifact, work: Path, manifest: Manifest, scratch: Path
) -> dict[str, Any] | None:
    """What the report says of it; None when the target has no float precision. `graph` is the float one."""
    target, _ = target_of(trial.recipe.target, trial.recipe.board, trial.recipe.device, "int8")
    floats = rivals(target.PRECISIONS, manifest.device)
    if not floats:
        return None
    count = FEW if trial.network.detection is None else MANY
    few = Subset(trial.held_out, range(min(len(trial.held_out), count)))
    with reference_session(trial.network, manifest) as reference:
        judge = Judge(trial.network, trial.recipe, few, reference, trial.progress)
    found = [_made(graph, manifest, work, judge)]
    for precision in floats:
        folder = scratch / precision
        folder.mkdir()
        found.append(build(trial.network, graph, trial.recipe, Form(precision=precision), folder, judge))
    folders = {one.form.name: one.folder for one in found if not one.refusal}
    times = race(folders, spread(trial, TIMED), scratch, trial.progress, BLOCKS)
    found = [replace(one, p50_ms=times.get(one.form.name)) for one in found]
    return {
        "judged_on": judge.count,
        "candidates": [{**one.told(), "chosen": one.form.precision == "int8"} for one in found],
        "verdict": sentence(found, found[0]),
    }


def _made(graph: Artifact, manifest: Manifest, work: Path, judge: Judge) -> Candidate:
    """The int8 engine that is there already."""
    layers = tuple(name for name, precision in manifest.plan.items() if precision == "int8")
    with Session(manifest, open_runner(work, manifest)) as session:
        return Candidate(
            form=Form(precision="int8", quantized=layers),
            graph=graph,
            folder=work,
            verdict=judge(session.infer),
            layers=count_layers(session),
        )
