"""`package.module:function`: a network that a user's own function makes, weights included."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import UsageError
from edgekit.sources._words import blamed, meant, prints_aside

if TYPE_CHECKING:
    from torch import nn

    from edgekit.spec import Found, Own, Sample

_SOURCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FILE = re.compile(r"[^:]+\.py:[A-Za-z_][\w.]*")
_HUBS = ("timm", "hf")
_foreign: dict[str, Path] = {}
"""Modules that were imported from a user's folder, and from which."""


def takes(source: str) -> bool:
    """Whether `source` is `package.module:function`."""
    return source.partition(":")[0] not in _HUBS and bool(
        _SOURCE.fullmatch(source) or _FILE.fullmatch(source)
    )


def load(own: Own, weights: Path | None, samples: Sequence[Sample]) -> Found:
    """Make the network and find out what it takes and returns.

    `weights` are not read here: a caller that has some puts them in between `make` and `describe`.

    Raises:
        UsageError: it cannot be imported, made or run; the user's file and line are in the message.
        UnsupportedError: it is no network that can be exported.
    """
    return describe(own, make(own), samples)


def make(own: Own) -> nn.Module:
    """The user's own module, in evaluation mode, in float32, on the CPU.

    Raises:
        UsageError: no such module or function, or the user's code fails.
        UnsupportedError: the function returns something else than a PyTorch module in Python.
    """
    from edgekit.sources._describe import prepared

    name, _, attribute = own.source.partition(":")
    if name.endswith(".py"):
        dotted = name[:-3].replace("\\", "/").strip("./").replace("/", ".")
        raise UsageError(f"{own.source!r} names a file, not a module", f"write it as {dotted}:{attribute}")
    with _importing(own.folder), prints_aside():
        function = _attribute(_imported(name, own.folder), attribute)
        network = _made(function, own.source)
    ready = prepared(network, own.source)
    _carry_declarations(function, ready)
    return ready


def describe(own: Own, module: nn.Module, samples: Sequence[Sample], names: Sequence[str] = ()) -> Found:
    """What a module takes and returns; `names` are those of a sample's arrays, if the data has names.

    Raises:
        UsageError: nothing says what it takes, it fails when run, or a state is not there.
        UnsupportedError: what it returns, keeps or changes cannot be deployed.
    """
    from edgekit.sources._describe import described

    return described(own, module, samples, names)


@contextlib.contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Imports from `folder` first; what another folder's module of the same name left is forgotten."""
    place = folder.resolve()
    for name in [name for name, origin in _foreign.items() if origin != place]:
        sys.modules.pop(name, None)
        del _foreign[name]
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        fresh = [name for name in set(sys.modules) - known if _is_users(name, place)]
        _foreign.update(dict.fromkeys(fresh, place))


def _is_users(name: str, folder: Path) -> bool:
    """Whether a module lies in the folder itself, not in an environment that is inside it."""
    path = Path(getattr(sys.modules.get(name), "__file__", None) or "")
    return (
        path.is_file()
        and path.is_relative_to(folder)
        and "site-packages" not in path.parts
        and name.partition(".")[0] != "edgekit"
    )


def _imported(name: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r} in {folder}", _near(error.name, folder)
            ) from error
        hint = "correct that line, or run edgekit where it can be imported"
        if isinstance(error, ModuleNotFoundError):
            hint = f"install the package that has {error.name!r}, or correct the import"
        raise UsageError(f"{name} cannot be imported: {blamed(error)}", hint) from error


def _near(name: str, folder: Path) -> str:
    files = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
    return meant(name.rpartition(".")[2], files) or "run edgekit in the folder that the module is in"


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module.__name__} has no {part!r}", meant(part, _callables(found)))
        found = getattr(found, part)
    return found


def _callables(owner: Any) -> list[str]:
    """What the user's own code defines there, not what it imports."""
    home = getattr(owner, "__module__", None) or owner.__name__
    return [
        name
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == home
    ]


def _made(function: Any, source: str) -> Any:
    """What the function returns; an instance that stands there in its place is taken as it is."""
    from torch import nn

    if isinstance(function, nn.Module):
        return function
    if not callable(function):
        raise UsageError(
            f"{source} is an object of type {type(function).__name__}, not a function",
            "name a function that returns the network",
        )
    _refuse_arguments(function, source)
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{source} fails: {blamed(error)}", "correct the function, then run it again"
        ) from error


def _refuse_arguments(function: Any, source: str) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(
            f"{source} cannot be called without arguments: {error}",
            "name a function without arguments that returns the network with its weights",
        ) from error
    except ValueError:
        return


def _carry_declarations(function: Any, network: nn.Module) -> None:
    """`edgekit_inputs` and `edgekit_states` may stand on the function instead of the network."""
    for name in ("edgekit_inputs", "edgekit_states"):
        if hasattr(function, name) and not hasattr(network, name):
            setattr(network, name, getattr(function, name))
