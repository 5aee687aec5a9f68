"""Recurrent layers of a torch.export program become layers again, so that the exporter keeps them whole.

A program holds `aten.lstm`, `aten.gru` and `aten.rnn` with their weights as arguments; an exporter
takes these apart step by step.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from edgekit.runtime.errors import UnsupportedError

_KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "aten.lstm.input": (nn.LSTM, {}),
    "aten.gru.input": (nn.GRU, {}),
    "aten.rnn_tanh.input": (nn.RNN, {"nonlinearity": "tanh"}),
    "aten.rnn_relu.input": (nn.RNN, {"nonlinearity": "relu"}),
}
_PACKED = ("aten.lstm.data", "aten.gru.data", "aten.rnn_tanh.data", "aten.rnn_relu.data")


def restore_layers(module: fx.GraphModule) -> None:
    """Swap, in place, each recurrent operator for an `nn.LSTM`, `nn.GRU` or `nn.RNN` with its weights.

    Raises:
        UnsupportedError: a packed sequence.
    """
    for node in list(module.graph.nodes):
        if str(node.target) in _PACKED:
            raise UnsupportedError(
                "a packed sequence cannot be exported", "pass the padded tensor to the recurrent layer"
            )
        if node.op == "call_function" and str(node.target) in _KINDS:
            _restore(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _restore(module: fx.GraphModule, node: fx.Node) -> None:
    arguments: tuple[Any, ...] = node.args
    x, start, weights, biased, depth, _, _, both, batch_first = arguments
    names = [str(weight.target) for weight in weights]
    if len(names) != (4 if biased else 2) * depth * (2 if both else 1):
        raise UnsupportedError(
            f"{node.name}: an LSTM with proj_size has no ONNX operator",
            "use an LSTM without projection and a linear layer after it",
        )
    tensors = [_at(module, name) for name in names]
    kind, extra = _KINDS[str(node.target)]
    layer = kind(
        tensors[0].shape[1],
        tensors[1].shape[1],
        num_layers=depth,
        bias=biased,
        batch_first=batch_first,
        bidirectional=both,
        device="meta",
        **extra,
    )
    for name, tensor in zip((name for group in layer._all_weights for name in group), tensors, strict=True):
        setattr(layer, name, nn.Parameter(tensor.detach(), requires_grad=False))
    path = _free_path(module, names[0].rpartition(".")[0] or node.name)
    module.add_submodule(path, layer.eval())
    _replace(module.graph, node, path, x, tuple(start) if isinstance(start, (list, tuple)) else start)


def _at(module: nn.Module, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


def _free_path(module: nn.Module, wanted: str) -> str:
    """The path that the layer had; beside it where something else lives there."""
    inside = dict(module.named_modules())
    free = wanted not in inside or (
        not list(inside[wanted].children()) and not isinstance(inside[wanted], nn.RNNBase)
    )
    return wanted if free else f"{wanted}_layer"


def _replace(graph: fx.Graph, node: fx.Node, path: str, x: Any, start: Any) -> None:
    """`y, h` or `y, (h, c)` from the layer in the places of the operator's flat results."""
    with graph.inserting_before(node):
        called = graph.call_module(path, (x, start))
        first, final = (graph.call_function(operator.getitem, (called, place)) for place in (0, 1))
        if isinstance(start, tuple):
            finals = [graph.call_function(operator.getitem, (final, place)) for place in (0, 1)]
        else:
            finals = [final]
    results = [first, *finals]
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(node)
