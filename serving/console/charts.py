"""Charts as SVG, drawn here: no script, colours from the style sheet, a description for who cannot see them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 640
_LEAST, _MOST = 1e-5, 1.0 - 1e-5


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart that goes both ways.

    Attributes:
        name: What it is of.
        value: Its length; below zero to the left.
        note: What is told at its end.
    """

    name: str
    value: float
    note: str = ""


def svg(height: float, label: str, parts: Iterable[str], width: float = WIDTH) -> Markup:
    """A drawing of `width` units that is as wide as its place; `label` says what it shows."""
    title = escape(label)
    inner = "".join(parts)
    return Markup(  # noqa: S704  # the parts escape what they are given
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{inner}</svg>"
    )


def text(x: float, y: float, what: object, cls: str = "", anchor: str = "start") -> str:
    """A word in a drawing."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(what)}</text>'


def rect(x: float, y: float, width: float, height: float, cls: str, title: str = "") -> str:
    """A rectangle; `title` is shown where one points at it."""
    told = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" class="{cls}">'
        f"{told}</rect>"
    )


def line(points: Sequence[tuple[float, float]], cls: str) -> str:
    """A line through points."""
    return f'<polyline class="{cls}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def scale(probability: float, review: float, block: float) -> Markup:
    """A probability on a scale of log odds, with what begins where."""

    def x(value: float) -> float:
        low, high = _logit(_LEAST), _logit(_MOST)
        return 10 + (WIDTH - 20) * (_logit(value) - low) / (high - low)

    bands = (("normal", _LEAST, review), ("review", review, block), ("block", block, _MOST))
    parts = [rect(x(low), 28, x(high) - x(low), 18, f"band {name}", name) for name, low, high in bands]
    parts += [
        text((x(low) + x(high)) / 2, 41, name, "on", "middle")
        for name, low, high in bands
        if x(high) - x(low) > 60
    ]
    for value in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        parts.append(line([(x(value), 46), (x(value), 51)], "axis"))
        parts.append(text(x(value), 63, f"{100 * value:g} %", "small", "middle"))
    at = x(probability)
    parts.append(f'<path class="marker" d="M{at:.1f},27 l-7,-11 h14 z"/>')
    label = f"probability {probability:.3g}; review begins at {review:g}, block at {block:g}"
    return svg(70, label, parts)


def bars(given: Sequence[Bar], label: str) -> Markup:
    """Bars to the left and right of zero, one below the other."""
    height, names, notes = 20, 90, 150
    room = (WIDTH - names - notes) / 2
    most = max((abs(bar.value) for bar in given), default=0.0) or 1.0
    middle, parts = names + room, []
    for row, bar in enumerate(given):
        length = room * abs(bar.value) / most
        begin = middle if bar.value >= 0 else middle - length
        parts.append(text(names - 8, 20 * row + 14, bar.name, "small", "end"))
        side = "more" if bar.value >= 0 else "less"
        parts.append(rect(begin, height * row + 4, length, height - 8, side, f"{bar.name}: {bar.value:+.3g}"))
        parts.append(text(WIDTH - notes + 8, height * row + 14, bar.note, "small"))
    parts.append(line([(middle, 0), (middle, height * len(given))], "axis"))
    return svg(height * len(given), label, parts)


def histogram(
    counts: Sequence[float], ticks: Sequence[tuple[float, str]], label: str, height: float = 120
) -> Markup:
    """Columns of equal width, and ticks at shares of it; square roots, so that small columns are seen."""
    most = max(map(math.sqrt, counts), default=0.0) or 1.0
    wide, floor = (WIDTH - 20) / max(len(counts), 1), height - 18
    parts = []
    for i, count in enumerate(counts):
        tall = (floor - 6) * math.sqrt(count) / most
        parts.append(rect(10 + i * wide, floor - tall, wide - 1, tall, "column", f"{count:,.6g}"))
    parts.append(line([(10, floor), (WIDTH - 10, floor)], "axis"))
    parts += [text(10 + share * (WIDTH - 20), height - 4, what, "small", "middle") for share, what in ticks]
    return svg(height, label, parts)


def _logit(value: float) -> float:
    bounded = min(max(value, _LEAST), _MOST)
    return math.log(bounded / (1.0 - bounded))
