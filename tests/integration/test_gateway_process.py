"""The gateway as a process before predictors that are killed: no request fails, and nothing logged is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from predictors import PREDICT, ROW, Server, start

from fraudkit.bundle import Bundle

CALLERS = 4


class Events(ThreadingHTTPServer):
    """A sink that takes its time, and keeps the ids and types that it was sent."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.seconds = seconds

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Events
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.seconds)
        self.server.seen.append((self.headers["ce-id"], self.headers["ce-type"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def sink(seconds: float = 0.0) -> Iterator[Events]:
    with Events(seconds) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def gateway(stable: str, detector: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    environment = os.environ | {"FRAUD__DETECTOR__URL": detector}
    command = [sys.executable, "-m", "serving.gateway", "--stable", stable, "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    deadline = time.monotonic() + 60
    while not log.read_text().partition("\n")[1]:
        assert time.monotonic() < deadline
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    port = json.loads(log.read_text().partition("\n")[0])["port"]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_canary_that_is_killed_under_load_costs_no_request(
    predictor: Server, bundle: Bundle, tmp_path: Path
) -> None:
    over = Event()

    def call(client: httpx.Client) -> list[int]:
        codes = []
        while not over.is_set():
            codes.append(client.post(PREDICT, json={"instances": [ROW]}).status_code)
        return codes

    canary = start(bundle.path, tmp_path)
    with (
        sink() as events,
        gateway(predictor.url, events.url, tmp_path / "log") as (_, client),
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        asked = [pool.submit(call, client) for _ in range(CALLERS)]
        try:
            split = {"stable": predictor.url, "canary": canary.url, "percent": 50}
            assert client.put("/gateway/traffic", json=split).status_code == 200
            wait_for(client, 'fraud_gateway_requests_total{code="200",target="canary"}', 50)
            canary.process.kill()
            wait_for(client, "fraud_gateway_fallbacks_total", 50)
        finally:
            over.set()
            canary.process.kill()
            canary.process.wait()
        codes = [code for one in asked for code in one.result()]
        assert set(codes) == {200}
    assert "the canary cannot be reached: stable answers" in (tmp_path / "log").read_text()


def wait_for(client: httpx.Client, counter: str, least: float) -> None:
    deadline = time.monotonic() + 60
    while True:
        found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(counter)]
        if found and float(found[0].split()[-1]) >= least:
            return
        assert time.monotonic() < deadline, counter
        time.sleep(0.05)


def test_what_is_queued_at_its_end_is_posted(predictor: Server, tmp_path: Path) -> None:
    with sink(seconds=0.1) as events, gateway(predictor.url, events.url, tmp_path / "log") as (process, client):
        for number in range(20):
            client.post(PREDICT, json={"instances": [ROW]}, headers={"ce-id": str(number)})
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert len(events.seen) == 40
        assert {event_id for event_id, _ in events.seen} == {str(number) for number in range(20)}
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert (last["event"], last["posted"]) == ("gateway stopped", 40)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--stable", "nonsense"], 2, "--stable: must be like http://127.0.0.1:8081, not 'nonsense'"),
        (["--stable", "http://a", "--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1"),
    ],
)
def test_why_it_does_not_start_is_one_line(options: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "serving.gateway", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    [line] = done.stderr.splitlines()
    assert said in line
