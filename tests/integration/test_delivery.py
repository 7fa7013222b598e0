"""Events reach every sink, each until it acknowledges: sinks that refuse, hang, are away, and come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from detectors.delivery import deliver_due
from detectors.store.database import Database
from detectors.store.outbox import OutboxStore
from detectors.store.windows import Change, Outgoing, WindowStore
from fraudkit.settings import EventSettings

SETTINGS = EventSettings(longest_wait_seconds=8.0)
NOW = 1_000.0


class Sink:
    """Answers with `status`, after `seconds`."""

    def __init__(self) -> None:
        self.status, self.seconds = 200, 0.0
        self.received: list[str] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(sink.seconds)
                assert self.headers["content-type"] == "application/cloudevents+json"
                sink.received.append(json.loads(body)["id"])
                self.send_response(sink.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.end()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=0.5) as made:
        yield made


def send(database: Database, step: int, name: str, *sinks: str) -> int:
    event = Outgoing(name, "some.type", json.dumps({"id": name}))
    return WindowStore(database).change(step, Change("state", events=[event]), sinks, NOW)


def test_an_event_reaches_each_sink_once_when_all_is_well(
    database: Database, sink: Sink, client: httpx.Client
) -> None:
    outbox, step = OutboxStore(database), send(database, 0, "a", sink.url)
    send(database, step, "b", sink.url)
    assert deliver_due(outbox, client, SETTINGS, NOW) == 2
    assert deliver_due(outbox, client, SETTINGS, NOW + 100) == 0
    assert sink.received == ["a", "b"]


def test_the_same_event_again_is_not_sent_again(database: Database, sink: Sink, client: httpx.Client) -> None:
    outbox, step = OutboxStore(database), send(database, 0, "a", sink.url)
    deliver_due(outbox, client, SETTINGS, NOW)
    send(database, step, "a", sink.url)
    assert deliver_due(outbox, client, SETTINGS, NOW + 100) == 0


def test_a_sink_that_fails_is_tried_again_ever_later_until_it_takes_it(
    database: Database, sink: Sink, client: httpx.Client
) -> None:
    outbox = OutboxStore(database)
    send(database, 0, "a", sink.url)
    sink.status = 503
    now, waits = NOW, []
    for _ in range(6):
        assert deliver_due(outbox, client, SETTINGS, now) == 0
        waited = 0.0
        while not outbox.due(now + waited, 1):
            waited += 0.1
        waits.append(waited)
        now += waited
    assert waits[0] <= 1.1
    assert 3.9 < waits[-1] <= 8.2
    sink.status = 200
    assert deliver_due(outbox, client, SETTINGS, now) == 1


@pytest.mark.parametrize("trouble", ["hangs", "is away", "refuses for good", "has no address"])
def test_one_sink_does_not_hold_up_another(
    database: Database, sink: Sink, client: httpx.Client, trouble: str
) -> None:
    other = Sink()
    url = {"is away": "http://127.0.0.1:9/", "has no address": "nonsense"}.get(trouble, other.url)
    other.status, other.seconds = (403, 0.0) if trouble == "refuses for good" else (200, 2.0)
    outbox, step = OutboxStore(database), 0
    for number in range(5):
        step = send(database, step, f"e{number}", url, sink.url)
    assert deliver_due(outbox, client, SETTINGS, NOW) == 5
    assert sorted(sink.received) == [f"e{number}" for number in range(5)]
    # It was asked once in this round, and nothing of it is lost.
    left = {delivery.id: delivery.tries for delivery in outbox.due(NOW + 1_000, 10)}
    assert left.keys() == {f"e{number}" for number in range(5)}
    assert sum(left.values()) == 1
    other.end()
