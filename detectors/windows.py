"""Windows as sets of time buckets: which rows they hold depends on the rows' times, never on their arrival.

Buckets are numbered from the epoch. A window begins at the first bucket that has rows and ends after the bucket
that brings it to enough rows, or after a longest time; a bucket is never cut. Only closed buckets are given to
`cut`, so the same rows give the same windows however they came, and however often the cutting was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowRule:
    """When a window ends.

    Attributes:
        rows: It ends after the bucket with which it has so many rows, or …
        buckets: … after so many buckets.
        least: With fewer rows than this it says nothing: `insufficient_data`.
    """

    rows: int = 1_000
    buckets: int = 15
    least: int = 200

    def __post_init__(self) -> None:
        if not (1 <= self.least <= self.rows and self.buckets >= 1):
            raise ValueError(f"a window has at least one row and one bucket, and least ≤ rows: {self}")


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of buckets `start` … `end` - 1."""

    start: int
    end: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What closed buckets come to: windows that have ended, and the one that is still open, if any has begun."""

    ended: tuple[Window, ...]
    open: Window | None


def cut(buckets: Iterable[tuple[int, int]], closed: int, rule: WindowRule, begun: Window | None = None) -> Cut:
    """Cut closed buckets into windows.

    Args:
        buckets: Number and rows of each bucket that has rows, ascending, each ≥ `begun.end` and < `closed`.
        closed: Every bucket below this number is closed.
        rule: When a window ends.
        begun: The window that was open after the buckets before.
    """
    ended: list[Window] = []
    current = begun
    for number, rows in buckets:
        if not (current.end if current else number) <= number < closed:
            raise ValueError(f"bucket {number} is out of order or not closed (until {closed})")
        if current and number >= current.start + rule.buckets:
            ended.append(Window(current.start, current.start + rule.buckets, current.rows))
            current = None
        current = Window(current.start, number + 1, current.rows + rows) if current else _first(number, rows)
        if current.rows >= rule.rows:
            ended.append(current)
            current = None
    if current and closed >= current.start + rule.buckets:
        ended.append(Window(current.start, current.start + rule.buckets, current.rows))
        current = None
    return Cut(tuple(ended), current)


def pool(windows: Iterable[Window]) -> Window:
    """Windows that follow one another, as one; what lies between them has no rows."""
    several = tuple(windows)
    return Window(several[0].start, several[-1].end, sum(window.rows for window in several))


def _first(number: int, rows: int) -> Window:
    return Window(number, number + 1, rows)
