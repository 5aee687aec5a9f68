from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import bundle
from edgekit.report import Report
from edgekit.runtime.errors import SystemRefusedError, UsageError
from edgekit.runtime.manifest import read_manifest, verify
from tests.runtime.test_manifest import MANIFEST

MADE = replace(MANIFEST, files={"engine/model.onnx": ""})
REPORT = Report(model="net", target="onnxruntime", device="CPU", precision="fp32", state="proved", bundle="x")


def put_together(output: Path, content: str = "engine") -> None:
    with bundle.workspace(output) as work:
        (work / "engine").mkdir()
        (work / "engine" / "model.onnx").write_text(content)
        bundle.furnish(work)
        bundle.sign_off(work, output, MADE, REPORT)


def test_a_bundle_is_whole_and_holds_its_runtime(tmp_path: Path) -> None:
    output = tmp_path / "b"
    put_together(output)
    verify(output, read_manifest(output))
    for source in bundle.RUNTIME.rglob("*.py"):
        assert (output / "runtime" / source.relative_to(bundle.RUNTIME)).read_bytes() == source.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("swap", [True, False], ids=["renameat2", "without it"])
def test_an_existing_bundle_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    if not swap:
        monkeypatch.setattr(bundle, "_swap", lambda one, other: False)
    output = tmp_path / "b"
    put_together(output, "old")
    put_together(output, "new")
    assert (output / "engine" / "model.onnx").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failure_leaves_the_old_bundle_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "b"
    put_together(output, "old")
    with pytest.raises(KeyboardInterrupt), bundle.workspace(output) as work:
        (work / "half").write_text("")
        raise KeyboardInterrupt
    assert (output / "engine" / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.tex").write_text("years")
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    link.symlink_to(precious)
    app = tmp_path / "web app"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "a web app"}')
    mine = tmp_path / "mine"
    put_together(mine)
    (mine / "notes.txt").write_text("my own")
    for output in (precious, file, link, app, mine):
        with pytest.raises(UsageError, match="it is not replaced"), bundle.workspace(output):
            pytest.fail("it was entered")
    assert (precious / "chapter.tex").read_text() == "years"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    output = tmp_path / "b"
    output.mkdir()
    put_together(output)
    assert (output / "manifest.json").is_file()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SystemRefusedError, match="cannot be written"),
        bundle.workspace(tmp_path / "file" / "b"),
    ):
        pytest.fail("it was entered")
