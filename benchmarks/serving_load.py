"""The load: wrk at full speed, and a probe at a fixed rate beside a client that sends large bodies."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.serving_contenders import HOST, Server, Unmeasurable
from benchmarks.serving_requests import Post, as_sent_to

PROBE_RATE: Final = 400.0
"""Requests per second of the probe: far below what any contender can bear."""
PROBE_CONNECTIONS: Final = 16
TIMEOUT: Final = 60.0
"""Seconds in which a server must answer."""
_SCRIPT: Final = Path(__file__).parent / "peers" / "post.lua"


@dataclass(frozen=True, slots=True)
class Window:
    """What one contender did in some seconds of full load; percentiles of latency in ms."""

    requests: int
    seconds: float
    cpu_seconds: float
    p50: float
    p99: float
    p999: float

    @property
    def cpu_us(self) -> float:
        """CPU time per request in µs."""
        return self.cpu_seconds / self.requests * 1e6

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Latencies of one-row requests in ms, alone and beside large bodies; answers to these by status."""

    quiet: list[float]
    disturbed: list[float]
    statuses: Counter[str]

    @property
    def rise(self) -> float:
        """How much later the slowest of a thousand is answered, in ms."""
        return percentile(self.disturbed, 99.9) - percentile(self.quiet, 99.9)


def percentile(values: Sequence[float], which: float) -> float:
    """A percentile of `values`."""
    return float(np.percentile(values, which))


def window(server: Server, post: Post, connections: int, seconds: int, folder: Path) -> Window:
    """Full load on one server; wrk runs on the core of this process.

    What is under way when wrk stops counts as CPU time and not as requests: one or two. What the server does after
    that is waited for.

    Raises:
        Unmeasurable: An answer was not 2xx, or there was none.
    """
    post = as_sent_to(server.name, post)
    body = folder / "body"
    body.write_bytes(post.body)
    headers = "\n".join(f"{name}: {value}" for name, value in post.headers.items())
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        f"--timeout={TIMEOUT:.0f}s",
        "--latency",
        f"-s{_SCRIPT}",
    ]
    before = server.cpu_seconds()
    done = subprocess.run(
        [*command, f"http://{HOST}:{server.port}{post.path}"],
        env=os.environ | {"BODY": str(body), "HEADERS": headers},
        capture_output=True,
        text=True,
    )
    cpu_seconds = server.cpu_seconds() - before
    if done.returncode:
        raise Unmeasurable(f"wrk failed: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["errors"] or not found["requests"]:
        raise Unmeasurable(f"{server.name} failed {found['errors']} times at {post.path}: {done.stdout}")
    settle(server)
    latencies = [found[name] / 1e3 for name in ("p50_us", "p99_us", "p999_us")]
    return Window(found["requests"], found["us"] / 1e6, cpu_seconds, *latencies)


def settle(server: Server, seconds: float = TIMEOUT) -> None:
    """Return when the server has nothing left to do."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = server.cpu_seconds()
        time.sleep(0.05)
        if server.cpu_seconds() - before < 0.001:
            return
    raise Unmeasurable(f"{server.name} does not come to rest")


def disturbance(server: Server, small: Post, forms: Sequence[str], rounds: int, seconds: float) -> Disturbance:
    """The probe alone and beside large bodies of `forms`, in turn, `seconds` each time."""
    found = Disturbance([], [], Counter())
    for i in range(rounds):
        for alone in (True, False) if i % 2 == 0 else (False, True):
            settle(server)
            with nullcontext() if alone else background(server, forms, found.statuses):
                (found.quiet if alone else found.disturbed).extend(probe(server, small, seconds))
    if server.name == "ours" and found.statuses.keys() - {"200", "400"}:
        raise Unmeasurable(f"ours answered large bodies with {dict(found.statuses)}: 200 and 400 are right")
    return found


def probe(server: Server, post: Post, seconds: float) -> list[float]:
    """Latencies in ms of requests that are sent at `PROBE_RATE`, whether or not those before have been answered.

    Each goes out on a connection that is free and counts from its sending, so that a late start of this process is
    not the server's. One that is due while no connection is free counts from when it was due.
    """
    request = _bytes(as_sent_to(server.name, post))
    latencies: list[float] = []
    sent: dict[socket.socket, float] = {}
    with ExitStack() as stack:
        free = [stack.enter_context(_connect(server)) for _ in range(PROBE_CONNECTIONS)]
        due = full = now = time.perf_counter()
        end = now + seconds
        while due < end or sent:
            if due < end and due <= now and free:
                connection = free.pop()
                sent[connection] = due if due < full else now
                connection.sendall(request)
                due += 1 / PROBE_RATE
            else:
                wait = max(0.0, due - now) if free and due < end else TIMEOUT
                for connection in _answered(sent, wait):
                    latencies.append((time.perf_counter() - sent.pop(connection)) * 1e3)
                    full = full if free else time.perf_counter()
                    free.append(connection)
            now = time.perf_counter()
    return latencies


def _connect(server: Server) -> socket.socket:
    connection = socket.create_connection((HOST, server.port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _answered(sent: Collection[socket.socket], seconds: float) -> Iterator[socket.socket]:
    """The connections whose answer is there within `seconds`, each after its answer has been read."""
    ready, _, _ = select.select(sent, (), (), seconds)
    if not ready and seconds == TIMEOUT:
        raise Unmeasurable(f"the probe had no answer for {TIMEOUT} s")
    for connection in ready:
        _receive(connection)
        yield connection


def _bytes(post: Post) -> bytes:
    headers = post.headers | {"Host": HOST, "Content-Length": str(len(post.body))}
    lines = [f"POST {post.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + post.body


def _receive(connection: socket.socket) -> None:
    """Read one answer to its end; it must be a 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _chunk(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise Unmeasurable(f"the probe was answered {head[:40]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    while len(body) < length:
        body += _chunk(connection)


def _chunk(connection: socket.socket) -> bytes:
    chunk = connection.recv(65_536)
    if not chunk:
        raise Unmeasurable("the server closed the connection of the probe")
    return chunk


@contextmanager
def background(server: Server, forms: Sequence[str], statuses: Counter[str]) -> Iterator[None]:
    """`benchmarks.serving_background` at work; the statuses of its answers are added to `statuses`."""
    command = [sys.executable, "-m", "benchmarks.serving_background", server.name, str(server.port), *forms]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as client:
        try:
            if client.stdout is None or client.stdout.readline() != "begun\n":
                raise Unmeasurable(f"{server.name} does not answer large bodies")
            yield
        finally:
            output, _ = client.communicate()  # it stops when its stdin is closed
    if client.returncode:
        raise Unmeasurable(f"{server.name} broke off an answer to a large body: {server.log.read_text()[-2_000:]}")
    statuses.update(json.loads(output))
