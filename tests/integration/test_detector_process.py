"""The detector as a process: what KServe's logger posts, what a sender may rely on, and nonsense."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import random
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from detectors_running import Process, running, start
from log_events import posted_answer, posted_request, rows_of
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from detectors.store.database import Database
from detectors.store.tables import REQUESTS


def counts(url: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            found["/".join([sample.name, *(v for k, v in sample.labels.items() if k != "replica")])] = sample.value
    return found


def settle(url: str) -> dict[str, float]:
    deadline = time.monotonic() + 30
    while True:
        seen = counts(url)
        if seen["fraud_durable_seq"] == seen["fraud_intake_seq"]:
            return seen
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def detector(database_url: str, tmp_path: Path) -> Any:
    with running(
        "detectors", tmp_path, FRAUD__DETECTOR__DATABASE=database_url, FRAUD__DETECTOR__PORT="0"
    ) as started:
        yield started


def test_an_event_is_answered_with_its_number_and_nothing_else(detector: Process) -> None:
    with httpx.Client(base_url=detector.url) as client:
        for number in range(1, 4):
            headers, body = posted_request(f"id-{number}", time.time(), rows_of(2, number))
            answer = client.post("/", headers=headers, content=body)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["intake-seq"] == str(number)
            assert answer.headers["intake-replica"] == detector.said["replica"]
            assert int(answer.headers["durable-seq"]) <= number
    seen = settle(detector.url)
    assert seen["fraud_events_total/stored"] == seen["fraud_durable_seq"] == 3


def test_all_ways_that_events_come(detector: Process) -> None:
    now = time.time()
    headers, body = posted_request("gzip", now, rows_of(3))
    large, large_body = posted_request("large", now, rows_of(9_000))
    answered, answer_body = posted_answer("gzip", now, (0.1, 0.2, 0.3))
    structured = {
        "specversion": "1.0",
        "id": "structured",
        "type": headers["ce-type"],
        "time": headers["ce-time"],
        "inferenceservicename": "fraud",
        "data": {"instances": rows_of(1).tolist()},
    }
    assert len(large_body) > 2 * 1024 * 1024
    with httpx.Client(base_url=detector.url) as client:
        answers = [
            client.post("/", headers=headers, content=gzip.compress(body)),
            client.post("/", headers=large, content=large_body),
            client.post("/", headers=large, content=iter([large_body[:70_000], large_body[70_000:]])),
            client.post("/", headers=answered, content=answer_body),
            client.post("/", json=structured, headers={"content-type": "application/cloudevents+json"}),
            client.post("/", headers=headers | {"ce-id": "get"}),
        ]
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"")] * 6
        assert [answer.headers["intake-seq"] for answer in answers] == list("123456")
    seen = settle(detector.url)
    assert seen["fraud_events_total/stored"] == 4
    assert seen["fraud_events_total/repeated"] == 1
    assert seen["fraud_events_ignored_total/empty_body"] == 1


def test_what_is_too_large_is_refused_and_not_read_on(detector: Process) -> None:
    headers, _ = posted_request("huge", time.time(), rows_of(1))
    with socket.create_connection(("127.0.0.1", detector.said["port"]), timeout=30) as sender:
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sender.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 100000000\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(100):
                sender.sendall(b"[" * 1_000_000)
        with contextlib.suppress(OSError):
            assert sender.recv(100).startswith(b"HTTP/1.1 413")
    assert httpx.get(f"{detector.url}/health").json()["ready"] is True
    assert counts(detector.url)["fraud_intake_seq"] == 0


def test_its_metrics_say_what_the_verdict_is(detector: Process) -> None:
    headers, body = posted_request("a", time.time(), rows_of(1))
    httpx.post(detector.url, headers=headers, content=body)
    settle(detector.url)
    seen = counts(detector.url)
    assert seen["fraud_drift_status/warming_up"] == 1
    assert sum(value for name, value in seen.items() if name.startswith("fraud_drift_status/")) == 1
    assert seen["fraud_events_undelivered"] == 0
    assert abs(seen["fraud_last_event_timestamp_seconds"] - time.time()) < 60


def test_other_methods_and_paths_are_no_events(detector: Process) -> None:
    with httpx.Client(base_url=detector.url) as client:
        assert client.get("/").status_code == 405
        assert client.post("/nowhere").status_code == 404
    assert counts(detector.url)["fraud_intake_seq"] == 0


def test_a_process_that_is_killed_has_stored_what_it_said_was_durable(database_url: str, tmp_path: Path) -> None:
    """The sender repeats what is above `durable-seq`, to whoever is there: each event is stored once."""
    settings = {"FRAUD__DETECTOR__DATABASE": database_url, "FRAUD__DETECTOR__PORT": "0"}
    now = time.time()
    events = [posted_request(f"id-{number}", now, rows_of(1, number)) for number in range(1_500)]
    chance = random.Random(5)  # noqa: S311
    next_event = 0
    for life in range(4):
        process = start("detectors", tmp_path, **settings)
        first, durable = next_event, 0
        with httpx.Client(base_url=process.url) as client:
            end = len(events) if life == 3 else min(len(events), next_event + chance.randrange(100, 500))
            for headers, body in events[first:end]:
                durable = int(client.post("/", headers=headers, content=body).headers["durable-seq"])
            if life == 3:
                settle(process.url)
                process.end()
                break
        process.kill()
        next_event = first + durable
        assert stored(database_url) >= next_event
    assert stored(database_url) == len(events)


def stored(url: str) -> int:
    database = Database(url)
    with database.read() as connection:
        count = int(connection.execute(select(func.count()).select_from(REQUESTS)).scalar_one())
    database.close()
    return count


def test_a_detector_whose_database_is_away_starts_and_says_so(tmp_path: Path) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    process = start("detectors", tmp_path, FRAUD__DETECTOR__DATABASE=nowhere, FRAUD__DETECTOR__PORT="0")
    headers, body = posted_request("a", time.time(), rows_of(1))
    assert httpx.post(process.url, headers=headers, content=body).status_code == 200
    deadline = time.monotonic() + 20
    while httpx.get(f"{process.url}/health").json() != {"ready": True, "store": "failing", "waiting": 1}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert counts(process.url)["fraud_store_failing"] == 1
    process.kill()


def test_a_sender_that_falls_silent_is_let_go(database_url: str, tmp_path: Path) -> None:
    settings = {"FRAUD__DETECTOR__DATABASE": database_url, "FRAUD__DETECTOR__READ_SECONDS": "1"}
    with running("detectors", tmp_path, FRAUD__DETECTOR__PORT="0", **settings) as process:
        with socket.create_connection(("127.0.0.1", process.said["port"]), timeout=20) as silent:
            silent.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            answer = http.client.HTTPResponse(silent)
            answer.begin()
            assert answer.status == 408
        assert counts(process.url)["fraud_intake_seq"] == 0


@pytest.mark.slow
def test_thousands_of_events_of_nonsense_are_answered_and_counted(detector: Process) -> None:
    chance, before = random.Random(11), 0  # noqa: S311
    now = time.time()
    sound = [posted_request("s", now, rows_of(2)), posted_answer("s", now, (0.1, 0.2))]
    with httpx.Client(base_url=detector.url) as client:
        for number in range(8_000):
            headers, body = chance.choice(sound)
            headers = dict(headers)
            content = bytearray(body)
            for _ in range(chance.randrange(1, 6)):
                match chance.randrange(6):
                    case 0:
                        content[chance.randrange(len(content))] = chance.randrange(256)
                    case 1:
                        del content[chance.randrange(len(content)) :]
                        content = content or bytearray(b" ")
                    case 2:
                        content += chance.randbytes(chance.randrange(40))
                    case 3:
                        name = chance.choice(list(headers))
                        headers[name] = chance.choice(
                            ["", "x", "9" * 300, "2024-13-45", "application/cloudevents+json"]
                        )
                    case 4:
                        headers.pop(chance.choice(list(headers)), None)
                    case _:
                        headers["ce-id"] = f"fuzz-{number}"
            if number == 5_000:
                before = resident(detector)
            answer = client.post("/", headers=headers, content=bytes(content))
            assert (answer.status_code, answer.content) == (200, b"")
    seen = settle(detector.url)
    outcomes = {name: count for name, count in seen.items() if name.startswith("fraud_events_total/")}
    assert seen["fraud_intake_seq"] == sum(outcomes.values()) == 8_000
    assert (
        sum(n for name, n in seen.items() if name.startswith("fraud_events_rejected_total/"))
        == (outcomes["fraud_events_total/rejected"])
    )
    assert outcomes["fraud_events_total/lost"] == outcomes["fraud_events_total/dropped"] == 0
    assert outcomes["fraud_events_total/rejected"] > 5_000
    assert detector.process.poll() is None
    assert resident(detector) < 1.2 * before


def resident(detector: Process) -> int:
    """Its memory [KiB]."""
    lines = Path(f"/proc/{detector.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_its_openapi_is_valid_and_describes_every_path(detector: Process) -> None:
    document = httpx.get(f"{detector.url}/openapi.json").json()
    schemathesis.openapi.from_dict(document).validate()
    for path, operations in document["paths"].items():
        if "get" in operations and "{" not in path:
            assert httpx.get(detector.url + path).status_code == 200, path
