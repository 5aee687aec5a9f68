"""What there is to choose from: listing a folder is the registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.runtime.errors import MissingPackageError, UsageError

PACKAGE = Path(__file__).parent
FOLDERS = {
    "model": "models",
    "task": "tasks",
    "data": "data",
    "method": "quantization",
    "target": "targets",
    "host": "hosts",
}
DISTRIBUTION = "edgekit-deploy"
EXTRAS = {
    "torch": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
}


def recipes_folder() -> Path:
    """The folder of the built-in recipes: inside the wheel, or beside the package in a checkout."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "recipes"


def names(kind: str) -> tuple[str, ...]:
    """All names of a kind, sorted. Kinds: those of FOLDERS, and `board` and `recipe`."""
    if kind == "recipe":
        return _stems(recipes_folder().glob("*.toml"))
    if kind == "board":
        return _stems((PACKAGE / "profiles").glob("[!_]*.toml"))
    return _stems(path for path in (PACKAGE / FOLDERS[kind]).glob("*.py") if not path.stem.startswith("_"))


def _stems(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in paths))


def is_recipe(name: str) -> bool:
    """Whether `name` stands for a built-in recipe."""
    return name.replace("-", "_") in names("recipe")


def resolve(kind: str, name: str) -> str:
    """The listed name that `name` stands for; `-` and `_` are the same.

    Raises:
        UsageError: there is no such name; the hint is the nearest one.
    """
    found = name.strip().replace("-", "_")
    known = {known_name.replace("-", "_"): known_name for known_name in names(kind)}
    if found in known:
        return known[found]
    raise UsageError(f"there is no {kind} called {name!r}", did_you_mean(found, known.values()))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or with all of them."""
    every = sorted(known)
    near = difflib.get_close_matches(name, every, n=1)
    return f"did you mean {near[0]!r}?" if near else "choose one of: " + ", ".join(every)


def load(kind: str, name: str) -> Any:
    """The plug-in module of a name.

    Raises:
        UsageError: there is no such name.
        MissingPackageError: the module needs a package that is not installed.
    """
    stem = resolve(kind, name)
    return importing(lambda: import_module(f"edgekit.{FOLDERS[kind]}.{stem}"))


def importing(action: Callable[[], ModuleType]) -> ModuleType:
    """Run an import; a missing third-party package becomes one sentence with the pip command."""
    try:
        return action()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "edgekit":
            raise
        raise missing(error.name.split(".")[0]) from error


def missing(package: str) -> MissingPackageError:
    """The error to raise for a package that is not installed."""
    return MissingPackageError(f"the package {package!r} is not installed", install_command(package))


def install_command(package: str) -> str:
    """The pip command that brings an import name."""
    extra = EXTRAS.get(package)
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {package}"


def require(packages: Iterable[str]) -> None:
    """Raise MissingPackageError for the first package that cannot be found, without importing any."""
    for package in packages:
        if not available(package):
            raise missing(package)


def available(package: str) -> bool:
    """Whether a top-level package can be imported."""
    return find_spec(package) is not None
