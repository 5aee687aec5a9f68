"""What cannot be exported one way is exported another, and what cannot at all is refused with all reasons."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekit.exporting import export_onnx
from edgekit.exporting.attempts import more_shapes
from edgekit.exporting.blame import ReadsValues
from edgekit.exporting.values import refuse_reading
from edgekit.runtime.errors import UnsupportedError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._adapter import Adapter, adapt
from edgekit.sources._binding import bind
from edgekit.spec import Artifact
from tests.exporting import networks
from tests.exporting.networks import RANGES, SERIES

STEPS = (TensorSpec("steps", ()),)
WORDS = tuple(TensorSpec(name, ("batch", "time"), "int64", RANGES) for name in ("ids", "mask"))


def seeded(kind: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments, **options).eval()


def adapted(network: nn.Module, inputs: Sequence[TensorSpec] = SERIES) -> Adapter:
    """The network as a user's own comes to the exporter."""
    return adapt(network, bind(network, [spec.name for spec in inputs]), None, len(inputs))


def exported(network: nn.Module, folder: Path, inputs: Sequence[TensorSpec] = SERIES) -> Artifact:
    return export_onnx(network, inputs, STEPS, (), folder / "model.onnx")


def modules_of(made: Artifact) -> dict[str, str]:
    return {
        node.name: next((entry.value for entry in node.metadata_props), "")
        for node in onnx.load(made.path).graph.node
    }


@pytest.mark.parametrize(
    ("kind", "inputs", "way"),
    [
        (networks.Attention, WORDS, "torch.export, checks at run time"),
        (networks.FirstTen, SERIES, "torch.export, free sizes"),
        (networks.Halved, SERIES, "torch.export, strict"),
        (networks.Smoothed, SERIES, "TorchScript"),
    ],
)
def test_the_first_way_that_works_is_taken_and_told(
    kind: Callable[[], nn.Module], inputs: Sequence[TensorSpec], way: str, tmp_path: Path
) -> None:
    made = exported(adapted(seeded(kind), inputs), tmp_path, inputs)
    assert made.made_by["way"] == way
    assert made.made_by["recheck_rel_l2"] < 1e-5


def test_what_works_at_once_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = torch.export.export

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    made = exported(seeded(networks.SeriesTagger, nn.GRU), tmp_path)
    assert (made.made_by["way"], len(calls)) == ("torch.export", 1)


def test_both_exporters_name_nodes_and_weights_as_the_user_does(tmp_path: Path) -> None:
    traced = exported(adapted(seeded(networks.Smoothed)), tmp_path)
    assert modules_of(traced)["before.0.0/MatMul"] == "before.0.0"
    assert modules_of(traced)["heads.0/MatMul"] == "heads.0"
    assert modules_of(traced)["rnn/LSTM"] == "rnn"
    read = adapted(seeded(networks.SeriesTagger, nn.LSTM))
    made = exported(read, tmp_path)
    assert set(modules_of(made).values()) == {"rnn"}
    assert {"rnn.l0.W", "rnn.l0.R", "rnn.l0.B"} <= {
        tensor.name for tensor in onnx.load(made.path).graph.initializer
    }


def test_a_network_of_its_own_called_network_keeps_that_name(tmp_path: Path) -> None:
    holder = nn.Sequential(nn.Linear(6, 6))
    holder.network = nn.Linear(6, 3)
    made = exported(holder, tmp_path)
    assert modules_of(made)["network/MatMul"] == "network"


def test_a_trace_gives_the_same_bytes_again(tmp_path: Path) -> None:
    hashes = {exported(adapted(seeded(networks.Smoothed)), tmp_path / name).sha256 for name in ("a", "b c")}
    assert len(hashes) == 1


def refusal(network: nn.Module, folder: Path, inputs: Sequence[TensorSpec] = SERIES) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        exported(network, folder, inputs)
    assert list(folder.iterdir()) == []
    return caught.value


def test_a_loop_over_time_is_refused_with_line_reasons_and_cure(tmp_path: Path) -> None:
    error = refusal(adapted(seeded(networks.FixedLoop)), tmp_path)
    assert re.match(
        r"FixedLoop cannot be exported to ONNX "
        r"\(at networks\.py:\d+: for index in range\(x\.shape\[1\]\):\): "
        r"torch\.export and torch\.export, strict: time became the constant \d+; "
        r"TorchScript: the exported graph is not the network at x \(\d+, \d+, 6\)",
        error.message,
    )
    assert "nn.GRU" in error.hint
    assert "give 'time' one fixed size" in error.hint
    assert error.__cause__ is not None


def test_a_branch_on_sizes_that_differ_lists_every_way(tmp_path: Path) -> None:
    error = refusal(seeded(networks.EvenOnly), tmp_path)
    assert "networks.py" in error.message
    assert "if x.shape[1] % 2:" in error.message
    assert "not every time in its range satisfies (time % 2) == 0" in error.message
    for way in ("torch.export", "checks at run time", "strict", "TorchScript"):
        assert way in error.message
    assert "range" in error.hint


def test_a_choice_by_values_is_never_traced(tmp_path: Path) -> None:
    error = refusal(seeded(networks.SmoothedOrNot), tmp_path)
    assert "return steps if x.sum() > -1e9 else x" in error.message
    assert "TorchScript: a trace would fix a choice made by values" in error.message
    assert "torch.where" in error.hint


class Scaled(nn.Module):
    """Python reads its own weight, which is the same at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.item()


class ReadsLast(nn.Module):
    """Python reads a value that an operation in place has written."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1)
        total += x.sum()
        return x * float(total)


def test_only_values_that_come_from_the_inputs_are_a_choice_by_values() -> None:
    refuse_reading(Scaled(), [torch.ones(2, 6)], [])
    with pytest.raises(ReadsValues, match=r"test_attempts\.py:\d+: return x \* float\(total\)"):
        refuse_reading(ReadsLast(), [torch.ones(2, 6)], [])
    with pytest.raises(ReadsValues):
        refuse_reading(Scaled(), [torch.ones(2, 6)], ["Converting a tensor to a NumPy array might cause"])


def test_a_packed_sequence_is_refused_at_once_with_its_line(tmp_path: Path) -> None:
    error = refusal(adapted(seeded(networks.PackedReader)), tmp_path)
    assert "a packed sequence cannot be exported (at networks.py:" in error.message
    assert "pass the padded tensor" in error.hint


def test_a_torchscript_part_is_named(tmp_path: Path) -> None:
    part = torch.jit.script(nn.Linear(6, 3))
    error = refusal(adapted(seeded(nn.Sequential, nn.Linear(6, 6), part)), tmp_path)
    assert "'1'" in error.hint
    assert "0x" not in error.message


def test_a_projection_is_refused_by_the_users_name(tmp_path: Path) -> None:
    error = refusal(adapted(seeded(networks.SeriesTagger, nn.LSTM, proj_size=3)), tmp_path)
    assert error.message.startswith("rnn: an LSTM with proj_size")


def test_a_failing_trace_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool1d(x.transpose(1, 2), 4)

    refusal(Parts(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert torch.backends.mha.get_fastpath_enabled()


def test_wide_ways_are_checked_near_the_ends_and_the_traced_sizes() -> None:
    times = {sizes["time"] for sizes in more_shapes(SERIES, {"batch": 2, "time": 16})}
    assert {2, 3, 4, 15, 17, 39, 40} <= times
    assert all(2 <= time <= 40 for time in times)
    fixed = (TensorSpec("x", (2, "time"), ranges={"time": (5, 6)}),)
    assert all(set(sizes) == {"time"} for sizes in more_shapes(fixed, {"time": 5}))


KINDS: list[tuple[Callable[..., nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.GRU, {}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu"}),
]
FORMS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first}
    for layers, both, first in product((1, 2), (False, True), (False, True))
]


def initial_states(count: int) -> list[TensorSpec]:
    """The initial states of all forms of a layer that has `count` of them."""
    return [
        TensorSpec(f"{name}{index}", (form["num_layers"] * (1 + form["bidirectional"]), "batch", 5))
        for index, form in enumerate(FORMS)
        for name in "hc"[:count]
    ]


@pytest.mark.parametrize("given", [True, False], ids=["given", "zero"])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=["lstm", "gru", "tanh", "relu"])
def test_final_states_of_every_recurrent_layer_at_unseen_lengths(
    kind: Callable[..., nn.RNNBase], options: dict[str, Any], given: bool, tmp_path: Path
) -> None:
    network = seeded(networks.Recurrences, kind, [{**options, **form} for form in FORMS])
    count = 2 if kind is nn.LSTM else 1
    inputs = [*SERIES, *(initial_states(count) if given else [])]
    outputs = [TensorSpec(f"out{index}", ()) for index in range((1 + count) * len(FORMS))]
    declared = adapted(network, inputs)
    made = export_onnx(declared, inputs, outputs, (), tmp_path / "m.onnx", shapes=[{"batch": 3, "time": 7}])
    session = onnxruntime.InferenceSession(str(made.path))
    nodes = [node.op_type for node in onnx.load(made.path).graph.node]
    assert nodes.count(kind.__name__) == sum(form["num_layers"] for form in FORMS)
    for sizes in ({"batch": 1, "time": 2}, {"batch": 5, "time": 33}):
        random = np.random.default_rng(0)
        feeds = {spec.name: random.standard_normal(spec.at(sizes), np.float32) for spec in inputs}
        with torch.no_grad():
            expected = network(*map(torch.from_numpy, feeds.values()))
        for want, have in zip(expected, session.run(None, feeds), strict=True):
            np.testing.assert_allclose(have, want.numpy(), atol=1e-5)
