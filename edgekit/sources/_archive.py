"""What is in a `.pt2` file, read so that nothing in it can run.

torch.export.load runs what it reads: it unpickles tensors that are no plain ones, and example inputs
that a restricted unpickler refuses; it loads compiled libraries; sizes are read by sympy, which
evaluates them, and any function below `torch` may stand in the graph. So the whole file is looked at
first, with the same reader, and refused unless it holds nothing but operators and plain tensors.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.sources._words import told

_AGAIN = "save it again with torch.export.save(program, 'net.pt2')"
_MODEL = re.compile(r"models/(?P<name>\w+)\.json")
_RAW = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_CONFIG = re.compile(r"data/(weights|constants)/\w+_config\.json")
_SAVED = re.compile(r"data/(weights|constants|sample_inputs)/\w+\.pt")
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/.*|\.format_version|\.storage_alignment|extra/.*"
)
_HIGHER = ("cond", "while_loop", "scan", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast")
_SYMBOLIC = re.compile(r"torch\.sym_\w+|math\.(ceil|floor|trunc|sqrt|pow)")
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_SYMBOL = re.compile(r"[a-z]{1,4}\d+|oo|int_oo|True|False")
_QUOTED = re.compile(r"[a-z]{1,4}\d+|-?[\d.]+(e-?\d+)?")
_FUNCTION = re.compile(
    r"FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|PowByNatural|"
    r"FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|ToFloat|Identity|Max|Min|Eq|Ne|Ge|"
    r"Gt|Le|Lt|And|Or|Not|floor|ceiling|Abs|Piecewise|"
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|"
    r"Equality|Unequality"
)
_EXPRESSION = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name, ast.Constant,
    ast.keyword, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def read_program(path: Path) -> torch.export.ExportedProgram:
    """The one program of a `.pt2` file.

    Raises:
        BadFileError: truncated, no `.pt2`, written by a torch this one cannot read, or more in it than
            operators and plain tensors.
        UnsupportedError: operators or outputs that only the user's own code could give a meaning to.
    """
    from torch.export.pt2_archive._package import load_pt2

    content = path.read_bytes()
    name = _inspected(path, content)
    try:
        programs = load_pt2(io.BytesIO(content)).exported_programs
    except Exception as error:
        raise BadFileError(
            f"{path} cannot be read by torch {torch.__version__}: {told(error)}", _AGAIN
        ) from error
    return programs[name]


def _inspected(path: Path, content: bytes) -> str:
    """The name of the program in a file that holds nothing dangerous."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = {name: reader.get_record(name) for name in reader.get_all_records()}
    except (RuntimeError, ValueError) as error:
        raise BadFileError(f"{path} is truncated, or not a torch.export program", _AGAIN) from error
    if records.get("archive_format") != b"pt2":
        raise BadFileError(f"{path} is not a torch.export program", _AGAIN)
    for name, record in records.items():
        _inspect_record(path, name, record)
    models = [found["name"] for found in map(_MODEL.fullmatch, records) if found]
    if len(models) != 1:
        raise BadFileError(f"{path} holds {len(models)} programs, not one", "save one program in a file")
    return models[0]


def _inspect_record(path: Path, name: str, record: bytes) -> None:
    if _MODEL.fullmatch(name):
        _inspect_program(path, _json(path, name, record))
    elif _CONFIG.fullmatch(name):
        if any(part.get("use_pickle") for part in _dicts(_json(path, name, record))):
            raise BadFileError(f"{path}: {name} asks for a pickle", "save a program of plain tensors")
    elif _SAVED.fullmatch(name):
        _refuse_pickle(path, name, record)
    elif name.startswith("data/aotinductor"):
        raise BadFileError(f"{path} holds compiled code (AOTInductor)", _AGAIN)
    elif not (_RAW.fullmatch(name) or _PLAIN.fullmatch(name)):
        raise BadFileError(f"{path}: {name} has no place in a program of plain tensors", _AGAIN)


def _json(path: Path, name: str, record: bytes) -> Any:
    try:
        return json.loads(record)
    except ValueError as error:
        raise BadFileError(f"{path}: {name} is damaged ({error})", _AGAIN) from error


def _refuse_pickle(path: Path, name: str, record: bytes) -> None:
    """torch reads this record again in the same restricted way; only if that fails, without restriction."""
    if not record:
        return
    try:
        torch.load(io.BytesIO(record), weights_only=True)
    except Exception as error:
        raise BadFileError(f"{path}: {name} is a pickle with more than tensors", _AGAIN) from error


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object, however deep."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield current
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)


def _inspect_program(path: Path, program: Any) -> None:
    for part in _dicts(program):
        for key in ("as_custom_obj", "as_operator"):
            if part.get(key) is not None:
                raise UnsupportedError(
                    f"{path} holds an object of the user's own", "export plain tensors only"
                )
        if "target" in part and "inputs" in part:
            _inspect_operator(path, str(part["target"]))
        for spec in (part.get("in_spec"), part.get("out_spec")):
            if spec is not None:
                _inspect_container(path, _json(path, "a container", str(spec).encode()))
        if "expr_str" in part and not _is_arithmetic(str(part["expr_str"])):
            raise BadFileError(f"{path}: the size {str(part['expr_str'])[:60]!r} is no arithmetic", _AGAIN)


def _inspect_operator(path: Path, target: str) -> None:
    module, _, name = target.rpartition(".")
    known = (
        _ARITHMETIC.fullmatch(target)
        or (module == "torch.ops.higher_order" and name in _HIGHER)
        or _SYMBOLIC.fullmatch(target)
        or _is_aten(target)
    )
    if not known:
        raise UnsupportedError(
            f"{path}: the program calls {target}, which is not one of PyTorch's own operators",
            "write that part with PyTorch's operators, then export again",
        )


def _is_aten(target: str) -> bool:
    parts = target.split(".")
    if len(parts) != 5 or parts[:2] != ["torch", "ops"] or parts[2] not in ("aten", "prims"):
        return False
    packet = getattr(getattr(torch.ops, parts[2]), parts[3], None)
    writes_files = parts[3] == "from_file"
    return not writes_files and isinstance(getattr(packet, parts[4], None), torch._ops.OpOverload)


def _inspect_container(path: Path, spec: Any) -> None:
    for part in _dicts(spec):
        if "__enum__" in part:
            raise BadFileError(f"{path}: a container imports a module", _AGAIN)
        if "type" in part and part["type"] not in _CONTAINERS:
            raise UnsupportedError(
                f"{path}: the program takes or returns a {part['type']}",
                "export a network that takes and returns tensors, tuples, lists and dicts",
            )
        if isinstance(part.get("context"), str) and "__enum__" in part["context"]:
            raise BadFileError(f"{path}: a container imports a module", _AGAIN)


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func): node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return all(
        isinstance(node, _EXPRESSION) and _is_known(node, id(node) in called) for node in ast.walk(tree)
    )


def _is_known(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Name):
        return bool((_FUNCTION if called else _SYMBOL).fullmatch(node.id))
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) or bool(_QUOTED.fullmatch(str(node.value)))
    return not isinstance(node, ast.Call) or isinstance(node.func, ast.Name)
