from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Labels, Manifest, TensorSpec
from edgekit.runtime.sequence_file import fed_sequence, read_sequence
from edgekit.runtime.session import Session

INPUT = TensorSpec("sequence", ("batch", "time", 2), ranges={"batch": (1, 4), "time": (1, 50)})
OUTPUT = TensorSpec("logits", ("batch", 2))


class Sums:
    """Stands for an engine: the sums of the two columns."""

    inputs, outputs, settings = (INPUT,), (OUTPUT,), {}

    def infer(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"logits": feeds["sequence"].sum(1)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


def session(labels: Labels | None) -> Session:
    manifest = Manifest(
        model="m", target="t", precision="fp32", device="CPU", state="proved", passed=True, engine={},
        inputs=(INPUT,), outputs=(OUTPUT,), labels=labels,
    )  # fmt: skip
    return Session(manifest, Sums())  # type: ignore[arg-type]


def test_a_window_is_answered_with_its_label(tmp_path: Path) -> None:
    path = tmp_path / "window.csv"
    path.write_bytes(b"\xef\xbb\xbfx,y\r\n1,2\r\n\r\n3,4.5\r\n")
    assert session(Labels(("first", "second"))).predict(path) == "second"
    np.testing.assert_array_equal(session(None).predict(path)["logits"], [[4, 6.5]])
    np.save(tmp_path / "window.npy", np.array([[5, 1]]))
    assert session(Labels(("first", "second"))).predict(tmp_path / "window.npy") == "first"
    assert session(Labels(("first", "second"))).predict(np.array([[0.0, 1.0]])) == "second"


def test_a_network_of_another_kind_takes_no_sequence() -> None:
    for spec in (TensorSpec("tokens", ("batch", "time"), "int64"), TensorSpec("x", ("batch", 3, 8, 8))):
        with pytest.raises(UsageError, match="nothing of images"):
            fed_sequence(np.zeros((3, 2)), (spec,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no row"),
        (b"\xff\xfe\x00", "is no CSV"),
        (b"1,2\n\n3,x\n", "line 3, column 2: 'x' is not a finite number"),
        (b"1,2\n1,2,3\n", "line 2: 3 columns, and the network takes 2"),
        (b"1,1e39\n", "'1e39' is not"),
    ],
)
def test_a_fault_of_a_csv_is_named_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "window.csv"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=message):
        read_sequence(path, 2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\), and the network takes \(time, 2\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        (np.array([["a", "b"]]), "not of numbers"),
        (np.array([[0, 1], [np.nan, 1]]), "step 1 is not finite"),
    ],
)
def test_a_fault_of_an_npy_is_named(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "window.npy", array)
    with pytest.raises(BadFileError, match=message):
        read_sequence(tmp_path / "window.npy", 2)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not exist"):
        read_sequence(tmp_path / "window.csv", 2)
    (tmp_path / "window.npy").write_bytes(b"\x80\x04.")
    with pytest.raises(BadFileError, match=r"is no \.npy"):
        read_sequence(tmp_path / "window.npy", 2)
