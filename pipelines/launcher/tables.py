"""The launcher's tables, the same on SQLite and PostgreSQL. Times are seconds UTC."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Double, Integer, MetaData, SmallInteger, Table, Text

METADATA: Final = MetaData()

SCHEDULE: Final = Table(
    "schedule",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("month", Text, nullable=False, comment="the last one whose run was asked for, or was not to be"),
)

RUNS: Final = Table(
    "runs",
    METADATA,
    Column("key", Text, primary_key=True),
    Column(
        "slot", SmallInteger, unique=True, comment="1 while the run goes on: the database itself admits only one"
    ),
    Column("trigger", Text, nullable=False, comment="drift, schedule, manual or bootstrap"),
    Column("state", Text, nullable=False, comment="run or coalesced"),
    Column("into", Text, comment="key of the run that went on when this one was asked for"),
    Column("status", Text, nullable=False, comment="waiting, running or ended"),
    Column("asked", Double, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False, comment="JSON: the event that asked, with its verdict"),
    Column("data_uri", Text, nullable=False),
    Column("since", Double, comment="from when on logged transactions are learned from"),
    Column("as_of", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("not_before", Double, nullable=False, comment="of the next attempt"),
    Column("handle", Text, comment="what the backend finds the run by"),
    Column("started", Double),
    Column("ended", Double),
    Column("outcome", Text),
    Column("outcome_reason", Text),
    Column("message", Text),
    Column("version", Text, comment="of the model that was trained"),
    Column("reported", Text, comment="JSON: how the attempt ended, as its last task told"),
)

MOVES: Final = Table(
    "moves",
    METADATA,
    Column("id", Text, primary_key=True, comment="of the event"),
    Column("move", Text, nullable=False, comment="JSON: a promotion or a rollback that MLflow does not show yet"),
)
