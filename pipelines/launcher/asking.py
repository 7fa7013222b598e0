"""Where all triggers come together: event, API, command and schedule ask here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from fraudkit.errors import InvalidInput
from fraudkit.settings import LauncherSettings
from pipelines.launcher.store import RunRecord, RunStore
from pipelines.launcher.triggers import Trigger, schedule_key, since_of

log = structlog.get_logger()


class Asking:
    """Records what is asked for.

    Args:
        store: The records.
        settings: The base data, and how far back logged transactions are taken.
        clock: The time [s, UTC].
    """

    def __init__(self, store: RunStore, settings: LauncherSettings, clock: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def ask(self, trigger: Trigger) -> tuple[str, RunRecord]:
        """Ask for a run; `run`, `coalesced` or `duplicate`, and the record of its key.

        Raises:
            InvalidInput: Neither trigger nor settings name base data.
        """
        now = self._clock()
        as_of = trigger.as_of or datetime.fromtimestamp(now, UTC)
        answered = self._store.answered()
        drifted = None if answered is None else datetime.fromtimestamp(answered, UTC)
        since = since_of(trigger, as_of, self._settings.recent_days, drifted)
        data = trigger.data_uri or self._settings.data
        if data is None:
            raise InvalidInput("data_uri: is missing, and the setting launcher.data names no base data")
        told = self._store.ask(trigger, data, None if since is None else since.timestamp(), as_of.timestamp(), now)
        record = self._store.get(trigger.key)
        if record is None:
            raise LookupError(f"the record of {trigger.key} was deleted by another hand")
        log.info("run asked for", key=trigger.key, became=told, by=trigger.by, reason=trigger.reason)
        return told, record

    def ask_for_month(self) -> None:
        """Ask for the run of this month, if a month has begun since the last time."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        month = f"{now:%Y-%m}"
        if self._store.month(month) >= month:
            return
        due = datetime(now.year, now.month, 1, tzinfo=UTC)
        self.ask(Trigger(schedule_key(due), "schedule", f"the monthly run of {month}"))
        self._store.asked_for_month(month)
