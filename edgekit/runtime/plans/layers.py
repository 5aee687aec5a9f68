"""Which layer runs in which precision, from the engine inspector or from the builder's verbose log.

The log is read where no engine can be opened: a plan that was built without a GPU.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterable, List, Mapping, Sequence, Set

from ..engines import Layer, precision_name

_COMPUTE = re.compile(
    r"conv|correlation|gemm|matrix_?multiply|matmul|fullyconnected|rnn|mha|attention|runtime_fusion"
    r"|myelin|foreignnode|dla",
    re.IGNORECASE,
)
_FUSED = re.compile(r"gemm|mha|Fc[A-Z_]|Fc$|Dot|Conv|MulSum|Corr")
"""Names of generated kernels (`kgen`) that hold a product: the others move data or do arithmetic."""

_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]+), Inputs: \[(?P<rest>.*)$")
_OLD_LINE = re.compile(r"^Layer\((?P<type>[^)]*)\): (?P<name>.*?), Tactic: [^,]*, (?P<inputs>.*?) -> ")
_END_OF_INPUTS = re.compile(r"\](?=, (Constants|Outputs): \[)")
_DATATYPE = re.compile(r"Datatype: ([^,}\]]+)")
_OLD_DATATYPE = re.compile(r"\((\w+)\[")
_WEIGHTS = re.compile(r"Weights: \{\"?Type\"?: \"?(\w+)")
_TACTIC = re.compile(r"TacticName: ([^,]*)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SUBGRAPH = re.compile(r"_myl(\d+)_\d+$")
_LATER_PROFILE = re.compile(r"\[profile [1-9]\d*\]")
_KINDS = ("int8", "fp16", "bf16", "fp32", "fp8", "int4", "fp4")
_TACTIC_KINDS = (
    ("int8", "i8i8|int8|s8s8"),
    ("fp16", "f16f16|h884|h1688|h16816|fp16|half"),
    ("fp32", "f32f32|sgemm"),
)


def from_inspector(text: str) -> List[Layer]:
    """The layers of an engine from its inspector's JSON; the engine holds details or names alone.

    An engine built without detailed profiling tells names only: their precision is `undefined`.
    """
    told = json.loads(text)
    told = told.get("Layers", []) if isinstance(told, dict) else told
    return _compute([_told(one) if isinstance(one, dict) else _named(str(one)) for one in told])


def from_log(messages: Iterable[str]) -> List[Layer]:
    """The layers from verbose messages; those of the last build that they tell of, first profile."""
    lines = [line.strip() for message in messages for line in message.splitlines()]
    found = [_line(line) for line in lines if line.startswith(("Name: ", "Layer("))]
    return _compute([one for one in found if one is not None])


class _Found:
    """A layer before it is known whether it counts; `text` is all that was said of it."""

    def __init__(self, name: str, kind: str, types: Sequence[str], text: str) -> None:
        self.name, self.kind, self.types, self.text = name, kind, types, text
        subgraph = _SUBGRAPH.search(name)
        self.subgraph = subgraph.group(1) if subgraph else ""


def _told(one: Mapping[str, Any]) -> _Found:
    types = [_type_of(tensor) for tensor in one.get("Inputs", []) if isinstance(tensor, dict)]
    weights = one.get("Weights")
    if not _known(types) and isinstance(weights, dict):
        types.append(str(weights.get("Type", "")))
    text = json.dumps(one, ensure_ascii=False)
    if not _known(types):
        types.append(_tactic_type(str(one.get("TacticName", ""))))
    return _Found(str(one.get("Name", "")), str(one.get("LayerType", "")), types, text)


def _type_of(tensor: Mapping[str, Any]) -> str:
    return str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format") or "")


def _named(name: str) -> _Found:
    return _Found(name, "conv" if _COMPUTE.search(name) else "", ["undefined"], name)


def _line(line: str) -> "_Found | None":
    old = _OLD_LINE.match(line)
    if old:
        return _Found(old.group("name"), old.group("type"), _OLD_DATATYPE.findall(old.group("inputs")), line)
    found = _LINE.match(line)
    if not found:
        return None
    inputs = _END_OF_INPUTS.split(found.group("rest"))[0]
    types = _DATATYPE.findall(inputs)
    if not _known(types):
        types += _WEIGHTS.findall(line)
    if not _known(types):
        types += [_tactic_type(name) for name in _TACTIC.findall(line)]
    return _Found(found.group("name"), found.group("type"), types, line)


def _compute(found: Sequence[_Found]) -> List[Layer]:
    later: Set[str] = {one.subgraph for one in found if _LATER_PROFILE.search(one.text)} - {""}
    return [
        Layer(_plain_name(one), one.kind, _precision(one.types))
        for one in found
        if one.subgraph not in later and not _LATER_PROFILE.search(one.name) and _counts(one)
    ]


def _counts(one: _Found) -> bool:
    heavy = _COMPUTE.search(one.kind) or (one.kind == "kgen" and _FUSED.search(one.name))
    return bool(heavy) and bool(_known(one.types) or "undefined" in one.types)


def _plain_name(one: _Found) -> str:
    """The ONNX node's name: what TensorRT adds to it is taken off, what it makes up is looked up."""
    name = _SUBGRAPH.sub("", one.name)
    origin = _ONNX.search(one.text)
    if origin and name.startswith(("__myl", "_gemm", "{ForeignNode", "$$")):
        return origin.group(1)
    return name


def _precision(types: Sequence[str]) -> str:
    """The precision of the data that a layer reads: int8 when any of it is."""
    known = _known(types)
    return "int8" if "int8" in known else known[0] if known else "undefined"


def _known(types: Sequence[str]) -> List[str]:
    """`Channel major FP16 format where channel % 8 == 0` is fp16: the word that names a type."""
    words = [precision_name(word) for text in types for word in text.split()]
    return [word for word in words if word in _KINDS]


def _tactic_type(name: str) -> str:
    """The type that a kernel's name tells, where dynamic shapes hide the format."""
    for kind, pattern in _TACTIC_KINDS:
        if re.search(pattern, name):
            return kind
    return ""
