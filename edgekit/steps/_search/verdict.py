"""Which candidate to ship, and why, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.steps._search.candidate import Candidate
from edgekit.steps._search.race import NOISE

TO_BLAME = 3
NONE_KEEPS = "no int8 plan keeps the limits"


def chosen(candidates: Sequence[Candidate], any_precision: bool) -> Candidate:
    """The fastest that keeps the limits; of none, the one that misses them least.

    Without `any_precision` it is an int8 one, whatever a floating precision would give; with it, int8 must be
    faster by more than noise, as `sentence` says.
    """
    eligible = [one for one in candidates if any_precision or one.form.precision == "int8"]
    keeping = [one for one in eligible if one.keeps]
    if not keeping:
        quantized = [one for one in eligible if one.form.precision == "int8"] or eligible
        return min(quantized, key=lambda one: one.verdict.miss)
    timed = [one for one in keeping if one.p50_ms is not None]
    if not timed:
        return max(keeping, key=lambda one: len(one.form.quantized))
    fastest = min(timed, key=_milliseconds)
    floats = [one for one in timed if one.form.precision != "int8"]
    if fastest.form.precision != "int8" or not floats:
        return fastest
    floating = min(floats, key=_milliseconds)
    return fastest if _gains(fastest, floating) else floating


def sentence(candidates: Sequence[Candidate], best: Candidate, without: str = NONE_KEEPS) -> str:
    """Is int8 worth it? In one line, with the numbers that say so. `without` is why there is no int8."""
    keeping = [one for one in candidates if one.keeps]
    floats = [one for one in keeping if one.form.precision != "int8" and one.p50_ms is not None]
    int8 = [one for one in keeping if one.form.precision == "int8"]
    timed = [one for one in int8 if one.p50_ms is not None]
    if not int8:
        kept = f": ship {_told(min(floats, key=_milliseconds))}" if floats else ", and no float form either"
        return f"{without}{kept}"
    if not best.runs_here:
        return f"{best.form.name} keeps the limits as a graph; the engine cannot run here: not verified here"
    if not timed or not floats:
        return f"{best.form.name} keeps the limits; it was not timed against float"
    return _compared(min(timed, key=_milliseconds), min(floats, key=_milliseconds))


def _gains(quantized: Candidate, floating: Candidate) -> bool:
    return _milliseconds(floating) / _milliseconds(quantized) > 1 + NOISE


def _compared(quantized: Candidate, floating: Candidate) -> str:
    ratio = _milliseconds(floating) / _milliseconds(quantized)
    if _gains(quantized, floating):
        verdict = f"ship int8: {ratio:.2f} times as fast as {floating.form.name}"
    else:
        how = "not faster than" if ratio > 1 - NOISE else f"{1 / ratio:.2f} times as slow as"
        verdict = f"ship {floating.form.name}: int8 is {how} it"
    return f"{verdict} ({_told(quantized)}; {_told(floating)})"


def _told(one: Candidate) -> str:
    at = "" if one.p50_ms is None else f" {one.p50_ms:.2f} ms,"
    return f"{one.form.precision}{at} error {100 * one.verdict.rel_l2:.2g}%"


def _milliseconds(one: Candidate) -> float:
    return float("inf") if one.p50_ms is None else one.p50_ms


def blamed(errors: Mapping[str, float], layers: Mapping[str, Any]) -> str:
    """The layers that do the most to the output, with their modules."""
    worst = sorted(errors, key=lambda name: -errors[name])[:TO_BLAME]
    return ", ".join(f"{_place(name, layers)} ({100 * errors[name]:.2g}%)" for name in worst)


def _place(name: str, layers: Mapping[str, Any]) -> str:
    module = getattr(layers.get(name), "module", "")
    return f"{name} of module {module}" if module else name
