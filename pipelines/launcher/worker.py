"""Brings the one run that goes on from its start to its end, whatever is killed meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fraudkit.database import Database
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.settings import LauncherSettings
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import Backend, Order, Phase, Progress, Result
from pipelines.launcher.moves import Mirror
from pipelines.launcher.store import RunRecord, RunStore

log = structlog.get_logger()

_LONGEST_WAIT: Final = 60.0
RESULT_SECONDS: Final = 60.0
"""How long a run that has ended may be silent on how."""
_FAILED: Final = "failed"
_UNKNOWN: Final = Result(outcome="ended", reason="unknown", message="the run ended and did not say how")


class Worker:
    """What is done with the run that goes on. Each step may be the last one of this process.

    Args:
        store: The records.
        backend: What runs the pipeline.
        settings: Attempts and waits.
        clock: The time [s, UTC].
    """

    def __init__(
        self, store: RunStore, backend: Backend, settings: LauncherSettings, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._silent: tuple[str, float] = ("", 0.0)

    def step(self) -> bool:
        """Do what is next for the run; whether there is one.

        Raises:
            TemporaryError: The backend is away.
        """
        run = self._store.active()
        if run is None:
            return False
        if run.status == "waiting":
            if self._clock() < run.not_before or not self._store.begin(run.key, run.attempt + 1, self._clock()):
                return True
            run = run.model_copy(update={"attempt": run.attempt + 1, "status": "running", "handle": None})
            log.info("run begins", key=run.key, attempt=run.attempt)
        if run.handle is None:
            self._start(run)
        else:
            self._look(run, run.handle)
        return True

    def close(self) -> None:
        """Let go of the run; where it is stopped with this process, the attempt does not count."""
        run = self._store.active()
        if self._backend.close() and run is not None and run.status == "running":
            self._store.interrupted(run.key, run.attempt)

    def _start(self, run: RunRecord) -> None:
        try:
            self._store.found(run.key, self._backend.start(_order(run)))
        except PermanentError as error:
            self._end(run, Result(outcome=_FAILED, reason="not_started", message=str(error)))
        except TemporaryError as error:
            if self._clock() > run.asked + 3_600.0 * self._settings.give_up_hours:
                self._end(run, Result(outcome=_FAILED, reason="not_started", message=str(error)))
            else:
                raise

    def _look(self, run: RunRecord, handle: str) -> None:
        progress = self._backend.look(_order(run), handle)
        if progress.phase is Phase.RUNNING:
            return
        # Told before the backend sees the end, so it is read after that. What has told how it ended has ended, and
        # a pod that is lost after its last word is no reason to do it all again.
        told = self._store.get(run.key)
        result = progress.result or (told.reported if told else None)
        if result:
            self._end(run, result)
        elif progress.phase is Phase.FAILED:
            self._failed(run, progress)
        elif self._was_silent(run):
            self._end(run, _UNKNOWN)

    def _was_silent(self, run: RunRecord) -> bool:
        """Whether a run that has ended has had time enough to tell how; one that is not to tell needs none."""
        if self._settings.results is None:
            return True
        if self._silent[0] != run.key:
            self._silent = run.key, self._clock()
        return self._clock() - self._silent[1] >= RESULT_SECONDS

    def _failed(self, run: RunRecord, progress: Progress) -> None:
        if progress.retry and run.attempt < self._settings.attempts:
            wait = self._settings.retry_seconds * 2 ** (run.attempt - 1)
            log.warning("run failed, and is tried again", key=run.key, seconds=wait, reason=progress.message)
            self._store.wait(run.key, progress.message, self._clock() + wait)
        else:
            self._end(run, Result(outcome=_FAILED, reason="run_failed", message=progress.message))

    def _end(self, run: RunRecord, result: Result) -> None:
        self._store.end(run.key, result, self._clock())
        log.info("run ended", key=run.key, **result.model_dump())


class Loop:
    """The worker and the schedule in a thread, in one launcher of a database at a time.

    Args:
        database: Whose worker it is.
        worker: What is done.
        asking: Where the schedule asks.
        settings: How often, and whether there is a schedule.
        failed: Called when something happened that no waiting mends.
        mirror: Has MLflow show what serves, where a controller says so.
    """

    def __init__(
        self,
        database: Database,
        worker: Worker,
        asking: Asking,
        settings: LauncherSettings,
        failed: Callable[[], None],
        mirror: Mirror | None = None,
    ) -> None:
        self._database = database
        self._worker = worker
        self._asking = asking
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._failing = ""
        self._failed = failed
        self._mirror = mirror

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Come to an end, within `seconds` if nothing hangs."""
        self._stopping.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._until_stopped()
            self._worker.close()
            if self._mirror:
                self._mirror.close()
        except Exception:
            log.exception("the launcher has failed")
            self._failed()

    def _until_stopped(self) -> None:
        wait = self._settings.poll_seconds
        while not self._stopping.is_set():
            try:
                self._database.migrate()
                with self._database.alone("launcher"):
                    self._work()
            except SQLAlchemyError as error:
                self._said(str(error))
            self._stopping.wait(random.uniform(wait / 2, wait))  # noqa: S311

    def _work(self) -> None:
        wait = self._settings.poll_seconds
        while not self._stopping.is_set():
            try:
                if self._settings.schedule:
                    self._asking.ask_for_month()
                if self._mirror:
                    self._mirror.step()
                self._worker.step()
            except TemporaryError as error:
                self._said(str(error))
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._well()
                wait = self._settings.poll_seconds
            self._stopping.wait(wait)

    def _said(self, reason: str) -> None:
        if reason != self._failing:
            log.warning("runs have to wait", reason=reason)
        self._failing = reason

    def _well(self) -> None:
        if self._failing:
            log.info("runs go on")
        self._failing = ""


def now() -> float:
    """The time [s, UTC]."""
    return time.time()


def _order(run: RunRecord) -> Order:
    since = None if run.since is None else datetime.fromtimestamp(run.since, UTC)
    as_of = datetime.fromtimestamp(run.as_of, UTC)
    return Order(run.key, run.attempt, run.data_uri, since, as_of)
