"""What a bundle says of one input, for people in lines and for programs as JSON data."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from .detection import Box

MOST = 5


def told(answer: Any) -> Any:
    """An answer of `Session.predict` as JSON data: a text, boxes, the best scores, or the outputs."""
    if isinstance(answer, dict):
        return best(answer) or {"outputs": summary(answer)}
    if isinstance(answer, list):
        return [box.told() for box in answer]
    return answer


def lines(answer: Any) -> List[str]:
    """The same in lines: one for each box, index or output."""
    if isinstance(answer, dict):
        found = best(answer)
        if found:
            return ["{index} {score:.6g}".format(**row) for row in found["top"]]
        return [_line(row) for row in summary(answer)]
    if isinstance(answer, list):
        return [box.line() for box in answer if isinstance(box, Box)]
    return [str(answer)]


def best(outputs: Mapping[str, np.ndarray]) -> Optional[Dict[str, Any]]:
    """The largest numbers of the first output with their indices, if it is one row of scores: (1, n)."""
    row = next(iter(outputs.values()))
    if row.ndim != 2 or row.shape[0] != 1 or row.shape[1] < 2 or row.dtype.kind != "f":
        return None
    order = np.argsort(-row[0], kind="stable")[:MOST]
    return {"top": [{"index": int(index), "score": float(row[0, index])} for index in order]}


def summary(outputs: Mapping[str, np.ndarray]) -> List[Dict[str, Any]]:
    """Name, shape, smallest and largest number of each output."""
    return [
        {"name": name, "shape": list(array.shape), "min": _number(array, "min"), "max": _number(array, "max")}
        for name, array in outputs.items()
    ]


def _number(array: np.ndarray, which: str) -> Optional[float]:
    """None where there is none: an empty array, NaN or infinity, which JSON does not have."""
    value = float(getattr(array, which)()) if array.size else np.nan
    return value if np.isfinite(value) else None


def _line(row: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, row["shape"]))
    low, high = ("?" if row[end] is None else "{:.6g}".format(row[end]) for end in ("min", "max"))
    return "{} [{}] {} .. {}".format(row["name"], shape, low, high)
