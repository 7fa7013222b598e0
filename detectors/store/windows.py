"""What the evaluator reads and writes: closed buckets, the rows of a window, and its own state with each verdict.

Every change of the state is one transaction with all that follows from it. It names the step that it was computed
from: where another evaluator was quicker, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, insert, not_, select, tuple_, union_all, update

from detectors.store.database import Database
from detectors.store.log import Binding, inputs_of
from detectors.store.tables import (
    ARRIVALS,
    BINDINGS,
    CLOCK,
    DECISIONS,
    DELIVERIES,
    EVALUATOR,
    EVENTS,
    REJECTED,
    REQUESTS,
    WINDOWS,
)
from detectors.windows import Window
from fraudkit.errors import PermanentError
from fraudkit.schema import FloatArray

_ONE: Final = 1


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The latest time of an event, and when the last one was stored [s, UTC]."""

    high: float
    received: float


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The rows of a window [n, 30] in the order of their time, and its rejected rows by reason."""

    rows: FloatArray
    rejected: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event that is to be delivered; `body` is the CloudEvent in structured mode."""

    id: str
    type: str
    body: str


@dataclass(frozen=True, slots=True)
class Change:
    """What is written with a new state.

    Attributes:
        state: The new state, JSON.
        window: The row of `windows`, if one was evaluated.
        decision: The row of `decisions`, if one was taken.
        events: What is to be delivered.
    """

    state: str
    window: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    events: Sequence[Outgoing] = ()


class WindowStore:
    """The evaluator's view of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def arrivals(self) -> Arrivals | None:
        """What has come so far; None when nothing has."""
        with self._database.read() as connection:
            wanted = select(func.max(ARRIVALS.c.high), func.max(ARRIVALS.c.received))
            high, received = connection.execute(wanted).one()
        return None if high is None else Arrivals(high, received)

    def close(self, until: int) -> int:
        """Close the buckets below `until`; returns below which one all are closed.

        Waits for writers that saw them open: when this returns, no row comes into a closed bucket.
        """
        with self._database.read() as connection:
            closed = int(connection.execute(select(CLOCK.c.closed)).scalar_one())
        if until <= closed:
            return closed
        with self._database.write() as connection:
            self._database.hold_clock(connection, alone=True)
            connection.execute(update(CLOCK).where(CLOCK.c.closed < until).values(closed=until))
            return int(connection.execute(select(CLOCK.c.closed)).scalar_one())

    def first_bucket(self, least: int, end: int) -> int | None:
        """The first bucket from `least` to below `end` that has rows."""
        parts = [
            select(func.min(table.c.bucket).label("first"))
            .where(table.c.bucket >= least, table.c.bucket < end, not_(table.c.late))
            .subquery()
            for table in (REQUESTS, REJECTED)
        ]
        with self._database.read() as connection:
            found = [connection.execute(select(part.c.first)).scalar_one() for part in parts]
        return min((int(bucket) for bucket in found if bucket is not None), default=None)

    def buckets(self, first: int, end: int) -> list[tuple[int, int]]:
        """Number and rows of each bucket from `first` to below `end` that has rows, be they only rejected ones."""
        parts = [
            select(table.c.bucket, func.sum(rows).label("rows"))
            .where(table.c.bucket >= first, table.c.bucket < end, not_(table.c.late))
            .group_by(table.c.bucket)
            for table, rows in ((REQUESTS, REQUESTS.c.rows), (REJECTED, 0 * REJECTED.c.rows))
        ]
        both = union_all(*parts).subquery()
        wanted = select(both.c.bucket, func.sum(both.c.rows)).group_by(both.c.bucket).order_by(both.c.bucket)
        with self._database.read() as connection:
            return [(int(bucket), int(rows)) for bucket, rows in connection.execute(wanted)]

    def content(self, window: Window) -> Content:
        """What is in a window."""
        inside = [
            (table.c.bucket >= window.start) & (table.c.bucket < window.end) & not_(table.c.late)
            for table in (REQUESTS, REJECTED)
        ]
        rows = (
            select(REQUESTS.c.inputs).where(inside[0]).order_by(REQUESTS.c.time, REQUESTS.c.id, REQUESTS.c.digest)
        )
        rejected = (
            select(REJECTED.c.reason, func.sum(REJECTED.c.rows))
            .where(inside[1])
            .group_by(REJECTED.c.reason)
            .order_by(REJECTED.c.reason)
        )
        with self._database.read() as connection:
            inputs = inputs_of(b"".join(connection.execute(rows).scalars()))
            return Content(inputs, tuple((reason, int(count)) for reason, count in connection.execute(rejected)))

    def next_binding(self, after: Binding | None) -> Binding | None:
        """The promotion that follows `after`."""
        wanted = select(BINDINGS.c.id, BINDINGS.c.version, BINDINGS.c.time).order_by(
            BINDINGS.c.time, BINDINGS.c.id
        )
        if after:
            wanted = wanted.where(tuple_(BINDINGS.c.time, BINDINGS.c.id) > (after.time, after.id))
        with self._database.read() as connection:
            row = connection.execute(wanted.limit(1)).first()
        return Binding(*row) if row else None

    def state(self) -> tuple[int, str | None]:
        """The number of the last step, and the state after it; 0 and None before the first."""
        with self._database.read() as connection:
            step, state = connection.execute(select(EVALUATOR.c.step, EVALUATOR.c.state)).one()
        return step, state if step else None

    def change(self, step: int, change: Change, sinks: Sequence[str], now: float) -> int:
        """Write the state that follows step `step`, and all that comes with it; returns the new step.

        Raises:
            PermanentError: Another evaluator has written since.
        """
        with self._database.write() as connection:
            self._swap(connection, step, change.state)
            if change.window:
                connection.execute(insert(WINDOWS), change.window | {"evaluated": now})
            if change.decision:
                connection.execute(insert(DECISIONS), change.decision)
            for event in change.events:
                self._send(connection, event, sinks, now)
        return step + 1

    def _swap(self, connection: Connection, step: int, state: str) -> None:
        same = (EVALUATOR.c.one == _ONE) & (EVALUATOR.c.step == step)
        written = connection.execute(update(EVALUATOR).where(same).values(step=step + 1, state=state)).rowcount
        if written != 1:
            raise PermanentError("another evaluator works on this database: this one stops")

    def _send(self, connection: Connection, event: Outgoing, sinks: Sequence[str], now: float) -> None:
        row = {"id": event.id, "type": event.type, "created": now, "body": event.body}
        connection.execute(self._database.insert(EVENTS).values(row).on_conflict_do_nothing())
        for sink in sinks:
            delivery = {"id": event.id, "sink": sink, "next_try": now}
            connection.execute(self._database.insert(DELIVERIES).values(delivery).on_conflict_do_nothing())
