"""What a processor that multiplies bytes in 16 bits is told, by the kernel's words for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import pipeline
from edgekit.spec import Choice
from edgekit.steps import _integers, doctor

HASWELL = "model name\t: a CPU\nflags\t\t: fpu sse2 avx2 fma\n"
ICE_LAKE = "model name\t: a CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"


def cpu(text: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    place = folder / "cpuinfo"
    place.write_text(text, encoding="utf-8")
    patch.setattr(_integers, "CPUINFO", place)
    patch.setattr(_integers.platform, "machine", lambda: "x86_64")


def row() -> tuple[str, str]:
    return next((one["found"], one["advice"]) for one in doctor.findings() if one["what"] == "int8 products")


def test_a_processor_without_vnni_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = pipeline.load("cnn", target="onnxruntime", precision="int8")
    cpu(HASWELL, tmp_path, monkeypatch)
    assert row() == ("in 16 bits: no VNNI", _integers.ADVICE)
    assert "reduce_range=true" in _integers.warnings(recipe)[0]
    cured = replace(recipe, quantization=Choice(name="ptq", options={"reduce_range": True}))
    assert not _integers.warnings(cured)
    assert not _integers.warnings(replace(recipe, board="jetson-orin-nano"))
    assert not _integers.warnings(replace(recipe, device="GPU"))


def test_one_with_vnni_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(ICE_LAKE, tmp_path, monkeypatch)
    assert row() == ("avx512_vnni", "")
    assert not _integers.warnings(pipeline.load("cnn", target="openvino", precision="int8"))


def test_where_the_kernel_is_silent_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_integers, "CPUINFO", tmp_path / "absent")
    assert row() == ("unknown", "")
    assert not _integers.saturates()
