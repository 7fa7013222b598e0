"""A database of a part: SQLite or PostgreSQL, brought to the schema of this version under a lock."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import alembic.config
import sqlalchemy
import structlog
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from fraudkit.errors import InvalidInput, PermanentError

log = structlog.get_logger()

_BUSY_SECONDS: Final = 10


class Database:
    """Connections to one database.

    Args:
        url: SQLAlchemy's; `sqlite:///path` or `postgresql://…`.
        migrations: Folder of the part's Alembic scripts.
        setting: Name of the setting that `url` is, for errors.

    Raises:
        InvalidInput: It is neither.
    """

    def __init__(self, url: str, migrations: Path, setting: str) -> None:
        self.engine = _engine(url, setting)
        self._migrations = migrations
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
        config.set_main_option("script_location", str(self._migrations))
        with self.alone("migrating"), self.write() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Waits until no other process is in such a block of this database; the lock ends with the process."""
        if not self.is_sqlite:
            with self.engine.connect() as connection:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": lock_number(name)})
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


def migrate_within(database: Database, seconds: float) -> None:
    """Bring the schema to this version, and close; where the database stays away, who works with it does so later.

    Raises:
        PermanentError: It cannot be brought there.
    """
    end = time.monotonic() + seconds
    try:
        while True:
            try:
                return database.migrate()
            except SQLAlchemyError as error:
                if not is_temporary(error):
                    raise PermanentError(f"the database cannot be migrated: {error}") from error
                if time.monotonic() > end:
                    log.warning("not migrated: the database is away", reason=str(error))
                    return None
            time.sleep(1.0)
    finally:
        database.close()


def is_temporary(error: Exception) -> bool:
    """Whether trying again may help: the database is away, busy, or its disk is full."""
    return isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def error_handlers(name: str) -> dict[type[Exception], Any]:
    """What an API says when its database is away, or is not what it should be; `name` is the part's."""
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def tell(_: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("request failed", reason=str(error))  # which says more than a caller needs to know
        if not is_temporary(error):
            return JSONResponse({"error": f"the {name} failed; its log says how"}, 500)
        said = f"the {name}'s database is away; try again"
        return JSONResponse({"error": said}, 503, headers={"retry-after": "5"})

    return {SQLAlchemyError: tell}


def lock_number(name: str) -> int:
    """The number of PostgreSQL's advisory lock of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def _engine(url: str, setting: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql") or not parsed.database:
            raise InvalidInput(f"{setting} must be sqlite:///path or postgresql://user:password@host/name")
        if parsed.get_backend_name() == "postgresql":
            options = {"connect_timeout": 5}
            return sqlalchemy.create_engine(parsed, pool_pre_ping=True, hide_parameters=True, connect_args=options)
        # Parameters are customers' data: they do not belong in the text of an error, which is logged.
        engine = sqlalchemy.create_engine(parsed, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise InvalidInput(f"{setting} is no URL of a database: {error}") from error
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
