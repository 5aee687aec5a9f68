from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgekit.report import FILE, Report, html, read, show
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.proof import Check

SIDE = {"p50_ms": 2.0, "p90_ms": 3.0, "p99_ms": 4.0, "throughput": 500.0, "peak_mb": 90.0}
REPORT = Report(
    model="crnn",
    target="openvino",
    device="CPU",
    precision="int8",
    state="proved",
    bundle="build/<crnn>",
    checks=(Check("parity.rel_l2", 0.01, 0.1), Check("parity.sqnr", math.inf, None, "dB")),
    accuracy={
        "metric": "word_accuracy",
        "reference": 0.98,
        "target": 0.979,
        "drop": 0.001,
        "drop_interval": [-0.001, 0.003],
        "significant": False,
        "samples": 2000,
    },
    latency={"boundary": "engine", "threads": 2, "reference": SIDE, "target": SIDE, "speedup": 1.0},
    layers={"bf16": 2, "int8": 7},
)
FAILED = replace(REPORT, checks=(Check("parity.rel_l2", 0.5, 0.1),))
DEFERRED = replace(REPORT, state="deferred", checks=(), next="run it there")


def printed(report: Report) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=200, force_terminal=True, color_system="standard"))
    return stream.getvalue()


def test_the_keys_that_programs_rely_on_are_there() -> None:
    told = json.loads(REPORT.json())
    keys = "schema model target device precision state passed bundle checks accuracy latency layers"
    assert {*keys.split(), "environment", "timings_s"} <= set(told)
    assert told["schema"] == 1
    assert told["passed"] is True
    assert told["checks"][1]["value"] is None  # infinity is no JSON
    assert set(told["checks"][0]) >= {"name", "value", "limit", "unit", "passed"}


def test_one_failed_check_fails_the_report_and_its_line_is_red() -> None:
    assert FAILED.passed is False
    line = next(line for line in printed(FAILED).splitlines() if "parity.rel_l2" in line)
    assert "\x1b[1;31m" in line
    assert "FAILED" in printed(FAILED)
    assert "class=failed" in html(FAILED)


def test_a_drop_inside_the_noise_is_called_that() -> None:
    assert "inside the noise" in printed(REPORT)
    beyond = {**(REPORT.accuracy or {}), "significant": True}
    assert "beyond the noise" in printed(replace(REPORT, accuracy=beyond))
    few = {**(REPORT.accuracy or {}), "drop_interval": None}
    assert "too few samples to say how sure that is" in printed(replace(REPORT, accuracy=few))


def test_what_was_not_proved_says_so() -> None:
    assert DEFERRED.passed is None
    assert "not verified here" in printed(DEFERRED)
    assert "not verified here" in html(DEFERRED)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    for report in (REPORT, FAILED, DEFERRED):
        (tmp_path / FILE).write_text(report.json(), encoding="utf-8")
        assert read(tmp_path) == report


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checks": [{"name": "x"}], "notes": []}'])
def test_what_is_no_report_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadFileError, match="is no report"):
        read(tmp_path)


def test_the_page_escapes_what_it_shows() -> None:
    assert "build/&lt;crnn&gt;" in html(REPORT)
    assert "build/<crnn>" not in html(REPORT)
