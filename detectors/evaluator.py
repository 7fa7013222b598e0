"""The evaluator's process: windows to verdicts, one after another; retraining; delivery of events; retention."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError

from detectors.delivery import deliver_due
from detectors.evaluation import Evaluator
from detectors.retraining import Retraining
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.outbox import OutboxStore
from detectors.store.retention import expire
from detectors.store.windows import WindowStore
from fraudkit.commands import Arguments, command
from fraudkit.database import is_temporary
from fraudkit.errors import BundleError
from fraudkit.settings import Settings, load_settings

log = structlog.get_logger()

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_POLL_SECONDS: Final = 1.0
_CONSIDER_SECONDS: Final = 10.0
_EXPIRE_SECONDS: Final = 600.0


class Loop:
    """What the process does, until it is told to stop.

    Args:
        settings: All settings.
        stopping: Set to stop it.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._database = Database(settings.detector_database)
        self._client = httpx.Client(timeout=settings.events.timeout_seconds)
        self._alive = settings.state / "evaluator.alive"
        self._alive.parent.mkdir(parents=True, exist_ok=True)
        self._failing = False
        self._considered = self._expired = float("-inf")

    def run(self) -> None:
        """Work until told to stop.

        Raises:
            PermanentError: Another evaluator works on this database.
        """
        delivery = threading.Thread(target=self._deliver, name="delivery", daemon=True)
        self._until_done(self._database.migrate)
        delivery.start()
        while not self._stopping.is_set():
            self._until_done(self._evaluate)
        delivery.join(self._settings.events.timeout_seconds + 1)
        self._client.close()
        self._database.close()

    def _evaluate(self) -> None:
        """Be the evaluator, until told to stop or the database goes away."""
        with self._database.one_evaluator():
            labels = LabelStore(self._database)
            evaluator = Evaluator(WindowStore(self._database), labels, self._settings)
            retraining = Retraining(evaluator, labels, self._settings, self._client)
            self._well()
            while not self._stopping.is_set():
                self._alive.touch()  # for Kubernetes, which cannot ask it
                worked = evaluator.advance()
                self._beside(retraining, worked)
                self._well()
                if not worked:
                    self._stopping.wait(min(_POLL_SECONDS, self._settings.detector.bucket_seconds))

    def _beside(self, retraining: Retraining, worked: bool) -> None:
        now = time.monotonic()
        if worked or now - self._considered > _CONSIDER_SECONDS:
            retraining.consider()
            self._considered = now
        if now - self._expired > _EXPIRE_SECONDS:
            expire(self._database, time.time() - 86_400.0 * self._settings.detector.retention_days)
            self._expired = now

    def _deliver(self) -> None:
        outbox = OutboxStore(self._database)
        with httpx.Client(timeout=self._settings.events.timeout_seconds) as client:
            while not self._stopping.wait(0.2):
                try:
                    deliver_due(outbox, client, self._settings.events, time.time())
                except SQLAlchemyError as error:
                    log.warning("events cannot be delivered: the database is away", reason=str(error))
                    self._stopping.wait(_LONGEST_WAIT)

    def _until_done(self, action: Callable[[], None]) -> None:
        """Have `action` done, however often the database or a bundle is away."""
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            try:
                action()
            except SQLAlchemyError as error:
                if not is_temporary(error):
                    raise
                self._said(str(error))
            except BundleError as error:
                self._said(str(error))
            else:
                return
            self._alive.touch()
            self._stopping.wait(random.uniform(wait / 2, wait))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT)

    def _said(self, reason: str) -> None:
        if not self._failing:
            log.error("evaluation waits", reason=reason)
        self._failing = True

    def _well(self) -> None:
        if self._failing:
            log.info("evaluation goes on")
        self._failing = False


@command("evaluator")
def main(arguments: Arguments) -> None:
    """Evaluate until a signal."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    argparse.ArgumentParser("python -m detectors.evaluator", description=__doc__).parse_args(arguments)
    settings = load_settings()
    log.info("evaluator started", engine=settings.detector.engine, database=_shown(settings.detector_database))
    Loop(settings, stopping).run()
    log.info("evaluator stopped")


def _shown(url: str) -> str:
    """A database's URL without its password."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


if __name__ == "__main__":
    sys.exit(main())
