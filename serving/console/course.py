"""Windows over time as drawings: verdicts and what happened, columns that moved, cumulative sums."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Final

from fraudkit.schema import DRIFT_FEATURES
from serving.console import charts
from serving.console.page import when
from serving.console.verdicts import Happening, StatisticRecord, WindowRecord

COLUMNS: Final = ("score", *DRIFT_FEATURES)
SUMS: Final = (
    ("Suspicious scores", "alert_rate", "suspicious_more", "suspicious_fewer"),
    ("Outlying rows", "distance", "outlying_more", "outlying_fewer"),
    ("Mean distance", "distance", "larger", "smaller"),
)
"""Cumulative sums over windows: a heading, the channel, and its two statistics."""
LISTED: Final = 50
"""What happened, as far as it is listed."""
_TALL: Final = {"drift": 1.0, "warning": 0.65}


@dataclass(frozen=True, slots=True)
class Told:
    """A column in the heat map, in words: in how many windows it was beyond, how far at most, and when last."""

    column: str
    beyond: int
    most: float
    last: WindowRecord | None


@dataclass(frozen=True, slots=True)
class Course:
    """Windows over time, the oldest first."""

    windows: Sequence[WindowRecord]
    strip: str
    heat: str
    told: Sequence[Told]
    sums: Sequence[tuple[str, str]]
    listed: Sequence[tuple[int, Happening]]


def course_of(
    windows: Sequence[WindowRecord],
    happened: Sequence[Happening],
    href: Callable[[str, str], str],
    wanted: str = "",
) -> Course:
    """Windows and what happened, as they are shown.

    Args:
        windows: The windows, the oldest first.
        happened: What happened, newest first; what was before the first window is left out.
        href: The page of a window, by its id, and of a column of it.
        wanted: The window that is looked at.
    """
    since = [one for one in happened if windows and one.at >= windows[0].begins][:LISTED]
    numbers = accumulate(int(one.marked) for one in reversed(since))
    listed = [(n if one.marked else 0, one) for n, one in zip([*numbers][::-1], since, strict=True)]
    flags = [
        (place(windows, one.at), str(number), f"{one.title}, {when(one.at)}") for number, one in listed if number
    ]
    breaks = [
        (i, f"model {one.version}")
        for i, one in enumerate(windows)
        if i == 0 or one.version != windows[i - 1].version
    ]
    ticks = _ticks(windows)
    marks = [
        charts.Mark(
            one.verdict.level,
            _TALL.get(one.verdict.level, 0.3),
            f"{when(one.begins)}: {one.verdict.level.replace('_', ' ')}",
            href(one.id, ""),
            one.id == wanted,
        )
        for one in windows
    ]
    fields = list(_fields(windows))
    cells = [
        charts.Cell(
            COLUMNS.index(statistic.subject),
            i,
            shade(statistic),
            f"{statistic.subject}, {when(windows[i].begins)}: {statistic.relative:.2g} of its threshold",
            href(windows[i].id, statistic.subject),
        )
        for i, statistic in fields
    ]
    return Course(
        windows=windows,
        strip=charts.strip(marks, flags, breaks, ticks, f"Verdicts on {len(windows)} windows, the oldest first"),
        heat=charts.heat(COLUMNS, len(windows), cells, ticks, "How far each column was from its threshold"),
        told=_told(windows, fields),
        sums=[_sums(windows, *one) for one in SUMS],
        listed=listed,
    )


def place(windows: Sequence[WindowRecord], at: datetime) -> float:
    """Where a time lies, in windows from the begin of the first; the time between two of them has no width."""
    index = bisect_right([one.begins for one in windows], at) - 1
    if index < 0:
        return 0.0
    one = windows[index]
    return index + min((at - one.begins) / (one.ends - one.begins), 1.0)


def shade(statistic: StatisticRecord) -> str:
    """The class of a cell of the heat map: on five steps, the last from twice the threshold on."""
    relative = statistic.relative
    if statistic.beyond:
        return "heat beyond-3" if relative >= 2 else "heat beyond-2" if relative >= 1.5 else "heat beyond-1"
    return "heat near-2" if relative >= 0.5 else "heat near-1"


def _fields(windows: Sequence[WindowRecord]) -> Iterator[tuple[int, StatisticRecord]]:
    """For each window, and each column that its verdict names, the statistic that is furthest."""
    for i, window in enumerate(windows):
        furthest: dict[str, StatisticRecord] = {}
        for statistic in window.statistics("inputs"):
            known = furthest.get(statistic.subject)
            if statistic.subject in COLUMNS and (known is None or statistic.relative > known.relative):
                furthest[statistic.subject] = statistic
        for statistic in furthest.values():
            yield i, statistic


def _told(windows: Sequence[WindowRecord], fields: Sequence[tuple[int, StatisticRecord]]) -> list[Told]:
    told = []
    for column in COLUMNS:
        own = [(i, one) for i, one in fields if one.subject == column]
        if own:
            beyond = [i for i, one in own if one.beyond]
            most = max(one.relative for _, one in own)
            told.append(Told(column, len(beyond), most, windows[beyond[-1]] if beyond else None))
    return sorted(told, key=lambda one: (-one.beyond, -one.most))


def _sums(windows: Sequence[WindowRecord], title: str, channel: str, more: str, fewer: str) -> tuple[str, str]:
    found = [{one.name: one for one in window.statistics(channel)} for window in windows]
    limit = next((one[more].threshold for one in found if more in one), None)
    if limit is None:
        return title, ""
    series = [
        (
            side.replace("_", " ").removeprefix("suspicious ").removeprefix("outlying "),
            [one[side].value if side in one else None for one in found],
        )
        for side in (more, fewer)
    ]
    ticks = [(i / len(windows), said) for i, said in _ticks(windows, 3)]
    return title, charts.steps(
        series, limit, ticks, f"{title}: the highest sum of each window, threshold {limit:g}"
    )


def _ticks(windows: Sequence[WindowRecord], most: int = 6) -> list[tuple[int, str]]:
    """Windows whose begin is told, and how: the date where there are several, seconds where windows are short."""
    if not windows:
        return []
    long = windows[-1].ends.date() != windows[0].begins.date()
    short = (windows[-1].ends - windows[0].begins).total_seconds() < 3_600
    form = "%m-%d %H:%M" if long else "%H:%M:%S" if short else "%H:%M"
    step = max(math.ceil(len(windows) / most), 1)
    return [(i, windows[i].begins.strftime(form)) for i in range(0, len(windows), step)]
