"""Inputs find their arguments, and whatever a forward returns becomes a flat tuple."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.sources._adapter import flatten, returned_names
from edgekit.sources._binding import Call, bind
from tests.sources.strangers.shop.nets import Answer, Pair

ONE, TWO, THREE = (torch.full((2,), float(value)) for value in (1, 2, 3))


def network(forward: Any) -> nn.Module:
    return type("Net", (nn.Module,), {"forward": forward})()


def plain(self: Any, x: Tensor, mask: Tensor | None = None, *, scale: Tensor | None = None) -> None: ...
def placed(self: Any, *tensors: Tensor) -> None: ...
def batched(self: Any, batch: dict[str, Tensor]) -> None: ...
def flagged(self: Any, x: Tensor, debug: bool = False) -> None: ...
def loose(self: Any, x: Tensor, **more: Tensor) -> None: ...
def only(self: Any, x: Tensor, /, y: Tensor) -> None: ...


@pytest.mark.parametrize(
    ("forward", "names", "call"),
    [
        (plain, ["x"], Call((0,))),
        (plain, ["image"], Call((0,))),
        (plain, ["image", "m"], Call((0, 1))),
        (plain, ["mask", "x"], Call((1, 0))),
        (plain, ["mask", "image"], Call((1, 0))),
        (plain, ["x", "scale"], Call((0,), {"scale": 1})),
        (plain, ["x.0", "x.1", "mask"], Call(((0, 1), 2))),
        (placed, ["a", "b"], Call((0, 1))),
        (placed, ["hx.0", "hx.1"], Call(((0, 1),))),
        (placed, ["input.1"], Call((0,))),
        (batched, ["batch.image", "batch.mask"], Call(({"image": 0, "mask": 1},))),
        (loose, ["x", "extra"], Call((0,), {"extra": 1})),
        (only, ["y", "x"], Call((1, 0))),
    ],
)
def test_inputs_become_arguments(forward: Any, names: list[str], call: Call) -> None:
    assert bind(network(forward), names) == call


@pytest.mark.parametrize(
    ("forward", "names", "message"),
    [
        (plain, ["mask"], "wants 'x', and no input is for it"),
        (flagged, ["x", "y"], "no place for the input 'y'"),
        (only, ["x"], "wants 'y'"),
    ],
)
def test_what_does_not_fit_is_refused(forward: Any, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(network(forward), names)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (ONE, ["output"]),
        ((ONE, TWO), ["output.0", "output.1"]),
        ([ONE, (TWO, THREE)], ["output.0", "output.1.0", "output.1.1"]),
        ({"boxes": ONE, "aux": None, "masks": [TWO, THREE]}, ["boxes", "masks.0", "masks.1"]),
        (OrderedDict(a=ONE), ["a"]),
        (Answer(ONE, TWO), ["logits", "features"]),
        (Pair(ONE, TWO), ["mean", "spread"]),
        ((ONE, Pair(TWO, THREE)), ["output.0", "output.1.mean", "output.1.spread"]),
    ],
)
def test_whatever_holds_tensors_is_flattened(result: Any, names: list[str]) -> None:
    leaves = flatten(result, None, "Net")
    assert [name for name, _ in leaves] == names
    values = [float(tensor[0]) for _, tensor in leaves]
    assert values == sorted(values)


def test_the_names_in_the_return_statement_are_used() -> None:
    assert [name for name, _ in flatten((ONE, (TWO, THREE)), ("y", ("h", "c")), "Net")] == ["y", "h", "c"]
    assert [name for name, _ in flatten((ONE, (TWO, THREE)), (None, "state"), "Net")] == [
        "output.0",
        "state.0",
        "state.1",
    ]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returns no tensor"),
        ({"loss": None}, "returns no tensor"),
        ("text", "of type str as 'output'"),
        ((ONE, 3), "of type int as 'output.1'"),
        (ONE.to_sparse(), "a sparse tensor"),
        (torch.view_as_complex(torch.zeros(2, 2)), "a complex tensor"),
        (nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 1, 2), [3]), "packed sequence"),
    ],
)
def test_what_no_engine_returns_is_refused(result: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        flatten(result, None, "Net")


def test_return_statements_are_read_and_must_agree() -> None:
    class Agreeing(nn.Module):
        def forward(self, x: Tensor, flag: bool = False) -> Any:
            def helper() -> Tensor:
                return x

            if flag:
                logits, h = helper(), x
                return logits, h
            logits, h = x, x
            return logits, h

    class Differing(nn.Module):
        def forward(self, x: Tensor, flag: bool = False) -> Any:
            return (x, x) if flag else x

    assert returned_names(Agreeing()) == ("logits", "h")
    assert returned_names(Differing()) is None
