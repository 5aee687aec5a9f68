"""Files from packages: the hash decides, and a pip that cannot says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.data import _packages
from edgekit.runtime.errors import BadFileError, SystemRefusedError
from edgekit.runtime.manifest import sha256_of

NAME, VERSION = "font-caladea", "0.0.2"


def test_a_kept_file_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"what the package holds")
    digest = sha256_of(tmp_path / "file")
    kept = tmp_path / "packages" / f"{NAME}-{VERSION}-{digest[:16]}"
    kept.parent.mkdir()
    (tmp_path / "file").rename(kept)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert _packages.fetch(NAME, VERSION, digest, tmp_path, "sdist") == kept


def test_a_file_that_is_not_the_known_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="another file than the one that is known"):
        _packages.fetch(NAME, VERSION, "0" * 64, tmp_path, "sdist")
    assert not list((tmp_path / "packages").iterdir())


def test_without_an_index_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemRefusedError, match=f"pip cannot bring {NAME}=={VERSION}"):
        _packages.fetch(NAME, VERSION, "0" * 64, tmp_path, "wheel")
