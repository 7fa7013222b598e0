"""Start the launcher: take triggers and bring runs to their end, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fraudkit.api import MAX_BYTES, READ_SECONDS
from fraudkit.commands import Arguments, add_address, command
from fraudkit.database import Database, migrate_within
from fraudkit.errors import PermanentError
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import Backend
from pipelines.launcher.local import LocalBackend
from pipelines.launcher.moves import Mirror
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.launcher.worker import Loop, Worker, now

log = structlog.get_logger()

GRACE_SECONDS: Final = 20
"""For a run of this machine to end, less than the 30 s after which Kubernetes kills."""


@command("launcher")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    settings = load_settings()
    parser = argparse.ArgumentParser("python -m pipelines.launcher", description=__doc__)
    add_address(parser, settings.launcher.host, settings.launcher.port)
    parser.add_argument(
        "--migrate", type=float, metavar="SECONDS", help="Only bring the database to this version, and end."
    )
    options = parser.parse_args(arguments)
    if options.migrate is not None:
        migrate_within(_database(settings), options.migrate)
        return
    serve(settings, options.host, options.port)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: The database's URL is none.
        PermanentError: The address cannot be listened on.
    """
    own = settings.launcher
    database = _database(settings)
    store, failures = RunStore(database), threading.Event()

    def failed() -> None:
        failures.set()
        os.kill(os.getpid(), signal.SIGTERM)

    asking = Asking(store, own, now)
    mirror = Mirror(store) if settings.rollout.url else None
    loop = Loop(database, Worker(store, backend_of(settings), own, now), asking, own, failed, mirror)
    listener = listen(host, port)
    api = LauncherApi(store, asking, mirrors=mirror is not None)
    server = Server(config(api.app(), 2 * MAX_BYTES, 5), READ_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    at, number = listener.getsockname()[:2]
    log.info("launcher started", host=at, port=number, backend=own.backend)
    _migrate(database)
    loop.start()
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    loop.stop(GRACE_SECONDS + 1)
    database.close()
    log.info("launcher stopped")
    if failures.is_set():
        raise PermanentError("the launcher has failed; its log says how")


def _database(settings: Settings) -> Database:
    return Database(settings.launcher_database, MIGRATIONS, "launcher.database")


def _migrate(database: Database) -> None:
    """Make the tables before anybody asks; where the database is away, the loop makes them once it is there."""
    try:
        database.migrate()
    except SQLAlchemyError as error:
        log.warning("the launcher's database is away", reason=str(error))


def backend_of(settings: Settings) -> Backend:
    """What runs the pipeline."""
    if settings.launcher.backend == "kfp":
        from pipelines.launcher.kfp import KfpBackend

        own = settings.launcher
        return KfpBackend(own.kfp, results=own.results, shards=settings.data.shards)
    return LocalBackend(settings.state.absolute() / "runs")


if __name__ == "__main__":
    sys.exit(main())
