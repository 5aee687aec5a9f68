"""A user's ONNX file in every form that there is, to both CPU engines, in fp32 and int8."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekit.runtime.manifest import read_manifest
from edgekit.spec import REL_L2
from tests.conftest import Cli
from tests.integration.graphs import LAYERS, write


@dataclass(frozen=True)
class Form:
    """A form of the file: what is said and given with it, and what the report must say of it.

    `quantized` is what its layers are called where it came quantized: nothing is calibrated then.
    """

    name: str
    said: tuple[str, ...] = ("--calibration", "pictures.npz")
    note: str = ""
    quantized: str = ""


PHOTOS = ("--calibration", "photos")
FIXED = ("--input", "x=float32[batch:1..4,3,16,16]")
FORMS = (
    Form("shapeless", PHOTOS, note="input x=float32[batch:1..64,3,x.2:16..47,x.3:17..48]"),
    Form("unnamed", PHOTOS, note="input x=float32[batch:1..64,3,x.2:16..47,x.3:17..48]"),
    Form("constants", note="'height' is 16 in every sample"),
    Form("external", note="'height' is 16 in every sample"),
    Form("opset11", note="opset 11 -> 18"),
    Form("opset21", note="'height' is 16 in every sample"),
    Form("half", PHOTOS, note="the file is in float16: its weights are held in float32"),
    Form("qdq_default", (), quantized="Q/DQ"),
    Form("qdq_uint8", FIXED, quantized="Q/DQ"),
    Form("qdq_symmetric", FIXED, quantized="Q/DQ"),
    Form("qoperator", FIXED, quantized="integer"),
    Form("dynamic", FIXED, quantized="integer"),
)
QUICK = {
    ("shapeless", "openvino", "int8"),
    ("half", "onnxruntime", "fp32"),
    ("qdq_default", "openvino", "int8"),
    ("qdq_uint8", "openvino", "int8"),
    ("qoperator", "onnxruntime", "int8"),
    ("qoperator", "openvino", "int8"),
    ("dynamic", "openvino", "fp32"),
}
"""Where a form says most; the others are slow."""
INTEGER = ("is an integer operator", "--target onnxruntime", "quant_format=QuantFormat.QDQ")
REFUSED = {
    ("qoperator", "openvino", "fp32"): ("'/stem/conv/Conv_quant' of module 'stem.conv'", *INTEGER),
    ("qoperator", "openvino", "int8"): ("'/stem/conv/Conv_quant' of module 'stem.conv'", *INTEGER),
    ("dynamic", "openvino", "fp32"): ("'x_QuantizeLinear'", *INTEGER),
    ("dynamic", "openvino", "int8"): ("'x_QuantizeLinear'", *INTEGER),
    ("qdq_uint8", "openvino", "int8"): ("uint8 codes", "of module", "weight_type=QuantType.QInt8"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    write(folder)
    return folder


def cases() -> Iterator[object]:
    for form, target, precision in product(FORMS, ("openvino", "onnxruntime"), ("fp32", "int8")):
        key = (form.name, target, precision)
        marks = () if key in QUICK else pytest.mark.slow
        yield pytest.param(form, target, precision, id="-".join(key), marks=marks)


@pytest.mark.parametrize(("form", "target", "precision"), cases())
def test_a_proved_bundle_or_a_refusal(
    edgekit: Cli, place: Path, form: Form, target: str, precision: str
) -> None:
    ran = edgekit(
        "compile", f"{form.name}.onnx", *form.said, "--target", target, "--precision", precision, "--json",
        cwd=place,
    )  # fmt: skip
    if words := REFUSED.get((form.name, target, precision)):
        assert ran.code == 4, ran.err
        said = " ".join(ran.json["error"].values())
        assert all(word in said for word in words), said
        assert not (place / "build" / f"{form.name}-{target}-{precision}").exists()
        return
    assert ran.code == 0, ran.err + ran.out
    report = ran.json
    assert (report["state"], report["passed"], report["precision"]) == ("proved", True, precision)
    assert report["latency"]["reference_engine"] == "ONNX Runtime fp32"
    bundle = place / report["bundle"]
    assert json.loads((bundle / "report.json").read_text(encoding="utf-8"))["checks"] == report["checks"]
    checks = {check["name"]: check for check in report["checks"]}
    assert {"parity.rel_l2", "parity.grid.rel_l2"} <= checks.keys()
    said = "\n".join(report["notes"])
    assert form.note in said
    if form.quantized:
        assert_taken_as_it_is(form, precision, report, place / f"{form.name}.onnx", bundle)
    else:
        limit = REL_L2[precision]
        assert (checks["parity.rel_l2"]["limit"], report["layers"].get(precision)) == (limit, LAYERS)
        assert len(report["plan"]) == (LAYERS if precision == "int8" else 0)


def assert_taken_as_it_is(
    form: Form, precision: str, report: dict[str, Any], file: Path, bundle: Path
) -> None:
    """Its own codes, no calibration, and the limits of int8 whatever was asked for."""
    notes = "\n".join(report["notes"])
    assert f"already quantized: its {LAYERS} {form.quantized} layers are taken as they are" in notes
    assert "the reference is ONNX Runtime on the quantized file itself" in notes
    assert "calibrated" not in notes
    limits = {check["name"]: check["limit"] for check in report["checks"]}
    assert limits["parity.rel_l2"] == REL_L2["int8"]
    assert report["layers"]["int8"] >= 1
    own = sorted(read_manifest(bundle).plan.values())
    assert own == (["int8"] * LAYERS if precision == "int8" else [])
    before, after = (
        Counter(node.op_type for node in onnx.load(path).graph.node) for path in (file, bundle / "model.onnx")
    )
    assert after["QuantizeLinear"] == before["QuantizeLinear"]
    assert after["DequantizeLinear"] <= before["DequantizeLinear"]
