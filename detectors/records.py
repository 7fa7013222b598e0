"""What is kept of a verdict, and how it is told: the same models in the database and in the API."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from detectors.channels import Level, Reading


class Record(BaseModel):
    """Frozen, and read back only as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StatisticRecord(Record):
    """A number beside its threshold; `subject` is the column, hour or class it is of."""

    name: str
    subject: str
    value: float
    threshold: float
    beyond: bool


class ChannelRecord(Record):
    """What a channel said."""

    channel: str
    level: Level
    message: str
    statistics: tuple[StatisticRecord, ...] = ()

    @classmethod
    def of(cls, reading: Reading) -> ChannelRecord:
        """A reading as it is kept."""
        statistics = tuple(
            StatisticRecord(
                name=statistic.name,
                subject=statistic.subject,
                value=statistic.value,
                threshold=statistic.threshold,
                beyond=statistic.beyond,
            )
            for statistic in reading.statistics
        )
        return cls(channel=reading.channel, level=reading.level, message=reading.message, statistics=statistics)


class InfluenceRecord(Record):
    """How much a column moved the model's log odds, against the reference."""

    feature: str
    mean_change: float
    spread_change: float


class VerdictRecord(Record):
    """The verdict of a window, as it is kept.

    Attributes:
        level: What it says.
        reason: Channel that it says it for.
        message: One sentence for a person.
        episode: When the drift that is going on began [s, UTC].
        untested: Rows of hours of day that the reference does not cover.
        channels: What each channel said.
        influence: Columns by how much they moved the score, the most first.
    """

    level: Level
    reason: str
    message: str
    episode: float | None = None
    untested: int = 0
    channels: tuple[ChannelRecord, ...] = ()
    influence: tuple[InfluenceRecord, ...] = ()


class Status(StrEnum):
    """What the detector says now: the level of the last window, or that there is none to speak of."""

    STABLE = "stable"
    WARNING = "warning"
    DRIFT = "drift"
    INSUFFICIENT_DATA = "insufficient_data"
    WARMING_UP = "warming_up"
    STALE = "stale"


class WindowRecord(Record):
    """A window that was brought to a verdict."""

    id: str
    version: str
    begins: datetime
    ends: datetime
    rows: int
    evaluated: datetime
    verdict: VerdictRecord


class EventRecord(Record):
    """An event that was sent, or is to be."""

    id: str
    type: str
    created: datetime
    data: dict[str, Any]
    undelivered: tuple[str, ...] = ()


class DecisionRecord(Record):
    """What the retrain policy decided, and why."""

    at: datetime
    version: str
    outcome: str
    reason: str
    message: str
    facts: dict[str, Any] = {}


class DriftRecord(Record):
    """`GET /v1/models/fraud/drift`."""

    model: str
    version: str | None
    status: Status
    message: str
    since: datetime | None
    last_event: datetime | None
    closed_until: datetime | None
    window: WindowRecord | None
    decision: DecisionRecord | None


class HistoryRecord(Record):
    """`GET /v1/models/fraud/drift/history`: each newest first."""

    windows: tuple[WindowRecord, ...]
    events: tuple[EventRecord, ...]
    decisions: tuple[DecisionRecord, ...]


class HistogramRecord(Record):
    """A column's values in a window beside the reference at the same hours: shares of 50 bins."""

    column: str
    edges: tuple[float, ...]
    observed: tuple[float, ...]
    expected: tuple[float, ...]


class TraceRecord(Record):
    """The sums of a channel in the course of a window."""

    name: str
    values: tuple[float, ...]
    threshold: float


class WindowEvidence(Record):
    """`GET /v1/windows/{id}`; histograms are missing where the model's bundle is."""

    window: WindowRecord
    rows_by_hour: tuple[int, ...]
    histograms: tuple[HistogramRecord, ...]
    traces: tuple[TraceRecord, ...]


def moment(seconds: float) -> datetime:
    """A time [s, UTC] as people write it."""
    return datetime.fromtimestamp(seconds, UTC)


def channels_of(readings: Iterable[Reading]) -> tuple[ChannelRecord, ...]:
    """What the channels said, as it is kept."""
    return tuple(ChannelRecord.of(reading) for reading in readings)
