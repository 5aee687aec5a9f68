"""The same network gives the same bytes in another process and another folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import edgekit

PROGRAM = """
from pathlib import Path
from edgekit.exporting import export_onnx
from tests.exporting.networks import IMAGE, LINES, LINE_STATES, line_reader
export_onnx(line_reader(), IMAGE, LINES, LINE_STATES, Path("model.onnx"), shapes=[{"batch": 3, "width": 21}])
"""


def start_in(folder: Path, hash_seed: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    script = folder / "program.py"
    script.write_text(PROGRAM)
    root = Path(edgekit.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen([sys.executable, str(script)], cwd=folder, env=environment)


def test_same_bytes_in_any_folder_and_process(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "some" / "other place"
    running = [start_in(folder, str(index)) for index, folder in enumerate(folders)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    first, second = (hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() for folder in folders)
    assert first == second
