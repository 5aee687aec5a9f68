"""The boards' profiles: every file is whole, the document says what the files say, the wheel carries them.

`python -m tests.test_boards` writes the tables of docs/boards.md anew from the profiles.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from edgekit import boards, catalog, registry
from edgekit.boards import Board
from edgekit.runtime.errors import UnsupportedError, UsageError

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "boards.md"
TABLES = re.compile(r"(?<=<!-- made from edgekit/profiles -->\n).*?(?=<!-- end -->)", re.DOTALL)
API_TABLES = ROOT / "tests" / "runtime" / "tensorrt_api"
WHOLE: dict[str, Any] = {
    "title": "Example",
    "kind": "jetson",
    "supported": True,
    "compute_capability": "8.7",
    "memory_mb": [4096],
    "dla_cores": [0],
    "precisions": ["fp16"],
    "targets": ["tensorrt"],
    "software": ["6.2"],
    "avoid": ["this: because"],
    "sources": ["the maker's data sheet, page 3"],
}


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [tuple(heading), ("---",) * len(tuple(heading)), *map(tuple, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rendered() -> str:
    """What stands between the marks of docs/boards.md."""
    every = [boards.read(name) for name in boards.names()]
    kinds = {kind: [board for board in every if board.kind == kind] for kind in boards.KINDS}
    doubts = [f"- `{board.name}`: {doubt}\n" for board in every for doubt in board.unconfirmed]
    return "\n".join(
        [
            "",
            _jetsons(kinds["jetson"]),
            _jetpacks(),
            _gpus(kinds["gpu"]),
            _intels(kinds["intel"]),
            _doubts(doubts),
        ]
    )


def _jetsons(found: list[Board]) -> str:
    heading = (
        "board",
        "compute capability",
        "memory (GB)",
        "DLA cores",
        "precisions",
        "JetPack",
        "supported",
    )
    rows = (
        (f"`{board.name}`", board.compute_capability, _sizes(board), _either(board.dla_cores),
         " ".join(board.precisions), " ".join(board.software), "yes" if board.supported else board.reason)
        for board in found
    )  # fmt: skip
    return "### Jetson\n\n" + table(heading, rows)


def _jetpacks() -> str:
    heading = ("JetPack", "TensorRT", "CUDA", "Jetson Linux", "Python", "note")
    rows = (
        (version, said.tensorrt, said.cuda or "?", said.l4t or "?", said.python, said.note)
        for version, said in boards.releases().items()
    )
    return "### JetPack\n\n" + table(heading, rows)


def _gpus(found: list[Board]) -> str:
    heading = ("GPU", "examples", "compute capability", "precisions", "targets", "TensorRT")
    rows = (
        (f"`{board.name}`", board.title, board.compute_capability, " ".join(board.precisions),
         " ".join(board.targets), " ".join(boards.versions(board)))
        for board in sorted(found, key=lambda board: float(board.compute_capability))
    )  # fmt: skip
    return "### NVIDIA GPUs, by compute capability\n\n" + table(heading, rows)


def _intels(found: list[Board]) -> str:
    heading = ("chip", "title", "OpenVINO device", "precisions", "targets")
    rows = (
        (f"`{board.name}`", board.title, board.device, " ".join(board.precisions), " ".join(board.targets))
        for board in found
    )
    return "### Intel\n\n" + table(heading, rows)


def _doubts(doubts: list[str]) -> str:
    return "### Not confirmed\n\n" + "".join(doubts)


def _sizes(board: Board) -> str:
    return _either(size >> 10 for size in board.memory_mb)


def _either(values: Iterable[int]) -> str:
    return " or ".join(dict.fromkeys(map(str, values)))


# The files.


def test_the_boards_that_are_asked_for_are_there() -> None:
    jetsons = ("xavier-nx", "agx-xavier", "orin-nano", "orin-nx", "agx-orin", "thor", "nano", "tx2")
    gpus = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
    intel = ("cpu-avx2", "cpu-vnni", "cpu-amx", "igpu", "arc-igpu", "npu")
    wanted = [f"jetson-{name}" for name in jetsons] + [f"gpu-{name}" for name in gpus]
    wanted += [f"intel-{name}" for name in intel]
    assert {boards.read(name).name for name in wanted} == set(boards.names())


@pytest.mark.parametrize("name", boards.names())
def test_a_profile_is_whole(name: str) -> None:
    board = boards.read(name)
    assert board.name == name
    assert all(len(source.split()) > 3 for source in board.sources)
    assert len(set(board.avoid)) == len(board.avoid) >= 2
    assert board.kind == "gpu" or board.memory_shared
    assert bool(board.memory_mb) == (board.kind == "jetson")
    assert "TensorRT" not in board.title


def test_every_tensorrt_that_a_supported_board_has_is_one_whose_names_are_known() -> None:
    known = {".".join(path.stem.split(".")[:2]) for path in API_TABLES.glob("[0-9]*.json")}
    assert len(known) == 8
    for name in boards.names():
        board = boards.read(name)
        assert not board.supported or set(boards.versions(board)) <= known


def test_no_board_is_named_by_a_file_that_begins_with_an_underscore() -> None:
    assert (registry.PACKAGE / "profiles" / "_jetpack.toml").is_file()
    assert boards.names()
    assert not any(name.startswith("_") for name in boards.names())


@pytest.mark.parametrize(
    ("name", "capability", "versions", "dla"),
    [
        ("jetson-xavier-nx", "7.2", ("8.5",), (2, 2)),
        ("jetson-orin-nano", "8.7", ("8.5", "8.6", "10.3", "10.16"), (0, 0)),
        ("jetson-orin-nx", "8.7", ("8.5", "8.6", "10.3", "10.16"), (1, 2)),
        ("jetson-agx-orin", "8.7", ("8.5", "8.6", "10.3", "10.16", "11.4"), (2, 2)),
        ("jetson-thor", "11.0", ("10.13", "10.16", "11.4"), (0, 0)),
    ],
)
def test_a_jetson_has_the_tensorrt_of_its_jetpacks(
    name: str, capability: str, versions: tuple[str, ...], dla: tuple[int, ...]
) -> None:
    board = boards.read(name)
    assert (board.compute_capability, boards.versions(board), board.dla_cores) == (capability, versions, dla)


def test_tensorrt_rtx_goes_where_its_builder_does() -> None:
    """Compute capabilities that the builder of TensorRT-RTX 1.7.1 took and refused when it was tried."""
    takes = {
        board.compute_capability
        for board in map(boards.read, boards.names())
        if "tensorrt_rtx" in board.targets
    }
    assert takes == {"7.5", "8.0", "8.6", "8.9", "12.0"}


def test_releases_go_from_old_to_new() -> None:
    found = boards.releases()
    assert tuple(found) == ("4.6", "5.1", "6.0", "6.1", "6.2", "7.0", "7.1", "7.2", "7.2.2")
    assert (found["6.1"].tensorrt, found["6.1"].cuda, found["6.1"].python) == ("10.3", "12.6", "3.10")


# Finding one.


@pytest.mark.parametrize(
    "name", ["8.6", "gpu-8.6", "GPU_8.6", "sm86", "sm_86", "gpu-sm86", "gpu_sm86", " 86 "]
)
def test_a_gpu_is_found_by_its_compute_capability(name: str) -> None:
    assert boards.read(name).name == "gpu_sm86"


def test_a_compute_capability_that_several_boards_have_is_asked_back() -> None:
    with pytest.raises(UsageError, match=r"several boards have compute capability 8\.7") as told:
        boards.read("8.7")
    assert told.value.hint == "choose one of: jetson_agx_orin, jetson_orin_nano, jetson_orin_nx"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no board called 'jetson-orin-nan'") as told:
        boards.read("jetson-orin-nan")
    assert told.value.hint == "did you mean 'jetson_orin_nano'?"
    with pytest.raises(UsageError, match=r"there is no board with compute capability 9\.9") as told:
        boards.read("gpu-9.9")
    assert "gpu_sm90" in told.value.hint
    assert "intel_npu" not in told.value.hint


# Faults.


def test_a_faulty_profile_tells_every_fault() -> None:
    broken = {
        **{key: value for key, value in WHOLE.items() if key != "sources"},
        "kind": "jetsom",
        "memory_mb": "4 GB",
        "supported": 1,
        "precision": [],
        "precisions": ["fp16", 8],
    }
    with pytest.raises(UsageError) as told:
        boards.parse("example", broken)
    assert told.value.message.splitlines() == [
        "the profile example.toml has 5 faults:",
        "  - memory_mb: '4 GB' is not a list of whole numbers",
        "  - precision: there is no such key; did you mean 'precisions'?",
        "  - precisions: ['fp16', 8] is not a list of texts",
        "  - sources: it is missing",
        "  - supported: 1 is not true or false",
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": "jetsom"}, "kind: there is no 'jetsom'; did you mean 'jetson'?"),
        ({"precisions": ["fp61"]}, "precisions: there is no 'fp61'; did you mean 'fp16'?"),
        ({"targets": ["tensort"]}, "targets: there is no 'tensort'; did you mean 'tensorrt'?"),
        ({"software": ["6.22"]}, "software: there is no '6.22'; did you mean '6.2'?"),
        ({"dla_cores": [0, 1]}, "dla_cores: one number is needed for each size in memory_mb"),
        ({"compute_capability": "sm87"}, "compute_capability: 'sm87' is not a number such as '8.7'"),
        ({"kind": "gpu", "software": ["JetPack 6"]}, "software: ['JetPack 6'] are not TensorRT versions"),
        ({"kind": "intel", "device": "TPU"}, "device: there is no 'TPU'; did you mean 'NPU'?"),
        ({"supported": False, "targets": []}, "reason: it says why a board is not supported"),
        ({"reason": "too old"}, "reason: it says why a board is not supported"),
        ({"targets": []}, "targets: a supported board has some, another has none"),
        ({"sources": []}, "sources: it is empty"),
        ({"avoid": ["int8"]}, "avoid: 'int8' does not say why after a colon"),
    ],
)
def test_what_is_said_wrongly_is_named(change: dict[str, Any], fault: str) -> None:
    assert boards.parse("example", WHOLE).title == "Example"
    with pytest.raises(UsageError) as told:
        boards.parse("example", {**WHOLE, **change})
    assert told.value.message.startswith(f"the profile example.toml has one fault:\n  - {fault}")


def test_a_file_that_is_no_toml_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jetson_nano.toml").write_text("title = Jetson", encoding="utf-8")
    monkeypatch.setattr(boards, "_FOLDER", tmp_path)
    with pytest.raises(UsageError, match=r"the profile jetson_nano\.toml has one fault") as told:
        boards.read("jetson-nano")
    assert isinstance(told.value.__cause__, tomllib.TOMLDecodeError)


# What follows from a profile.


@pytest.mark.parametrize("name", ["jetson-nano", "jetson-tx2"])
@pytest.mark.parametrize("target", boards.TARGETS)
def test_a_board_that_stops_at_tensorrt_8_2_is_refused(name: str, target: str) -> None:
    with pytest.raises(UnsupportedError, match=r"is not supported: .*TensorRT 8\.2") as told:
        boards.refuse(boards.read(name), target)
    assert told.value.exit_code == 4
    assert "edgekit list boards" in told.value.hint


@pytest.mark.parametrize("name", ["jetson-orin-nano", "jetson-thor"])
def test_tensorrt_rtx_is_refused_on_a_jetson(name: str) -> None:
    with pytest.raises(UnsupportedError, match="its engines load in TensorRT-RTX only") as told:
        boards.refuse(boards.read(name), "tensorrt-rtx")
    assert "--target tensorrt:" in told.value.hint


def test_a_target_that_runs_there_is_not_refused_and_another_is() -> None:
    for name in boards.names():
        board = boards.read(name)
        for target in board.targets:
            boards.refuse(board, target)
    with pytest.raises(UnsupportedError, match="openvino is no target for Jetson Orin Nano") as told:
        boards.refuse(boards.read("jetson-orin-nano"), "openvino")
    assert told.value.hint == "use --target tensorrt or onnxruntime"
    with pytest.raises(UnsupportedError, match="tensorrt_rtx is no target for H100, H200"):
        boards.refuse(boards.read("9.0"), "tensorrt-rtx")


def test_the_builder_leaves_shared_memory_to_the_others() -> None:
    for board in map(boards.read, boards.names()):
        limit = boards.workspace_mb(board)
        assert 0 < limit <= 4096
        assert all(limit <= size // 4 for size in board.memory_mb)
    assert boards.workspace_mb(boards.read("jetson-orin-nano")) == 512
    assert boards.workspace_mb(boards.read("8.6")) == 1024


# Where people and programs see them.


def test_the_listing_fits_a_terminal_of_120_columns() -> None:
    rows = catalog.boards()
    assert [row["name"] for row in rows] == list(boards.names())
    assert list(rows[0]) == ["name", "title", "sm", "memory", "precisions", "dla", "tensorrt", "supported"]
    widest = [max(len(str(text)) for text in (key, *(row[key] for row in rows))) for key in rows[0]]
    assert sum(widest) + 3 * (len(widest) - 1) <= 120


def test_the_listing_says_what_the_profiles_say() -> None:
    rows = {row["name"]: row for row in catalog.boards()}
    assert rows["jetson_orin_nx"] == {
        "name": "jetson_orin_nx", "title": "Jetson Orin NX", "sm": "8.7", "memory": "8-16G",
        "precisions": "fp32 tf32 fp16 bf16 int8", "dla": "1-2", "tensorrt": "8.5-10.16", "supported": "yes",
    }  # fmt: skip
    assert rows["jetson_nano"]["supported"] == "no"
    assert (rows["intel_npu"]["tensorrt"], rows["intel_npu"]["memory"], rows["intel_npu"]["dla"]) == (
        "",
        "",
        "",
    )


def test_the_wheel_carries_every_profile() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    chosen = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    carried = {f"edgekit/profiles/{path.name}" for path in (ROOT / "edgekit" / "profiles").iterdir()}
    assert f"edgekit/profiles/{boards.names()[0]}.toml" in carried
    assert carried <= chosen


def test_the_document_says_what_the_profiles_say() -> None:
    (found,) = TABLES.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert found == rendered(), "python -m tests.test_boards writes the tables anew"


def test_the_example_in_the_document_is_a_profile() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert boards.versions(boards.parse("example", tomllib.loads(example))) == ("10.3",)


if __name__ == "__main__":
    before = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(TABLES.sub(lambda _: rendered(), before), encoding="utf-8")
