"""Windows to verdicts on a real model's reference, on both databases; killed and restarted it says the same."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from log_events import answer
from sqlalchemy import select
from watched import START, Detector, bind, events_of, levels, settings_of, traffic, watched_bundle

from detectors.evaluation import Kept
from detectors.labels import Label
from detectors.retraining import Retraining
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import Entry, RejectedRequest, RequestLog
from detectors.store.tables import EVALUATOR, EVENTS
from detectors.store.verdicts import VerdictStore
from fraudkit.bundle import Bundle
from fraudkit.errors import BundleError, PermanentError
from pipelines.data.synthesize import Shift


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return watched_bundle(bundle.scorer, tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def successor(bundle: Bundle, watched: Bundle) -> Bundle:
    return watched_bundle(bundle.scorer, watched.path.parent.parent, seed=2)


def test_clean_traffic_is_stable_and_a_shift_is_a_drift_that_is_told(database: Database, watched: Bundle) -> None:
    clean = traffic(10_000, 21, 0.0, 14_400.0)
    shifted = traffic(5_000, 22, 14_400.0, 7_200.0, Shift(mean=0.3))
    detector = Detector(database, settings_of(watched, events={"sinks": ("http://sink",)}))
    detector.store([bind(watched.version), *events_of(clean), *events_of(shifted, "s")])
    detector.run()
    history = detector.history()
    said = levels(history)
    # The lateness leaves the last buckets open.
    assert said[:2] == ["warming_up"] * 2
    assert set(said[2:9]) == {"stable"}
    assert said[-1] == "drift"
    assert [event.type for event in history.events] == ["io.fraudplatform.drift.detected.v1"]
    told = history.events[0].data
    assert told["version"] == watched.version
    assert {one["subject"] for one in told["evidence"]} <= {"V4", "V10", "V14", "score"}
    assert history.events[0].undelivered == ("http://sink",)
    drift = next(window for window in reversed(history.windows) if window.verdict.level == "drift")
    assert drift.id == told["verdict_id"]
    # The change may lie within that window: what a run learns from begins after it.
    assert datetime.fromisoformat(told["episode_start"]) == drift.ends
    with database.read() as connection:
        kept = Kept.model_validate_json(connection.execute(select(EVALUATOR.c.state)).scalar_one())
    assert sum(kept.hours) == sum(one.rows for one in history.windows if one.begins >= drift.ends)


def test_any_order_within_the_lateness_any_replica_and_any_restart_give_the_same(
    database: Database, watched: Bundle, tmp_path: Path
) -> None:
    rows = np.concatenate(
        [traffic(8_000, 23, 0.0, 14_400.0), traffic(4_000, 24, 14_400.0, 5_000.0, Shift(variance=1.8))]
    )
    events = [bind(watched.version), *events_of(rows)]
    events += [RejectedRequest(f"x{n}", START + 60 * n, b"d", "null", 40) for n in range(100)]
    calm = Database(f"sqlite:///{tmp_path / 'calm.db'}")
    calm.migrate()
    whole = Detector(calm, settings_of(watched))
    whole.store(events)
    whole.run()
    expected = whole.written()
    calm.close()

    chance = random.Random(3)  # noqa: S311
    broken = Detector(database, whole.settings)
    replicas = [RequestLog(database, broken.settings.detector.bucket_seconds, name) for name in "ab"]
    jittered = sorted(events[1:], key=lambda event: event.time + chance.uniform(0, 119))
    broken.store([events[0]])
    for start in range(0, len(jittered), 300):
        part = jittered[start : start + 300]
        # Each takes some, and a few of the other's.
        with ThreadPoolExecutor(2) as pool:
            for replica, own in zip(replicas, (part[::2], part[1::2]), strict=True):
                pool.submit(replica.store, [*own, *chance.sample(part, 20)], START)
        broken.run(restart=True)
    windows, told = broken.written()
    assert len(windows) > 10
    assert told
    assert (windows, told) == expected


def test_before_a_model_is_promoted_nothing_is_evaluated(database: Database, watched: Bundle) -> None:
    detector = Detector(database, settings_of(watched))
    detector.store(events_of(traffic(3_000, 25, 0.0, 3_600.0)))
    assert not detector.evaluator().advance()
    assert detector.history().windows == ()


def test_a_bundle_that_is_not_there_is_said_and_waited_for(database: Database, watched: Bundle) -> None:
    detector = Detector(database, settings_of(watched))
    detector.store([bind("0" * 12)])
    with pytest.raises(BundleError):
        detector.evaluator().advance()


def test_a_promotion_begins_anew_from_its_own_time(database: Database, watched: Bundle, successor: Bundle) -> None:
    other = successor
    detector = Detector(database, settings_of(watched))
    rows = traffic(12_000, 26, 0.0, 21_600.0)
    detector.store([bind(watched.version), bind(other.version, START + 10_000, "two"), *events_of(rows)])
    detector.run()
    by_version = {window.version for window in detector.history().windows}
    assert by_version == {watched.version, other.version}
    for window in detector.history().windows:
        first = window.begins.timestamp() >= START + 10_000
        assert window.version == (other.version if first else watched.version)
    now = VerdictStore(database).now()
    assert now.promoted == other.version


def test_two_evaluators_cannot_both_write(database: Database, watched: Bundle) -> None:
    detector = Detector(database, settings_of(watched))
    detector.store([bind(watched.version), *events_of(traffic(4_000, 27, 0.0, 3_600.0))])
    one, other = detector.evaluator(), detector.evaluator()
    assert one.advance()
    with pytest.raises(PermanentError, match="another evaluator"):
        other.advance()


class Launcher:
    """A stand-in that says what it is told to."""

    def __init__(self) -> None:
        self.active: list[dict[str, str]] = []
        self.last: list[dict[str, str]] = []
        self.known: set[str] = set()

    def __call__(self, asked: httpx.Request) -> httpx.Response:
        if asked.url.path == "/v1/runs":
            return httpx.Response(200, json={"runs": self.active if "active" in asked.url.params else self.last})
        key = asked.url.path.rpartition("/")[2]
        told = next((run for run in self.last if run["key"] == key), {"key": key, "state": "run"})
        return httpx.Response(200 if key in self.known else 404, json=told)


def test_a_drift_asks_for_one_run_once_enough_is_known(database: Database, watched: Bundle) -> None:
    thresholds = {"frauds": 20, "rows": 2_000, "hour_rows": 0, "cooldown_hours": 0, "more_frauds": 10}
    events = {"sinks": ("http://sink",), "launcher": "http://launcher"}
    detector = Detector(database, settings_of(watched, events=events, retrain=thresholds))
    rows = traffic(8_000, 28, 0.0, 10_000.0, Shift(mean=0.4))
    detector.store([bind(watched.version), *events_of(rows)])
    evaluator, launcher, labels = detector.evaluator(), Launcher(), LabelStore(database)
    with httpx.Client(transport=httpx.MockTransport(launcher)) as client:
        retraining = Retraining(evaluator, labels, detector.settings, client)

        def reason() -> str:
            while evaluator.advance():
                pass
            verdict = retraining.consider()
            assert verdict is not None
            return verdict.reason

        assert reason() == "too_few_frauds"
        assert reason() == "too_few_frauds"
        late = events_of(rows)[-100:]
        labels.add([Label(f"{one.id}-0", 1, "chargeback", "bank", START) for one in late[:30]], START)
        assert reason() == "drift_confirmed"
        assert reason() == "in_flight"
        launcher.known.add(f"drift-{watched.version}-20251124T0000Z-1")
        keys = [event.data["key"] for event in detector.history().events if "retrain" in event.type]
        assert len(keys) == 1
        launcher.known.add(keys[0])
        assert reason() == "too_few_new_frauds"
        labels.add([Label(f"{one.id}-0", 1, "chargeback", "bank", START) for one in late[30:60]], START)
        launcher.last = [{"key": keys[0], "state": "run", "outcome": "rejected"}]
        assert reason() == "drift_confirmed"
        keys = [event.data["key"] for event in detector.history().events if "retrain" in event.type]
        launcher.known.update(keys)
        launcher.last = [{"key": key, "state": "run", "outcome": "promoted"} for key in keys]
        labels.add([Label(f"{one.id}-0", 1, "chargeback", "bank", START) for one in late[60:]], START)
        assert reason() == "answered"
    decisions = [decision.reason for decision in reversed(detector.history().decisions)]
    assert decisions == [
        "too_few_frauds",
        "drift_confirmed",
        "in_flight",
        "too_few_new_frauds",
        "drift_confirmed",
        "answered",
    ]
    keys = sorted(event.data["key"] for event in detector.history().events if "retrain" in event.type)
    assert [key[-2:] for key in keys] == ["-1", "-2"]
    with database.read() as connection:
        states = [orjson.loads(body) for body in connection.execute(select(EVENTS.c.body)).scalars()]
    assert {one["specversion"] for one in states} == {"1.0"}


def test_labels_are_looked_at_once_a_day(database: Database, watched: Bundle) -> None:
    settings = settings_of(
        watched, detector={"slow_buckets": 60}, drift={"labels": {"least": 20}, "slow": {"least": 100}}
    )
    detector = Detector(database, settings)
    rows = traffic(9_000, 29, 0.0, 9_000.0)
    asked = events_of(rows)
    answers: list[Entry] = [
        answer(one.id, one.time + 0.1, (0.001,) * 5, (0,) * 5, watched.version)
        for one in asked  # type: ignore[union-attr]
    ]
    detector.store([bind(watched.version), *asked, *answers])
    LabelStore(database).add([Label(f"{one.id}-2", 1, "chargeback", "bank", START) for one in asked[:400]], START)
    detector.run()
    readings = [
        (window.begins, channel)
        for window in reversed(detector.history().windows)
        for channel in window.verdict.channels
        if channel.channel == "labels"
    ]
    assert len(readings) == 2
    assert {channel.level for _, channel in readings} <= {"drift", "stable", "insufficient_data"}
