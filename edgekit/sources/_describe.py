"""From a PyTorch module, wherever it came from, to what it takes and returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.sources._adapter import adapt, returned_names
from edgekit.sources._binding import bind
from edgekit.sources._found import found, in_order
from edgekit.sources._infer import inputs_of, states_of
from edgekit.sources._module import prepare, refuse_other

if TYPE_CHECKING:
    from torch import nn

    from edgekit.spec import Found, Own, Sample

NOTES = "edgekit_notes"
"""Where a module carries what is to be said of how it was made ready."""


def prepared(network: Any, source: str) -> nn.Module:
    """The module in evaluation mode, float32, on the CPU; what that changed is kept as notes.

    Raises:
        UsageError: it is no network, or has parameters without values.
        UnsupportedError: it is a network of another kind, or quantized already.
    """
    refuse_other(network, source)
    module, notes = prepare(network, source)
    if notes:
        setattr(module, NOTES, (*getattr(module, NOTES, ()), *notes))
    return module


def described(own: Own, module: nn.Module, samples: Sequence[Sample], names: Sequence[str] = ()) -> Found:
    """What a module takes and returns; `names` are those of a sample's arrays, if the data has names.

    Raises:
        UsageError: nothing says what it takes, it fails when run, or a state is not there.
        UnsupportedError: what it returns, keeps or changes cannot be deployed.
    """
    network = prepared(module, own.source)
    pairs = states_of(own, network)
    told, notes = inputs_of(own, network, samples, names)
    inputs = in_order(told, pairs)
    call = bind(network, [spec.name for spec in inputs])
    adapter = adapt(network, call, returned_names(network), len(inputs))
    return found(adapter, inputs, pairs, (*getattr(network, NOTES, ()), *notes))
