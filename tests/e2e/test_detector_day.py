"""A day is replayed while detector and evaluator are killed: verdicts and events are those of a calm day."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from databases import Postgres
from detectors_running import Process, start
from log_events import posted_answer, posted_request
from watched import START, Detector, bind, promoted, settings_of, traffic, watched_bundle

from detectors.events import LoggedRequest, LoggedResponse, read
from detectors.store.database import Database
from detectors.store.log import Entry
from fraudkit.bundle import Bundle
from fraudkit.schema import FloatArray
from pipelines.data.synthesize import Shift

pytestmark = pytest.mark.slow
EACH = 5
KILLS = 20
RETRAIN = {"frauds": 1, "rows": 1, "hour_rows": 0}


class Sink:
    """A stand-in for the launcher: it keeps the events that it is sent, and says that no run is known."""

    def __init__(self) -> None:
        received: Counter[str] = Counter()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received[json.loads(body)["id"]] += 1
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return watched_bundle(bundle.scorer, tmp_path_factory.mktemp("watched"))


def day() -> FloatArray:
    rows = traffic(12_000, 41, 0.0, 40_000.0)
    return np.concatenate([rows, traffic(5_000, 42, 40_000.0, 16_000.0, Shift(mean=0.3))])


def posted(rows: FloatArray, chance: random.Random) -> list[tuple[dict[str, str], bytes]]:
    """Requests and answers as they arrive: out of order within the lateness, some of them twice."""
    events = []
    for first in range(0, len(rows), EACH):
        at = START + rows[first, 0]
        part = rows[first : first + EACH]
        for event in (posted_request(f"r{first}", at, part), posted_answer(f"r{first}", at, [0.001] * len(part))):
            times = 1 + (chance.random() < 0.05)
            events += [(at + chance.uniform(0, 110), event) for _ in range(times)]
    return [event for _, event in sorted(events, key=lambda one: one[0])]


class Replay:
    """Detector and evaluator as processes, and a sender that repeats what is above `durable-seq`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.detector = self._detector()
        self.evaluator = self._evaluator()
        self.waiting: list[tuple[dict[str, str], bytes]] = []

    def _detector(self) -> Process:
        return start("detectors", self._folder, **self._environment)

    def _evaluator(self) -> Process:
        return start("detectors.evaluator", self._folder, **self._environment)

    def send(self, events: list[tuple[dict[str, str], bytes]]) -> None:
        """Post, keeping what may still be lost. The process numbers what it took from one on."""
        with httpx.Client(base_url=self.detector.url, timeout=30) as client:
            for headers, body in events:
                answer = client.post("/", headers=headers, content=body)
                assert answer.status_code == 200
                assert "intake-seq" in answer.headers
                self.waiting.append((headers, body))
                self._taken = int(answer.headers["intake-seq"])
                self._forget(int(answer.headers["durable-seq"]))

    def _forget(self, durable: int) -> None:
        keep = self._taken - durable
        del self.waiting[: max(len(self.waiting) - keep, 0)]

    def kill(self, part: str) -> None:
        if part in ("detector", "both"):
            self.detector.kill()
            lost, self.waiting = self.waiting, []
            self.detector = self._detector()
            self.send(lost)
        if part in ("evaluator", "both"):
            self.evaluator.kill()
            self.evaluator = self._evaluator()

    def settle(self) -> None:
        deadline = time.monotonic() + 60
        while httpx.get(f"{self.detector.url}/health").json()["waiting"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> None:
        for process in (self.detector, self.evaluator):
            if process.process.poll() is None:
                process.end()


def calm(
    url: str, watched: Bundle, environment: dict[str, str], events: list[tuple[dict[str, str], bytes]]
) -> Any:
    """What the same day comes to when nothing happens."""
    database = Database(url)
    database.migrate()
    settings = settings_of(watched, retrain=RETRAIN, events={"sinks": (environment["SINK"],)})
    detector = Detector(database, settings)
    entries: list[Entry] = [bind(watched.version, START - 60, "x")]
    for headers, body in events:
        event = read(headers, body, "fraud")
        assert isinstance(event, LoggedRequest | LoggedResponse)
        entries.append(event)
    detector.store(entries)
    detector.run()
    written = detector.written()
    database.close()
    return written


def replayed(
    url: str,
    watched: Bundle,
    sink: Sink,
    folder: Path,
    kills: int,
    events: list[tuple[dict[str, str], bytes]],
    trouble: Any,
) -> tuple[Any, Any]:
    environment = {
        "FRAUD__DETECTOR__DATABASE": url,
        "FRAUD__DETECTOR__PORT": "0",
        "FRAUD__DETECTOR__ENGINE": "scipy",
        "FRAUD__DETECTOR__IDLE_SECONDS": "1000000",
        "FRAUD__BUNDLES": str(watched.path.parent),
        "FRAUD__EVENTS__SINKS": json.dumps([f"{sink.url}/"]),
        "FRAUD__DETECTOR__RETENTION_DAYS": "100000",  # the day was long ago
        "FRAUD_STATE": str(folder / "state"),
    }
    expected = calm(f"sqlite:///{folder / 'calm.db'}", watched, {"SINK": f"{sink.url}/"}, events)
    chance = random.Random(7)  # noqa: S311
    replay = Replay(folder, environment)
    try:
        replay.send([promoted(watched.version, START - 60, "x")])
        moments = sorted(chance.sample(range(1, len(events)), kills))
        for first, end in zip([0, *moments], [*moments, len(events)], strict=True):
            replay.send(events[first:end])
            if end < len(events):
                trouble(replay, chance)
        replay.settle()
        detector = Detector(Database(url), settings_of(watched))
        deadline = time.monotonic() + 120
        while len(detector.written()[0]) < len(expected[0]):
            assert time.monotonic() < deadline, replay.evaluator.stderr.read_text()[-2_000:]
            time.sleep(0.2)
        ids = {name for name, _ in expected[1]}
        while set(sink.received) != ids:
            assert time.monotonic() < deadline, (sink.received, ids)
            time.sleep(0.1)
        seen = detector.written()
        detector.database.close()
    finally:
        replay.end()
    return expected, seen


def same(expected: Any, seen: Any) -> None:
    assert [row[0] for row in seen[0]] == [row[0] for row in expected[0]]
    assert seen == expected
    assert any("drift-detected" in name for name, _ in seen[1])


def test_a_day_with_many_kills_is_the_same_day(watched: Bundle, sink: Sink, tmp_path: Path) -> None:
    events = posted(day(), random.Random(1))  # noqa: S311

    def trouble(replay: Replay, chance: random.Random) -> None:
        replay.kill(chance.choice(["detector", "evaluator", "both"]))

    same(*replayed(f"sqlite:///{tmp_path / 'day.db'}", watched, sink, tmp_path, KILLS, events, trouble))


def test_a_day_whose_database_is_stopped_and_started_is_the_same_day(
    watched: Bundle, sink: Sink, tmp_path: Path
) -> None:
    events = posted(day(), random.Random(2))  # noqa: S311
    server = Postgres(tmp_path / "data")

    def trouble(replay: Replay, chance: random.Random) -> None:
        server.stop()
        if chance.random() < 0.3:
            with contextlib.suppress(AssertionError):
                replay.kill("detector")
        time.sleep(chance.uniform(0, 0.5))
        server.start()

    try:
        same(*replayed(server.new(), watched, sink, tmp_path, 8, events, trouble))
    finally:
        server.end()
