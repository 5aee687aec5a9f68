"""The habits that keep the house in order: linters, floors, what travels, and what a plug-in defines."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.main import get_command

from edgekit import registry, spec
from edgekit.recipe import with_weights
from edgekit.runtime import errors
from edgekit.runtime.engines import engine_kinds
from edgekit.runtime.manifest import sha256_of

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "edgekit" / "runtime"
TRAVELS = sorted(RUNTIME.rglob("*.py"))
ENGINES_AND_TOOLS = ("torch", "onnx", "openvino", "onnxruntime", "nncf")
HEAVY = (*ENGINES_AND_TOOLS, "numpy", "pydantic")
MAY_TRAVEL = {"numpy", "PIL"}
PROTOCOLS: dict[str, type[Any]] = {
    "model": spec.ModelPlugin,
    "task": spec.TaskPlugin,
    "data": spec.DataPlugin,
    "method": spec.QuantizationPlugin,
    "target": spec.TargetPlugin,
}
PLUGINS = [(kind, name) for kind in PROTOCOLS for name in registry.names(kind)]
OPTIONAL = {"states"}
MB = 1_000_000


def clean(tool: str, *arguments: str) -> None:
    """Run a tool of this environment on the checkout: it must find nothing."""
    command = [str(Path(sysconfig.get_path("scripts"), tool)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Linters, so that `pytest` is the one command that says whether the house is in order.


def test_ruff_finds_nothing() -> None:
    clean("ruff", "check", "--no-cache", ".")


def test_the_code_is_formatted() -> None:
    clean("ruff", "format", "--check", "--no-cache", ".")


def test_mypy_finds_nothing() -> None:
    clean("mypy")


def test_imports_go_down_only() -> None:
    clean("lint-imports", "--no-cache")


# Heavy packages are imported where they are used.


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        ("--help", HEAVY),
        ("compile --help", (*ENGINES_AND_TOOLS, "numpy")),
        ("list models", ENGINES_AND_TOOLS),
        ("list targets", ENGINES_AND_TOOLS),
    ],
)
def test_what_costs_nothing_imports_nothing_heavy(arguments: str, forbidden: tuple[str, ...]) -> None:
    program = (
        "import sys; from edgekit.cli.app import run\n"
        f"code = run({arguments.split()!r}); print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert done.stdout.strip()
    assert set(modules).isdisjoint(forbidden)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, edgekit; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert set(modules.stdout.split()).isdisjoint(HEAVY)


# What travels to the board.


@pytest.mark.parametrize("path", TRAVELS, ids=lambda path: path.relative_to(RUNTIME).as_posix())
def test_what_travels_is_python_3_8_and_closed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    depth = len(path.relative_to(RUNTIME).parts)
    for level, module in _imports(tree):
        if level:
            assert level <= depth, f"{module} is outside the runtime"
        else:
            assert module in sys.stdlib_module_names | MAY_TRAVEL


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Level of each import (0 is absolute) and its first name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, (node.module or "").split(".")[0]


def test_what_travels_calls_nothing_newer_than_python_3_8() -> None:
    clean("vermin", "--target=3.8-", "--no-tips", "--violations", "--quiet", str(RUNTIME))


# Plug-ins: listing the folder is the registry.


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("model", {"cnn", "crnn"}),
        ("task", {"classify", "recognize"}),
        ("data", {"digits", "text_lines"}),
        ("method", {"ptq"}),
        ("target", {"onnxruntime", "openvino", "pytorch", "tensorrt"}),
        ("recipe", {"cnn", "crnn", "crnn_small"}),
    ],
)
def test_the_listings_hold_what_is_shipped(kind: str, expected: set[str]) -> None:
    assert expected <= set(registry.names(kind))


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_defines_what_its_protocol_asks_for(kind: str, name: str) -> None:
    plugin, protocol = registry.load(kind, name), PROTOCOLS[kind]
    assert plugin.__doc__
    for member, hint in _constants(protocol).items():
        value = getattr(plugin, member)
        if member == "TINY":
            assert isinstance(value, plugin.Options)
        else:
            assert is_dataclass(value) if member == "Options" else isinstance(value, hint)
    for member, wanted in _functions(protocol).items():
        if member in OPTIONAL and not hasattr(plugin, member):
            continue
        assert _positions(getattr(plugin, member)) == _positions(wanted) - 1, f"{member} of {name}"


def _constants(protocol: type[Any]) -> dict[str, type]:
    hints = get_type_hints(protocol)
    return {member: getattr(hint, "__origin__", hint) for member, hint in hints.items()}


def _functions(protocol: type[Any]) -> dict[str, Any]:
    return {
        name: said
        for name, said in vars(protocol).items()
        if inspect.isfunction(said) and not name.startswith("_")
    }


def _positions(function: Any) -> int:
    """How many arguments must be given by position."""
    return sum(item.default is item.empty for item in inspect.signature(function).parameters.values())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in PLUGINS if kind != "task"])
def test_options_are_frozen_and_have_defaults(kind: str, name: str) -> None:
    options = registry.load(kind, name).Options
    assert options.__dataclass_params__.frozen
    assert options() == options()


@pytest.mark.parametrize("name", registry.names("target"))
def test_a_target_has_two_halves(name: str) -> None:
    target = registry.load("target", name)
    assert {"device", "threads"} <= {field.name for field in fields(target.Options)}
    assert set(target.PRECISIONS) <= set(spec.PRECISIONS)
    assert name in engine_kinds()
    runner = importlib.import_module(f"edgekit.runtime.engines.{name}")
    assert inspect.signature(runner.open_engine).parameters.keys() == {"path", "options"}


# Errors and their exit codes.


def test_each_error_has_its_own_exit_code() -> None:
    expected = {
        errors.UsageError: ("usage", 2),
        errors.MissingPackageError: ("missing-package", 3),
        errors.UnsupportedError: ("unsupported", 4),
        errors.HardwareError: ("hardware", 5),
        errors.BadFileError: ("bad-file", 6),
        errors.SystemRefusedError: ("system", 7),
        errors.EdgekitError: ("bug", 70),
    }
    said = vars(errors).values()
    defined = {item for item in said if isinstance(item, type) and issubclass(item, errors.EdgekitError)}
    assert defined == set(expected)
    assert {error: (error.code, error.exit_code) for error in defined} == expected


# Documents say what is so.


def test_the_manual_names_every_verb_and_every_option() -> None:
    from edgekit.cli.app import VERBS, app

    manual = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    command: Any = get_command(app)
    assert set(VERBS) == set(command.commands)
    for verb, said in command.commands.items():
        assert f"`edgekit {verb} " in manual or f"`edgekit {verb}`" in manual
        for option in (name for item in said.params for name in item.opts if name.startswith("-")):
            assert f"`{option}`" in manual or f"`{option} " in manual, option


def test_the_manual_names_every_error() -> None:
    manual = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    every: list[type[errors.EdgekitError]] = [errors.EdgekitError, *errors.EdgekitError.__subclasses__()]
    for error in every:
        assert f"| {error.exit_code} | `{error.code}` |" in manual


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme, script = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    first, second = re.findall(r"```sh\n(.*?)\n```", readme, re.DOTALL)[:2]
    assert first in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert first.split(" && ")[2].removeprefix("pip install ") in script
    assert first.split(" && ")[3] in script
    assert f"\n{second}\n" in script


def test_every_direct_dependency_has_one_version_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {re.split(r"[\[<>=~ ]", item)[0] for group in groups for item in group}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert asked - {"edgekit-deploy", "tensorrt"} <= pinned


# What the repository carries.


def test_recipes_say_how_to_run_them_and_end_in_a_proof() -> None:
    for name in registry.names("recipe"):
        text = (registry.recipes_folder() / f"{name}.toml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"edgekit compile {name} " in text


@pytest.mark.parametrize("name", with_weights())
def test_carried_weights_are_small_and_tell_where_they_come_from(name: str) -> None:
    weights = registry.recipes_folder() / f"{name}.safetensors"
    told = json.loads(weights.with_name(f"{name}.provenance.json").read_text(encoding="utf-8"))
    assert weights.stat().st_size <= (8 if name == "crnn" else 2) * MB
    assert told["sha256"] == sha256_of(weights)
    assert {"command", "seed", "sources", "versions", "scores", "parameters"} <= set(told)
    assert all(source["name"] and source["licence"] for source in told["sources"])
    assert told["scores"]["test"]["n"] >= 1000


def test_the_repository_stays_small() -> None:
    assert sum(path.stat().st_size for path in _carried()) <= 40 * MB


def test_no_file_names_a_place_that_others_do_not_have() -> None:
    """No path of one machine, no package registry by its host: pip's own settings say where to look."""
    hosts = [f"pypi.{end}" for end in ("org", "io")] + [f"files.python{'hosted'}.org", f"npm{'js'}.com"]
    places = [f"/{folder}/" for folder in ("work", "home", "root")]
    forbidden = re.compile(
        "|".join([*map(re.escape, hosts), *(rf"(?<![\w.$}}]){place}" for place in places)])
    )
    for path in _carried():
        if path.suffix in (".safetensors", ".png", ".npz", ".gif", ".gz"):
            continue
        found = forbidden.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found and found.group()}"


def _carried() -> list[Path]:
    """Every file of the checkout that git tracks or would track."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert files
    return [path for path in files if path.is_file()]
