"""A plan as a file: which layer is in which precision. Written by a compilation, edited by hand, given again.

    {"schema": 1, "method": "ptq", "options": {"calibrator": "mse"}, "layers": {"features.0/Conv": "int8"}}

A layer is the name of an ONNX node, or a PyTorch module for every layer inside it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.recipe import build
from edgekit.runtime.errors import BadFileError, UnsupportedError, UsageError
from edgekit.spec import PRECISIONS, Choice, Recipe, Search

SCHEMA = 1
FILE = "plan.json"
KEYS = ("schema", "model", "target", "method", "options", "rest", "searched", "layers")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Layer -> precision, and the quantization method with its options.

    `rest` is what the engine of `target` computes in where a layer is not named; empty: its own choice.
    `searched`: it was found by a search, which holds samples back from calibration.
    """

    layers: Mapping[str, str]
    method: str = ""
    target: str = ""
    rest: str = ""
    searched: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> Plan:
    """The plan in a file, or in a bundle's folder.

    Raises:
        BadFileError: it is missing, or no plan.
        UsageError: it names a precision or a method that does not exist.
    """
    path = path / FILE if path.is_dir() else path
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFileError(f"the plan {path} does not exist", "int8 bundles hold one: plan.json") from error
    except (OSError, ValueError) as error:
        raise BadFileError(f"the plan {path} cannot be read: {error}", "correct it") from error
    layers = told.get("layers") if isinstance(told, dict) else None
    if not isinstance(layers, dict) or not layers or told.get("schema", SCHEMA) != SCHEMA:
        raise BadFileError(
            f"{path} is no plan of schema {SCHEMA}: it names no layers",
            'write {"schema": 1, "layers": {"features.0/Conv": "int8"}}',
        )
    return _checked(path, told, layers)


def _checked(path: Path, told: Mapping[str, Any], layers: Mapping[str, Any]) -> Plan:
    for layer, precision in layers.items():
        if precision not in PRECISIONS:
            raise UsageError(
                f"the plan {path} gives {layer!r} the precision {precision!r}, which does not exist",
                f"one of {', '.join(PRECISIONS)}",
            )
    if strange := [key for key in told if key not in KEYS]:
        raise UsageError(
            f"the plan {path} has the unknown key {strange[0]!r}", registry.did_you_mean(strange[0], KEYS)
        )
    method, options = told.get("method", ""), told.get("options", {})
    if not isinstance(method, str) or not isinstance(options, dict):
        raise UsageError(f"the plan {path}: method is a name and options are a table", "correct them")
    if method:
        plugin = registry.load("method", method)
        if faults := build(plugin.Options, options, "options")[1]:
            raise UsageError(f"the plan {path}: {faults[0]}", "correct it")
    elif options:
        raise UsageError(f"the plan {path} has options and no method", 'add "method": "ptq"')
    target, rest, searched = told.get("target", ""), told.get("rest", ""), told.get("searched", False)
    if rest not in ("", *PRECISIONS) or rest == "int8" or not isinstance(searched, bool):
        raise UsageError(
            f"the plan {path}: rest is a floating precision and searched is true or false", "correct them"
        )
    return Plan(
        layers=dict(layers), method=method, options=options, target=target, rest=rest, searched=searched
    )


def write(recipe: Recipe, layers: Mapping[str, str], path: Path, searched: bool = False) -> None:
    """Write what `read` reads: the plan that a bundle was made with."""
    told = {
        "schema": SCHEMA,
        "model": recipe.name,
        "target": recipe.target.name,
        "method": recipe.quantization.name,
        "options": dict(recipe.quantization.options),
        **({"rest": rest} if (rest := recipe.target.options.get("rest")) else {}),
        **({"searched": True} if searched else {}),
        "layers": dict(layers),
    }
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def laid_over(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with the plan's layers, method and options; samples are parted as they were for it."""
    method = recipe.quantization
    if plan.method:
        method = Choice(name=registry.resolve("method", plan.method), options=dict(plan.options))
    target = recipe.target
    if plan.rest and plan.target == target.name:
        target = replace(target, options={**target.options, "rest": plan.rest})
    search = recipe.search or (Search() if plan.searched else None)
    return replace(recipe, plan=plan.layers, quantization=method, target=target, search=search)


def resolved(
    plan: Mapping[str, str], modules: Mapping[str, str], others: Collection[str] = ()
) -> dict[str, str]:
    """The plan by ONNX node; `modules` holds every layer's node and the PyTorch module it is of.

    `others` are nodes that a plan may name too: products of two activations, which stay float.

    Raises:
        UsageError: a name is neither a layer nor a module with layers.
    """
    found: dict[str, str] = {}
    for name, precision in sorted(plan.items(), key=lambda item: (item[0] in modules, len(item[0]))):
        layers = [name] if name in modules else [node for node, at in modules.items() if _inside(at, name)]
        layers = layers or [name] * (name in others)
        if not layers:
            raise _unknown(name, modules)
        found.update(dict.fromkeys(layers, precision))
    return found


def _inside(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _unknown(name: str, modules: Mapping[str, str]) -> UsageError:
    known = [*modules, *filter(None, modules.values())]
    close = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        f"the plan names an unknown layer {name!r}",
        f"did you mean {close[0]!r}?" if close else f"the layers are {_some(modules)}",
    )


def _some(names: Iterable[str], most: int = 6) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def rest_of(plan: Mapping[str, str]) -> str:
    """The one floating precision of a plan, which its engine computes the rest in; empty: none is named.

    Raises:
        UnsupportedError: the plan names more than one.
    """
    floating = sorted({precision for precision in plan.values() if precision != "int8"})
    if len(floating) > 1:
        raise UnsupportedError(
            f"the plan has layers in {' and in '.join(floating)}: an engine computes what is not int8 in one",
            "give one floating precision to all of them",
        )
    return floating[0] if floating else ""
