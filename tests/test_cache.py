from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import cache
from edgekit.runtime.errors import SystemRefusedError


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    return tmp_path


def counted(made: list[Path], text: str = "x") -> object:
    def make(path: Path) -> None:
        made.append(path)
        path.write_text(text)

    return make


def test_what_is_made_is_made_once() -> None:
    made: list[Path] = []
    first = cache.fetch("a", counted(made))  # type: ignore[arg-type]
    assert cache.fetch("a", counted(made)) == first  # type: ignore[arg-type]
    assert (len(made), first.read_text()) == (1, "x")


def test_an_altered_artifact_is_made_again() -> None:
    made: list[Path] = []
    cache.fetch("a", counted(made)).write_text("tampered")  # type: ignore[arg-type]
    assert cache.fetch("a", counted(made)).read_text() == "x"  # type: ignore[arg-type]
    assert len(made) == 2


def test_a_failure_leaves_nothing(own: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch("a", fail)
    assert [path.name for path in own.iterdir()] == ["a.lock"]


def test_who_makes_one_thing_does_not_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0)

    def make(path: Path) -> None:
        path.write_text(cache.fetch("b", counted([])).read_text())  # type: ignore[arg-type]
        with pytest.raises(SystemRefusedError, match="another edgekit has been making"):
            cache.fetch("a", counted([]))  # type: ignore[arg-type]

    assert cache.fetch("a", make).read_text() == "x"


def test_a_key_depends_on_step_parts_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        cache.key("export", {"a": 1}, ("onnx",)),
        cache.key("export", {"a": 2}, ("onnx",)),
        cache.key("quantize", {"a": 1}, ("onnx",)),
        cache.key("export", {"a": 1}, ("numpy",)),
    }
    monkeypatch.setattr(cache, "code", lambda: "other sources")
    keys.add(cache.key("export", {"a": 1}, ("onnx",)))
    assert len(keys) == 5
    assert cache.key("export", {"a": 1, "b": 2}, ()) == cache.key("export", {"b": 2, "a": 1}, ())


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(file / "below"))
    with pytest.raises(SystemRefusedError, match="cannot be used"):
        cache.fetch("a", lambda path: None)
