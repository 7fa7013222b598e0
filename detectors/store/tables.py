"""The schema, the same on SQLite and PostgreSQL. Times are seconds UTC; numbers in blobs are little-endian.

A row of `requests` is a request with all its transactions: one of a thousand rows costs one insert. The id of a
transaction is `<request id>-<row>` unless it has one of its own, which `row_ids` finds.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData()

REQUESTS: Final = Table(
    "requests",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the event"),
    Column(
        "digest", LargeBinary, primary_key=True, comment="of what was asked: an id may come again with other rows"
    ),
    Column("time", Double, nullable=False, comment="when the logger saw it"),
    Column("bucket", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False, comment="its bucket was closed when it came: it is in no window"),
    Column("rows", Integer, nullable=False),
    Column("inputs", LargeBinary, nullable=False, comment="[rows, 30] float64"),
)
Index("requests_bucket", REQUESTS.c.bucket)
Index("requests_time", REQUESTS.c.time, REQUESTS.c.id)

ANSWERS: Final = Table(
    "answers",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the request"),
    Column("version", Text, primary_key=True, comment="of the model that answered"),
    Column("time", Double, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("alert", SmallInteger, nullable=False, comment="the highest of its rows"),
    Column("probabilities", LargeBinary, nullable=False, comment="[rows] float64"),
    Column("alerts", LargeBinary, nullable=False, comment="[rows] int8"),
    Column("row_ids", Text, comment="JSON: a list, or what all begin with; null for <id>-<row>"),
)
Index("answers_time", ANSWERS.c.time)

ROW_IDS: Final = Table(
    "row_ids",
    METADATA,
    Column("row_id", Text, primary_key=True),
    Column("id", Text, primary_key=True, comment="of the request"),
    Column("row", Integer, primary_key=True, comment="-1: `row_id` is what all ids of the request begin with"),
    Column("time", Double, nullable=False),
)
Index("row_ids_time", ROW_IDS.c.time)

REJECTED: Final = Table(
    "rejected",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the event"),
    Column("digest", LargeBinary, primary_key=True, comment="of its body"),
    Column("time", Double, nullable=False),
    Column("bucket", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rows", Integer, nullable=False),
)
Index("rejected_bucket", REJECTED.c.bucket)

LABELS: Final = Table(
    "labels",
    METADATA,
    # BIGINT alone is not SQLite's row number.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("row_id", Text, nullable=False),
    Column("id", Text, nullable=False, comment="of the request, as `row_id` says unless `row_ids` knows better"),
    Column("row", BigInteger, nullable=False, comment="likewise; -1 where it says none"),
    Column("label", SmallInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Double, nullable=False, comment="when it was found out"),
    Column("received", Double, nullable=False),
    UniqueConstraint("row_id", "at", "label", "source", "by", name="labels_once"),
)
Index("labels_at", LABELS.c.at)
Index("labels_id", LABELS.c.id)

CLOCK: Final = Table(
    "clock",
    METADATA,
    Column("one", SmallInteger, primary_key=True, autoincrement=False),
    Column("closed", BigInteger, nullable=False, comment="buckets below this one are closed"),
)

ARRIVALS: Final = Table(
    "arrivals",
    METADATA,
    Column("replica", Text, primary_key=True),
    Column("high", Double, nullable=False, comment="latest time of an event"),
    Column("received", Double, nullable=False, comment="when the last one was stored"),
)

BINDINGS: Final = Table(
    "bindings",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the event"),
    Column("version", Text, nullable=False),
    Column("time", Double, nullable=False, comment="of the promotion"),
    Column("received", Double, nullable=False),
)

WINDOWS: Final = Table(
    "windows",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("start", BigInteger, nullable=False, comment="first bucket"),
    Column("end", BigInteger, nullable=False, comment="bucket after the last"),
    Column("begins", Double, nullable=False),
    Column("ends", Double, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("level", Text, nullable=False),
    Column("verdict", Text, nullable=False, comment="JSON: reason, message, readings, influence"),
    Column("hours", Text, nullable=False, comment="JSON: rows by hour of day"),
    Column("histogram", LargeBinary, nullable=False, comment="[30, 50] uint32"),
    Column(
        "traces", LargeBinary, nullable=False, comment="sums of the alert rate, up and down: [2, points] float64"
    ),
    Column("evaluated", Double, nullable=False),
)
Index("windows_version_start", WINDOWS.c.version, WINDOWS.c.start)

DECISIONS: Final = Table(
    "decisions",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("version", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decision", Text, nullable=False, comment="JSON"),
)

EVALUATOR: Final = Table(
    "evaluator",
    METADATA,
    Column("one", SmallInteger, primary_key=True, autoincrement=False),
    Column(
        "step", BigInteger, nullable=False, comment="rises by one with each change: two evaluators would notice"
    ),
    Column("state", Text, nullable=False, comment="JSON"),
)

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("body", Text, nullable=False, comment="the CloudEvent in structured mode"),
)
Index("events_created", EVENTS.c.created)

DELIVERIES: Final = Table(
    "deliveries",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the event"),
    Column("sink", Text, primary_key=True),
    Column("next_try", Double, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("delivered", Double),
)
_UNDELIVERED: Final = DELIVERIES.c.delivered.is_(None)
Index("deliveries_due", DELIVERIES.c.next_try, sqlite_where=_UNDELIVERED, postgresql_where=_UNDELIVERED)
