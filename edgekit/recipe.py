"""TOML and `--set key=value` become a frozen Recipe; every fault found is reported at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgekit import declare, registry
from edgekit.runtime.errors import BadFileError, EdgekitError, UsageError
from edgekit.sources import factory
from edgekit.spec import PRECISIONS, Choice, ExportOptions, Limits, Own, Recipe, Search

TABLES = (
    "network", "model", "task", "data", "train", "quantization", "export", "target", "limits", "plan",
    "search",
)  # fmt: skip
KINDS = {"model": "model", "task": "task", "data": "data", "quantization": "method", "target": "target"}
OWN_KINDS = ("quantization", "target")
"""The choices of a recipe for a user's own network, which brings its own data and metric."""
OBJECT = "object:"
"""Before the class of a network that was handed over in Python: it cannot be loaded by that name."""
NETWORK_KEYS = ("source", "folder", "inputs", "states", "preprocess", "metric", "decode", "labels")
SCALARS = ("name", "seed", "weights", "folders")
BUILT_IN = "built-in:"
"""Before the name of a weights file that lies beside the built-in recipes."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""Names become names of files and folders, so they cannot hold a path."""
TARGET_KEYS = ("name", "precision", "device", "board", "options")


def find(model: str) -> Path:
    """The recipe file that MODEL names: a path to a `.toml`, or a built-in name.

    Raises:
        BadFileError: the path does not exist.
        UsageError: there is no built-in of that name.
    """
    if model.endswith(".toml"):
        path = Path(model)
        if not path.is_file():
            raise BadFileError(f"the recipe {model} does not exist", "give the path of a .toml file")
        return path
    return registry.recipes_folder() / f"{_built_in(model)}.toml"


def with_weights() -> tuple[str, ...]:
    """The built-in recipes whose weights are there."""
    found = {name: tomllib.loads(find(name).read_text(encoding="utf-8")) for name in registry.names("recipe")}
    folder = registry.recipes_folder()
    return tuple(name for name, table in found.items() if (folder / table.get("weights", "")).is_file())


def _built_in(model: str) -> str:
    try:
        return registry.resolve("recipe", model)
    except UsageError as error:
        raise UsageError(f"there is no model called {model!r}", error.hint) from error


def read(model: str, overrides: Sequence[str] = (), target: str | None = None) -> Recipe:
    """The recipe that MODEL names, for `target` if there is one, with `key=value` overrides laid over it.

    Raises:
        BadFileError: the file cannot be read or is not TOML.
        UsageError: names every fault of the recipe and of the overrides.
    """
    path = find(model)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFileError(f"{path} is not a TOML file: {error}", "correct the line it names") from error
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror}") from error
    _aim(table, target)
    faults = [fault for override in overrides if (fault := _lay_over(table, override))]
    table.setdefault("name", path.stem)
    return parse(table, where=str(path), folder=path.parent, faults=faults)


def _aim(table: dict[str, Any], target: str | None) -> None:
    """Another target than the recipe's begins with that target's own options."""
    said = table.setdefault("target", {})
    if target is None or not isinstance(said, dict):
        return
    name = registry.resolve("target", target)
    if said.get("name") != name:
        said.pop("options", None)
    said["name"] = name


def _lay_over(table: dict[str, Any], override: str) -> str:
    """Set one dotted key in `table`; answers the fault, empty when there is none."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        return f"--set {override}: it must read key=value"
    *path, last = parts
    place: Any = table
    for part in path:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return f"--set {override}: {part} is a value, not a table"
    place[last] = _value(text.strip())
    return ""


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse(table: Mapping[str, Any], where: str, folder: Path, faults: Sequence[str] = ()) -> Recipe:
    """Check a table and freeze it.

    Raises:
        UsageError: names every fault at once.
    """
    found = [*faults, *_unknown(table, (*SCALARS, *TABLES), "")]
    own = _own(table, folder, found)
    wanted = KINDS if own is None else OWN_KINDS
    choices = {key: _choice(table, key, found) if key in wanted else Choice(name="") for key in KINDS}
    target = _table(table, "target", found)
    export, export_faults = build(ExportOptions, _table(table, "export", found), "export")
    limits, limit_faults = build(Limits, _table(table, "limits", found), "limits")
    found += [*export_faults, *limit_faults, *_limit_faults(limits)]
    search, search_faults = build(Search, _table(table, "search", found), "search")
    plan = _table(table, "plan", found)
    found += [*search_faults, *_plan_faults(plan)]
    precision = _text(target, "precision", "fp32", "target.precision", found)
    if precision not in PRECISIONS:
        found.append(_bad_precision(precision, "target.precision"))
    weights = _text(table, "weights", "", "weights", found)
    seed = table.get("seed", 0)
    if fault := seed_fault(seed):
        found.append(fault)
    name = _text(table, "name", "", "name", found)
    if not NAME.fullmatch(name):
        found.append(f"name: {name!r} is not made of letters, digits, '-', '_' and '.'")
    folders = _table(table, "folders", found)
    found += _unknown(folders, ("test", "calibration"), "folders.")
    if found:
        raise _faulty(where, found)
    return Recipe(
        name=name,
        **choices,
        train=dict(_table(table, "train", found)),
        export=export,
        precision=precision,
        limits=limits,
        device=_text(target, "device", "", "target.device", found),
        board=_text(target, "board", "", "target.board", found),
        seed=seed,
        weights=_inside(folder, weights) if weights else None,
        own=own,
        folders={split: Path(str(place)) for split, place in folders.items()},
        plan=dict(plan),
        search=search if "search" in table else None,
    )


def told(recipe: Recipe) -> dict[str, Any]:
    """The table that `parse` makes the same recipe of. Built-in weights stand by name, not by place."""
    kinds = ("quantization",) if recipe.own else ("model", "task", "data", "quantization")
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        **({"weights": _told_weights(recipe.weights)} if recipe.weights else {}),
        **({"network": _told_own(recipe.own)} if recipe.own else {}),
        **{key: asdict(getattr(recipe, key)) for key in kinds},
        "train": dict(recipe.train),
        "export": asdict(recipe.export),
        "target": {
            **asdict(recipe.target),
            "precision": recipe.precision,
            "device": recipe.device,
            "board": recipe.board,
        },
        "limits": {key: value for key, value in asdict(recipe.limits).items() if value is not None},
        "folders": {split: str(folder) for split, folder in recipe.folders.items()},
        **({"plan": dict(recipe.plan)} if recipe.plan else {}),
        **({"search": asdict(recipe.search)} if recipe.search else {}),
    }


def read_own(
    source: str, said: Mapping[str, Any], overrides: Sequence[str] = (), target: str | None = None
) -> Recipe:
    """The recipe for a network of the user's own, from what the command line says of it.

    `said` are the keys of `[network]`.

    Raises:
        UsageError: names every fault of what was said and of the overrides.
    """
    table: dict[str, Any] = {
        "name": _name_of(source),
        "network": {"source": source, **{key: value for key, value in said.items() if value}},
        "quantization": {"name": "ptq"},
        "target": {"name": "openvino"},
    }
    _aim(table, target)
    faults = [fault for override in overrides if (fault := _lay_over(table, override))]
    return parse(table, f"for {source}", Path.cwd(), faults)


def _name_of(source: str) -> str:
    """A name for files: `nets-make` of `package.nets:make`, a hub's name, or the file's without suffix."""
    place, _, name = source.rpartition(":")
    if factory.takes(source) and f"{place}:" != OBJECT:
        name = f"{place.rpartition('.')[2]}-{name}"
    elif not place:
        name = Path(source).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-") or "network"


def _own(table: Mapping[str, Any], folder: Path, faults: list[str]) -> Own | None:
    body = _table(table, "network", faults)
    if not body:
        return None
    faults += _unknown(body, NETWORK_KEYS, "network.")
    source = _text(body, "source", "", "network.source", faults)
    preprocess = _text(body, "preprocess", "", "network.preprocess", faults)
    labels = _text(body, "labels", "", "network.labels", faults)
    try:
        return Own(
            source=str((folder / source).resolve()) if _is_file(source) else source,
            folder=(folder / _text(body, "folder", ".", "network.folder", faults)).resolve(),
            inputs=declare.parse_inputs(_texts(body, "inputs", faults)),
            states=tuple(map(declare.parse_state, _texts(body, "states", faults))),
            preprocess=declare.parse_preprocess(preprocess) if preprocess else None,
            metric=_text(body, "metric", "", "network.metric", faults),
            decode=declare.parse_detection(_text(body, "decode", "", "network.decode", faults)),
            labels=(folder / labels).resolve() if labels else None,
        )
    except UsageError as error:
        faults.append(f"network: {error.message}; {error.hint}")
        return Own(source=source, folder=folder)


def _is_file(source: str) -> bool:
    return ":" not in source or Path(source).suffix in (".onnx", ".pt2")


def _texts(table: Mapping[str, Any], key: str, faults: list[str]) -> list[str]:
    value = table.get(key, [])
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    faults.append(f"network.{key}: {value!r} is not a list of texts")
    return []


def _told_own(own: Own) -> dict[str, Any]:
    return {
        "source": own.source,
        "folder": str(own.folder),
        "inputs": [declare.told_input(spec) for spec in own.inputs],
        "states": [f"{name}={output}" for name, output in own.states],
        "preprocess": declare.told_preprocess(own.preprocess) if own.preprocess else "",
        "metric": own.metric,
        "decode": declare.told_detection(own.decode),
        "labels": str(own.labels) if own.labels else "",
    }


def _told_weights(weights: Path) -> str:
    if weights.resolve().parent == registry.recipes_folder().resolve():
        return BUILT_IN + weights.name
    return str(weights.resolve())


def seed_fault(seed: Any) -> str:
    """Why a value is no seed; empty when it is one."""
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        return ""
    return f"seed: {seed!r} is not a whole number from 0 to {2**32 - 1}"


def _plan_faults(plan: Mapping[str, Any]) -> list[str]:
    return [
        f"plan.{layer}: there is no precision {precision!r}; one of {', '.join(PRECISIONS)}"
        for layer, precision in plan.items()
        if precision not in PRECISIONS
    ]


def _faulty(where: str, faults: Sequence[str]) -> UsageError:
    listed = "".join(f"\n  - {fault}" for fault in faults)
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return UsageError(f"the recipe {where} has {count}:{listed}", "correct them and run the command again")


def _inside(folder: Path, weights: str) -> Path:
    if weights.startswith(BUILT_IN):
        return registry.recipes_folder() / Path(weights.removeprefix(BUILT_IN)).name
    return Path(weights) if Path(weights).is_absolute() else folder / weights


def _bad_precision(precision: str, key: str) -> str:
    return f"{key}: there is no precision {precision!r}; {registry.did_you_mean(precision, PRECISIONS)}"


def _table(table: Mapping[str, Any], key: str, faults: list[str]) -> Mapping[str, Any]:
    value = table.get(key, {})
    if isinstance(value, Mapping):
        return value
    faults.append(f"{key}: it must be a table, [{key}]")
    return {}


def _text(table: Mapping[str, Any], key: str, default: str, name: str, faults: list[str]) -> str:
    value = table.get(key, default)
    if isinstance(value, str):
        return value
    faults.append(f"{name}: {value!r} is not text")
    return default


def _unknown(table: Mapping[str, Any], known: Sequence[str], prefix: str) -> list[str]:
    return [
        f"{prefix}{key}: there is no such key; {registry.did_you_mean(key, known)}"
        for key in table
        if key not in known
    ]


def _choice(table: Mapping[str, Any], key: str, faults: list[str]) -> Choice:
    """One of the choices of a recipe, its options checked against the plug-in's `Options`."""
    body = _table(table, key, faults)
    known = TARGET_KEYS if key == "target" else ("name", "options")
    faults += _unknown(body, known, f"{key}.")
    options = _table(body, "options", faults)
    name = body.get("name")
    if not isinstance(name, str):
        faults.append(f"{key}.name: it is missing" if name is None else f"{key}.name: {name!r} is not text")
        return Choice(name="", options=options)
    try:
        plugin = registry.load(KINDS[key], name)
    except UsageError as error:
        faults.append(f"{key}.name: {error.message}; {error.hint}")
        return Choice(name=name, options=options)
    if hasattr(plugin, "Options"):
        faults += build(plugin.Options, options, f"{key}.options")[1]
    return Choice(name=registry.resolve(KINDS[key], name), options=dict(options))


def options_of(plugin: Any, choice: Choice) -> Any:
    """The plug-in's own `Options`, made from what the recipe says."""
    made, faults = build(plugin.Options, choice.options, choice.name)
    if faults:
        raise _faulty(choice.name, faults)
    return made


def build(kind: type[Any], table: Mapping[str, Any], where: str) -> tuple[Any, list[str]]:
    """A dataclass from a table, and every fault: unknown keys, missing keys, wrong types, refused values."""
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    faults = _unknown(table, tuple(known), f"{where}.")
    values = {}
    for key, item in known.items():
        if key in table:
            value = _as_declared(table[key], hints[key])
            values[key] = value
            if not fits(value, hints[key]):
                faults.append(f"{where}.{key}: {table[key]!r} is not {describe(hints[key])}")
        elif item.default is MISSING and item.default_factory is MISSING:
            faults.append(f"{where}.{key}: it is missing")
    if not faults:
        try:
            return kind(**values), []
        except (ValueError, EdgekitError) as error:
            faults.append(f"{where}: {error}")
    return None, faults


def _as_declared(value: Any, hint: Any) -> Any:
    """TOML has lists and no tuples, and writes 1 where a float is meant."""
    if isinstance(value, Mapping) and _is_mapping(hint) and get_args(hint):
        return {key: _as_declared(item, get_args(hint)[1]) for key, item in value.items()}
    if isinstance(value, list) and _names(hint, tuple):
        return tuple(_as_declared(item, get_args(hint)[0] if get_args(hint) else Any) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and not fits(value, hint) and fits(0.0, hint):
        return float(value)
    return value


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _names(hint: Any, kind: type) -> bool:
    return hint is kind or get_origin(hint) is kind


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; for the few types that options are made of."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if _is_mapping(hint):
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return value is None if hint is NoneType else isinstance(value, hint)


def describe(hint: Any) -> str:
    """A type annotation in plain words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(describe(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is tuple:
        return f"a list, each {describe(get_args(hint)[0])}"
    if _is_mapping(hint) and get_args(hint)[1:] not in ((), (Any,)):
        return f"a table, each {describe(get_args(hint)[1])}"
    return words.get(hint, "a table")


def _limit_faults(limits: Limits | None) -> list[str]:
    if limits is None:
        return []
    faults = [
        f"limits.{table}: {_bad_precision(precision, precision)}"
        for table in ("rel_l2", "agreement")
        for precision in getattr(limits, table)
        if precision not in PRECISIONS
    ]
    faults += [
        f"limits.rel_l2.{precision}: {limit} is not above 0"
        for precision, limit in limits.rel_l2.items()
        if not limit > 0
    ]
    faults += [
        f"limits.outputs.{name}: {limit} is not above 0"
        for name, limit in limits.outputs.items()
        if not limit > 0
    ]
    faults += [
        f"limits.agreement.{precision}: {limit} is not from 0 to 1"
        for precision, limit in limits.agreement.items()
        if not 0 <= limit <= 1
    ]
    if not 0 < limits.max_drop <= 1:
        faults.append(
            f"limits.max_drop: {limits.max_drop} is not above 0 and at most 1 (0.005 is half a point)"
        )
    return faults
