"""What is older than the retention goes, in small batches, so that nobody waits."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, exists, select, tuple_

from detectors.store.database import Database
from detectors.store.tables import (
    ANSWERS,
    DECISIONS,
    DELIVERIES,
    EVENTS,
    LABELS,
    REJECTED,
    REQUESTS,
    ROW_IDS,
    WINDOWS,
)

BATCH: Final = 2_000


def expire(database: Database, before: float) -> int:
    """Delete what is of before `before` [s, UTC]; returns how many rows of all tables that were.

    An event goes only when every sink has acknowledged it. Labels go with their time, whatever they are of.
    """
    times = {
        REQUESTS: REQUESTS.c.time,
        ANSWERS: ANSWERS.c.time,
        ROW_IDS: ROW_IDS.c.time,
        REJECTED: REJECTED.c.time,
        LABELS: LABELS.c.at,
        WINDOWS: WINDOWS.c.ends,
        DECISIONS: DECISIONS.c.at,
        EVENTS: EVENTS.c.created,
    }
    waiting = exists(
        select(DELIVERIES.c.id).where(DELIVERIES.c.id == EVENTS.c.id, DELIVERIES.c.delivered.is_(None))
    )
    gone = 0
    for table, time in times.items():
        keys = list(table.primary_key.columns)
        old = select(*keys).where(time < before)
        if table is EVENTS:
            old = old.where(~waiting)
        while True:
            with database.write() as connection:
                batch = old.limit(BATCH).subquery()
                count = connection.execute(
                    delete(table).where(tuple_(*keys).in_(select(*batch.c))),
                    execution_options={"preserve_rowcount": True},
                ).rowcount
            gone += count
            if count < BATCH:
                break
    with database.write() as connection:
        known = exists(select(EVENTS.c.id).where(EVENTS.c.id == DELIVERIES.c.id))
        connection.execute(delete(DELIVERIES).where(~known))
    return gone
