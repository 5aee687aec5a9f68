"""Boards and chips as data: what `profiles/*.toml` say, checked, and what follows from it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_type_hints

from edgekit import registry
from edgekit.runtime.errors import UnsupportedError, UsageError

KINDS = ("jetson", "gpu", "intel")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "fp4")
TARGETS = ("tensorrt", "tensorrt_rtx", "openvino", "onnxruntime")
DEVICES = ("CPU", "GPU", "NPU")
USUAL_WORKSPACE_MB = 1024
LARGEST_WORKSPACE_MB = 4096

_FOLDER = registry.PACKAGE / "profiles"
_CAPABILITY = re.compile(r"(?:gpu)?[-_ ]?(?:sm)?[-_ ]?(\d{1,2})\.?(\d)")
_WORDS = {
    str: "text",
    bool: "true or false",
    tuple[str, ...]: "a list of texts",
    tuple[int, ...]: "a list of whole numbers",
}


@dataclass(frozen=True, kw_only=True)
class Release:
    """One JetPack: versions of Jetson Linux, TensorRT, CUDA and Python. Empty: not known."""

    l4t: str
    tensorrt: str
    cuda: str
    python: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """What a profile says.

    `memory_mb` has one size for each variant that is sold (empty: it depends), `dla_cores` the number of
    DLA cores of each. `precisions` are what the hardware computes at speed. `software` are releases:
    of JetPack for a Jetson, of TensorRT for a GPU. `device` is OpenVINO's name for an Intel one.
    """

    name: str
    title: str
    kind: str
    supported: bool
    memory_mb: tuple[int, ...]
    precisions: tuple[str, ...]
    targets: tuple[str, ...]
    software: tuple[str, ...]
    avoid: tuple[str, ...]
    sources: tuple[str, ...]
    reason: str = ""
    compute_capability: str = ""
    memory_shared: bool = False
    dla_cores: tuple[int, ...] = ()
    device: str = ""
    unconfirmed: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """The names of all boards."""
    return registry.names("board")


def read(name: str) -> Board:
    """The profile of a board, or of a GPU by its compute capability (`8.6`, `gpu-8.6`, `sm86`).

    Raises:
        UsageError: there is no such board, or its file has faults; all of them are named.
    """
    found = _resolve(name)
    return parse(found, _table(found))


def parse(name: str, table: Mapping[str, Any]) -> Board:
    """The board that a profile's table describes.

    Raises:
        UsageError: the table has faults; all of them are named.
    """
    values, faults = _typed(Board, {"name": name, **table})
    faults = faults or list(_faults(Board(**values)))
    if faults:
        raise _faulty(name, faults)
    return Board(**values)


def releases() -> dict[str, Release]:
    """Every JetPack by its version, oldest first.

    Raises:
        UsageError: the table has faults; all of them are named.
    """
    found: dict[str, Release] = {}
    faults = []
    for version, table in _table("_jetpack").get("release", {}).items():
        values, wrong = _typed(Release, table)
        faults += [f"release.{version}: {fault}" for fault in wrong]
        if not wrong:
            found[version] = Release(**values)
    if faults:
        raise _faulty("_jetpack", faults)
    return {version: found[version] for version in sorted(found, key=_number)}


def versions(board: Board) -> tuple[str, ...]:
    """The TensorRT versions that a board can have, oldest first; none where TensorRT does not run."""
    if board.kind == "jetson":
        known = releases()
        return tuple(sorted({known[version].tensorrt for version in board.software}, key=_number))
    return tuple(sorted(board.software, key=_number)) if board.kind == "gpu" else ()


def workspace_mb(board: Board) -> int:
    """What a TensorRT builder may use, in MB.

    Where CPU and GPU share the memory an eighth of the smallest variant, 4096 at most: system, libraries,
    network and engine need their part of it at the same time.
    """
    if not (board.memory_shared and board.memory_mb):
        return USUAL_WORKSPACE_MB
    return min(min(board.memory_mb) // 8, LARGEST_WORKSPACE_MB)


def refuse(board: Board, target: str) -> None:
    """Raise UnsupportedError when a target cannot go to a board; the hint is the way out."""
    wanted = target.replace("-", "_")
    if not board.supported:
        message = f"{board.title} is not supported: {board.reason}"
        raise UnsupportedError(message, "choose another board: edgekit list boards")
    if wanted in board.targets:
        return
    if wanted == "tensorrt_rtx" and board.kind == "jetson":
        message = f"TensorRT-RTX does not run on {board.title}, and its engines load in TensorRT-RTX only"
        raise UnsupportedError(
            message, "use --target tensorrt: it writes a kit, and the board builds the engine"
        )
    choice = " or ".join(board.targets).replace("_", "-")
    raise UnsupportedError(f"{wanted} is no target for {board.title}", f"use --target {choice}")


def _resolve(name: str) -> str:
    spelt = _CAPABILITY.fullmatch(name.strip().lower())
    if spelt is None:
        return registry.resolve("board", name)
    capability = ".".join(spelt.groups())
    every = {board: _table(board).get("compute_capability", "") for board in names()}
    found = [board for board, has in every.items() if has == capability]
    if len(found) == 1:
        return found[0]
    said = "several boards have" if found else "there is no board with"
    hint = "choose one of: " + ", ".join(found or (board for board, has in every.items() if has))
    raise UsageError(f"{said} compute capability {capability}", hint)


def _table(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _faulty(name, [str(error)]) from error


def _typed(kind: type[Any], table: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a dataclass, lists as tuples, and every fault of key or type."""
    hints, values, faults = get_type_hints(kind), {}, []
    for key in table.keys() - hints.keys():
        faults.append(f"{key}: there is no such key; {registry.did_you_mean(key, hints)}")
    for item in fields(kind):
        if item.name not in table:
            if item.default is MISSING:
                faults.append(f"{item.name}: it is missing")
            continue
        value = table[item.name]
        if not _fits(value, hints[item.name]):
            faults.append(f"{item.name}: {value!r} is not {_WORDS[hints[item.name]]}")
        values[item.name] = tuple(value) if isinstance(value, list) else value
    return values, sorted(faults)


def _fits(value: Any, hint: Any) -> bool:
    if get_args(hint):
        return isinstance(value, list) and all(type(item) is get_args(hint)[0] for item in value)
    return isinstance(value, hint)


def _faults(board: Board) -> Iterator[str]:
    """What a profile of the right types says wrongly."""
    yield from _strangers("kind", (board.kind,), KINDS)
    yield from _strangers("precisions", board.precisions, PRECISIONS)
    yield from _strangers("targets", board.targets, TARGETS)
    if board.kind == "jetson":
        yield from _strangers("software", board.software, tuple(releases()))
        if len(board.dla_cores) != len(board.memory_mb):
            yield "dla_cores: one number is needed for each size in memory_mb"
    if board.kind == "gpu" and not all(map(_is_version, board.software)):
        yield f"software: {list(board.software)} are not TensorRT versions such as '10.3'"
    if board.kind == "intel":
        yield from _strangers("device", (board.device,), DEVICES)
    elif not _is_version(board.compute_capability):
        yield f"compute_capability: {board.compute_capability!r} is not a number such as '8.7'"
    if board.supported == bool(board.reason):
        yield "reason: it says why a board is not supported, and is left out where it is"
    if board.supported != bool(board.targets):
        yield "targets: a supported board has some, another has none"
    for key in ("title", "precisions", "sources"):
        if not getattr(board, key):
            yield f"{key}: it is empty"
    for sentence in board.avoid:
        if ": " not in sentence:
            yield f"avoid: {sentence!r} does not say why after a colon"


def _strangers(key: str, said: tuple[str, ...], known: tuple[str, ...]) -> Iterator[str]:
    for item in said:
        if item not in known:
            yield f"{key}: there is no {item!r}; {registry.did_you_mean(item, known)}"


def _is_version(text: str) -> bool:
    return re.fullmatch(r"\d+\.\d+", text) is not None


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _faulty(name: str, faults: list[str]) -> UsageError:
    listed = "".join(f"\n  - {fault}" for fault in faults)
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return UsageError(f"the profile {name}.toml has {count}:{listed}", f"correct {_FOLDER / name}.toml")
