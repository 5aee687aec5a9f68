"""The sweep itself, with processes that do at once what the name of their cell says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from edgekit import pipeline
from edgekit import recipe as recipes
from edgekit.report.sweep import Row, Sweep, html
from edgekit.runtime.errors import SystemRefusedError, UsageError
from edgekit.runtime.manifest import read_manifest, verify
from edgekit.spec import Recipe
from edgekit.steps import sweep as steps
from edgekit.steps._sweep import child
from edgekit.steps.sweep import Standing, half_of, sweep

ROOT = Path(__file__).parents[2]
CELL_KEYS = {
    "model", "target", "precision", "state", "exit_code", "passed", "reason", "hint", "bundle", "error",
    "accuracy", "latency", "layers", "failed", "engine_mb", "seconds",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _acting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PROGRAM", "tests.steps.sweep_child")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def cells(*names: str) -> list[Recipe]:
    cnn = recipes.read("cnn", target="onnxruntime")
    return [replace(cnn, name=name, precision="fp32") for name in names]


class Seen:
    """A watch that remembers, and interrupts when it is told to."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.all: list[Standing] = []
        self._interrupt_at = interrupt_at

    def __call__(self, now: Standing) -> None:
        self.all.append(now)
        at = [one for one in now.running if one.doing == "acting"]
        if at and now.done == now.total - 1 and now.step == self._interrupt_at:
            raise KeyboardInterrupt

    @property
    def most_at_once(self) -> dict[str, int]:
        return {
            step: max(len(now.running) for now in self.all if now.step == step)
            for step in dict.fromkeys(now.step for now in self.all)
        }


def inodes(place: Path, names: Sequence[str]) -> list[int]:
    return [(place / f"{name}-onnxruntime-fp32" / "manifest.json").stat().st_ino for name in names]


def left_over(place: Path) -> list[str]:
    return [path.name for path in place.rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_every_cell_is_a_row_and_good_ones_are_whole_bundles(tmp_path: Path) -> None:
    seen = Seen()
    names = ("a", "refused", "b", "built", "wrong", "absent")
    found = sweep(cells(*names), tmp_path, jobs=2, watch=seen)
    assert [row.state for row in found.rows] == [
        "proved", "refused", "proved", "built", "proved", "no-hardware",
    ]  # fmt: skip
    assert [row.passed for row in found.rows] == [True, None, True, None, False, None]
    assert [row.exit_code for row in found.rows] == [0, 4, 0, 5, 1, 5]
    assert found.rows[4].reason == "parity.rel_l2 0.5, limit 0.1"
    assert "node 'a': too odd" in found.rows[1].reason
    assert (found.exit_code, found.complete, found.kept) == (1, True, 0)
    assert seen.most_at_once == {"building": 2, "timing": 1}
    for name in ("a", "b", "wrong"):
        bundle = tmp_path / f"{name}-onnxruntime-fp32"
        verify(bundle, read_manifest(bundle))
        assert json.loads((bundle / "report.json").read_text())["latency"]["speedup"] == 1.0
    assert found.rows[0].engine_mb == pytest.approx(0.006)


def test_the_document_says_all_of_it_and_the_page_too(tmp_path: Path) -> None:
    found = sweep(cells("a", "refused"), tmp_path)
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert told == json.loads(found.json())
    assert (told["schema"], told["total"], told["complete"], told["passed"]) == (1, 2, True, True)
    assert [set(cell) for cell in told["cells"]] == [CELL_KEYS, CELL_KEYS]
    assert {"cpu", "cores", "python"} <= set(told["environment"])
    page = (tmp_path / "sweep.html").read_text()
    assert "2 cells: 1 passed, 1 refused" in page
    assert "node &#x27;a&#x27;: too odd" in page
    assert found.exit_code == 0


def test_the_next_sweep_builds_nothing_twice(tmp_path: Path) -> None:
    names = ("a", "built", "refused", "absent")
    sweep(cells(*names), tmp_path)
    before, seen = inodes(tmp_path, names[:2]), Seen()
    found = sweep(cells(*names), tmp_path, watch=seen)
    assert inodes(tmp_path, names[:2]) == before
    assert found.kept == 3
    worked_on = {now.finished.model for now in seen.all if now.finished}
    assert worked_on == {"absent"}  # by now it might be there
    assert found.rows[0].state == "proved"


def test_what_was_altered_and_what_another_recipe_asks_for_is_built_again(tmp_path: Path) -> None:
    sweep(cells("a", "b", "c"), tmp_path)
    (tmp_path / "a-onnxruntime-fp32" / "engine" / "model.onnx").write_text("altered")
    one, two, three = cells("a", "b", "c")
    seen = Seen()
    found = sweep([one, replace(two, seed=7), three], tmp_path, watch=seen)
    assert {now.finished.model for now in seen.all if now.finished} == {"a", "b"}
    assert found.kept == 1
    assert sweep([one, two, three], tmp_path, fresh=True).kept == 0


def test_a_process_that_dies_is_a_row_and_leaves_nothing(tmp_path: Path) -> None:
    found = sweep(cells("crash", "a", "bug"), tmp_path)
    crash, good, bug = found.rows
    assert (crash.state, crash.exit_code, good.state, bug.state, bug.exit_code) == (
        "broken", 139, "proved", "broken", 70,
    )  # fmt: skip
    assert crash.reason == "its process was ended by SIGSEGV: an engine's last words"
    assert bug.reason == "its process ended with code 70: ZeroDivisionError: a mistake"
    log = Path(bug.hint.removeprefix("look into "))
    assert "Traceback" in log.read_text()
    assert found.exit_code == 1
    assert left_over(tmp_path) == []
    assert sweep(cells("crash", "a", "bug"), tmp_path).kept == 1


@pytest.mark.parametrize("step", ["building", "timing"])
def test_an_interrupted_sweep_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    started: list[int] = []
    real = child.subprocess.Popen

    def counted(*arguments: object, **options: object) -> object:
        process = real(*arguments, **options)  # type: ignore[call-overload]
        started.append(process.pid)
        return process

    monkeypatch.setattr(child.subprocess, "Popen", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(cells("a", step), tmp_path, jobs=2, watch=Seen(interrupt_at=step))
    assert not any(map(alive, started))
    assert left_over(tmp_path) == []
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert (told["complete"], told["passed"]) == (False, None)
    before = inodes(tmp_path, ["a"]) if step == "timing" else None
    assert sweep(cells("a"), tmp_path).kept == (1 if step == "timing" else 0)
    assert before in (None, inodes(tmp_path, ["a"]))


def test_an_interrupt_while_a_process_is_being_started_ends_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    real = child.subprocess.Popen

    def interrupted(*arguments: object, **options: object) -> object:
        process = real(*arguments, **options)  # type: ignore[call-overload]
        started.append(process.pid)
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(child.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(cells("building"), tmp_path)
    assert len(started) == 1
    assert not alive(started[0])
    assert not list((tmp_path / ".sweep").glob("*.log"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_when_no_cell_can_be_the_code_says_why(tmp_path: Path) -> None:
    assert sweep(cells("refused"), tmp_path).exit_code == 4
    assert sweep(cells("absent"), tmp_path).exit_code == 5
    assert sweep(cells("refused", "built"), tmp_path).exit_code == 0


def test_nothing_is_built_into_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b-onnxruntime-fp32").mkdir()
    (tmp_path / "b-onnxruntime-fp32" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="is not replaced"):
        sweep(cells("a", "b"), tmp_path)
    with pytest.raises(UsageError, match="two of the models are called 'a'"):
        sweep(cells("a", "a"), tmp_path)
    with pytest.raises(UsageError, match="has no weights yet"):
        sweep([replace(cells("a")[0], weights=None)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b-onnxruntime-fp32"]


def test_two_sweeps_do_not_write_into_one_folder(tmp_path: Path) -> None:
    (tmp_path / ".sweep").mkdir()
    with FileLock(tmp_path / ".sweep" / "lock"), pytest.raises(SystemRefusedError, match="another sweep"):
        sweep(cells("a"), tmp_path)


def test_models_take_turns() -> None:
    one, two = (steps.Cell(recipe=recipe, place=Path(), key="") for recipe in cells("a", "b"))
    assert list(steps._models_in_turn([one, one, one, two])) == [one, two, one, one]


@pytest.mark.parametrize(
    ("target", "half"),
    [("onnxruntime", {"fp16"}), ("openvino", {"bf16", "fp16"}), ("tensorrt_rtx", {"fp16"})],
)
def test_half_is_what_the_target_is_fastest_in(target: str, half: set[str]) -> None:
    assert half_of(recipes.read("cnn", target=target)) in half


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What the pipeline would sweep."""
    asked: list[tuple[str, str, str]] = []

    def note(found: Sequence[Recipe], *rest: object) -> Sweep:
        asked.extend((one.name, one.target.name, one.precision) for one in found)
        return Sweep(rows=(), total=len(found))

    monkeypatch.setattr(pipeline, "sweep_cells", note)
    return asked


def test_left_out_it_is_everything(swept: list[tuple[str, str, str]]) -> None:
    pipeline.sweep()
    assert {name for name, _, _ in swept} == set(recipes.with_weights()) >= {"cnn", "crnn", "crnn_small"}
    ours = [(target, precision) for name, target, precision in swept if name == "cnn"]
    assert len(ours) == 9
    assert {("onnxruntime", "int8"), ("openvino", "fp32"), ("tensorrt_rtx", "fp16")} <= set(ours)


def test_a_precision_that_is_named_twice_is_one_cell(swept: list[tuple[str, str, str]]) -> None:
    pipeline.sweep(["cnn"], targets=["onnxruntime"], precisions=["half", "fp16"])
    assert swept == [("cnn", "onnxruntime", "fp16")]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"models": ["crn"]}, "no model called 'crn'"),
        ({"targets": ["openvin"]}, "no target called 'openvin'"),
        ({"precisions": ["int9"]}, "no precision called 'int9'"),
        ({"targets": ["openvino"], "compute_capabilities": ["8.6"]}, "tensorrt-rtx, which is not swept"),
    ],
)
def test_what_is_misspelt_is_said_first(
    swept: list[tuple[str, str, str]], said: dict[str, list[str]], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        pipeline.sweep(**{"models": ["cnn"], **said})  # type: ignore[arg-type]
    assert swept == []


def timed(model: str, *references: float) -> list[Row]:
    return [
        Row(
            model=model, target="t", precision="fp32", state="proved", exit_code=0, passed=True,
            latency={"reference": {"p50_ms": p50}, "target": {"p50_ms": 0.1}, "speedup": p50 / 0.1},
        )
        for p50 in references
    ]  # fmt: skip


def test_latencies_from_a_busy_machine_are_doubted() -> None:
    found = Sweep(rows=(*timed("calm", 1.0, 1.4), *timed("busy", 0.2, 40.0)), total=4)
    (doubt,) = found.told()["doubts"]
    assert "busy: PyTorch itself took 0.2 to 40 ms" in doubt
    assert doubt in html(found)


def test_the_page_escapes_what_it_shows() -> None:
    row = Row(model="<b>", target="t", precision="fp32", state="refused", exit_code=4, reason="<i>")
    page = html(Sweep(rows=(row,), total=1))
    assert "&lt;b&gt;" in page
    assert "<i>" not in page
