from __future__ import annotations

import random
import threading
from itertools import permutations

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from log_events import HOUR, answer, request, rows_of
from sqlalchemy import func, select

from detectors.store.database import Database
from detectors.store.log import Binding, Entry, RejectedRequest, RequestLog, Stored
from detectors.store.tables import ANSWERS, METADATA, REQUESTS, ROW_IDS
from detectors.store.windows import Change, Outgoing, WindowStore
from detectors.windows import Window
from fraudkit.errors import InvalidInput, PermanentError

BUCKET = 60.0
FIRST = int(HOUR // BUCKET)


def log_of(database: Database, replica: str = "a") -> RequestLog:
    return RequestLog(database, BUCKET, replica)


def count(database: Database, table: object) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def test_migrations_lead_to_the_schema_that_the_code_names(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_two_processes_may_migrate_at_once_and_again(database_url: str) -> None:
    several = [Database(database_url) for _ in range(3)]
    errors: list[Exception] = []

    def migrate(database: Database) -> None:
        try:
            database.migrate()
        except Exception as error:  # noqa: BLE001  # whatever it is, the test fails with it
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(database,)) for database in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert WindowStore(several[0]).close(0) == 0
    for database in several:
        database.close()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://host/name", "sqlite://", "postgresql://host", "oracle+x://a/b"]
)
def test_a_url_that_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"detector\.database"):
        Database(url)


def test_an_event_is_stored_once_however_often_it_comes(database: Database) -> None:
    log = log_of(database)
    events: list[Entry] = [request("a", HOUR), answer("a", HOUR + 0.1), request("b", HOUR)]
    events.append(RejectedRequest("c", HOUR, b"digest-1", "null", 3))
    events.append(Binding("promoted-1", "0123456789ab", HOUR))
    assert log.store(events, HOUR) == Stored(new=4)
    assert log.store(events[::-1], HOUR) == Stored(repeated=4)
    assert log.store([events[0], events[0], request("d", HOUR), request("d", HOUR)], HOUR) == Stored(1, 3)


def test_an_id_with_other_rows_is_a_clash_and_both_are_in_the_window(database: Database) -> None:
    log = log_of(database)
    one, other = request("a", HOUR, rows_of(2, 1)), request("a", HOUR + 1, rows_of(3, 2))
    assert log.store([one], HOUR).clashes == 0
    assert log.store([other], HOUR).clashes == 1
    assert log.store([other, one], HOUR).clashes == 0
    assert log.store([request("b", HOUR, rows_of(1, 3)), request("b", HOUR, rows_of(1, 4))], HOUR).clashes == 1
    assert WindowStore(database).buckets(FIRST, FIRST + 1) == [(FIRST, 7)]


def test_an_event_that_has_two_times_is_in_the_earlier_bucket_in_any_order(database: Database) -> None:
    log, store = log_of(database), WindowStore(database)
    for number, times in enumerate(permutations([0.0, 61.0, 150.0])):
        for time in times:
            log.store([request(f"a{number}", HOUR + time)], HOUR)
    assert store.buckets(FIRST, FIRST + 9) == [(FIRST, 6)]


def test_what_comes_into_a_closed_bucket_is_late_and_in_no_window(database: Database) -> None:
    log, store = log_of(database), WindowStore(database)
    log.store([request("a", HOUR)], HOUR)
    assert store.close(FIRST + 1) == FIRST + 1
    assert store.close(FIRST) == FIRST + 1
    late: list[Entry] = [request("b", HOUR + 59), RejectedRequest("c", HOUR, b"digest-1", "null", 2)]
    assert log.store([*late, request("d", HOUR + 60)], HOUR) == Stored(new=2, late=2)
    assert log.store([request("d", HOUR + 30)], HOUR).repeated == 1
    assert store.buckets(0, FIRST + 5) == [(FIRST, 1), (FIRST + 1, 1)]
    assert store.content(Window(FIRST, FIRST + 1, 1)).rejected == ()


def test_the_content_of_a_window_does_not_depend_on_order_of_arrival(database: Database) -> None:
    log, store = log_of(database), WindowStore(database)
    events: list[Entry] = [request(f"r{n}", HOUR + n // 3, rows_of(1 + n % 3, n)) for n in range(40)]
    events += [
        RejectedRequest(f"x{n}", HOUR + n, b"d", reason, n + 1) for n, reason in enumerate(["null", "wrong_width"])
    ]
    expected = np.concatenate(
        [event.rows for event in sorted(events[:40], key=lambda event: (event.time, event.id))]
    )  # type: ignore[union-attr]
    random.Random(1).shuffle(events)  # noqa: S311
    for start in range(0, len(events), 7):
        log.store(events[start : start + 7], HOUR)
    content = store.content(Window(FIRST, FIRST + 1, 0))
    assert content.rows.tobytes() == expected.tobytes()
    assert content.rejected == (("null", 1), ("wrong_width", 2))


def test_a_bucket_of_rejected_rows_alone_is_seen(database: Database) -> None:
    log_of(database).store([RejectedRequest("c", HOUR, b"digest-1", "null", 3)], HOUR)
    assert WindowStore(database).buckets(FIRST, FIRST + 1) == [(FIRST, 0)]


def test_own_ids_of_rows_are_found(database: Database) -> None:
    own = ("mine", "a-1")
    log_of(database).store(
        [request("a", HOUR, rows_of(2), own), answer("a", HOUR, (0.1, 0.2), (0, 1), row_ids=own)], HOUR
    )
    with database.read() as connection:
        assert [tuple(row)[:3] for row in connection.execute(select(ROW_IDS))] == [("mine", "a", 0)]
        assert connection.execute(select(ANSWERS.c.row_ids)).scalar_one() == '["mine","a-1"]'


def test_ids_of_an_answer_that_begin_alike_are_one_row(database: Database) -> None:
    """The logger's id for a request without one is not the predictor's."""
    log, names = log_of(database), ("p-0", "p-1", "p-2")
    log.store([request("a", HOUR, rows_of(3)), answer("a", HOUR, (0.1,) * 3, (0,) * 3, row_ids=names)], HOUR)
    log.store([request("b", HOUR, rows_of(1)), answer("b", HOUR, row_ids=("b-0",))], HOUR)
    with database.read() as connection:
        assert [tuple(row)[:3] for row in connection.execute(select(ROW_IDS))] == [("p", "a", -1)]
        assert set(connection.execute(select(ANSWERS.c.row_ids)).scalars()) == {'"p"', None}


def test_replicas_that_store_the_same_events_at_once_store_each_once(database: Database) -> None:
    events = [entry for n in range(200) for entry in (request(f"r{n}", HOUR + n), answer(f"r{n}", HOUR + n))]
    results: list[Stored] = []

    def replica(number: int) -> None:
        mine = list(events)
        random.Random(number).shuffle(mine)  # noqa: S311
        log = log_of(database, f"replica-{number}")
        results.extend(log.store(mine[start : start + 50], HOUR) for start in range(0, len(mine), 50))

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(stored.new for stored in results) == len(events)
    assert count(database, REQUESTS) == 200
    arrivals = WindowStore(database).arrivals()
    assert arrivals is not None
    assert arrivals.high == HOUR + 199


def test_a_bucket_is_closed_only_when_writers_that_saw_it_open_are_done(database: Database) -> None:
    """A batch is either in the window, or late: whoever reads a closed bucket never sees it grow."""
    store, stop = WindowStore(database), threading.Event()

    def write(replica: str) -> None:
        log, number = log_of(database, replica), 0
        while not stop.is_set():
            log.store([request(f"{replica}{number}", HOUR + number % 600)], HOUR)
            number += 1

    writers = [threading.Thread(target=write, args=(replica,)) for replica in "abc"]
    for writer in writers:
        writer.start()
    seen = []
    for bucket in range(FIRST, FIRST + 10):
        store.close(bucket + 1)
        seen.append(store.buckets(bucket, bucket + 1))
        assert store.buckets(bucket, bucket + 1) == seen[-1]
    stop.set()
    for writer in writers:
        writer.join()
    assert [store.buckets(bucket, bucket + 1) for bucket in range(FIRST, FIRST + 10)] == seen


def test_of_two_evaluators_the_slower_writes_nothing(database: Database) -> None:
    store = WindowStore(database)
    assert store.state() == (0, None)
    event = Outgoing("drift-1", "io.fraudplatform.drift.detected.v1", "{}")
    assert store.change(0, Change("one"), (), HOUR) == 1
    for step in (0, 2):
        with pytest.raises(PermanentError, match="another evaluator"):
            store.change(step, Change("other", events=[event]), ["http://sink"], HOUR)
    assert store.state() == (1, "one")
    assert store.change(1, Change("two", events=[event]), ["http://sink"], HOUR) == 2
    assert store.state() == (2, "two")


def test_one_evaluator_at_a_time_holds_the_lock(database_url: str) -> None:
    first, second = Database(database_url), Database(database_url)
    order: list[str] = []
    held = threading.Event()

    def wait() -> None:
        held.wait()
        with second.one_evaluator():
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    with first.one_evaluator():
        held.set()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    first.close()
    second.close()


def test_promotions_come_in_the_order_of_their_time(database: Database) -> None:
    log, store = log_of(database), WindowStore(database)
    assert store.next_binding(None) is None
    one, two, three = (Binding(f"promoted-{n}", f"{n}" * 12, HOUR + n) for n in (1, 2, 3))
    log.store([three, one, two], HOUR)
    assert store.next_binding(None) == one
    assert store.next_binding(one) == two
    assert store.next_binding(three) is None
