from __future__ import annotations

from itertools import pairwise

import pytest

from edgekit.runtime.manifest import TensorSpec
from edgekit.runtime.plans.request import refuse_profiles
from edgekit.spec import Shapes
from edgekit.targets._plan.profiles import profiles

LINE = TensorSpec("image", ("batch", 1, 32, "width"), ranges={"batch": (1, 8), "width": (16, 1024)})
STATE = TensorSpec("h", (2, "batch", 128), ranges={"batch": (1, 8)})
FIXED = TensorSpec("image", (1, 3, 28, 28))


def widths(found: tuple[dict[str, object], ...]) -> list[tuple[int, ...]]:
    return [tuple(shape[-1] for shape in profile["image"]) for profile in found]  # type: ignore[attr-defined]


def test_buckets_hold_equally_many_samples_and_leave_no_gap() -> None:
    seen = tuple(range(40, 240, 2))
    found = profiles(Shapes(inputs=(LINE,), seen={"width": seen}), 1, {}, 4)
    assert widths(found) == [(16, 64, 88), (89, 114, 138), (139, 164, 188), (189, 214, 1024)]
    held = [sum(low <= size <= high for size in seen) for low, _, high in widths(found)]
    assert held == [25, 25, 25, 25]
    refuse_profiles(found)


def test_an_input_that_shares_a_dimension_is_in_every_profile() -> None:
    found = profiles(Shapes(inputs=(LINE, STATE), seen={"width": (50, 60, 200)}), 2, {}, 2)
    assert [profile["h"] for profile in found] == [((2, 1, 128), (2, 2, 128), (2, 8, 128))] * 2


@pytest.mark.parametrize("seen", [{}, {"width": ()}])
def test_without_data_the_middle_is_the_geometric_mean(seen: dict[str, tuple[int, ...]]) -> None:
    assert widths(profiles(Shapes(inputs=(LINE,), seen=seen), 1, {}, 3)) == [(16, 128, 1024)]


@pytest.mark.parametrize("seen", [(64,), (64,) * 30, (16,), (1024, 1024), (5, 4000)])
def test_few_or_equal_or_strange_sizes_still_cover_the_range(seen: tuple[int, ...]) -> None:
    found = profiles(Shapes(inputs=(LINE,), seen={"width": seen}), 1, {}, 3)
    refuse_profiles(found)
    told = widths(found)
    assert (told[0][0], told[-1][2]) == (16, 1024)
    assert all(before[2] + 1 == after[0] for before, after in pairwise(told))


def test_only_the_batch_is_dynamic() -> None:
    spec = TensorSpec("image", ("batch", 3, 28, 28), ranges={"batch": (1, 64)})
    shape = (3, 28, 28)
    assert profiles(Shapes(inputs=(spec,)), 16, {}, 3) == (
        {"image": ((1, *shape), (16, *shape), (64, *shape))},
    )


def test_two_free_dimensions_are_not_cut() -> None:
    spec = TensorSpec("x", ("batch", "time", "width"))
    seen = {"time": (5, 10, 20), "width": (7, 8, 9)}
    found = profiles(Shapes(inputs=(spec,), seen=seen), 1, {"batch": (1, 4)}, 3)
    assert found == ({"x": ((1, 1, 1), (1, 10, 8), (4, 1024, 1024))},)


def test_a_fixed_network_has_no_profile() -> None:
    assert profiles(Shapes(inputs=(FIXED,)), 1, {}, 3) == ()


def test_the_engine_may_take_less_than_the_network() -> None:
    narrow = {"batch": (1, 4), "width": (32, 4096)}
    found = profiles(Shapes(inputs=(LINE,), seen={"width": (64,)}), 1, narrow, 1)
    assert found == ({"image": ((1, 1, 32, 32), (1, 1, 32, 64), (4, 1, 32, 1024))},)
