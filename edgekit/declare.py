"""What a user says of a network's inputs on one line, and back again.

name=float32[batch:1..8,1,64,width:32..1024]      an input: a type, then sizes and named dimensions
h=hn                                              a state: the input, and the output that feeds it
size=224x224,mean=0.485/0.456/0.406,order=RGB     how an image becomes the input
boxes=boxes,scores=scores,format=cxcywh           how a detector's outputs become boxes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Detection, Preprocess, TensorSpec

TYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
DEFAULT_RANGES = {"batch": (1, 64)}
DEFAULT_RANGE = (1, 1024)
EXAMPLE = "write it as image=float32[batch:1..8,3,224,224]"
DETECTION_EXAMPLE = "such as boxes=boxes,scores=scores,format=cxcywh,score=0.25,iou=0.45"

_INPUT = re.compile(r"(?P<name>[^=\[\]]+)=(?P<dtype>[a-z0-9]*)\[(?P<dims>[^\[\]]*)\]")
_DIM = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::(?P<low>\d+)\.\.(?P<high>\d+))?")


def parse_inputs(texts: Iterable[str]) -> tuple[TensorSpec, ...]:
    """Inputs as `--input` gives them; a dimension that is named twice has one range.

    Raises:
        UsageError: a text cannot be read, a name stands twice, or ranges contradict each other.
    """
    specs = [parse_input(text) for text in texts]
    _refuse_twice([spec.name for spec in specs])
    ranges: dict[str, tuple[int, int]] = {}
    for spec in specs:
        for dim, bounds in spec.ranges.items():
            if ranges.setdefault(dim, bounds) != bounds:
                raise UsageError(
                    f"the dimension {dim!r} has two ranges: {_told(ranges[dim])} and {_told(bounds)}",
                    "give it one range, or two names",
                )
    return tuple(_with_ranges(spec, ranges) for spec in specs)


def parse_input(text: str) -> TensorSpec:
    """One input; a dimension without a range has none yet.

    Raises:
        UsageError: the text cannot be read.
    """
    found = _INPUT.fullmatch("".join(text.split()))
    if found is None:
        raise UsageError(f"--input {text!r} is not NAME=TYPE[SIZES]", EXAMPLE)
    dtype = found["dtype"] or "float32"
    if dtype not in TYPES:
        raise UsageError(f"--input {text!r}: there is no type {dtype!r}", f"one of {', '.join(TYPES)}")
    dims = [_dim(part, text) for part in found["dims"].split(",")] if found["dims"] else []
    names = [dim for dim, _ in dims if isinstance(dim, str)]
    _refuse_twice(names)
    ranges = {str(dim): bounds for dim, bounds in dims if bounds is not None}
    return TensorSpec(found["name"], tuple(dim for dim, _ in dims), dtype, ranges)


def _dim(part: str, text: str) -> tuple[int | str, tuple[int, int] | None]:
    if part.isdigit() and int(part) >= 1:
        return int(part), None
    found = _DIM.fullmatch(part)
    if found is None:
        raise UsageError(f"--input {text!r}: {part!r} is neither a size nor NAME or NAME:LOW..HIGH", EXAMPLE)
    if found["low"] is None:
        return found["name"], None
    low, high = int(found["low"]), int(found["high"])
    if not 1 <= low <= high:
        raise UsageError(
            f"--input {text!r}: {part!r} is no range", "a range is LOW..HIGH with 1 <= LOW <= HIGH"
        )
    return found["name"], (low, high)


def _with_ranges(spec: TensorSpec, known: dict[str, tuple[int, int]]) -> TensorSpec:
    ranges = {dim: known.get(dim, DEFAULT_RANGES.get(dim, DEFAULT_RANGE)) for dim in spec.dynamic}
    return TensorSpec(spec.name, spec.shape, spec.dtype, ranges)


def told_input(spec: TensorSpec) -> str:
    """The text that `parse_input` makes the same input of."""
    dims = [
        f"{dim}:{_told(spec.ranges[dim])}" if isinstance(dim, str) and dim in spec.ranges else str(dim)
        for dim in spec.shape
    ]
    return f"{spec.name}={spec.dtype}[{','.join(dims)}]"


def _told(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}..{bounds[1]}"


def parse_state(text: str) -> tuple[str, str]:
    """`h=hn` is the input `h` and the output `hn` that feeds it.

    Raises:
        UsageError: the text cannot be read.
    """
    name, equals, output = (part.strip() for part in text.partition("="))
    if not (name and equals and output) or "=" in output:
        raise UsageError(f"--state {text!r} is not INPUT=OUTPUT", "write it as h=hn")
    return name, output


def parse_preprocess(text: str, channels: int = 3) -> Preprocess:
    """How an image becomes the first input, from `key=value` parts.

    Keys: `size` HEIGHTxWIDTH (`32x*` keeps the aspect ratio), `mean` and `std` (one number, or one for
    each channel with `/` between), `order` RGB or BGR, `fit` stretch or letterbox, `fill` 0 to 255.

    Raises:
        UsageError: an unknown key, or a value that cannot be read.
    """
    table = dict(_pair(part, text) for part in text.split(",") if part.strip())
    if strange := sorted(set(table) - {"size", "mean", "std", "order", "fit", "fill", "channels"}):
        raise UsageError(
            f"--preprocess: there is no key {strange[0]!r}", "keys: size mean std order fit fill channels"
        )
    if "size" not in table:
        raise UsageError("--preprocess does not say the size", "begin with size=224x224")
    try:
        height, width = table["size"].split("x")
        return _checked(
            Preprocess(
                height=int(height),
                width=0 if width == "*" else int(width),
                channels=int(table.get("channels", channels)),
                order=table.get("order", "RGB").upper(),
                fit=table.get("fit", "stretch"),
                fill=int(table.get("fill", 0)),
                mean=_numbers(table.get("mean", "0")),
                std=_numbers(table.get("std", "1")),
            )
        )
    except ValueError as error:
        raise UsageError(
            f"--preprocess {text!r}: {error}", "such as size=224x224,mean=0.5,std=0.5"
        ) from error


def parse_detection(text: str) -> dict[str, Any]:
    """The fields of `Detection` that `key=value` parts say: `boxes=boxes,scores=scores,iou=0.5`.

    `boxes` may be left out, where it is known.

    Raises:
        UsageError: an unknown key, or a value that cannot be.
    """
    known = {item.name: type(item.default) for item in fields(Detection)}
    known["boxes"] = str
    found: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise UsageError(f"--decode {text!r}: {part!r} is not KEY=VALUE", DETECTION_EXAMPLE)
        if key not in known:
            raise UsageError(f"--decode: there is no key {key!r}", f"keys: {' '.join(known)}")
        if key in found:
            raise UsageError(f"--decode: {key!r} stands twice", "say it once")
        found[key] = _detection_value(key, value, known[key])
    try:
        Detection(**{"boxes": "", **found})
    except ValueError as error:
        raise UsageError(f"--decode {text!r}: {error}", DETECTION_EXAMPLE) from error
    return found


def _detection_value(key: str, value: str, kind: type[Any]) -> Any:
    if kind is bool and value in ("true", "false"):
        return value == "true"
    try:
        if kind is not bool:
            return kind(value)
    except ValueError as error:
        raise UsageError(f"--decode: {key} {value!r} is no number", DETECTION_EXAMPLE) from error
    raise UsageError(f"--decode: {key} is true or false, not {value!r}", DETECTION_EXAMPLE)


def told_detection(said: Mapping[str, Any]) -> str:
    """The text that `parse_detection` makes the same of."""
    return ",".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in said.items()
    )


def told_preprocess(found: Preprocess) -> str:
    """The text that `parse_preprocess` makes the same of."""
    parts = {
        "size": f"{found.height}x{found.width or '*'}",
        "mean": "/".join(map(str, found.mean)),
        "std": "/".join(map(str, found.std)),
        "order": found.order,
        "fit": found.fit,
        "fill": str(found.fill),
        "channels": str(found.channels),
    }
    return ",".join(f"{key}={value}" for key, value in parts.items())


def parse_share(text: str, option: str) -> float:
    """`0.5%` is 0.005, and so is `0.005`.

    Raises:
        UsageError: it is no number, not above 0, or above 100%.
    """
    try:
        value = float(text.rstrip("% ")) / (100 if text.rstrip().endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise UsageError(f"{option} {text!r} is not above 0 and at most 100%", "write it as 0.5% or 0.005")
    return value


def parse_errors(texts: Iterable[str], option: str = "--max-error") -> tuple[float | None, dict[str, float]]:
    """The common limit, `5%`, and those of single outputs, `scores=2%`.

    Raises:
        UsageError: a share cannot be read, or a limit is given twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, share = (part.strip() for part in text.rpartition("="))
        if name in found:
            twice = f"for {name!r}" if name else "for all outputs"
            raise UsageError(f"{option} is given twice {twice}", "give each limit once")
        found[name] = parse_share(share, option)
    return found.pop("", None), found


def _checked(found: Preprocess) -> Preprocess:
    if found.order not in ("RGB", "BGR"):
        raise ValueError(f"the order {found.order!r} is neither RGB nor BGR")
    if found.fit not in ("stretch", "letterbox"):
        raise ValueError(f"the fit {found.fit!r} is neither stretch nor letterbox")
    if found.channels not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, not {found.channels}")
    if min(found.height, found.width or 1) < 1 or not 0 <= found.fill <= 255:
        raise ValueError("sizes begin at 1, and fill is 0 to 255")
    if any(len(numbers) not in (1, found.channels) for numbers in (found.mean, found.std)):
        raise ValueError("mean and std are one number, or one for each channel")
    if any(number <= 0 for number in found.std):
        raise ValueError("std is above 0")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("/"))


def _pair(part: str, text: str) -> tuple[str, str]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    if not (key and equals and value):
        raise UsageError(f"--preprocess {text!r}: {part!r} is not KEY=VALUE", "such as size=224x224")
    return key, value


def _refuse_twice(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--input: {name!r} stands twice", "give each a name of its own")
