"""What the detector says of drift, as the console reads it; what else happened; and both in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from serving.console.records import Read, RolloutRecord, RolloutsRecord, RunsRecord

STATUSES: Final[Mapping[str, tuple[str, str]]] = {
    "stable": ("Live traffic looks like what the model was made for.", "Nothing is to be done."),
    "warning": (
        "Something has moved; it is not drift, or not yet.",
        "Look at the channel that speaks: many alerts may be an attack, bad data are for who sends them to mend.",
    ),
    "drift": (
        "Live traffic is no longer what the model was made for.",
        "A new model is asked for once there is enough to learn from: see what happened, below.",
    ),
    "insufficient_data": (
        "The last window has too few transactions to be judged.",
        "Wait for more traffic. Where little traffic is usual, let windows last longer.",
    ),
    "warming_up": (
        "Too little has been seen of this model's traffic to say anything yet.",
        "Wait: the first verdicts come with the next windows.",
    ),
    "stale": (
        "No transaction has come for some time, so nothing is known of now.",
        "See whether transactions are scored at all, and whether their log events reach the detector.",
    ),
}
"""What a status means, and what to do."""
CHANNELS: Final[Mapping[str, tuple[str, str]]] = {
    "data_quality": (
        "Data quality",
        "rows rejected, columns that stand still or leave their range, repeated rows",
    ),
    "inputs": ("Inputs, fast", "the distribution of each column in this window, and in two and three together"),
    "inputs_slow": ("Inputs, slow", "the same for a whole day, which shows small changes"),
    "alert_rate": ("Alert rate", "how often the score is suspiciously high"),
    "distance": ("Outliers and dependence", "rows far from all others, columns that no longer go together"),
    "labels": ("Labels", "recall and precision on outcomes that have come in"),
}
STATISTICS: Final[Mapping[str, str]] = {
    "p_value": "p-value",
    "p_value_twice": "p-value, two windows running",
    "p_value_pooled": "p-value, three windows pooled",
    "p_value_chi2": "p-value, any change of shape",
    "p_value_d": "p-value, a shift",
    "effect": "size of the change (D)",
    "suspicious_more": "sum for more suspicious rows",
    "suspicious_fewer": "sum for fewer suspicious rows",
    "outlying_more": "sum for more outlying rows",
    "outlying_fewer": "sum for fewer outlying rows",
    "larger": "sum for larger distances",
    "smaller": "sum for smaller distances",
    "rejected_share": "share of rows rejected",
    "outside_share": "share of rows outside of the range",
    "repeated_share": "share of rows that came before",
    "spread": "spread",
}
_EVENTS: Final[Mapping[str, str]] = {
    "io.fraudplatform.drift.detected.v1": "Drift detected",
    "io.fraudplatform.drift.cleared.v1": "Drift cleared",
    "io.fraudplatform.dataquality.v1": "Bad data",
    "io.fraudplatform.retrain.requested.v1": "New model asked for",
}
_OUTCOMES: Final[Mapping[str, str]] = {
    "pass": "Decided: ask for a new model",
    "inconclusive": "Decided: wait",
    "fail": "Stopped: a person has to look",
}


class StatisticRecord(Read):
    """A number beside its threshold."""

    name: str
    subject: str
    value: float
    threshold: float
    beyond: bool

    @property
    def relative(self) -> float:
        """How far it is: 1 at its threshold, more beyond; p-values on a scale of logarithms."""
        if self.name.startswith("p_value"):
            return math.log(max(self.value, 1e-300)) / math.log(self.threshold)
        return self.value / self.threshold if self.threshold else float(self.beyond)


class ChannelRecord(Read):
    """What a channel said of a window."""

    channel: str
    level: str
    message: str
    statistics: tuple[StatisticRecord, ...] = ()


class InfluenceRecord(Read):
    """How much a column moved the log odds, against the reference."""

    feature: str
    mean_change: float
    spread_change: float


class VerdictRecord(Read):
    """The verdict on a window."""

    level: str
    message: str
    untested: int = 0
    channels: tuple[ChannelRecord, ...] = ()
    influence: tuple[InfluenceRecord, ...] = ()


class WindowRecord(Read):
    """A window of live traffic."""

    id: str
    version: str
    begins: datetime
    ends: datetime
    rows: int
    verdict: VerdictRecord

    def statistics(self, *channels: str) -> Iterator[StatisticRecord]:
        """The numbers of channels."""
        for channel in self.verdict.channels:
            if channel.channel in channels:
                yield from channel.statistics


class FactsRecord(Read):
    """What a decision on a new model went by."""

    channels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    frauds: int = 0
    rows_by_hour: tuple[int, ...] = ()


class DecisionRecord(Read):
    """Whether a new model was asked for, and why."""

    at: datetime
    outcome: str
    reason: str
    message: str
    facts: FactsRecord = FactsRecord()


class _About(Read):
    version: str = ""
    message: str = ""
    reason: str = ""
    key: str = ""


class EventRecord(Read):
    """An event that was sent, or waits for sinks."""

    type: str
    created: datetime
    data: _About
    undelivered: tuple[str, ...] = ()


class DriftRecord(Read):
    """Where the detector stands."""

    version: str | None
    status: str
    message: str
    since: datetime | None
    last_event: datetime | None
    closed_until: datetime | None
    window: WindowRecord | None
    decision: DecisionRecord | None


class HistoryRecord(Read):
    """Windows, events and decisions, each newest first."""

    windows: tuple[WindowRecord, ...]
    events: tuple[EventRecord, ...]
    decisions: tuple[DecisionRecord, ...]


class HistogramRecord(Read):
    """A column in a window beside the reference: shares of bins."""

    column: str
    edges: tuple[float, ...]
    observed: tuple[float, ...]
    expected: tuple[float, ...]


class TraceRecord(Read):
    """The sums of a channel in the course of a window."""

    name: str
    values: tuple[float, ...]
    threshold: float


class EvidenceRecord(Read):
    """A window with its numbers."""

    window: WindowRecord
    histograms: tuple[HistogramRecord, ...]
    traces: tuple[TraceRecord, ...]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened because of what was seen, or to what is seen.

    Attributes:
        at: When.
        title: What, in a few words.
        text: Why, or with what result.
        facts: Numbers that it went by, for those who ask.
        href: Where there is more.
        marked: It stands on the axis of time.
    """

    at: datetime
    title: str
    text: str
    facts: str = ""
    href: str = ""
    marked: bool = True


def happenings(history: HistoryRecord, runs: RunsRecord, rollouts: RolloutsRecord) -> list[Happening]:
    """All that is known to have happened, newest first."""
    found = [*map(_event, history.events), *map(_decision, history.decisions)]
    found += [
        Happening(
            _moment(run.ended),
            f"Run ended: {run.outcome or 'failed'}",
            run.message or "",
            run.key,
            f"/runs/{quote(run.key, safe='')}",
            marked=False,
        )
        for run in runs.runs
        if run.ended is not None and run.trigger == "drift"
    ]
    for rollout in rollouts.rollouts:
        found += _moves(rollout)
    return sorted(found, key=lambda one: one.at, reverse=True)


def _moves(rollout: RolloutRecord) -> Iterable[Happening]:
    named, href = f"version {rollout.version}", f"/models/{rollout.version}"
    if rollout.promoted_at is not None:
        yield Happening(_moment(rollout.promoted_at), "Promoted", f"{named}: {rollout.reason}", href=href)
    if rollout.ended is not None and rollout.status in ("rolled_back", "reversed"):
        yield Happening(_moment(rollout.ended), "Rolled back", f"{named}: {rollout.said[2]}", href=href)


def _event(event: EventRecord) -> Happening:
    text = (
        event.data.message or event.data.reason or f"traffic of version {event.data.version} is as expected again"
    )
    if event.undelivered:
        text += f" (not acknowledged yet by {', '.join(event.undelivered)})"
    return Happening(event.created, _EVENTS.get(event.type, event.type), text, event.data.key)


def _decision(decision: DecisionRecord) -> Happening:
    facts = decision.facts
    told = [f"{decision.reason.replace('_', ' ')}: {facts.frauds:,} matured frauds"]
    if sum(facts.rows_by_hour):
        told.append(
            f"{sum(facts.rows_by_hour):,} rows, {min(facts.rows_by_hour):,} in the scarcest hour of the day"
        )
    told += [
        f"{what} {', '.join(names)}"
        for what, names in (("columns", facts.columns), ("channels", facts.channels))
        if names
    ]
    title = _OUTCOMES.get(decision.outcome, decision.outcome)
    return Happening(decision.at, title, decision.message, "; ".join(told), marked=False)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
