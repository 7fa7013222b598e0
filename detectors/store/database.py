"""The detector's database, and who waits for whom in it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from fraudkit import database
from fraudkit.database import lock_number

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_CLOCK: Final = lock_number("clock")


class Database(database.Database):
    """Connections to the database of the request log.

    Args:
        url: SQLAlchemy's; `sqlite:///path` or `postgresql://…`.

    Raises:
        InvalidInput: It is neither.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, _MIGRATIONS, "detector.database")

    def one_evaluator(self) -> AbstractContextManager[None]:
        """Waits until no other process is the evaluator of this database; the lock ends with the process."""
        return self.alone("evaluator")

    def hold_clock(self, connection: Connection, *, alone: bool = False) -> None:
        """Until the transaction ends nobody closes a bucket; or, `alone`, nobody stores an event.

        SQLite has one writer anyway. PostgreSQL's row locks would let those who store pass by who waits to close,
        for as long as there are enough of them; its advisory locks are taken in turn.
        """
        if not self.is_sqlite:
            kind = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
            connection.execute(text(f"SELECT {kind}(:number)"), {"number": _CLOCK})
