"""What the API tells of windows, events and decisions. Each answer is one state of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, func, select

from detectors.records import (
    DecisionRecord,
    EventRecord,
    HistoryRecord,
    VerdictRecord,
    WindowRecord,
    moment,
)
from detectors.store.database import Database
from detectors.store.tables import ARRIVALS, BINDINGS, CLOCK, DECISIONS, DELIVERIES, EVENTS, WINDOWS
from fraudkit.schema import FloatArray


@dataclass(frozen=True, slots=True)
class Now:
    """Where the detector stands.

    Attributes:
        promoted: Version of the last promotion that it heard of.
        closed: Bucket below which all are closed.
        received: When the last event was stored [s, UTC].
        window: The last window of the version, if there is one.
        former: The last window before it whose level was another.
        decision: The last decision.
    """

    promoted: str | None
    closed: int
    received: float | None
    window: WindowRecord | None
    former: WindowRecord | None
    decision: DecisionRecord | None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A window with its numbers: rows by hour [24], histogram [30, 50], sums of the alert rate [2, points]."""

    window: WindowRecord
    hours: tuple[int, ...]
    histogram: NDArray[np.uint32]
    traces: FloatArray


@dataclass(frozen=True, slots=True)
class Span:
    """What is asked for: of one version or all, from `since` to before `until` [s, UTC], at most `limit`."""

    version: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 100


class VerdictStore:
    """Reads what the evaluator wrote."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> Now:
        """Where the detector stands."""
        with self._database.read() as connection:
            promoted = connection.execute(
                select(BINDINGS.c.version).order_by(BINDINGS.c.time.desc(), BINDINGS.c.id.desc()).limit(1)
            ).scalar()
            closed = int(connection.execute(select(CLOCK.c.closed)).scalar_one())
            received = connection.execute(select(func.max(ARRIVALS.c.received))).scalar()
            last = connection.execute(_newest(WINDOWS.c.version == promoted).limit(1)).first()
            former = None
            if last:
                before = _newest(WINDOWS.c.version == promoted, WINDOWS.c.level != last.level)
                former = connection.execute(before.limit(1)).first()
            decision = connection.execute(select(DECISIONS).order_by(DECISIONS.c.seq.desc()).limit(1)).first()
        return Now(
            promoted,
            closed,
            received,
            _window(last) if last else None,
            _window(former) if former else None,
            _decision(decision) if decision else None,
        )

    def undelivered(self) -> int:
        """Deliveries that wait for a sink to acknowledge them."""
        wanted = select(func.count()).select_from(DELIVERIES).where(DELIVERIES.c.delivered.is_(None))
        with self._database.read() as connection:
            return int(connection.execute(wanted).scalar_one())

    def history(self, span: Span) -> HistoryRecord:
        """Windows, events and decisions, each newest first."""
        with self._database.read() as connection:
            windows = [
                _window(row)
                for row in connection.execute(_newest(*_of(WINDOWS, WINDOWS.c.begins, span), limit=span.limit))
            ]
            events = self._events(connection, span)
            wanted = (
                select(DECISIONS).where(*_of(DECISIONS, DECISIONS.c.at, span)).order_by(DECISIONS.c.seq.desc())
            )
            decisions = [_decision(row) for row in connection.execute(wanted.limit(span.limit))]
        return HistoryRecord(windows=tuple(windows), events=tuple(events), decisions=tuple(decisions))

    def window(self, name: str) -> Kept | None:
        """One window with its numbers."""
        with self._database.read() as connection:
            row = connection.execute(select(WINDOWS).where(WINDOWS.c.id == name)).first()
        if row is None:
            return None
        histogram = np.frombuffer(row.histogram, "<u4")
        traces = np.frombuffer(row.traces, "<f8")
        return Kept(
            _window(row),
            tuple(orjson.loads(row.hours)),
            histogram.reshape(30, -1).astype(np.uint32),
            traces.reshape(2, -1).astype(np.float64),
        )

    def _events(self, connection: Connection, span: Span) -> list[EventRecord]:
        # An event says its version itself: there are few of them.
        inside = _of(EVENTS, EVENTS.c.created, Span(None, span.since, span.until))
        wanted = select(EVENTS).where(*inside).order_by(EVENTS.c.created.desc(), EVENTS.c.id.desc())
        rows = connection.execute(wanted.limit(span.limit)).all()
        waiting: dict[str, list[str]] = {}
        ids = [row.id for row in rows]
        late = select(DELIVERIES.c.id, DELIVERIES.c.sink).where(
            DELIVERIES.c.id.in_(ids), DELIVERIES.c.delivered.is_(None)
        )
        for name, sink in connection.execute(late):
            waiting.setdefault(name, []).append(sink)
        events = [
            EventRecord(
                id=row.id,
                type=row.type,
                created=moment(row.created),
                data=orjson.loads(row.body)["data"],
                undelivered=tuple(sorted(waiting.get(row.id, ()))),
            )
            for row in rows
        ]
        return [event for event in events if span.version in (None, event.data.get("version"))]


_COLUMNS = [column for column in WINDOWS.c if column.name not in ("histogram", "traces", "hours")]


def _newest(*where: Any, limit: int | None = None) -> Select[Any]:
    return select(*_COLUMNS).where(*where).order_by(WINDOWS.c.begins.desc(), WINDOWS.c.id.desc()).limit(limit)


def _of(table: Any, time: Any, span: Span) -> list[Any]:
    where = []
    if span.version is not None:
        where.append(table.c.version == span.version)
    if span.since is not None:
        where.append(time >= span.since)
    if span.until is not None:
        where.append(time < span.until)
    return where


def _window(row: Row[Any]) -> WindowRecord:
    return WindowRecord(
        id=row.id,
        version=row.version,
        begins=moment(row.begins),
        ends=moment(row.ends),
        rows=row.rows,
        evaluated=moment(row.evaluated),
        verdict=VerdictRecord.model_validate_json(row.verdict),
    )


def _decision(row: Row[Any]) -> DecisionRecord:
    kept = orjson.loads(row.decision)
    return DecisionRecord(
        at=moment(row.at),
        version=row.version,
        outcome=row.outcome,
        reason=row.reason,
        message=kept["message"],
        facts=kept["facts"],
    )
