"""What each TensorRT's ONNX parser reads, as its makers say it.

Sources: the head of `docs/operators.md` of onnx-tensorrt in the releases 8.5, 8.6, 9.2, 10.0 and 10.15
(opset up to 17, 17, 19, 20 and 24), and its `docs/Changelog.md` for the operators that came later than
8.5. A release between two of them is taken for as able as the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.targets._plan.graph import nodes, opset_of, standard

if TYPE_CHECKING:
    import onnx

VERSIONS = ("8.5", "8.6", "10.0", "10.3", "10.7", "10.13", "10.16", "11.0", "11.4")
"""The TensorRT releases that edgekit builds for: those of JetPack 5 to 7 and the majors between."""
RTX = "rtx-1.7"
"""TensorRT-RTX, whose parser and builder are close to those of TensorRT 11."""
PARSER_OPSETS = {"8.5": 17, "8.6": 17, "9.2": 19, "10.0": 20, "10.15": 24}
ARRIVED = {
    "LayerNormalization": "8.6",
    "GroupNormalization": "8.6",
    "IsInf": "8.6",
    "Hardmax": "9.2",
    "DeformConv": "10.1",
    "BlackmanWindow": "10.4",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "STFT": "10.5",
    "Attention": "10.14",
    "RMSNormalization": "10.15",
    "RotaryEmbedding": "10.15",
    "TensorScatter": "10.15",
}
"""Operators that came later than 8.5, and when."""
_CLOSE_TO_RTX = (11, 0)


def number(version: str) -> tuple[int, ...]:
    """`10.3` as (10, 3), which compares as versions do; TensorRT-RTX counts as TensorRT 11."""
    return _CLOSE_TO_RTX if is_rtx(version) else tuple(int(part) for part in version.split(".")[:2])


def is_rtx(version: str) -> bool:
    """Whether `rtx-1.7` and not `10.3`."""
    return version.startswith("rtx")


def told(version: str) -> str:
    """The product's name: `TensorRT 10.3`, `TensorRT-RTX 1.7`."""
    return f"TensorRT-RTX {version.partition('-')[2]}" if is_rtx(version) else f"TensorRT {version}"


def parser_opset(version: str) -> int:
    """The newest opset that the parser of this version reads."""
    read = [opset for known, opset in PARSER_OPSETS.items() if number(known) <= number(version)]
    return max(read, default=min(PARSER_OPSETS.values()))


def oldest_for(model: onnx.ModelProto) -> str:
    """The first version whose parser reads the opset and knows every operator; the newest known for an
    opset that came after it."""
    used = {node.op_type for node in nodes(model.graph) if standard(node)}
    needed = [ARRIVED[kind] for kind in used & ARRIVED.keys()]
    read = [version for version, opset in PARSER_OPSETS.items() if opset >= opset_of(model)]
    needed += read[:1] or list(PARSER_OPSETS)[-1:]
    return max(needed, key=number)
