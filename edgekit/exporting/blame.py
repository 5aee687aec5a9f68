"""What an exporter's failure means in the user's terms: the reason, the line of the network, the kind."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.exporting.lines import chain_of, line_of
from edgekit.runtime.errors import EdgekitError, UnsupportedError
from edgekit.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from torch import nn

_ADAPTERS = "edgekit.sources."
_CONSTANT = re.compile(r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_STATIC = re.compile(r"inferred a static shape of (\d+) for dimension (\S+?)\.?$", re.MULTILINE)
_GUARD = re.compile(
    r"Not all values of (?P<dim>\S+) = (?P<size>\S+) in the specified range .*? satisfy the generated guard "
    r"(?P<guard>.+?)\.?(?:Specializations unexpectedly.*)?$",
    re.MULTILINE,
)
_SIZE = re.compile(r"L\['(\w+)'\](?:\[(\d+)\])?\.size\(\)\[(\d+)\]")
_INTERNAL = re.compile(r" object at 0x[0-9a-f]+| '%.*")
"""What means nothing to a reader: addresses, and nodes of the exporter's own graph."""
_PACKING = ("pack_padded_sequence", "pack_sequence", "pad_packed_sequence", "_packed_sequence_init_args")


class NetworkError(UnsupportedError):
    """The network cannot be exported at all: no other way would help."""


class ReadsValues(Exception):
    """Python code decides by a tensor's values; the argument is its line, or empty."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one way failed.

    `kind` is `guard` (a check of sizes does not hold in the whole range), `constant` (a dynamic size
    became a number), `data` (Python decides by a tensor's values), `operator` (no ONNX form),
    `differs` (the graph is not the network) or `other`.
    """

    kind: str
    reason: str
    line: str = ""
    hint: str = ""


def users_network(module: nn.Module) -> nn.Module:
    """The user's own network: the one inside an adapter, or the module itself."""
    inner = getattr(module, "network", None)
    adapts = any(kind.__module__.startswith(_ADAPTERS) for kind in type(module).__mro__)
    return inner if adapts and inner is not None else module


def name_of(module: nn.Module) -> str:
    """The class that the user knows."""
    name = type(users_network(module)).__name__
    return "the program" if name.endswith("GraphModule") else name


def explain(error: Exception, network: nn.Module, inputs: Sequence[TensorSpec]) -> Failure:
    """What `error` of a capture means. Raises NetworkError for what no way can export."""
    if isinstance(error, UnsupportedError):
        raise _placed(error) from error
    if isinstance(error, EdgekitError):
        raise error
    _refuse_packed(error, network)
    if isinstance(error, ReadsValues):
        return Failure(kind="data", reason="a trace would fix a choice made by values", line=error.args[0])
    texts = [str(cause) for cause in chain_of(error)]
    kind, reason = _known(texts, error) or ("other", _first_sentence(texts, error))
    return Failure(kind=kind, reason=_in_names(reason, network, inputs), line=line_of(error))


def _placed(error: UnsupportedError) -> NetworkError:
    """The same refusal, with the line of the user's code that led to it."""
    line = line_of(error)
    return NetworkError(f"{error.message} (at {line})" if line else error.message, error.hint)


def _refuse_packed(error: Exception, network: nn.Module) -> None:
    for cause in chain_of(error):
        if any(frame.name in _PACKING for frame in traceback.extract_tb(cause.__traceback__)):
            raise packed_error(f"{name_of(network)}: ", line_of(error)) from error


def packed_error(who: str = "", line: str = "") -> NetworkError:
    """A packed sequence has no form in a graph of plain tensors."""
    return NetworkError(
        f"{who}a packed sequence cannot be exported" + (f" (at {line})" if line else ""),
        "pass the padded tensor to the recurrent layer and take the last valid step with gather; a "
        "bidirectional layer takes sequences of one length",
    )


def _known(texts: Sequence[str], error: Exception) -> tuple[str, str] | None:
    """The kind and the reason of the failures that are understood."""
    kinds = {type(cause).__name__ for cause in chain_of(error)}
    text = "\n".join(texts)
    if found := _CONSTANT.search(text):
        return "constant", f"{found[1]} became the constant {found[2]}"
    if found := _STATIC.search(text):
        return "constant", f"{found[2]} became the constant {found[1]}"
    if found := _GUARD.search(text):
        guard = found["guard"].replace(found["size"], found["dim"])
        return "guard", f"not every {found['dim']} in its range satisfies {guard}"
    if "GuardOnDataDependentSymNode" in kinds or text.startswith("Data-dependent"):
        return "data", "Python code decides by the values of a tensor"
    if kinds & {"DispatchError", "UnsupportedOperatorError", "SymbolicValueError", "OnnxExporterError"}:
        return "operator", _first_sentence(texts, error)
    return None


def _first_sentence(texts: Sequence[str], error: Exception) -> str:
    """The first sentence that says something, from the deepest cause that has words."""
    text = next((text.strip() for text in texts if text.strip()), type(error).__name__)
    return _INTERNAL.sub("", text.splitlines()[0].split(". ")[0].strip().rstrip("."))


def _in_names(reason: str, network: nn.Module, inputs: Sequence[TensorSpec]) -> str:
    """`L['input_0'].size()[1]` by the name of its dimension."""
    places = {name: place for place, name in enumerate(inspect.signature(network.forward).parameters)}

    def named(found: re.Match[str]) -> str:
        place = places.get(found[1]) if found[2] is None else int(found[2])
        axis = int(found[3])
        if place is None or place >= len(inputs) or axis >= len(inputs[place].shape):
            return found[0]
        return str(inputs[place].shape[axis])

    return _SIZE.sub(named, reason)


def sizes_of(inputs: Sequence[TensorSpec], shapes: Sequence[Sequence[int]]) -> Mapping[str, int]:
    """The dynamic dimensions of inputs that have these shapes."""
    return {
        dim: size
        for spec, shape in zip(inputs, shapes, strict=True)
        for dim, size in zip(spec.shape, shape, strict=True)
        if isinstance(dim, str)
    }
