"""The request log: batches of events are stored, each once, however often and in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson
from sqlalchemy import ColumnElement, Connection, Executable, Table, and_, case, not_, select

from detectors.events import LoggedRequest, LoggedResponse
from detectors.store.database import Database
from detectors.store.tables import ANSWERS, ARRIVALS, BINDINGS, CLOCK, REJECTED, REQUESTS, ROW_IDS
from fraudkit.schema import INPUTS, FloatArray

_INPUTS: Final = "<f8"
ALL_ROWS: Final = -1
"""In `row_ids`: the id is that of a request, followed by a hyphen and the number of the row."""
_LOOKED_UP: Final = 500
"""Ids in one query; SQLite takes some thousands of parameters, and plans short lists better."""


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    """A request whose rows cannot be used.

    Attributes:
        id: The event's.
        time: When the logger saw it [s, UTC].
        digest: Of its body.
        reason: What is wrong.
        rows: How many rows are lost.
    """

    id: str
    time: float
    digest: bytes
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Binding:
    """A promotion, from which on live traffic is held against the reference of `version`."""

    id: str
    version: str
    time: float


Entry = LoggedRequest | LoggedResponse | RejectedRequest | Binding


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch.

    Attributes:
        new: Sound events that were not known.
        repeated: Sound events that were.
        late: Requests, sound or not, whose bucket was closed: they are in no window.
        clashes: Requests whose id is known with other rows: their rows will never be labelled.
    """

    new: int = 0
    repeated: int = 0
    late: int = 0
    clashes: int = 0


class RequestLog:
    """Where one replica of the detector stores events.

    Args:
        database: At the schema of this version.
        bucket_seconds: Width of a bucket of time.
        replica: Name of this process.
    """

    def __init__(self, database: Database, bucket_seconds: float, replica: str) -> None:
        self._database = database
        self._width = bucket_seconds
        self._replica = replica

    def store(self, entries: Sequence[Entry], now: float) -> Stored:
        """Store a batch in one transaction: when this returns, it survives anything.

        Args:
            entries: In any order.
            now: The time [s, UTC].

        Raises:
            sqlalchemy.exc.DBAPIError: Nothing was stored, as far as is known; storing it again does no harm.
        """
        entries = sorted(entries, key=lambda entry: entry.id)  # two replicas then never wait for each other
        requests = [entry for entry in entries if isinstance(entry, LoggedRequest)]
        answers = [entry for entry in entries if isinstance(entry, LoggedResponse)]
        rejected = [entry for entry in entries if isinstance(entry, RejectedRequest)]
        bindings = [entry for entry in entries if isinstance(entry, Binding)]
        with self._database.write() as connection:
            closed = self._closed(connection)
            clashes = self._clashes(connection, requests)
            timed = [self._request(request, closed) for request in requests]
            unsound = [self._rejected(request, closed) for request in rejected]
            new = self._insert_timed(connection, REQUESTS, timed)
            self._insert_timed(connection, REJECTED, unsound)
            new += self._insert(connection, ANSWERS, map(_answer, answers))
            new += self._insert(connection, BINDINGS, [_binding(binding, now) for binding in bindings])
            named: list[LoggedRequest | LoggedResponse] = [*requests, *answers]
            self._insert(connection, ROW_IDS, (row for entry in named for row in _row_ids(entry)))
            if timed or unsound:
                self._arrived(connection, max(row["time"] for row in (*timed, *unsound)), now)
        late = sum(row["late"] for row in (*timed, *unsound))
        return Stored(new, len(entries) - len(rejected) - new, late, clashes)

    def _closed(self, connection: Connection) -> int:
        """The bucket below which all are closed, for as long as this transaction lasts."""
        self._database.hold_clock(connection)
        return int(connection.execute(select(CLOCK.c.closed)).scalar_one())

    def _clashes(self, connection: Connection, requests: Sequence[LoggedRequest]) -> int:
        """How many of `requests` have an id that is known with other rows, from before or from this batch."""
        known: dict[str, set[bytes]] = {}
        ids = list({request.id for request in requests})
        for start in range(0, len(ids), _LOOKED_UP):
            part = REQUESTS.c.id.in_(ids[start : start + _LOOKED_UP])
            for row in connection.execute(select(REQUESTS.c.id, REQUESTS.c.digest).where(part)):
                known.setdefault(row.id, set()).add(bytes(row.digest))
        clashes = 0
        for request in requests:
            digests = known.setdefault(request.id, set())
            clashes += bool(digests) and request.digest not in digests
            digests.add(request.digest)
        return clashes

    def _request(self, request: LoggedRequest, closed: int) -> dict[str, Any]:
        return self._placed(request.time, closed) | {
            "id": request.id,
            "digest": request.digest,
            "rows": len(request.rows),
            "inputs": request.rows.astype(_INPUTS, copy=False).tobytes(),
        }

    def _rejected(self, request: RejectedRequest, closed: int) -> dict[str, Any]:
        return self._placed(request.time, closed) | {
            "id": request.id,
            "digest": request.digest,
            "reason": request.reason,
            "rows": request.rows,
        }

    def _placed(self, time: float, closed: int) -> dict[str, Any]:
        bucket = int(time // self._width)
        return {"time": time, "bucket": bucket, "late": bucket < closed}

    def _insert_timed(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
        """Insert what is new. Of one event that has two times the earlier counts, so that order does not."""
        if not rows:
            return 0
        statement = self._database.insert(table)
        earlier = and_(statement.excluded.time < table.c.time, not_(statement.excluded.late))
        placed = {name: statement.excluded[name] for name in ("time", "bucket", "late")}
        key = [table.c.id, table.c.digest]
        kept = statement.on_conflict_do_update(index_elements=key, set_=placed, where=earlier)
        return _rows(connection, kept, rows)

    def _insert(self, connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> int:
        several = list(rows)
        if not several:
            return 0
        return _rows(connection, self._database.insert(table).on_conflict_do_nothing(), several)

    def _arrived(self, connection: Connection, high: float, now: float) -> None:
        statement = self._database.insert(ARRIVALS).values(replica=self._replica, high=high, received=now)
        higher = {"high": _greater(statement.excluded.high, ARRIVALS.c.high), "received": now}
        connection.execute(statement.on_conflict_do_update(index_elements=[ARRIVALS.c.replica], set_=higher))


def body_digest(body: bytes) -> bytes:
    """Eight bytes that tell a body from others."""
    return blake2b(body, digest_size=8).digest()


def inputs_of(content: bytes) -> FloatArray:
    """The rows [n, 30] in a blob of `requests.inputs`, or in several that are joined."""
    return np.frombuffer(content, _INPUTS).reshape(-1, len(INPUTS)).astype(np.float64, copy=False)


def _rows(connection: Connection, statement: Executable, rows: list[dict[str, Any]]) -> int:
    """How many of `rows` were inserted or changed."""
    return connection.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount


def _greater(left: ColumnElement[float], right: ColumnElement[float]) -> ColumnElement[float]:
    return case((left > right, left), else_=right)


def _answer(answer: LoggedResponse) -> dict[str, Any]:
    prefix = _prefix(answer.row_ids)
    names = None if prefix == answer.id else orjson.dumps(answer.row_ids if prefix is None else prefix).decode()
    return {
        "id": answer.id,
        "version": answer.version,
        "time": answer.time,
        "rows": len(answer.probabilities),
        "alert": int(answer.alerts.max()),
        "probabilities": answer.probabilities.astype(_INPUTS, copy=False).tobytes(),
        "alerts": answer.alerts.tobytes(),
        "row_ids": names,
    }


def _binding(binding: Binding, now: float) -> dict[str, Any]:
    return {"id": binding.id, "version": binding.version, "time": binding.time, "received": now}


def _row_ids(entry: LoggedRequest | LoggedResponse) -> list[dict[str, Any]]:
    """Where the rows are whose ids do not tell.

    The logger makes an id for a request that has none, and does not tell the predictor, which makes another: then
    all ids of an answer begin alike, and one row stands for them.
    """
    names = entry.row_ids or ()
    prefix = _prefix(names)
    if prefix == entry.id:
        return []
    if prefix is not None and isinstance(entry, LoggedResponse):
        return [{"row_id": prefix, "id": entry.id, "row": ALL_ROWS, "time": entry.time}]
    return [
        {"row_id": name, "id": entry.id, "row": row, "time": entry.time}
        for row, name in enumerate(names)
        if name != f"{entry.id}-{row}"
    ]


def _prefix(names: Sequence[str]) -> str | None:
    """What all of `names` begin with, if they are that, a hyphen, and the number of the row."""
    if not names or not names[0].endswith("-0"):
        return None
    prefix = names[0][:-2]
    return prefix if all(name == f"{prefix}-{row}" for row, name in enumerate(names)) else None
