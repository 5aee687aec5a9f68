"""A user's own function: imported from a folder, called, and blamed by file and line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.runtime.errors import UsageError

USER_FAULTS = (Exception, SystemExit)


def import_function(text: str, folder: Path) -> Callable[..., Any]:
    """What `module:function` names, the module looked for in `folder` first.

    Raises:
        UsageError: it cannot be imported, there is no such function, or it cannot be called; names
            the file and the line of the user's code.
    """
    module_name, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise UsageError(f"{text!r} is not MODULE:FUNCTION", "write it as my_metric:score")
    module = _imported(module_name, folder.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no function" if function is None else "has something that cannot be called as"
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {module_name}:{near[0]}?" if near else "check the name"
        raise UsageError(f"{module.__file__ or module_name} {what} {name!r}", hint)
    return function  # type: ignore[no-any-return]


def refuse_signature(function: Callable[..., Any], text: str, *parameters: str) -> None:
    """Raise UsageError for a function that cannot be called with these positional arguments."""
    try:
        inspect.signature(function).bind(*parameters)
    except TypeError as error:
        raise UsageError(
            f"{defined(function)}: {text} is called with ({', '.join(parameters)}): {error}",
            f"define it as def {text.rpartition(':')[2]}({', '.join(parameters)})",
        ) from error
    except ValueError:  # written in C: its parameters are not known
        return


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules of `folder` come before all others, and what their code prints goes to stderr."""
    place = str(folder)
    sys.path.insert(0, place)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if place in sys.path:
            sys.path.remove(place)


def _imported(name: str, folder: Path) -> ModuleType:
    aside = _put_aside(name.partition(".")[0], folder)
    try:
        with importable(folder):
            importlib.invalidate_caches()
            return importlib.import_module(name)
    except USER_FAULTS as error:
        sys.modules.update(aside)
        raise _import_error(name, folder, error) from error


def _put_aside(top: str, folder: Path) -> dict[str, ModuleType]:
    """Forget a module of the same name that came from elsewhere, so that the folder's is imported."""
    here = next((path for path in (folder / f"{top}.py", folder / top) if path.exists()), None)
    known = sys.modules.get(top)
    if known is None or here is None:
        return {}
    if top in sys.stdlib_module_names:
        raise UsageError(f"{here} has the name of a module of Python itself", "rename it")
    origin = next(iter(getattr(known, "__path__", ())), None) or getattr(known, "__file__", None)
    if origin and Path(origin).resolve().parent == folder:
        return {}
    family = [name for name in sys.modules if name == top or name.startswith(f"{top}.")]
    return {name: sys.modules.pop(name) for name in family}


def _import_error(name: str, folder: Path, error: BaseException) -> UsageError:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        known = [path.stem for path in folder.glob("*.py")]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "run the command in the folder of the module"
        return UsageError(f"there is no module {error.name!r} in {folder} or among the packages", hint)
    hint = "correct it there"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name!r}, or do without it"
    return UsageError(f"{name!r} cannot be imported: {told(error)}, at {blamed(error, folder)}", hint)


def told(error: BaseException) -> str:
    """The type of an error and the first line of what it says."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    first = said.strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def blamed(error: BaseException, folder: Path) -> str:
    """File and line of the user's code: where it is wrong, else the last frame inside `folder`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if folder.resolve() in Path(frame.filename).resolve().parents]
    machinery = ("<frozen", str(importlib.__file__), str(Path(__file__).parent))
    real = own or [frame for frame in frames if not frame.filename.startswith(machinery)]
    return f"{real[-1].filename}, line {real[-1].lineno}" if real else str(folder)


def defined(function: Callable[..., Any]) -> str:
    """File and line where a function, or the call of an object, is defined."""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)
