"""What a factory hands over: a PyTorch module made ready, or a sentence about what it is instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgekit.runtime.errors import UnsupportedError, UsageError

_KERAS = ("keras", "tensorflow", "tf_keras")


def refuse_other(network: Any, source: str) -> None:
    """Say what stands in the place of a PyTorch module.

    Raises:
        UsageError: something that is no network.
        UnsupportedError: a network of another kind, with the way out.
    """
    kind = type(network)
    if isinstance(network, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise UnsupportedError(
            f"{source} gives TorchScript, whose Python code is gone",
            "return the nn.Module that it was made from, or save a torch.export program (.pt2) of that",
        )
    if any(base.__module__.partition(".")[0] in _KERAS for base in kind.__mro__):
        raise UnsupportedError(
            f"{source} gives a Keras or TensorFlow object ({kind.__name__})",
            "write it as ONNX (model.export('net.onnx', format='onnx'), or tf2onnx) and give that file",
        )
    if isinstance(network, torch.export.ExportedProgram):
        raise UnsupportedError(
            f"{source} gives a torch.export program",
            "save it with torch.export.save(program, 'net.pt2') and give that file",
        )
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{source} gives an object of type {kind.__name__}, not a PyTorch module", _instead(network)
        )
    if kind.forward is nn.Module.forward:
        raise UsageError(
            f"{source} gives a module of type {kind.__name__}, which has no forward",
            "return a module that computes something when called",
        )


def _instead(network: Any) -> str:
    if network is None:
        return "is a return missing?"
    if isinstance(network, (tuple, list)) and any(isinstance(part, nn.Module) for part in network):
        return "return the network alone"
    if isinstance(network, dict):
        return "a state dict has no code: make the network, load it with load_state_dict, return the network"
    return "return an nn.Module with its weights"


def prepare(network: nn.Module, source: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The module in evaluation mode, float32, on the CPU, and what that changed.

    Raises:
        UsageError: it has parameters without values.
        UnsupportedError: PyTorch has quantized it already.
    """
    notes: list[str] = []
    network = _unwrapped(network, notes)
    _refuse_strange(network, source)
    if any(module.training for module in network.modules()):
        notes.append("the network came in training mode and was set to evaluation mode")
        network.eval()
    tensors = [*network.parameters(), *network.buffers()]
    devices = sorted({tensor.device.type for tensor in tensors} - {"cpu"})
    if devices:
        notes.append(f"the network was brought from {', '.join(devices)} to the CPU")
        network.cpu()
    types = sorted({str(tensor.dtype)[6:] for tensor in tensors if tensor.is_floating_point()} - {"float32"})
    if types:
        notes.append(f"{', '.join(types)} weights were brought to float32")
        network.float()
    return network, tuple(notes)


def _unwrapped(network: nn.Module, notes: list[str]) -> nn.Module:
    """The module inside the wrappers of training: they take part in no deployment."""
    inner: Any = network
    while isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(
        inner, "_orig_mod"
    ):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    if inner is not network:
        notes.append(f"{type(network).__name__} was taken off the network")
    return inner if isinstance(inner, nn.Module) else network


def _refuse_strange(network: nn.Module, source: str) -> None:
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise UsageError(
                f"{source}: {name} has no shape yet (a Lazy layer)",
                "run the network once before returning it",
            )
        if tensor.is_meta:
            raise UsageError(f"{source}: {name} has no values (device meta)", "load the weights first")
    for name, module in network.named_modules():
        if ".quantized" in type(module).__module__ and "torch" in type(module).__module__:
            raise UnsupportedError(
                f"{source}: {name or 'the network'} was quantized by PyTorch already",
                "return the float network: edgekit quantizes it with --precision int8",
            )
