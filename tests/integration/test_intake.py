from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_events import HOUR, posted_answer, posted_request, rows_of
from sqlalchemy import event, func, select

from detectors.intake import Intake
from detectors.store.database import Database
from detectors.store.log import RequestLog
from detectors.store.tables import ANSWERS, REJECTED, REQUESTS
from fraudkit.http import Field
from fraudkit.settings import DetectorSettings

Posted = tuple[dict[str, str], bytes]


class Running:
    """An intake that stores into `database`."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = database
        self.failures: list[bool] = []
        log = RequestLog(database, 60.0, "replica")
        self.intake = Intake("replica", log, "fraud", DetectorSettings(**settings), lambda: HOUR + 3_600)

    def start(self) -> None:
        self.intake.start(self.database.migrate, lambda: self.failures.append(True))

    def post(self, posted: Posted) -> int | None:
        headers: list[Field] = [(name.encode(), value.encode()) for name, value in posted[0].items()]
        return self.intake.offer(headers, posted[1])

    def settle(self) -> None:
        wait_until(lambda: self.intake.counts.durable == self.intake.counts.taken)

    def count(self, table: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def running(database_url: str) -> Iterator[Running]:
    made = Running(Database(database_url))
    made.database.migrate()
    made.start()
    yield made
    made.intake.stop(10)
    made.database.close()
    assert not made.failures


def pair(number: int) -> tuple[Posted, Posted]:
    name = f"id-{number}"
    return posted_request(name, HOUR + number, rows_of(2, number)), posted_answer(name, HOUR + number, (0.1, 0.2))


def test_events_are_numbered_and_durable_in_order(running: Running) -> None:
    numbers = [running.post(posted) for number in range(300) for posted in pair(number)]
    assert numbers == list(range(1, 601))
    running.settle()
    assert (running.count(REQUESTS), running.count(ANSWERS)) == (300, 300)
    assert running.intake.counts.new == 600
    assert running.intake.waiting == (0, 0)


def test_what_is_below_durable_is_stored(running: Running) -> None:
    for number in range(400):
        running.post(pair(number)[0])
        durable = running.intake.counts.durable
        if number % 50 == 0:
            assert running.count(REQUESTS) >= durable
    running.settle()


def test_each_rejected_row_is_counted_by_its_reason(running: Running) -> None:
    rows = rows_of(3).tolist()
    rows[1][4] = None
    headers, _ = posted_request("bad", HOUR, rows_of(1))
    running.post((headers, str({"instances": rows}).replace("'", '"').replace("None", "null").encode()))
    running.post((headers | {"ce-id": ""}, b"{}"))
    running.post((headers | {"ce-type": "other"}, b"{}"))
    running.post((headers | {"ce-inferenceservicename": "other"}, b"{}"))
    running.post((headers, b""))
    running.post(posted_request("ahead", HOUR + 2 * 3_600, rows_of(1)))
    running.settle()
    counts = running.intake.counts
    assert counts.rejected == {"null": 1, "bad_id": 1, "future_time": 1}
    assert counts.rejected_rows == {"null": 3}
    assert counts.ignored == {"other_type": 1, "other_model": 1, "empty_body": 1}
    assert running.count(REJECTED) == 1
    assert running.count(REQUESTS) == 0


def test_a_queue_that_fills_up_takes_from_a_sample_of_ids_and_counts_the_rest(database_url: str) -> None:
    database = Database(database_url)
    waiting = Running(database, queue_events=1_000)  # which is not started: nothing leaves its queue
    taken = [[waiting.post(posted) is not None for posted in pair(number)] for number in range(2_000)]
    counts = waiting.intake.counts
    assert counts.taken + counts.dropped == 4_000
    assert 500 < counts.taken <= 1_000
    assert all(request and answer for request, answer in taken[:250])
    # Request and answer have one hash, and between the two the queue is fuller by one at most.
    assert sum(request != answer for request, answer in taken) <= 5
    again = Running(database, queue_events=1_000)
    assert taken == [[again.post(posted) is not None for posted in pair(number)] for number in range(2_000)]
    database.close()


def test_a_queue_is_bounded_by_bytes_too(database_url: str) -> None:
    database = Database(database_url)
    waiting = Running(database, queue_bytes=100_000)
    for number in range(1_000):
        waiting.post(pair(number)[0])
    assert waiting.intake.waiting[1] <= 100_000
    assert waiting.intake.counts.dropped > 0
    database.close()


def test_a_full_disk_stops_nothing_and_what_waits_is_stored_when_there_is_room(tmp_path: Path) -> None:
    full = threading.Event()

    def bound(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {60 if full.is_set() else 1_000_000}")

    database = Database(f"sqlite:///{tmp_path / 'detector.db'}")
    event.listen(database.engine, "connect", bound)
    running = Running(database, queue_events=2_000)
    full.set()
    running.start()
    for number in range(3_000):
        running.post(pair(number)[0])
    counts = running.intake.counts
    wait_until(lambda: counts.failing_since > 0)
    assert counts.dropped > 0
    stored = counts.durable
    full.clear()
    database.engine.dispose()
    running.settle()
    assert counts.failing_since == 0
    assert counts.new == counts.taken > stored
    assert running.count(REQUESTS) == counts.new
    running.intake.stop(10)
    database.close()


def test_a_database_that_is_away_costs_nothing_but_time(tmp_path: Path) -> None:
    from databases import Postgres

    server = Postgres(tmp_path / "data")
    database = Database(server.new())
    running = Running(database)
    server.stop()
    running.start()
    for number in range(100):
        running.post(pair(number)[0])
    wait_until(lambda: running.intake.counts.failing_since > 0)
    server.start()
    running.settle()
    server.stop()
    for number in range(50, 200):
        running.post(pair(number)[0])
    server.start()
    running.settle()
    assert running.count(REQUESTS) == 200
    assert running.intake.counts.lost == 0
    running.intake.stop(10)
    database.close()
    server.end()


def test_what_cannot_be_stored_before_the_end_is_counted_as_lost(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    database = Database(f"sqlite:///{folder / 'detector.db'}")
    running = Running(database)
    running.intake.start(lambda: None, lambda: None)  # nobody makes the folder
    running.post(pair(1)[0])
    wait_until(lambda: running.intake.counts.failing_since > 0)
    running.intake.stop(0.1)
    assert running.intake.counts.lost == 1
    database.close()


def test_a_fault_of_the_intake_itself_is_said(database_url: str) -> None:
    database = Database(database_url)
    running = Running(database)

    def faulty() -> None:
        raise RuntimeError("a fault")

    running.intake.start(faulty, lambda: running.failures.append(True))
    wait_until(lambda: bool(running.failures))
    wait_until(lambda: running.intake.failed)
    running.intake.stop(1)
    database.close()
