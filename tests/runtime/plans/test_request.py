"""A request that comes out of a manifest: what it wrote is read back, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.plans.request import PRECISIONS, BuildRequest, Variant, read_request
from edgekit.runtime.plans.variants import precision_flags
from tests.runtime.plans.standin import tensorrt

PROFILE = {"x": ((1, 8), (4, 8), (16, 8))}
WHOLE = BuildRequest(
    variants=(
        Variant("graphs/strong.onnx", "strong", "10.12", ("DataType.BF16",), 21, ("typed",)),
        Variant("model.onnx"),
    ),
    precision="int8",
    profiles=(PROFILE, PROFILE),
    workspace_bytes=1 << 20,
    dla_core=7,
    version_compatible=True,
    compute_capabilities=("8.6", "12.0"),
    gpu=255,
)


def told() -> dict[str, Any]:
    """As it stands in a manifest."""
    found: dict[str, Any] = json.loads(json.dumps(WHOLE.told()))
    return found


def test_what_was_told_is_read() -> None:
    assert read_request(told()) == WHOLE
    assert read_request(WHOLE.told()) == WHOLE


def test_every_precision_that_is_read_can_be_built() -> None:
    trt, _ = tensorrt("10.3.0")
    for precision in PRECISIONS:
        request = read_request({**told(), "precision": precision})
        precision_flags(trt, None, request.precision, "strong")  # type: ignore[arg-type]


WRONG: dict[str, list[Any]] = {
    "workspace_bytes": ["1", 0, (1 << 20) - 1, (1 << 40) + 1, 1e9, True, None],
    "dla_core": [-1, 8, "0", False, []],
    "gpu": ["a", -1, 256, None, True, 0.0],
    "hardware_compatible": [1, "no", None],
    "version_compatible": [0, "yes"],
    "precision": ["fp12", 8, None, ["fp32"]],
    "compute_capabilities": ["8.6", ["86"], ["SM86"], [8.6], ["8.6\n"], None],
    "engine": ["", 3, "model.engine", "engine", "/engine/a", "engine/../a", "engine/a\0"],
    "profiles": [3, [3], [{"x": 3}], [{"x": [[1], [1]]}], [{"x": [[1], [1], 1]}]]
    + [[{"x": [[1], [1], [wrong]]}] for wrong in (2**31, "4", 4.0, True)],
    "variants": [3, [], [3], [{}], {"file": "a"}],
    "surprise": [1],
}
WRONG_VARIANT: dict[str, list[Any]] = {
    "file": ["", ".", "/etc/passwd", "../model.onnx", "a/../../b", "a\0", 3, None],
    "typing": ["", "both", 1],
    "oldest": ["new", 10, "10.", None],
    "needs": ["INormalizationLayer", [1], ["a b"], None],
    "opset": [-1, "18", 1.5],
    "lowering": ["typed", [3]],
    "surprise": [1],
}


def each(wrong: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in wrong.items() for value in values]


@pytest.mark.parametrize(("name", "value"), each(WRONG))
def test_a_value_that_does_not_fit(name: str, value: Any) -> None:
    with pytest.raises(BadFileError, match="does not say how to build the engine: ") as refused:
        read_request({**told(), name: value})
    assert "object" not in refused.value.message


@pytest.mark.parametrize(("name", "value"), each(WRONG_VARIANT))
def test_a_variant_that_does_not_fit(name: str, value: Any) -> None:
    wrong = told()
    wrong["variants"][1][name] = value
    with pytest.raises(BadFileError, match="variant 1: "):
        read_request(wrong)


@pytest.mark.parametrize("name", ["variants", "precision", "profiles", "compute_capabilities"])
def test_what_must_be_told(name: str) -> None:
    less = told()
    del less[name]
    with pytest.raises(BadFileError, match=f"'{name}' is missing"):
        read_request(less)


@pytest.mark.parametrize("wrong", [3, [], "a", None])
def test_no_request_at_all(wrong: Any) -> None:
    with pytest.raises(BadFileError):
        read_request(wrong)


def test_sizes_out_of_order_are_the_users_own() -> None:
    for shapes in ([[0], [1], [1]], [[1], [3], [2]], [[1], [1, 1], [1]]):
        with pytest.raises(UsageError, match="optimization profile 0 of input 'x'"):
            read_request({**told(), "profiles": [{"x": shapes}]})
