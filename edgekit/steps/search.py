"""The fastest plan (layer -> precision) that keeps the limits on one target.

Switches in the float network foretell which layers to leave in float; engines of the target decide, on
samples that nothing was calibrated on; the clock chooses among those that keep the limits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from edgekit.runtime.proof import Check
from edgekit.spec import Artifact, Dataset, Progress, Recipe, Search, silent
from edgekit.steps._calibration import fingerprint
from edgekit.steps._search.candidate import Candidate, Form, build, recipe_for
from edgekit.steps._search.deadline import Deadline, TimeIsUp
from edgekit.steps._search.ground import NOTHING, Ground
from edgekit.steps._search.judge import MARGIN
from edgekit.steps._search.order import fewest, narrowed, taken_back, worst_first
from edgekit.steps._search.race import race, rivals, worth_timing
from edgekit.steps._search.sensitivity import SHARE, Switched
from edgekit.steps._search.verdict import NONE_KEEPS, blamed, chosen, sentence
from edgekit.steps.load import Network, feeds_of

EQUALIZED = "LSTM"
GAIN = 0.5
"""Equalizing must halve the error of a layer to be part of the plan."""
LOG = logging.getLogger("edgekit.search")
Options = Mapping[str, Any]
"""Options of the quantization method that a plan is made with."""
CALIBRATORS = ("mse", "minmax", "percentile", "entropy")
LEAST_CLIPPED = "minmax"
HELD_BACK = "held_back"
TIMED = 8
AIM = 0.9 * MARGIN
"""What of a limit the foretold error may use up: an engine rounds in other places."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to: the recipe with its choice laid over it, and the graph that was judged.

    `told` goes into the report, `proving` are samples that the choice has not seen; `blame` names the
    layers that made it impossible, where it was. `checks` are of samples held back from calibration.
    """

    recipe: Recipe
    graph: Artifact
    told: Mapping[str, Any]
    proving: Dataset
    notes: tuple[str, ...] = ()
    blame: str = ""
    checks: tuple[Check, ...] = ()


def search(
    network: Network, graph: Artifact, recipe: Recipe, scratch: Path, progress: Progress = silent
) -> Found:
    """Look for the fastest plan that keeps `recipe.limits`; Ctrl-C and the clock take the best so far.

    Raises:
        UnsupportedError: the target has no int8, or nothing of the network can be int8.
        BadFileError: a calibration sample does not fit.
    """
    hunt = _Hunt(Ground(network, graph, recipe, scratch, progress), recipe.search or Search())
    try:
        for attempt in (hunt.try_floats, hunt.try_plans):
            with suppress(TimeIsUp):
                attempt()
        hunt.time()
    except KeyboardInterrupt:
        if not any(one.form.precision == "int8" for one in hunt.candidates):
            raise
        hunt.interrupted = True
    return hunt.settled()


class _Tried(NamedTuple):
    """Options of the method, and how far all layers in int8 miss the limits with them."""

    miss: float
    method: Options
    switched: Switched


def _miss(tried: _Tried) -> float:
    return tried.miss


class _Hunt:
    """The candidates so far, and what leads to the next one."""

    def __init__(self, ground: Ground, limits: Search) -> None:
        self.ground = ground
        self.deadline = Deadline(limits, ground.progress)
        self.candidates: list[Candidate] = []
        self.errors: dict[str, float] = {}
        self.cured: dict[str, str] = {}
        self.interrupted = False

    def try_floats(self) -> None:
        """The whole network in each floating precision that the target has."""
        for precision in rivals(self.ground.target.PRECISIONS, self.ground.device):
            made = self._trial(Form(precision=precision), self.ground.graph)
            if not made.runs_here:
                self.candidates.remove(made)  # its error would be that of the float32 graph
                return

    def try_plans(self) -> None:
        """All layers int8 with the options that do best; then the worst of them go back to float."""
        if not self.ground.layers:
            return
        method, switched = self._best_method()
        self.errors = switched.alone(self.ground.progress)
        floats = self._foretold(switched)
        if (cured := self._equalized(method, floats)) is not None:
            method, switched = cured
            floats = self._foretold(switched)
        for rest in self._useful_rests():
            self._fit(method, rest, floats)

    def _best_method(self) -> tuple[Options, Switched]:
        """The method's own options if all layers in int8 keep the limits with them; else those of its forms
        that miss them least: outlying channels smoothed, and the other calibrators."""
        own = str(self.ground.options().calibrator)
        best = first = self._missing({"calibrator": own})
        if first.miss > AIM and self.ground.smoothed is not None:
            best = min(first, self._missing({"calibrator": own, "smooth": True}), key=_miss)
        for name in CALIBRATORS:
            if best.miss <= AIM or self.deadline.left < 2 * self._share:
                break
            if name != own:
                best = min(best, self._missing({**best.method, "calibrator": name}), key=_miss)
        return best.method, best.switched

    def _missing(self, method: Options) -> _Tried:
        """What all layers in int8 come to with these options."""
        smoothed = ", smoothed" if method.get("smooth") else ""
        self.deadline.say(f"calibrating by {method['calibrator']}{smoothed}")
        switched = self.ground.switched(method, self._share)
        return _Tried(switched.miss(self.ground.layers), method, switched)

    @property
    def _share(self) -> float:
        """Seconds that the sensitivity of all layers may take."""
        return SHARE * self.deadline.limits.seconds

    def _equalized(self, method: Options, floats: Sequence[str]) -> tuple[Options, Switched] | None:
        """An LSTM that must stay float may bear int8 if the features it reads are brought to one range."""
        fragile = [name for name in floats if self.ground.layers[name].op_type == EQUALIZED]
        if not fragile or "equalization" in method or self.deadline.left <= 0:
            return None
        method = {**method, "equalization": True}
        switched = self.ground.switched(method, self._share)
        errors = {name: switched.difference((name,)).rel_l2 for name in fragile}
        if min(errors[name] / self.errors[name] for name in fragile) > GAIN:
            return None
        self.cured = {name: _cure(name, self.errors[name], errors[name]) for name in fragile}
        self.errors = switched.alone(self.ground.progress)
        return method, switched

    def _foretold(self, switched: Switched) -> list[str]:
        """The layers to leave in float, as the switches tell; the worst comes first."""
        free = [layer for layer in switched.layers if layer in self.ground.layers]
        order = worst_first({layer: self.errors[layer] for layer in free}, self.ground.costs)

        def keeps(floats: Sequence[str]) -> bool:
            self.deadline.say("looking for the layers to leave in float")
            return switched.miss(set(free) - set(floats)) <= AIM

        count = fewest(order, keeps)
        if count is None or count == len(order):
            return order[:-1]  # one layer stays int8, so that there is something to show
        floats = order[:count]
        if self.deadline.left < self._share:
            return floats
        needed = set(taken_back(floats, self.ground.costs, keeps))
        return [layer for layer in floats if layer in needed]

    def _useful_rests(self) -> Sequence[str]:
        """A rest in which the whole float network misses the limits cannot keep them beside int8."""
        missing = {one.form.precision for one in self.candidates if not one.verdict.keeps}
        return [rest for rest in self.ground.rests if rest not in missing] or self.ground.rests[-1:]

    def _fit(self, method: Options, rest: str, foretold: Sequence[str]) -> None:
        """The plan that was foretold, with and without its recurrent layers; then the retreat."""
        with_recurrent = self._least_clipped(self._int8(method, rest, foretold), foretold)
        method = with_recurrent.form.method
        steady = [*foretold, *self._recurrent(foretold)]
        if len(foretold) < len(steady) < len(self.ground.layers):
            without = self._int8(method, rest, steady)
            if with_recurrent.keeps or without.keeps:
                return  # a recurrent layer is not always quicker in int8: the clock decides
        elif with_recurrent.keeps:
            return
        self._retreat(method, rest, steady if len(steady) < len(self.ground.layers) else foretold)

    def _least_clipped(self, made: Candidate, floats: Sequence[str]) -> Candidate:
        """A plan that missed, or the same one calibrated by `minmax`, if that misses less: samples held back
        may hold larger values than those that were calibrated on."""
        if made.keeps or made.form.method["calibrator"] == LEAST_CLIPPED:
            return made
        other = self._int8({**made.form.method, "calibrator": LEAST_CLIPPED}, made.form.rest, floats)
        return min(made, other, key=lambda one: one.verdict.miss)

    def _retreat(self, method: Options, rest: str, floats: Sequence[str]) -> None:
        """More and more layers in float until the engine keeps the limits; one at least stays int8."""
        errors = {name: self.errors.get(name, 0.0) for name in self.ground.layers if name not in floats}
        order = [*floats, *worst_first(errors, self.ground.costs)]
        if len(floats) + 1 < len(order):
            narrowed(
                len(floats) + 1,
                len(order) - 1,
                lambda count: self._int8(method, rest, order[:count]).keeps,
            )

    def _recurrent(self, floats: Sequence[str]) -> list[str]:
        """The recurrent layers that are not in float yet."""
        return [name for name in self.ground.layers if self.ground.is_recurrent(name) and name not in floats]

    def _int8(self, method: Options, rest: str, floats: Sequence[str]) -> Candidate:
        plan = {name: "fp32" if name in floats else "int8" for name in self.ground.layers}
        quantized = tuple(name for name, precision in plan.items() if precision == "int8")
        form = Form(precision="int8", quantized=quantized, method=method, rest=rest)
        path = self.ground.scratch / f"plan{len(self.candidates)}.onnx"
        return self._trial(form, self.ground.quantized(plan, method, path))

    def _trial(self, form: Form, graph: Artifact) -> Candidate:
        if form.precision != "int8" or any(one.form.precision == "int8" for one in self.candidates):
            self.deadline.spend(f"trying {form.name}")  # the first int8 engine is always made
        ground = self.ground
        folder = Path(mkdtemp(prefix="candidate-", dir=ground.scratch))
        made = build(ground.network, graph, ground.recipe, form, folder, ground.judge)
        self.candidates.append(made)
        LOG.info("tried %s", made.line())
        return made

    def time(self) -> None:
        """Time in turns what keeps the limits, where engines of this target run here."""
        timed = worth_timing(self.candidates)
        if not timed or not all(self.candidates[index].runs_here for index in timed):
            return
        data = self.ground.splits.judging
        step = max(len(data) // TIMED, 1)
        feeds = [feeds_of(self.ground.network, data[index]) for index in range(0, len(data), step)][:TIMED]
        folders = {str(index): self.candidates[index].folder for index in timed}
        for name, p50 in race(folders, feeds, self.ground.scratch, self.ground.progress).items():
            self.candidates[int(name)] = replace(self.candidates[int(name)], p50_ms=p50)

    def _without(self) -> str:
        """Why there is no int8 plan, should there be none."""
        limits = self.deadline.limits
        if not self.ground.layers:
            return NOTHING
        if not self.interrupted and not self.deadline.over:
            return NONE_KEEPS
        seconds = f"in {limits.trials} trials and {limits.seconds:g} s"
        cut = "before it was interrupted" if self.interrupted else seconds
        return f"no int8 plan that keeps the limits was found {cut}"

    def settled(self) -> Found:
        """The choice, and what was found out on the way to it."""
        ground, recipe = self.ground, self.ground.recipe
        best = chosen(self.candidates, any_precision=self.deadline.limits.any_precision)
        kept = any(one.keeps and one.form.precision == "int8" for one in self.candidates)
        cures = [said for name, said in self.cured.items() if name in best.form.quantized]
        if best.form.method.get("smooth"):
            cures.append(_smoothing(len(ground.smoothed.factors)))
        made_by = {
            "method": recipe.quantization.name,
            "samples": len(ground.feeds),
            "calibration": fingerprint(ground.feeds),
        }
        return Found(
            recipe=replace(recipe_for(recipe, best.form), plan=self._plan(best), search=None),
            graph=replace(best.graph, made_by={**ground.graph.made_by, **made_by}),
            told=self._told(best),
            proving=ground.splits.proving,
            notes=(*ground.measured.warnings, *ground.splits.notes, *cures),
            blame="" if kept else blamed(self.errors, ground.layers),
            checks=tuple(
                replace(one, name=f"{HELD_BACK}.{one.name}")
                for one in best.verdict.checks
                if one.limit is not None
            ),
        )

    def _plan(self, best: Candidate) -> dict[str, str]:
        """Layer -> precision of the choice; empty where it is not int8."""
        rest = _floating(best.form)
        plan = {name: "int8" if name in best.form.quantized else rest for name in self.ground.layers}
        return plan if best.form.precision == "int8" else {}

    def _told(self, best: Candidate) -> dict[str, Any]:
        limits = self.ground.recipe.limits
        return {
            "budget": {
                "rel_l2": limits.rel_l2["int8"],
                "outputs": limits.outputs,
                "max_drop": limits.max_drop,
            },
            "calibrator": best.form.method.get("calibrator", ""),
            "calibration_samples": len(self.ground.feeds),
            "judged_on": self.ground.judge.count,
            "trials": len(self.candidates),
            "interrupted": self.interrupted,
            "sensitivity": [self._row(name, best) for name in self.errors],
            "candidates": [{**one.told(), "chosen": one is best} for one in self.candidates],
            "verdict": sentence(self.candidates, best, self._without()),
        }

    def _row(self, name: str, best: Candidate) -> dict[str, Any]:
        layer = self.ground.layers.get(name)
        return {
            "layer": name,
            "module": layer.module if layer else "",
            "op": layer.op_type if layer else "",
            "macs": layer.macs if layer else 0,
            "error": self.errors[name],
            "precision": "int8" if name in best.form.quantized else _floating(best.form),
        }


def _floating(form: Form) -> str:
    """What a layer that is not int8 runs in."""
    return (form.rest or "fp32") if form.precision == "int8" else form.precision


def _cure(layer: str, before: float, after: float) -> str:
    return (
        f"{layer}: the features it reads are brought to one range, which takes its error in int8 from "
        f"{100 * before:.2g}% to {100 * after:.2g}%"
    )


def _smoothing(tensors: int) -> str:
    return (
        f"outlying channels of {tensors} tensors are moved into the weights of the matrix products that read "
        "them (SmoothQuant), so that these bear int8"
    )
