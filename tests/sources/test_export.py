"""Networks of strangers go through the exporter and pass its own check at unseen shapes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch.export import Dim, export, save

from edgekit.exporting import export_onnx
from edgekit.sources import factory, program
from edgekit.spec import Found
from tests.sources.strange import found, own, samples
from tests.sources.strangers.shop import nets

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes", "ignore:.*weight_norm.*deprecated")
BATCH = Dim("batch", min=1, max=8)


def operators(made: Found, folder: Path) -> Counter[str]:
    """The operators of the exported graph, whose inputs and outputs are those that were found."""
    assert made.module is not None
    path = folder / "net.onnx"
    export_onnx(made.module, made.inputs, made.outputs, made.states, path)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == [
        *(spec.name for spec in made.inputs),
        *(state.input for state in made.states),
    ]
    assert [value.name for value in graph.output] == [
        *(spec.name for spec in made.outputs),
        *(state.output for state in made.states),
    ]
    return Counter(node.op_type for node in graph.node)


def test_three_grus_with_states_in_and_out(tmp_path: Path) -> None:
    assert operators(found("denoiser"), tmp_path)["GRU"] == 3


def test_lstm_cells_in_a_loop_with_a_tuple_of_states(tmp_path: Path) -> None:
    inputs = ["x=[batch:1..8,3,6]", "hx.0=[batch:1..8,10]", "hx.1=[batch:1..8,10]"]
    assert operators(found("Stepper", inputs, ["hx.0=h", "hx.1=c"]), tmp_path)["Tanh"] == 6


def test_a_recognizer_of_varying_width(tmp_path: Path) -> None:
    said = own("shop.nets:Reader")
    given = samples(((1, 16, 40),), ((1, 16, 57),), ((1, 16, 64),))
    assert operators(factory.describe(said, factory.make(said), given), tmp_path)["LSTM"] == 2


@pytest.mark.parametrize("mask", ["int64", "bool"])
def test_attention_with_a_mask_by_keyword(tmp_path: Path, mask: str) -> None:
    inputs = ["input_ids=int64[batch:1..8,time:2..40]", f"attention_mask={mask}[batch:1..8,time]"]
    assert operators(found("Encoder", inputs), tmp_path)["Softmax"] == 1


def test_a_detector_with_three_outputs(tmp_path: Path) -> None:
    made = found("Detector", ["x=[batch:1..4,3,height:16..64,width:16..96]"])
    assert operators(made, tmp_path)["Conv"] == 3


def test_dropout_and_batch_norm_are_gone_from_a_network_in_training_mode(tmp_path: Path) -> None:
    counted = operators(found("Classifier", ["x=[batch:1..4,3,16,16]"]), tmp_path)
    assert not counted["Dropout"]
    assert not counted["BatchNormalization"]


def test_weight_norm_of_the_old_kind(tmp_path: Path) -> None:
    assert operators(found("Normed", ["wave=[batch:1..4,2,time:8..99]"]), tmp_path)["Conv"] == 1


def test_programs_export_with_their_recurrent_layers_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lines = (torch.zeros(2, 1, 16, 32),)
    save(export(nets.Reader().eval(), lines, dynamic_shapes=({0: BATCH},)), tmp_path / "reader.pt2")
    frames = (torch.zeros(2, 6, 20), torch.zeros(1, 2, 8), torch.zeros(1, 2, 16), torch.zeros(1, 2, 12))
    shapes = ({0: BATCH}, {1: BATCH}, {1: BATCH}, {1: BATCH})
    save(export(nets.Denoiser().eval(), frames, dynamic_shapes=shapes), tmp_path / "denoiser.pt2")
    reader = program.load(own("reader.pt2", folder=tmp_path), None, ())
    assert operators(reader, tmp_path)["LSTM"] == 2
    states = ["h1=output.1", "h2=output.2", "h3=output.3"]
    denoiser = program.load(own("denoiser.pt2", states=states, folder=tmp_path), None, ())
    assert operators(denoiser, tmp_path)["GRU"] == 3
