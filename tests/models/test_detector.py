from __future__ import annotations

import pytest
import torch

from edgekit.models import detector
from edgekit.runtime.detection import decode_boxes


def network(**options: int) -> detector.Detector:
    torch.manual_seed(0)
    return detector.build(detector.Options(filters=2, **options)).eval()


def test_outputs_have_the_shapes_that_are_told() -> None:
    options = detector.Options(height=64, width=96, channels=1, classes=3, filters=2)
    image = torch.zeros(*detector.inputs(options)[0].at({"batch": 2}))
    found = detector.build(options).eval()(image)
    assert [tuple(one.shape) for one in found] == [one.at({"batch": 2}) for one in detector.outputs(options)]
    assert found[0].shape[1] == 8 * 12 + 4 * 6


def test_cells_are_centres_in_rows_the_finer_grid_first() -> None:
    cells = detector._cells(32, 48)
    assert cells[:2].tolist() == [[4, 4, 8], [12, 4, 8]]
    assert cells[6].tolist() == [4, 12, 8]
    assert cells[4 * 6].tolist() == [8, 8, 16]
    assert len(cells) == 4 * 6 + 2 * 3


def test_sides_become_corners_in_pixels() -> None:
    sides = torch.tensor([[[1.0, 0.5, 2.0, 3.0]]])
    cells = torch.tensor([[20.0, 12.0, 8.0]])
    assert detector._boxes(sides, cells).tolist() == [[[12.0, 8.0, 36.0, 36.0]]]


def test_a_fresh_network_finds_nothing_and_its_boxes_have_area() -> None:
    boxes, scores = network()(torch.randn(2, 3, 96, 96))
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    options = detector.Options()
    outputs = {"boxes": boxes.detach().numpy(), "scores": scores.detach().numpy()}
    found = decode_boxes(outputs, detector.detection(options), (96, 96))
    assert [len(one.scores) for one in found] == [0, 0]


def test_each_grid_has_a_head_of_its_own() -> None:
    module = network()
    fine = (options := detector.Options()).height * options.width // 64
    before = module(torch.ones(1, 3, 96, 96))[1]
    with torch.no_grad():
        module.heads[1].scores.bias += 1
    moved = (module(torch.ones(1, 3, 96, 96))[1] - before).abs().sum(-1)[0]
    assert (moved[:fine] == 0).all()
    assert (moved[fine:] > 0).all()


def test_training_tells_the_cells_too() -> None:
    module = network().train()
    found = module(torch.randn(2, 3, 96, 96))
    assert found[2] is module.cells
    assert "cells" not in module.state_dict()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"height": 100}, "multiples of 16"),
        ({"width": 8}, "multiples of 16"),
        ({"classes": 0}, "at least 1"),
        ({"score": 0.0}, "between 0 and 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        detector.Options(**wrong)  # type: ignore[arg-type]
