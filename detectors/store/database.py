"""A database of the detector: SQLite or PostgreSQL, brought to the schema of this version under a lock."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import alembic.config
import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from fraudkit.errors import InvalidInput

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x6672617564 - 1
_EVALUATOR_LOCK: Final = 0x6672617564
_CLOCK_LOCK: Final = 0x6672617564 + 1
_BUSY_SECONDS: Final = 10


class Database:
    """Connections to one database.

    Args:
        url: SQLAlchemy's; `sqlite:///path` or `postgresql://…`.

    Raises:
        InvalidInput: It is neither.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.insert = sqlite.insert if self.is_sqlite else postgresql.insert
        """`INSERT … ON CONFLICT`, which both have and SQL does not."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when the block is left, or has not been."""
        with self.engine.connect() as connection, connection.execution_options(write=True).begin():
            yield connection

    def migrate(self) -> None:
        """Bring the schema to this version; others who want to do so wait, or find it done."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._alone(_MIGRATION_LOCK, "migrating"), self.write() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    def hold_clock(self, connection: Connection, *, alone: bool = False) -> None:
        """Until the transaction ends nobody closes a bucket; or, `alone`, nobody stores an event.

        SQLite has one writer anyway. PostgreSQL's row locks would let those who store pass by who waits to close,
        for as long as there are enough of them; its advisory locks are taken in turn.
        """
        if not self.is_sqlite:
            kind = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
            connection.execute(text(f"SELECT {kind}(:number)"), {"number": _CLOCK_LOCK})

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextmanager
    def one_evaluator(self) -> Iterator[None]:
        """Waits until no other process is the evaluator of this database; the lock ends with the process."""
        with self._alone(_EVALUATOR_LOCK, "evaluator"):
            yield

    @contextmanager
    def _alone(self, number: int, name: str) -> Iterator[None]:
        if not self.is_sqlite:
            with self.engine.connect() as connection:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
                try:
                    yield
                finally:
                    connection.invalidate()  # which ends the lock with the session
            return
        path = Path(self.engine.url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def is_temporary(error: Exception) -> bool:
    """Whether trying again may help: the database is away, busy, or its disk is full."""
    return isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql") or not parsed.database:
            raise InvalidInput("detector.database must be sqlite:///path or postgresql://user:password@host/name")
        if parsed.get_backend_name() == "postgresql":
            options = {"connect_timeout": 5}
            return sqlalchemy.create_engine(parsed, pool_pre_ping=True, hide_parameters=True, connect_args=options)
        # Parameters are customers' data: they do not belong in the text of an error, which is logged.
        engine = sqlalchemy.create_engine(parsed, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise InvalidInput(f"detector.database is no URL of a database: {error}") from error
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin as `_begin` says, not as sqlite3 guesses
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # what was committed survives a power cut
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and then writes could be refused, so one that will write says so.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
