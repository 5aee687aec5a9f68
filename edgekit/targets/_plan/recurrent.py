"""The weights of recurrent layers, which TensorRT computes in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.spec import Problem
from edgekit.targets._plan.graph import RECURRENT, Names, Scope, standard
from edgekit.targets._plan.report import cure
from edgekit.targets._recurrent import fold_weights, tidy

if TYPE_CHECKING:
    import onnx

RULE = "recurrent-weights"
_REASONS = {
    "LSTM": "TensorRT computes an LSTM in float: int8 weights would only be converted again and again",
    "GRU": "TensorRT-RTX 1.7 fails to build a GRU with int8 weights (tried), and none computes it in int8",
    "RNN": "TensorRT computes an RNN in float: int8 weights would only be converted again and again",
}


def float_weights(scope: Scope, names: Names) -> list[Problem]:
    """Fold int8 weights of recurrent layers back to float, with the same values."""
    folded = [node for node in scope.graph.node if _folded(node, scope)]
    if folded:
        tidy(scope.graph)
    done = "the weights are float constants of the same values"
    return [cure(node, RULE, _REASONS[node.op_type], done) for node in folded]


def _folded(node: onnx.NodeProto, scope: Scope) -> bool:
    wanted = node.op_type in RECURRENT and standard(node)
    return wanted and fold_weights(node, scope.graph, scope.constant, scope.maker)
