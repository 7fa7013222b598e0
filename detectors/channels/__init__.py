"""Channels: each watches one aspect of live traffic, a file of its own, and says what it saw with its numbers.

A channel is pure: numbers and the state that it carried in, a reading and the next state out. Who calls it keeps
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What a channel says; the last two are never folded into `stable`."""

    STABLE = "stable"
    WARNING = "warning"
    DRIFT = "drift"
    INSUFFICIENT_DATA = "insufficient_data"
    WARMING_UP = "warming_up"


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number beside its threshold.

    Attributes:
        name: What it is: `p_value`, `p_value_pooled`, `cusum_up`, …
        subject: The column, hour or class it is of; empty for the whole window.
        value: The number.
        threshold: Beyond which it counts.
        beyond: Whether it is.
    """

    name: str
    subject: str
    value: float
    threshold: float
    beyond: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What a channel saw.

    Attributes:
        channel: Its name.
        level: What it says.
        message: One sentence for a person, with the numbers and their thresholds.
        statistics: The numbers that count, the furthest beyond its threshold first.
    """

    channel: str
    level: Level
    message: str
    statistics: tuple[Statistic, ...] = ()


def warn(channel: str, message: str, statistics: tuple[Statistic, ...]) -> Reading:
    """A warning where a sum is beyond its threshold, else stable; the furthest sum is said and stands first."""
    ordered = tuple(sorted(statistics, key=lambda statistic: -statistic.value / statistic.threshold))
    first = ordered[0]
    side = "above" if first.beyond else "not above"
    said = f"{message}; {first.name} {first.value:.1f}, {side} {first.threshold:g}"
    return Reading(channel, Level.WARNING if first.beyond else Level.STABLE, said, ordered)
