"""`edgekit doctor --board`: what a profile says, as rows with advice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit import boards
from edgekit.runtime.errors import UsageError
from edgekit.steps import doctor


def found(name: str) -> dict[str, tuple[str, str]]:
    """What is found and advised, for the rows whose subject stands once."""
    return {row["what"]: (row["found"], row["advice"]) for row in doctor.board_findings(name)}


def rows(name: str, what: str) -> Iterator[tuple[str, str]]:
    """What is found and advised in every row of a subject."""
    return ((row["found"], row["advice"]) for row in doctor.board_findings(name) if row["what"] == what)


@pytest.mark.parametrize("name", boards.names())
def test_every_board_has_its_rows(name: str) -> None:
    board = boards.read(name)
    told = doctor.board_findings(name)
    assert all(list(row) == ["what", "found", "advice"] for row in told)
    assert all(isinstance(text, str) for row in told for text in row.values())
    assert [row["what"] for row in told].count("avoid") == len(board.avoid)
    assert all(row["found"] and row["advice"] for row in told if row["what"] == "avoid")
    assert told[-1]["found"] == "read, not verified here"
    assert all(source in told[-1]["advice"] for source in board.sources)


def test_a_jetson_is_told_by_memory_dla_and_releases() -> None:
    told = found("jetson-orin-nano")
    assert told["memory"] == (
        "4 or 8 GB, shared by CPU and GPU",
        "the TensorRT builder gets 512 MB of it with --board",
    )
    assert told["dla"] == ("none", "")
    assert told["jetpack 6.2"][0] == "tensorrt 10.3, cuda 12.6, jetson linux 36.4.3 to 36.5, python 3.10"
    assert "jetpack 7.0" not in told
    assert found("jetson-orin-nx")["dla"][0] == "1 or 2 cores"
    assert found("jetson-agx-orin")["dla"][0] == "2 cores"


def test_what_is_not_known_of_a_release_is_not_said() -> None:
    assert found("jetson-agx-orin")["jetpack 7.2.2"][0] == "tensorrt 11.4, python 3.12"


def test_tensorrt_comes_to_a_jetson_by_apt_and_never_by_pip() -> None:
    advice = found("jetson-xavier-nx")["installing"][1]
    assert "apt install nvidia-jetpack" in advice
    assert "--system-site-packages" in advice
    assert "never pip install tensorrt" in advice
    assert "installing" not in found("gpu-8.6")


def test_precisions_that_edgekit_offers_and_the_board_has_not_are_named() -> None:
    assert found("jetson-xavier-nx")["precisions"] == ("fp32, fp16, int8", "not here: bf16")
    assert found("jetson-thor")["precisions"][1] == ""
    assert found("intel-npu")["precisions"] == ("fp16, int8", "not here: fp32, bf16")


def test_what_to_avoid_is_told_with_the_reason() -> None:
    told = dict(rows("jetson-orin-nano", "avoid"))
    assert told["DLA"] == "this module has none; leave it off, the GPU does everything"


def test_a_board_that_is_not_supported_says_why() -> None:
    told = found("jetson-nano")
    assert told["board"] == (
        "Jetson Nano",
        "not supported: its last JetPack, 4.6, stops at TensorRT 8.2, and edgekit begins at 8.5",
    )
    assert told["targets"] == ("none", "")
    assert told["memory"][1] == ""
    assert "installing" not in told


def test_a_gpu_and_an_intel_chip_are_told_in_their_own_words() -> None:
    gpu, npu = found("8.6"), found("intel-npu")
    assert gpu["memory"][0] == "depends on the card"
    assert gpu["tensorrt"][0].startswith("8.5, 8.6, 10.3")
    assert npu["openvino device"] == ("NPU", "--target openvino --device NPU")
    assert not {"tensorrt", "dla", "compute capability"} & set(npu)


def test_what_is_not_confirmed_is_said_to_be() -> None:
    doubts = [doubt for doubt, _ in rows("jetson-orin-nano", "unconfirmed")]
    assert doubts == list(boards.read("jetson-orin-nano").unconfirmed)
    assert any("TensorRT 11.4.1" in doubt for doubt in doubts)


def test_an_unknown_board_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no board called 'jetson-orin-nani'"):
        doctor.board_findings("jetson-orin-nani")
