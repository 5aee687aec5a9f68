from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekit.data._frames import read_frames
from edgekit.runtime.errors import BadFileError

NAMES = ("pandas", "pandas.core", "pandas.core.frame", "pandas.core.internals",
         "pandas.core.internals.managers", "pandas.core.indexes", "pandas.core.indexes.base")  # fmt: skip


class Made:
    """An object that is pickled as a frame is: made empty, then told its state."""

    def __init__(self, kind: type, state: Any) -> None:
        self.kind, self.state = kind, state

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstructor, (self.kind, object, None), self.state


class Index:
    def __init__(self, make: Callable[..., Any], kind: type, names: list[str]) -> None:
        self.make, self.kind, self.names = make, kind, names

    def __reduce__(self) -> tuple[Any, ...]:
        return self.make, (self.kind, {"data": np.array(self.names, object), "name": None})


_reconstructor = __import__("copyreg")._reconstructor


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Pickles a table as pandas 1.0 does, with classes of its names in place of pandas."""
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    def named(module: str, name: str) -> Any:
        kind = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        return kind

    frames, index = named("pandas.core.frame", "DataFrame"), named("pandas.core.indexes.base", "Index")
    manager = named("pandas.core.internals.managers", "BlockManager")

    def _new_Index(*_: Any) -> None:
        """Only named."""

    _new_Index.__module__, _new_Index.__qualname__ = "pandas.core.indexes.base", "_new_Index"
    monkeypatch.setattr(sys.modules[NAMES[-1]], "_new_Index", _new_Index, raising=False)

    def made(*blocks: tuple[list[str], np.ndarray]) -> Made:
        axes = [Index(_new_Index, index, names) for names, _ in blocks]
        columns = Index(_new_Index, index, [name for names, _ in blocks for name in names])
        state = ([columns, None], [values for _, values in blocks], axes, {"0.14.1": {}})
        return Made(frames, {"_data": Made(manager, state), "_typ": "dataframe"})

    return made


def read(data: bytes) -> Any:
    return read_frames(io.BytesIO(data), "x.pkl")


def test_a_table_of_blocks_is_read(frame: Callable[..., Any]) -> None:
    speeds = np.arange(6.0).reshape(2, 3)
    data = pickle.dumps({7: [frame((["a", "b"], speeds), (["label"], np.array([[1, 2, 2]])))]}, protocol=2)
    (table,) = read(data)[7]
    assert table.columns == ("a", "b", "label")
    np.testing.assert_array_equal(table.values["b"], speeds[1])
    np.testing.assert_array_equal(table.values["label"], [1, 2, 2])


class Malicious:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "named"),
    [((os.mkdir, "ran"), "mkdir"), ((eval, "open('ran', 'w')"), "eval"), ((getattr, 1, "real"), "getattr")],
)
def test_a_pickle_that_calls_something_is_refused_before_it_does(
    call: tuple[Any, ...], named: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFileError, match=rf"x\.pkl: the pickle names \w+\.{named}"):
        read(pickle.dumps({1: [Malicious(*call)]}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data", [b"", pickle.dumps({1: [2]}), pickle.dumps([1]), pickle.dumps({1: [2]})[:-3]]
)
def test_what_is_no_table_is_told(data: bytes) -> None:
    with pytest.raises(BadFileError, match=r"x\.pkl holds no pandas frames"):
        read(data)
