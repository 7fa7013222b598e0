"""Events that wait to be delivered."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update

from detectors.delivery import Delivery
from detectors.store.database import Database
from detectors.store.tables import DELIVERIES, EVENTS

_MOST_ERROR = 500


class OutboxStore:
    """The outbox in the database; one process delivers, the evaluator's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: float, limit: int) -> Sequence[Delivery]:
        """Deliveries whose time has come, the oldest first."""
        wanted = (
            select(DELIVERIES.c.id, DELIVERIES.c.sink, EVENTS.c.body, DELIVERIES.c.tries)
            .join(EVENTS, EVENTS.c.id == DELIVERIES.c.id)
            .where(DELIVERIES.c.delivered.is_(None), DELIVERIES.c.next_try <= now)
            .order_by(DELIVERIES.c.next_try, EVENTS.c.created, DELIVERIES.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Delivery(*row) for row in connection.execute(wanted)]

    def delivered(self, delivery: Delivery, now: float) -> None:
        """The sink has acknowledged."""
        self._update(delivery, delivered=now, tries=delivery.tries + 1, error=None)

    def failed(self, delivery: Delivery, next_try: float, error: str) -> None:
        """It has not."""
        self._update(delivery, next_try=next_try, tries=delivery.tries + 1, error=error[:_MOST_ERROR])

    def _update(self, delivery: Delivery, **values: object) -> None:
        this = (DELIVERIES.c.id == delivery.id) & (DELIVERIES.c.sink == delivery.sink)
        with self._database.write() as connection:
            connection.execute(update(DELIVERIES).where(this).values(**values))
