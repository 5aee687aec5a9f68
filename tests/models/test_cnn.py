from __future__ import annotations

import pytest
import torch

from edgekit.models import cnn


def test_the_default_is_the_tutorials() -> None:
    options = cnn.Options()
    network = cnn.build(options)
    assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 10)
    assert network.classifier.in_features == 64 * 56 * 56
    assert cnn.inputs(options)[0].at({"batch": 2}) == (2, 3, 224, 224)


def test_size_channels_and_classes_are_options() -> None:
    options = cnn.Options(height=28, width=20, channels=1, classes=4)
    image = torch.zeros(*cnn.inputs(options)[0].at({"batch": 3}))
    assert cnn.build(options)(image).shape == cnn.outputs(options)[0].at({"batch": 3})


@pytest.mark.parametrize("wrong", [{"height": 3}, {"classes": 0}])
def test_sizes_that_leave_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        cnn.Options(**wrong)
