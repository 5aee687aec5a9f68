from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime import timing
from edgekit.runtime.errors import BadFileError, SystemRefusedError
from edgekit.runtime.proof import save_pairs
from edgekit.runtime.timing import Worker, alternate, time_calls

SERVER = """
import sys, time
from pathlib import Path
from edgekit.runtime.errors import BadFileError
from edgekit.runtime.timing import serve

class Sleeper:
    settings = {"threads": 1}
    def infer(self, feeds):
        print("noise on standard output")
        time.sleep(float(feeds["seconds"][0]))
        return {}
    def __enter__(self): return self
    def __exit__(self, *what): pass

def opened():
    BODY
    return Sleeper()

sys.exit(serve(opened, Path(sys.argv[1])))
"""


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    save_pairs(path, [{"seconds": np.array([seconds])} for seconds in (0.001, 0.03)])
    return path


def command(feeds: Path, body: str = "pass") -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(SERVER).replace("BODY", body), str(feeds)]


def test_a_worker_times_all_feeds_or_one(feeds: Path) -> None:
    with Worker(command(feeds)) as worker:
        worker.ready()
        assert worker.settings == {"threads": 1}
        short, long = worker.block(2)
        assert 1 <= short < 20
        assert 30 <= long < 60
        assert all(milliseconds >= 30 for milliseconds in worker.block(2, feed=1))
        worker.close()
        assert worker.peak_mb is not None
        assert 5 < worker.peak_mb < 500


def test_an_error_in_the_worker_is_told(feeds: Path) -> None:
    with (
        Worker(command(feeds, "raise BadFileError('the engine is broken')")) as worker,
        pytest.raises(BadFileError, match="the engine is broken"),
    ):
        worker.ready()


def test_a_worker_that_dies_is_told(feeds: Path) -> None:
    with (
        Worker(command(feeds, "import os; os._exit(9)")) as worker,
        pytest.raises(SystemRefusedError, match="ended with code 9"),
    ):
        worker.ready()


def test_leaving_the_context_ends_the_process(feeds: Path) -> None:
    with Worker(command(feeds)) as worker:
        worker.ready()
        process = worker._process
    assert process.returncode is not None


def test_blocks_alternate_and_drop_their_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    turns: list[str] = []

    def turn(name: str) -> object:
        def block(calls: int) -> list[float]:
            turns.append(name)
            return [1000.0] + [1.0] * (calls - 1)

        return block

    times = alternate({"a": turn("a"), "b": turn("b")}, blocks=3, calls=4)  # type: ignore[dict-item]
    assert turns == ["a", "b"] * 3
    assert times == {"a": [1.0] * 12, "b": [1.0] * 12}


def test_calls_go_over_the_feeds_in_turn() -> None:
    seen: list[int] = []

    class Recorder:
        def infer(self, feeds: dict[str, int]) -> dict[str, int]:
            seen.append(feeds["x"])
            return {}

    times = time_calls(Recorder(), [{"x": 0}, {"x": 1}], 5)  # type: ignore[arg-type, list-item]
    assert seen == [0, 1, 0, 1, 0]
    assert len(times) == 5


def test_peak_memory_is_this_process() -> None:
    """In a process of its own: elsewhere an earlier test's peak would hide this block."""
    measure = (
        "import numpy as np; from edgekit.runtime.timing import peak_mb; "
        "before = peak_mb(); block = np.ones(20_000_000); print(peak_mb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    assert 140 < float(done.stdout) < 240
