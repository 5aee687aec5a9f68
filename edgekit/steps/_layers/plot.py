"""SQNR by depth as an SVG picture: no script, nothing from outside, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 34, 122
_TICK = 20
_NAMES = 28
"""As many names fit under the picture."""
_LONGEST = 22

_STYLE = """
.ek-layers{font:12px system-ui,sans-serif;color:#1b1f24;
--line:#0969da;--bad:#cf222e;--soft:#57606a;--grid:#d8dee4}
.ek-layers text{fill:currentColor}.ek-layers .soft{fill:var(--soft)}
.ek-layers .jump{fill:var(--bad);font-weight:600}.ek-layers .grid{stroke:var(--grid)}
.ek-layers .own{stroke:var(--line);fill:none;stroke-width:1.6}.ek-layers .dot{fill:var(--line)}
.ek-layers .read{fill:none;stroke:var(--line)}.ek-layers .bad{fill:var(--bad)}
.ek-layers .limit{stroke:var(--soft);stroke-dasharray:5 4}
.ek-layers .mark{stroke:var(--bad);stroke-dasharray:3 3}
@media (prefers-color-scheme:dark){
.ek-layers{color:#e6edf3;--line:#58a6ff;--bad:#ff7b72;--soft:#9198a1;--grid:#30363d}}
"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One layer: SQNR in dB of its result and of what its readers get; `mark` is what is to be said there."""

    name: str
    title: str
    own: float
    read: float | None = None
    mark: str = ""


def plot(points: Sequence[Point], limit: float) -> str:
    """The picture as one `<svg>` element. `limit` is the SQNR in dB below which a fall is a jump."""
    scale = _Scale(points, limit)
    parts = [
        *_grid(scale),
        f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(limit)}" y2="{scale.y(limit)}"/>',
        *_legend(limit),
        f'<polyline class="own" points="{" ".join(_line(points, scale))}"/>',
        *(part for place, point in enumerate(points) for part in _marks(point, place, scale)),
        *_names(points, scale),
    ]
    label = "SQNR by depth of the network"
    return (
        f'<svg class="ek-layers" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{label}" width="100%"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )


def _legend(limit: float) -> Iterator[str]:
    x, y = LEFT + 210, 12
    yield f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>'
    yield f'<text class="soft" x="{x + 9}" y="{y + 4}">a layer\'s result</text>'
    yield f'<circle class="read" cx="{x + 112}" cy="{y}" r="3.5"/>'
    yield f'<text class="soft" x="{x + 121}" y="{y + 4}">as it is read, behind Q/DQ</text>'
    yield f'<line class="limit" x1="{x + 290}" x2="{x + 316}" y1="{y}" y2="{y}"/>'
    yield f'<text class="soft" x="{x + 322}" y="{y + 4}">falling 6 dB to below {limit:g} dB is a jump</text>'


class _Scale:
    """Where a layer and an SQNR lie in the picture. What is exact lies above the highest SQNR, what is
    infinite or NaN at the bottom."""

    def __init__(self, points: Sequence[Point], limit: float) -> None:
        values = [value for point in points for value in (point.own, point.read) if value is not None]
        finite = [value for value in values if math.isfinite(value)]
        self.low = min(0.0, _TICK * math.floor(min([*finite, limit]) / _TICK))
        self.high = _TICK * math.ceil(max([*finite, limit + 6]) / _TICK)
        self.top = self.high + (_TICK / 2 if math.inf in values else 0)
        self.count = len(points)

    def x(self, place: int) -> float:
        room = WIDTH - LEFT - RIGHT - 20
        return round(LEFT + 10 + room * (place / (self.count - 1) if self.count > 1 else 0.5), 1)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.top)
        share = (inside - self.low) / (self.top - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _grid(scale: _Scale) -> Iterator[str]:
    yield f'<text class="soft" x="{LEFT}" y="16">SQNR in dB, higher is better</text>'
    ticks: list[tuple[float, str]] = [
        (value, f"{value:g}") for value in _range(scale.low, scale.high) if value <= scale.high
    ]
    if scale.top > scale.high:
        ticks.append((scale.top, "exact"))
    for value, name in ticks:
        y = scale.y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text class="soft" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{name}</text>'
    yield (
        f'<text class="soft" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        "layers in the order of the network</text>"
    )


def _range(low: float, high: float) -> Iterator[float]:
    value = low
    while value <= high:
        yield value
        value += _TICK if high - low <= 8 * _TICK else 2 * _TICK


def _line(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    for place, point in enumerate(points):
        if not math.isnan(point.own):
            yield f"{scale.x(place)},{scale.y(point.own)}"


def _marks(point: Point, place: int, scale: _Scale) -> Iterator[str]:
    x = scale.x(place)
    if point.mark:
        yield f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        side, shift = ("start", 6) if x < WIDTH / 2 else ("end", -6)
        yield (
            f'<text class="jump" x="{x + shift}" y="{TOP + 15}" text-anchor="{side}">'
            f"{escape(point.mark)}</text>"
        )
    if point.read is not None and not math.isnan(point.read):
        yield f'<circle class="read" cx="{x}" cy="{scale.y(point.read)}" r="3.5"/>'
    if not math.isnan(point.own):
        kind = "bad" if point.mark or point.own == -math.inf else "dot"
        yield (
            f'<circle class="{kind}" cx="{x}" cy="{scale.y(point.own)}" r="{5 if point.mark else 3}">'
            f"<title>{escape(point.title)}</title></circle>"
        )


def _names(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    """Names at a slant under the picture: all of them, or every so many, and the jump's in any case."""
    step = math.ceil(len(points) / _NAMES) or 1
    y = HEIGHT - BOTTOM + 16
    for place, point in enumerate(points):
        if place % step and not point.mark:
            continue
        x = scale.x(place)
        name = point.name if len(point.name) <= _LONGEST else f"…{point.name[1 - _LONGEST :]}"
        style = "jump" if point.mark else "soft"
        yield (
            f'<text class="{style}" text-anchor="end" transform="translate({x},{y}) rotate(-45)">'
            f"{escape(name)}</text>"
        )
