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


def svg(height: float, label: str, parts: Iterable[str], width: float = WIDTH, role: str = "img") -> Markup:
    """A drawing of `width` units that is as wide as its place; `label` says what it shows, `group` holds links."""
    title = escape(label)
    inner = "".join(parts)
    return Markup(  # noqa: S704  # the parts escape what they are given
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="{role}" aria-label="{title}">'
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
    counts: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    label: str,
    height: float = 120,
    width: float = WIDTH,
) -> Markup:
    """Columns of equal width, and ticks at shares of it; square roots, so that small columns are seen."""
    most = max(map(math.sqrt, counts), default=0.0) or 1.0
    wide, floor = (width - 20) / max(len(counts), 1), height - 18
    parts = []
    for i, count in enumerate(counts):
        tall = (floor - 6) * math.sqrt(count) / most
        parts.append(rect(10 + i * wide, floor - tall, wide - 1, tall, "column", f"{count:,.6g}"))
    parts.append(line([(10, floor), (width - 10, floor)], "axis"))
    parts += [text(10 + share * (width - 20), height - 4, what, "small", "middle") for share, what in ticks]
    return svg(height, label, parts, width)


def _logit(value: float) -> float:
    bounded = min(max(value, _LEAST), _MOST)
    return math.log(bounded / (1.0 - bounded))


HALF: Final = 440
"""Width of a chart that has another beside it."""
LONG: Final = 1000
"""Width of a chart of many windows."""
_MARGIN: Final = 76
"""Of it, to the right: the names of rows."""
_LEAST_WINDOWS: Final = 24
"""With fewer, windows do not become wider."""
_NAME: Final = 130
"""Room of a name above them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A window in a strip.

    Attributes:
        cls: Its level.
        tall: How tall it is, in (0, 1].
        title: What is told where one points at it.
        href: Its page.
        chosen: Whether it is the one that is looked at.
    """

    cls: str
    tall: float
    title: str
    href: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A field of a heat map: where it is, its class, what is told of it, and its page."""

    row: int
    column: int
    cls: str
    title: str
    href: str


def link(href: str, name: str, inner: str) -> str:
    """Something in a drawing that leads elsewhere; by keyboard another way has to lead there."""
    return f'<a href="{escape(href)}" tabindex="-1" aria-label="{escape(name)}">{inner}</a>'


def strip(
    marks: Sequence[Mark],
    flags: Sequence[tuple[float, str, str]],
    breaks: Sequence[tuple[int, str]],
    ticks: Sequence[tuple[int, str]],
    label: str,
) -> Markup:
    """Windows side by side, the oldest first; flags (place in windows, number, title) stand above them.

    Args:
        marks: The windows.
        flags: What happened; those that are close to each other are stacked.
        breaks: Windows before which something else begins, and its name.
        ticks: Windows that are named below.
        label: What it shows.
    """
    wide, begin = _width(len(marks))
    stacks: list[float] = []  # where the last flag of each row ends
    parts, flagged = [], []
    for place, number, title in sorted(flags):
        x = begin + place * wide
        row = next((i for i, end in enumerate(stacks) if x - end > 20), len(stacks))
        stacks[row : row + 1] = [x]
        flagged.append((x, row, number, title))
    top = 22.0 * len(stacks) + 18
    for x, row, number, title in flagged:
        y = top - 29 - 22 * row
        parts.append(line([(x, y), (x, top + 50)], "axis thin"))
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9.5" class="flag"><title>{escape(title)}</title></circle>'
        parts.append(link(f"#happening-{number}", title, circle + text(x, y + 4, number, "flag", "middle")))
    free = 0.0  # from where on a name has room
    for i, name in breaks:
        x = begin + i * wide
        parts.append(line([(x, top - 14), (x, top + 50)], "axis"))
        right = x < LONG - _NAME
        if (x if right else x - _NAME) >= free:
            parts.append(text(x + (4 if right else -4), top - 5, name, "small", "start" if right else "end"))
            free = x + _NAME
    for i, mark in enumerate(marks):
        tall, cls = 48 * mark.tall, f"mark {mark.cls}{' chosen' if mark.chosen else ''}"
        parts.append(
            link(
                mark.href,
                mark.title,
                rect(begin + i * wide + 0.7, top + 50 - tall, wide - 1.4, tall, cls, mark.title),
            )
        )
        if mark.chosen:
            parts.append(f'<path class="marker" d="M{begin + (i + 0.5) * wide:.1f},{top + 52:.1f} l-6,9 h12 z"/>')
    parts.append(line([(begin, top + 50), (LONG - _MARGIN, top + 50)], "axis"))
    return svg(top + 78, label, [*parts, *_ticks(ticks, len(marks), top + 74)], LONG, "group")


def heat(
    rows: Sequence[str], columns: int, cells: Iterable[Cell], ticks: Sequence[tuple[int, str]], label: str
) -> Markup:
    """A field for each row and window, as wide as the windows of `strip`; a field without a cell is empty."""
    (wide, begin), height = _width(columns), 15
    parts = [rect(begin, 0, columns * wide, height * len(rows), "ground")]
    for cell in cells:
        x, y = begin + cell.column * wide + 0.4, height * cell.row + 0.5
        parts.append(link(cell.href, cell.title, rect(x, y, wide - 0.8, height - 1, cell.cls, cell.title)))
    parts += [text(LONG - _MARGIN + 8, height * i + 11.5, name, "small") for i, name in enumerate(rows)]
    return svg(
        height * len(rows) + 20, label, [*parts, *_ticks(ticks, columns, height * len(rows) + 15)], LONG, "group"
    )


def steps(
    series: Sequence[tuple[str, Sequence[float | None]]],
    limit: float,
    ticks: Sequence[tuple[float, str]],
    label: str,
) -> Markup:
    """Numbers one after the other beside the threshold that counts; ticks are at shares of the width.

    Args:
        series: Names and numbers of one or two; None where there is none.
        limit: The threshold.
        ticks: Where along the numbers something is named.
        label: What it shows.
    """
    top, floor, left, right = 26.0, 148.0, 34.0, HALF - 8.0
    most = 1.15 * max([limit, *(value for _, values in series for value in values if value is not None)])

    def y(value: float) -> float:
        return floor - (floor - top) * value / most

    parts = [
        line([(left, y(limit)), (right, y(limit))], "limit"),
        text(left - 4, y(limit) + 4, f"{limit:g}", "small", "end"),
    ]
    for i, (name, values) in enumerate(series):
        cls = "line other" if i else "line"
        wide = (right - left) / max(len(values), 1)
        points = [
            (left + (at + end) * wide, y(value))
            for at, value in enumerate(values)
            if value is not None
            for end in (0, 1)
        ]
        parts.append(line(points, cls))
        parts.append(line([(left + 130 * i, 10), (left + 130 * i + 20, 10)], cls))
        parts.append(text(left + 130 * i + 25, 14, name, "small"))
    parts.append(line([(left + 290, 10), (left + 310, 10)], "limit"))
    parts.append(text(left + 315, 14, "threshold", "small"))
    parts.append(line([(left, floor), (right, floor)], "axis"))
    parts.append(text(left - 4, floor + 4, "0", "small", "end"))
    parts += _named(ticks, left, right, floor + 16)
    return svg(floor + 22, label, parts, HALF)


def overlay(
    seen: Sequence[float], expected: Sequence[float], ticks: Sequence[tuple[float, str]], label: str
) -> Markup:
    """Shares of bins as columns, with a line where they were expected to end."""
    top, floor, left, right = 26.0, 178.0, 34.0, HALF - 8.0
    wide, most = (right - left) / max(len(seen), 1), max([*seen, *expected]) or 1.0
    parts, points = [], []
    for i, (share, wanted) in enumerate(zip(seen, expected, strict=True)):
        tall, x = (floor - top) * share / most, left + i * wide
        parts.append(
            rect(x + 0.4, floor - tall, wide - 0.8, tall, "column", f"{share:.2%}, expected {wanted:.2%}")
        )
        points += [(x, floor - (floor - top) * wanted / most), (x + wide, floor - (floor - top) * wanted / most)]
    parts += [line(points, "expected"), line([(left, floor), (right, floor)], "axis")]
    parts += [rect(left, 5, 20, 10, "column"), text(left + 25, 14, "this window", "small")]
    parts += [line([(left + 130, 10), (left + 150, 10)], "expected"), text(left + 155, 14, "reference", "small")]
    parts.append(text(left - 4, top + 8, f"{most:.0%}", "small", "end"))
    return svg(floor + 22, label, [*parts, *_named(ticks, left, right, floor + 16)], HALF)


def pairs(given: Sequence[tuple[str, float, float]], label: str) -> Markup:
    """Two bars of each name to the left and right of zero: the first full, the second outlined."""
    height, names, notes = 34, 80, 50
    room = (HALF - names - 2 * notes) / 2
    most = max((abs(value) for _, *both in given for value in both), default=0.0) or 1.0
    middle, parts = names + notes + room, []
    for row, (name, *both) in enumerate(given):
        parts.append(text(names - 8, height * row + 21, name, "", "end"))
        for i, (what, value) in enumerate(zip(("mean", "spread"), both, strict=True)):
            long, y = room * abs(value) / most, height * row + 4 + 13 * i
            side = "more" if value >= 0 else "less"
            begin = middle if value >= 0 else middle - long
            parts.append(
                rect(begin, y, long, 11, f"{side}{' hollow' if i else ''}", f"{name}, {what}: {value:+.3g}")
            )
            at, anchor = (middle + long + 5, "start") if value >= 0 else (middle - long - 5, "end")
            parts.append(text(at, y + 9.5, f"{value:+.2f}", "small", anchor))
    parts.append(line([(middle, 0), (middle, height * len(given))], "axis"))
    return svg(height * len(given), label, parts, HALF)


def _width(windows: int) -> tuple[float, float]:
    """How wide a window is, and where the first begins: the last ends where the names of rows are."""
    wide = (LONG - _MARGIN) / max(windows, _LEAST_WINDOWS)
    return wide, LONG - _MARGIN - windows * wide


def _ticks(ticks: Sequence[tuple[int, str]], windows: int, y: float) -> list[str]:
    """Names below windows, as far as there is room."""
    (wide, begin), parts, free = _width(windows), [], 0.0
    for i, what in ticks:
        x = begin + i * wide
        if x >= free:
            parts.append(text(x, y, what, "small"))
            free = x + 0.8 * _NAME
    return parts


def _named(ticks: Sequence[tuple[float, str]], left: float, right: float, y: float) -> list[str]:
    anchors = {0.0: "start", 1.0: "end"}
    return [
        text(left + share * (right - left), y, what, "small", anchors.get(share, "middle"))
        for share, what in ticks
    ]


def small_bars(given: Sequence[Bar], label: str) -> Markup:
    """A few bars with their names, for a cell of a table; notes are told where one points, and in the label."""
    names, room, height = 84.0, 60.0, 19
    most = max((abs(bar.value) for bar in given), default=0.0) or 1.0
    middle, parts, told = names + room, [], []
    for row, bar in enumerate(given):
        long = room * abs(bar.value) / most
        side, begin = ("more", middle) if bar.value >= 0 else ("less", middle - long)
        told.append(f"{bar.name} ({bar.note}) {bar.value:+.2f}")
        parts.append(text(0, height * row + 14, bar.name, "small"))
        parts.append(rect(begin, height * row + 4, long, height - 8, side, told[-1]))
    parts.append(line([(middle, 0), (middle, height * len(given))], "axis"))
    return svg(height * len(given), f"{label}: {'; '.join(told)}", parts, names + 2 * room)


Bounds = tuple[float, float, float]
"""An estimate with its interval: low, value, high."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its interval (low, value, high), and another one's to compare it with."""

    name: str
    own: Bounds | None
    other: Bounds | None


def estimates(given: Sequence[Estimate], label: str) -> Markup:
    """Shares with their intervals from 0 to 1, one's above the other's."""
    names, each, floor = 120, 30, 30 * len(given)

    def x(value: float) -> float:
        return names + (HALF - names - 20) * min(max(value, 0.0), 1.0)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line([(x(tick), 0), (x(tick), floor)], "grid"))
        parts.append(text(x(tick), floor + 14, f"{tick:g}", "small", "middle"))
    for place, estimate in enumerate(given):
        parts.append(text(names - 10, each * place + 19, estimate.name, "small", "end"))
        for bounds, cls, down in ((estimate.own, "line", 10), (estimate.other, "line other", 20)):
            if bounds:
                low, value, high = bounds
                y = each * place + down
                parts.append(line([(x(low), y), (x(high), y)], cls))
                dot = f'<circle class="{cls.replace("line", "dot")}" cx="{x(value):.1f}" cy="{y}" r="4"><title>'
                parts.append(
                    f"{dot}{escape(estimate.name)}: {value:.4g} ({low:.4g} to {high:.4g})</title></circle>"
                )
    return svg(floor + 20, label, parts, HALF)


Tick = tuple[float, str]
"""A share of an axis, and what stands there."""
Marked = tuple[str, float, float]
"""A name, and the shares of the axis where it is chosen and where it is now."""
_CURVES: Final = (44.0, HALF - 10.0, 26.0, 190.0)
"""Left, right, top and floor of curves."""


def place(share: float) -> float:
    """Where a share of the horizontal axis of `curves` is in the drawing."""
    left, right, *_ = _CURVES
    return round(left + share * (right - left), 1)


def curves(
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    marks: Sequence[Marked],
    ticks: Sequence[Tick],
    heights: Sequence[Tick],
    label: str,
) -> Markup:
    """Lines (name, class, points) in shares of the axes; a script may move the marks, groups with `data-mark`."""
    left, right, top, floor = _CURVES

    def y(share: float) -> float:
        return floor - share * (floor - top)

    parts = [line([(left, y(share)), (right, y(share))], "grid") for share, _ in heights]
    parts += [text(left - 5, y(share) + 4, what, "small", "end") for share, what in heights]
    parts += _named(ticks, left, right, floor + 15)
    for i, (name, cls, points) in enumerate(lines):
        parts.append(line([(place(across), y(up)) for across, up in points], cls))
        parts.append(line([(left + 150 * i, 9), (left + 22 + 150 * i, 9)], cls))
        parts.append(text(left + 27 + 150 * i, 13, name, "small"))
    for name, chosen, now in marks:
        parts.append(line([(place(now), top), (place(now), floor)], "was"))
        parts.append(
            f'<g data-mark="{escape(name)}" transform="translate({place(chosen)} 0)">'
            f"{line([(0, top), (0, floor)], 'stands')}{text(0, floor + 30, name, '', 'middle')}</g>"
        )
    return svg(floor + 36, label, parts, HALF)
