"""Intake: an event is taken into a bounded queue at once, and read and stored by a thread, in batches.

Whoever posts an event hears at once that it was taken, with its number. What is below `durable` is stored, and
survives anything; what is above may be lost with the process, and can be sent again: it is stored once.
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from detectors.events import Ignored, IgnoredReason, LoggedRequest, LoggedResponse, Rejected, read
from detectors.promotions import promotion
from detectors.store.log import Binding, Entry, RejectedRequest, RequestLog, body_digest
from fraudkit.database import is_temporary
from fraudkit.http import Field
from fraudkit.settings import DetectorSettings

log = structlog.get_logger()

BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 8 * 1024 * 1024
GATHER_SECONDS: Final = 0.05
"""How long a batch is gathered: a commit waits for the disk, whatever its size."""
_RARE: Final = 0.5
"""How full the queue is when only a sample of ids is taken from."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 5.0


class _Posted(NamedTuple):
    number: int
    headers: list[Field]
    body: bytes


@dataclass(slots=True)
class Counts:
    """What became of events since the process began; each field is written by one thread.

    Attributes:
        taken: Number of the last event that was taken.
        durable: Number of the last event up to which all are stored or were refused.
        dropped: Events that were not taken because the queue was full.
        new: Events that were stored.
        repeated: Events that were stored before.
        late: Requests that were stored too late for their window.
        clashes: Requests whose id was known with other rows.
        lost: Events that could not be stored.
        rejected: Events by what is wrong with them.
        rejected_rows: The rows of requests among them.
        ignored: Events by why they are not for the log.
        failing_since: When storing began to fail [s, UTC]; 0 while it does not.
    """

    taken: int = 0
    durable: int = 0
    dropped: int = 0
    new: int = 0
    repeated: int = 0
    late: int = 0
    clashes: int = 0
    lost: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_rows: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    failing_since: float = 0.0


class Intake:
    """The queue and the thread of one process.

    Args:
        replica: The name of this process; numbers are its own.
        store: Where events go.
        model: The model (InferenceService) whose events are wanted.
        settings: The bounds of the queue and of the events' times.
        clock: The time [s, UTC].
    """

    def __init__(
        self,
        replica: str,
        store: RequestLog,
        model: str,
        settings: DetectorSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.replica: Final = replica
        self.counts = Counts()
        self._store = store
        self._model = model
        self._settings = settings
        self._clock = clock
        self._queue: deque[_Posted] = deque()
        self._bytes_taken = 0
        self._bytes_done = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> tuple[int, int]:
        """Events that wait to be stored, and their bytes."""
        return self.counts.taken - self.counts.durable, self._bytes_taken - self._bytes_done

    @property
    def failed(self) -> bool:
        """Whether the thread has ended though nobody told it to."""
        return self._thread is not None and not self._thread.is_alive() and not self._stopping.is_set()

    def start(self, prepare: Callable[[], None], on_failure: Callable[[], object]) -> None:
        """Begin to store.

        Args:
            prepare: Makes the database ready; tried again until it could.
            on_failure: Called when the thread ends by a fault of its own.
        """

        def run() -> None:
            try:
                self._retry(prepare, 0)
                self._run()
            except Exception:
                log.exception("intake failed")
                on_failure()

        self._thread = threading.Thread(target=run, name="intake", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Store what waits, as far as that is done within `seconds`; what is not is counted as lost."""
        if self._thread is None:
            return
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds)
        self._abandoned.set()
        self._thread.join(_LONGEST_WAIT)

    def offer(self, headers: list[Field], body: bytes) -> int | None:
        """Take an event; returns its number, or None when it is dropped.

        A queue that fills up takes from ever fewer ids, chosen by hash: of an id both request and answer are kept.
        Called by the event loop alone.
        """
        events, size = self.waiting
        full = max(events / self._settings.queue_events, (size + len(body)) / self._settings.queue_bytes)
        if full > _RARE and _place(headers) >= (1.0 - full) / (1.0 - _RARE):
            self.counts.dropped += 1
            return None
        self.counts.taken += 1
        self._bytes_taken += len(body)
        self._queue.append(_Posted(self.counts.taken, headers, body))
        if not self._wake.is_set():
            self._wake.set()
        return self.counts.taken

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._stopping.is_set():
                    return
                self._wake.wait()
                self._wake.clear()
                if not self._stopping.is_set():
                    time.sleep(GATHER_SECONDS)
                continue
            batch = self._gather()
            self._keep([entry for posted in batch for entry in self._read(posted)])
            self.counts.durable = batch[-1].number
            self._bytes_done += sum(len(posted.body) for posted in batch)

    def _gather(self) -> list[_Posted]:
        batch: list[_Posted] = []
        size = 0
        while self._queue and len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1].body)
        return batch

    def _read(self, posted: _Posted) -> Sequence[Entry]:
        """What of an event is to be stored; the rest is counted."""
        counts = self.counts
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in posted.headers}
        event = read(headers, posted.body, self._model)
        match event:
            case LoggedRequest() | LoggedResponse():
                if event.time <= self._clock() + self._settings.ahead_seconds:
                    return (event,)
                counts.rejected["future_time"] += 1
                return ()
            case Rejected():
                counts.rejected[event.reason] += 1
                return self._rejected(event, posted.body)
            case Ignored(reason=IgnoredReason.OTHER_TYPE):
                return self._other(headers, posted.body)
            case Ignored():
                counts.ignored[event.reason] += 1
                return ()

    def _rejected(self, event: Rejected, body: bytes) -> Sequence[Entry]:
        """A request whose rows cannot be used counts in its window: it says something of the data's quality."""
        if event.id is None or event.time is None:
            return ()
        self.counts.rejected_rows[event.reason] += event.rows
        if event.time > self._clock() + self._settings.ahead_seconds:
            return ()
        return (RejectedRequest(event.id, event.time, body_digest(body), event.reason, event.rows),)

    def _other(self, headers: Mapping[str, str], body: bytes) -> Sequence[Binding]:
        """The event that binds the detector to a model; others are not for it."""
        found = promotion(headers, body, self._model)
        if isinstance(found, Binding):
            return (found,)
        if isinstance(found, Rejected):
            self.counts.rejected[found.reason] += 1
        else:
            self.counts.ignored[found.reason] += 1
        return ()

    def _keep(self, entries: Sequence[Entry]) -> None:
        """Store a batch, however long that takes; entries that no database takes are counted and logged."""
        try:
            if entries:
                self._retry(lambda: self._stored(entries), len(entries))
        except SQLAlchemyError as error:
            if len(entries) > 1:
                for entry in entries:
                    self._keep([entry])
                return
            self.counts.lost += 1
            log.error("event lost: the database refuses it", id=entries[0].id, reason=str(error))  # noqa: TRY400

    def _retry(self, action: Callable[[], None], events: int) -> None:
        """Have `action` done; `events` are lost if the process must end before it could be.

        Raises:
            SQLAlchemyError: Trying again would not help.
        """
        wait = _FIRST_WAIT
        while not self._abandoned.is_set():
            try:
                action()
            except SQLAlchemyError as error:
                if not is_temporary(error):
                    raise
                self._failing(error)
            else:
                self._well()
                return
            self._abandoned.wait(random.uniform(wait / 2, wait))  # noqa: S311  # spreads the tries of replicas
            wait = min(2 * wait, _LONGEST_WAIT)
        self.counts.lost += events
        log.error("events lost: the process ended before they could be stored", events=events)

    def _stored(self, entries: Sequence[Entry]) -> None:
        counts, stored = self.counts, self._store.store(entries, self._clock())
        counts.new += stored.new
        counts.repeated += stored.repeated
        counts.late += stored.late
        counts.clashes += stored.clashes

    def _failing(self, error: SQLAlchemyError) -> None:
        if not self.counts.failing_since:
            self.counts.failing_since = self._clock()
            log.error("events cannot be stored; they wait, and beyond the queue are dropped", reason=str(error))

    def _well(self) -> None:
        if self.counts.failing_since:
            log.info("events are stored again", after_seconds=round(self._clock() - self.counts.failing_since, 1))
            self.counts.failing_since = 0.0


def _place(headers: list[Field]) -> float:
    """Where the id of an event stands between 0 and 1: by its hash, the same for request and answer."""
    return next((zlib.crc32(value) for name, value in headers if name == b"ce-id"), 0) / 2**32
