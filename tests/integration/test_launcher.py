"""The launcher: a key has one record and starts one run, whoever asks and however often."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from asgi import Client
from sqlalchemy import inspect

from fraudkit.database import Database
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.events import (
    CONTENT_TYPE,
    DriftDetected,
    EventData,
    ModelPromoted,
    ModelRolledBack,
    RetrainRequested,
    drift_key,
    encode,
)
from fraudkit.settings import LauncherSettings
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import Order, Phase, Progress, Result
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.launcher.tables import METADATA
from pipelines.launcher.worker import RESULT_SECONDS, Worker

START = datetime(2026, 11, 24, 14, 45, tzinfo=UTC)
VERSION = "0123456789ab"
SETTINGS = LauncherSettings(data="transactions.csv")


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.time = START.timestamp() + 86_400

    def __call__(self) -> float:
        return self.time


@dataclass
class Script:
    """A backend that does what a test says: one entry for each look, over all attempts."""

    looks: list[Progress | Exception] = field(default_factory=list)
    starts: list[Exception | None] = field(default_factory=list)
    started: list[Order] = field(default_factory=list)

    def start(self, order: Order) -> str:
        problem = self.starts.pop(0) if self.starts else None
        if problem:
            raise problem
        self.started.append(order)
        return f"run of {order.key} {order.attempt}"

    def look(self, order: Order, handle: str) -> Progress:
        assert handle == f"run of {order.key} {order.attempt}"
        said = self.looks.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def close(self) -> bool:
        return True


RUNNING = Progress(Phase.RUNNING)
BETTER = Result(outcome="promoted", reason="better", message="it is", version=VERSION)
PROMOTED = Progress(Phase.ENDED, result=BETTER)
CRASHED = Progress(Phase.FAILED, "the node went away", retry=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, MIGRATIONS, "launcher.database")
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


def client_of(store: RunStore, clock: Clock, settings: LauncherSettings = SETTINGS) -> Client:
    return Client(LauncherApi(store, Asking(store, settings, clock)).app())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(store: RunStore, clock: Clock) -> Client:
    return client_of(store, clock)


def post_event(client: Client, data: EventData) -> int:
    body = encode(data, "/detector", START)
    answer = client.post("/", content=body.encode(), headers={"content-type": CONTENT_TYPE})
    assert not answer.content or not answer.is_success
    return answer.status_code


def retrain(attempt: int = 1) -> RetrainRequested:
    return RetrainRequested(
        key=drift_key(VERSION, START, attempt),
        version=VERSION,
        episode_start=START,
        as_of=START + timedelta(hours=9),
        reason="V4 moved",
        verdict_id="verdict-7",
    )


def ask(client: Client, **members: object) -> dict[str, object]:
    answer = client.post("/v1/runs", json={"by": "me", "reason": "to see"} | members)
    assert answer.is_success, answer.text
    answered: dict[str, object] = answer.json()
    return answered


def test_the_tables_are_those_of_the_migrations(database: Database) -> None:
    found = inspect(database.engine)
    for table in METADATA.sorted_tables:
        assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys())
    assert [one["column_names"] for one in found.get_unique_constraints("runs")] == [["slot"]]


def test_a_drift_starts_a_run_with_its_evidence_and_its_times(client: Client) -> None:
    assert post_event(client, retrain()) == 200
    run = client.get(f"/v1/runs/{retrain().key}").json()
    assert (run["state"], run["status"], run["trigger"]) == ("run", "waiting", "drift")
    assert run["since"] == START.timestamp()
    assert run["as_of"] == START.timestamp() + 9 * 3_600
    assert run["reason"] == "V4 moved"
    assert run["evidence"] == {
        "event": f"retrain-{retrain().key}",
        "source": "/detector",
        "champion": VERSION,
        "episode_start": "2026-11-24T14:45:00Z",
        "verdict": "verdict-7",
    }


def test_a_run_that_no_drift_asked_for_learns_from_nothing_before_the_last_drift_that_was_answered(
    client: Client, store: RunStore, clock: Clock
) -> None:
    ask(client, key="manual-before")
    assert store.get("manual-before").since == clock() - 86_400 * SETTINGS.recent_days  # type: ignore[union-attr]
    store.end("manual-before", Result(outcome="no_gain", reason="r", message="m"), clock())
    for attempt, outcome in enumerate(("rejected", "promoted"), 1):
        post_event(client, retrain(attempt))
        store.end(retrain(attempt).key, Result(outcome=outcome, reason="r", message="m"), clock())
        ask(client, key=f"manual-{outcome}")
        store.end(f"manual-{outcome}", Result(outcome="no_gain", reason="r", message="m"), clock())
    usual = clock() - 86_400 * SETTINGS.recent_days
    assert START.timestamp() > usual
    assert store.get("manual-rejected").since == usual  # type: ignore[union-attr]
    assert store.get("manual-promoted").since == START.timestamp()  # type: ignore[union-attr]


def test_other_events_inform_and_start_nothing(client: Client) -> None:
    drift = DriftDetected(
        model="fraud", version=VERSION, episode_start=START, verdict_id="v", channel="inputs", message="V4 moved"
    )
    assert post_event(client, drift) == 200
    assert client.get("/v1/runs").json() == {"runs": []}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "not JSON"),
        ("[]", "JSON object"),
        ('{"type": 3}', "no type"),
        ('{"type": "io.fraudplatform.retrain.requested.v1"}', "specversion"),
        (encode(retrain(), "/d", START).replace("drift-0123", "cron-0123"), "key"),
        (encode(retrain(), "/d", START).replace('"as_of"', '"as_off"'), "as_of"),
    ],
)
def test_an_event_that_is_none_is_refused(client: Client, body: str, said: str) -> None:
    answer = client.post("/", content=body.encode(), headers={"content-type": CONTENT_TYPE})
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_the_same_key_is_a_duplicate_and_another_one_is_coalesced_while_a_run_goes_on(client: Client) -> None:
    assert ask(client, key="manual-a")["state"] == "run"
    assert ask(client, key="manual-a")["state"] == "duplicate"
    assert ask(client, key="manual-b")["state"] == "coalesced"
    assert ask(client, key="manual-b")["state"] == "duplicate"
    assert client.get("/v1/runs/manual-b").json()["into"] == "manual-a"
    assert [run["key"] for run in client.get("/v1/runs?active=true").json()["runs"]] == ["manual-a"]


def test_a_schedule_is_keyed_by_its_month(client: Client) -> None:
    for due in ("2026-12-01T00:00:00Z", "2026-12-01T00:00:07Z", "2026-12-01T01:00:00+01:00"):
        answered = ask(client, trigger="schedule", scheduled_time=due)
        assert answered["key"] == "schedule-2026-12"
    assert len(client.get("/v1/runs").json()["runs"]) == 1


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "either a key, or a trigger"),
        ({"key": "manual-a", "trigger": "schedule"}, "either a key, or a trigger"),
        ({"trigger": "schedule"}, "scheduled_time"),
        ({"trigger": "schedule", "scheduled_time": "2026-12-01T00:00:00"}, "scheduled_time"),
        ({"key": "mine"}, "'mine' is none"),
        ({"key": "manual-a b"}, "is none"),
        ({"key": "manual-" + "x" * 200}, "key"),
        ({"key": "drift-0123456789ab-1"}, "by its event"),
        ({"key": "manual-a", "reason": ""}, "reason"),
        ({"key": "manual-a", "colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(client: Client, members: dict[str, object], said: str) -> None:
    answer = client.post("/v1/runs", json={"by": "me", "reason": "to see"} | members)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert client.get("/v1/runs").json() == {"runs": []}


def test_without_base_data_nothing_is_started(store: RunStore, clock: Clock) -> None:
    client = client_of(store, clock, LauncherSettings())
    answer = client.post("/v1/runs", json={"key": "manual-a", "by": "me", "reason": "to see"})
    assert answer.status_code == 400
    assert "launcher.data" in answer.json()["error"]
    assert ask(client, key="manual-a", data_uri="other.csv")["state"] == "run"


@pytest.mark.parametrize("query", ["last=0", "active=no", "trigger=moon", "x=1"])
def test_a_wrong_parameter_is_named(client: Client, query: str) -> None:
    assert client.get(f"/v1/runs?{query}").status_code == 400


def test_an_unknown_key_is_not_found(client: Client) -> None:
    for key in ("manual-x", "%00"):
        assert client.get(f"/v1/runs/{key}").status_code == 404


def test_a_large_body_is_refused(client: Client) -> None:
    assert client.post("/v1/runs", content=b" " * (1 << 20) + b"  ").status_code == 413


def worker_of(store: RunStore, backend: Script, clock: Clock, settings: LauncherSettings = SETTINGS) -> Worker:
    return Worker(store, backend, settings, clock)


def test_a_run_comes_to_its_end_and_the_next_one_may_begin(client: Client, store: RunStore, clock: Clock) -> None:
    backend = Script([RUNNING, PROMOTED])
    worker = worker_of(store, backend, clock)
    assert not worker.step()
    ask(client, key="manual-a")
    while worker.step():
        clock.time += 10
    run = client.get("/v1/runs/manual-a").json()
    assert (run["status"], run["outcome"], run["outcome_reason"]) == ("ended", "promoted", "better")
    assert (run["attempt"], run["version"]) == (1, VERSION)
    assert run["asked"] <= run["started"] < run["ended"]
    assert ask(client, key="manual-a")["state"] == "duplicate"
    assert ask(client, key="manual-b")["state"] == "run"


def test_a_failure_of_what_runs_it_is_tried_again_twice_with_the_same_data(
    client: Client, store: RunStore, clock: Clock
) -> None:
    backend = Script([CRASHED, CRASHED, CRASHED])
    worker = worker_of(store, backend, clock)
    post_event(client, retrain())
    waited = []
    while worker.step():
        run = store.get(retrain().key)
        assert run
        waited.append(run.not_before - clock.time)
        clock.time = max(clock.time, run.not_before)
    assert [order.attempt for order in backend.started] == [1, 2, 3]
    assert len({(order.as_of, order.since, order.data_uri) for order in backend.started}) == 1
    assert sorted(wait for wait in waited if wait > 0) == [30, 60]
    run = store.get(retrain().key)
    assert run
    assert (run.outcome, run.message) == ("failed", "the node went away")


def test_what_would_fail_again_is_not_tried_again(client: Client, store: RunStore, clock: Clock) -> None:
    backend = Script([Progress(Phase.FAILED, "V3 is missing")])
    worker = worker_of(store, backend, clock)
    ask(client, key="manual-a")
    while worker.step():
        pass
    assert len(backend.started) == 1
    assert client.get("/v1/runs/manual-a").json()["message"] == "V3 is missing"


def test_a_backend_that_is_away_is_asked_again_without_a_new_attempt(
    client: Client, store: RunStore, clock: Clock
) -> None:
    backend = Script([TemporaryError("away"), PROMOTED], [TemporaryError("away"), None])
    worker = worker_of(store, backend, clock)
    ask(client, key="manual-a")
    for _ in range(2):
        with pytest.raises(TemporaryError):
            worker.step()
        assert worker.step()
    assert [order.attempt for order in backend.started] == [1]
    assert client.get("/v1/runs/manual-a").json()["outcome"] == "promoted"


def test_a_run_that_cannot_be_started_ends_with_what_to_change(
    client: Client, store: RunStore, clock: Clock
) -> None:
    ask(client, key="manual-a")
    worker_of(store, Script(starts=[PermanentError("give it the right")]), clock).step()
    run = client.get("/v1/runs/manual-a").json()
    assert (run["outcome"], run["message"]) == ("failed", "give it the right")
    ask(client, key="manual-b")
    clock.time += 25 * 3_600
    worker_of(store, Script(starts=[TemporaryError("away for a day")]), clock).step()
    assert client.get("/v1/runs/manual-b").json()["message"] == "away for a day"


@pytest.mark.parametrize("steps", range(5))
def test_another_worker_goes_on_where_one_was_killed(
    client: Client, store: RunStore, clock: Clock, steps: int
) -> None:
    backend = Script([RUNNING, CRASHED, RUNNING, PROMOTED])
    ask(client, key="manual-a")
    for _ in range(steps):
        worker_of(store, backend, clock).step()
        clock.time += 60
    worker = worker_of(store, backend, clock)
    while worker.step():
        clock.time += 60
    assert client.get("/v1/runs/manual-a").json()["outcome"] == "promoted"
    assert [order.attempt for order in backend.started] == [1, 2]


def test_a_worker_that_was_killed_before_it_noted_the_start_starts_no_second_run(
    client: Client, store: RunStore, clock: Clock
) -> None:
    ask(client, key="manual-a")
    store.begin("manual-a", 1, clock.time)
    backend = Script([PROMOTED])
    worker = worker_of(store, backend, clock)
    while worker.step():
        pass
    assert [order.attempt for order in backend.started] == [1]  # the same attempt: the backend knows its name


def test_an_attempt_that_stopped_with_the_launcher_does_not_count(
    client: Client, store: RunStore, clock: Clock
) -> None:
    ask(client, key="manual-a")
    worker = worker_of(store, Script(), clock)
    worker.step()
    worker.close()
    run = store.get("manual-a")
    assert run
    assert (run.status, run.attempt) == ("waiting", 0)


def test_only_runs_that_ended_are_among_the_last(client: Client, store: RunStore, clock: Clock) -> None:
    for number in range(3):
        ask(client, key=f"manual-{number}")
        ask(client, key=f"manual-{number}-coalesced")
        clock.time += 1
        store.end(f"manual-{number}", Result(outcome="rejected", reason="worse", message="it is"), clock.time)
    post_event(client, retrain())
    last = client.get("/v1/runs?last=2").json()["runs"]
    assert [(run["key"], run["outcome"]) for run in last] == [("manual-2", "rejected"), ("manual-1", "rejected")]
    assert client.get("/v1/runs?last=2&trigger=drift").json() == {"runs": []}


def test_a_month_is_asked_for_once_and_none_before_the_first_start(store: RunStore, clock: Clock) -> None:
    asking = Asking(store, SETTINGS, clock)
    asking.ask_for_month()
    assert store.last(10) == ()
    for _ in range(40):
        clock.time += 86_400
        for _ in range(3):
            asking.ask_for_month()
        active = store.active()
        if active:
            store.end(active.key, Result(outcome="no_gain", reason="no_gain", message="none"), clock.time)
    assert [run.key for run in store.last(10)] == ["schedule-2027-01", "schedule-2026-12"]


def test_shuffled_deliveries_from_many_threads_leave_one_record_a_key_and_never_two_runs(
    database: Database, clock: Clock
) -> None:
    keys = [f"manual-{number}" for number in range(30)]
    deliveries = [key for key in keys for _ in range(10)]
    random.Random(0).shuffle(deliveries)  # noqa: S311
    store, stop = RunStore(database), threading.Event()
    client = client_of(store, clock)

    def end() -> None:
        while not stop.is_set():
            active = RunStore(database).active()
            if active:
                store.end(active.key, BETTER, clock.time)
            time.sleep(0.002)

    ending = threading.Thread(target=end)
    ending.start()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda key: (key, ask(client, key=key)["state"]), deliveries))
    stop.set()
    ending.join()
    records = {run.key: run for run in store.last(1_000)}
    assert set(records) == set(keys)
    for key in keys:
        first = [state for name, state in told if name == key and state != "duplicate"]
        assert first == [records[key].state]


def test_answers_are_json_that_a_program_reads(client: Client, tmp_path: Path) -> None:
    ask(client, key="manual-a")
    (tmp_path / "answer.json").write_bytes(client.get("/v1/runs").content)
    assert json.loads((tmp_path / "answer.json").read_text())["runs"][0]["key"] == "manual-a"


# What a run tells of its end

TOLD = {"attempt": 1, "outcome": "rolled_back", "reason": "recall", "message": "it fell", "version": VERSION}
TOLD_ABOUT = LauncherSettings(data="transactions.csv", results="http://launcher:8083")


def tell(client: Client, key: str, **members: object) -> httpx.Response:
    return client.put(f"/v1/runs/{key}/result", json=TOLD | members)


@pytest.mark.parametrize("end", [Progress(Phase.ENDED), CRASHED])
def test_a_run_that_told_how_it_ended_has_ended_so_whatever_was_lost_after_that(
    client: Client, store: RunStore, clock: Clock, end: Progress
) -> None:
    worker = worker_of(store, Script([RUNNING, end]), clock, TOLD_ABOUT)
    ask(client, key="manual-a")
    worker.step()
    assert tell(client, "manual-a", message="it may fall").status_code == 200
    assert tell(client, "manual-a").json()["reported"]["message"] == "it fell", "the last word counts"
    worker.step()
    assert client.get("/v1/runs/manual-a").json()["status"] == "running", "the backend has not seen its end yet"
    while worker.step():
        pass
    run = client.get("/v1/runs/manual-a").json()
    assert (run["outcome"], run["outcome_reason"], run["message"], run["version"]) == (
        "rolled_back",
        "recall",
        "it fell",
        VERSION,
    )
    assert tell(client, "manual-a").status_code == 200, "the same again is as good"
    for other in ({"outcome": "promoted"}, {"message": "no"}, {"attempt": 2}, {"version": None}):
        assert tell(client, "manual-a", **other).status_code == 409
    assert client.get("/v1/runs/manual-a").json() == run


def test_a_result_that_comes_while_the_backend_is_asked_is_seen(
    client: Client, store: RunStore, clock: Clock
) -> None:
    class Quick(Script):
        def look(self, order: Order, handle: str) -> Progress:
            assert tell(client, order.key).status_code == 200
            return super().look(order, handle)

    ask(client, key="manual-a")
    worker = worker_of(store, Quick([Progress(Phase.ENDED)]), clock)
    worker.step()
    worker.step()
    assert client.get("/v1/runs/manual-a").json()["outcome"] == "rolled_back"


def test_a_result_is_that_of_the_attempt_that_goes_on(client: Client, store: RunStore, clock: Clock) -> None:
    assert tell(client, "manual-a").status_code == 404
    ask(client, key="manual-a")
    ask(client, key="manual-b")
    assert tell(client, "manual-a").status_code == 409, "it has not begun"
    assert tell(client, "manual-b").status_code == 409, "it was coalesced"
    worker = worker_of(store, Script([CRASHED, Progress(Phase.ENDED)]), clock, TOLD_ABOUT)
    worker.step()
    worker.step()
    answer = tell(client, "manual-a")
    assert answer.status_code == 409, "it has failed, and waits for the next one"
    assert "attempt 1 is waiting" in answer.json()["error"]
    clock.time += 60
    worker.step()
    assert tell(client, "manual-a").status_code == 409
    assert tell(client, "manual-a", attempt=2).status_code == 200


def test_what_an_attempt_told_that_does_not_count_is_forgotten(
    client: Client, store: RunStore, clock: Clock
) -> None:
    ask(client, key="manual-a")
    worker = worker_of(store, Script(), clock)
    worker.step()
    assert tell(client, "manual-a").status_code == 200
    worker.close()
    assert client.get("/v1/runs/manual-a").json()["reported"] is None


def test_a_run_that_ends_in_silence_is_unknown_after_a_while(
    client: Client, store: RunStore, clock: Clock
) -> None:
    silent = Progress(Phase.ENDED)
    ask(client, key="manual-a")
    worker = worker_of(store, Script([silent] * 3), clock, TOLD_ABOUT)
    for _ in range(3):
        assert client.get("/v1/runs/manual-a").json()["status"] != "ended"
        worker.step()
        clock.time += RESULT_SECONDS / 2
    worker.step()
    run = client.get("/v1/runs/manual-a").json()
    assert (run["outcome"], run["outcome_reason"]) == ("ended", "unknown")


def test_a_run_that_is_not_to_tell_is_not_waited_for(client: Client, store: RunStore, clock: Clock) -> None:
    ask(client, key="manual-a")
    worker = worker_of(store, Script([Progress(Phase.ENDED)]), clock)
    worker.step()
    worker.step()
    assert client.get("/v1/runs/manual-a").json()["outcome_reason"] == "unknown"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"attempt": 0}, "attempt"),
        ({"outcome": "great"}, "outcome"),
        ({"reason": ""}, "reason"),
        ({"message": "x" * 4_001}, "message"),
        ({"message": "a\0b"}, "message"),
        ({"version": "latest"}, "version"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_with_a_result_is_named(client: Client, members: dict[str, object], said: str) -> None:
    ask(client, key="manual-a")
    answer = tell(client, "manual-a", **members)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


# What becomes of models

PROMOTION = ModelPromoted(model="fraud", version=VERSION, key="manual-a", by="somebody")
ROLLBACK = ModelRolledBack(
    model="fraud", version=VERSION, champion="b" * 12, key="manual-a", reason="recall fell", by="/rollout"
)


def test_what_happened_to_models_is_kept_once_until_mlflow_shows_it(store: RunStore, clock: Clock) -> None:
    client = Client(LauncherApi(store, Asking(store, SETTINGS, clock), mirrors=True).app())
    for data in (ROLLBACK, PROMOTION, ROLLBACK):
        assert post_event(client, data) == 200
    kept = store.moves(10)
    assert {(move.version, move.tag, move.said) for move in kept} == {
        (VERSION, "promoted.manual-a", "2026-11-24T14:45:00Z by somebody"),
        (VERSION, "rolled_back.manual-a", "2026-11-24T14:45:00Z by /rollout: recall fell"),
    }
    assert store.moves(1) == kept[:1]
    store.shown(kept[:1])
    assert store.moves(10) == kept[1:]
    assert client.get("/v1/runs").json() == {"runs": []}


def test_where_nobody_says_what_serves_such_events_inform(client: Client, store: RunStore) -> None:
    assert post_event(client, PROMOTION) == 200
    assert store.moves(10) == ()


def test_an_event_whose_key_is_none_of_a_roll_out_is_refused(store: RunStore, clock: Clock) -> None:
    client = Client(LauncherApi(store, Asking(store, SETTINGS, clock), mirrors=True).app())
    for key in ("a/b", "x" * 300):
        assert post_event(client, PROMOTION.model_copy(update={"key": key})) == 400
    assert store.moves(10) == ()
