"""How many events a second one detector takes on one core, how soon it answers, and what memory that costs.

Events come at a fixed rate over many connections, whether or not earlier ones are answered: a latency is counted
from the moment at which its event was due. Pairs of a V1 request of one row and its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fraudkit.events import CONTENT_TYPE, ModelPromoted, encode
from fraudkit.schema import INPUTS
from fraudkit.settings import MODEL_NAME

HOST = "127.0.0.1"
CONNECTIONS = 32
TICK = 0.001
MEMORY_SAMPLES = 5


def announce(version: str, detector: str) -> None:
    """Bind the detector to a model."""
    promoted = ModelPromoted(model=MODEL_NAME, version=version, key="benchmark", by="benchmark")
    body = encode(promoted, "/benchmark", datetime.now(UTC)).encode()
    request = urllib.request.Request(f"{detector}/", body, {"content-type": CONTENT_TYPE})  # noqa: S310
    urllib.request.urlopen(request).close()  # noqa: S310


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen; latencies in ms."""

    events: int
    seconds: float
    p50: float
    p99: float
    p999: float
    most: float
    core: float
    memory: list[int]

    def line(self) -> str:
        """For a table."""
        rate = self.events / self.seconds
        memory = " → ".join(f"{size / 1024:.0f}" for size in self.memory)
        return (
            f"| {self.events:,} | {rate:,.0f} | {self.p50:.2f} | {self.p99:.2f} | {self.p999:.2f} "
            f"| {self.most:.1f} | {self.core:.0%} | {memory} MiB |"
        )


class Connection(asyncio.Protocol):
    """One connection with events on their way; each answer has no body."""

    def __init__(self, latencies: list[float]) -> None:
        self.due: deque[float] = deque()
        self._latencies = latencies
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Count the answers."""
        now = time.perf_counter()
        *answers, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for answer in answers:
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the detector refused an event: {answer!r}")
            self._latencies.append((now - self.due.popleft()) * 1_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--database", help="URL of an empty database; SQLite in a temporary folder when not given")
    parser.add_argument(
        "--bundle", type=Path, help="a model: its windows are evaluated meanwhile, beside this program"
    )
    options = parser.parse_args()
    own, *_, other = sorted(os.sched_getaffinity(0)) * 2  # of the detector, and of this program
    os.sched_setaffinity(0, {other})
    with tempfile.TemporaryDirectory() as folder:
        settings = {"FRAUD_STATE": folder, "FRAUD__DETECTOR__PORT": "0"}
        settings |= {"FRAUD__DETECTOR__BUCKET_SECONDS": "1", "FRAUD__DETECTOR__LATENESS_SECONDS": "1"}
        if options.database:
            settings["FRAUD__DETECTOR__DATABASE"] = options.database
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "detectors"], stderr=stderr, env=os.environ | settings
            )
        os.sched_setaffinity(process.pid, {own})
        evaluator = None
        try:
            port = started(log)
            if options.bundle:
                settings |= {"FRAUD__BUNDLES": str(options.bundle.parent), "FRAUD__DETECTOR__ENGINE": "scipy"}
                announce(options.bundle.name, f"http://{HOST}:{port}")
                with (Path(folder) / "evaluator").open("wb") as stderr:
                    command = [sys.executable, "-m", "detectors.evaluator"]
                    evaluator = subprocess.Popen(command, stderr=stderr, env=os.environ | settings)
                time.sleep(5)
            print("| events | a second | p50 ms | p99 | p99.9 | most | of one core | memory |")
            print("|---|---|---|---|---|---|---|---|")
            print(asyncio.run(measured(port, process.pid, options.rate, options.events)).line())
            print(summary(port))
        finally:
            for part in (process, evaluator):
                if part:
                    part.terminate()
                    part.wait()
        if evaluator:
            print(
                (Path(folder) / "evaluator").read_text().count("window evaluated"),
                "windows were evaluated meanwhile",
            )


def started(log: Path) -> int:
    """The port of a detector, once it has said which."""
    for _ in range(600):
        first, newline, _rest = log.read_text().partition("\n")
        if newline:
            return int(json.loads(first)["port"])
        time.sleep(0.05)
    raise RuntimeError(f"the detector did not start: {log.read_text()}")


async def measured(port: int, pid: int, rate: int, events: int) -> Outcome:
    """Post `events` events at `rate` a second."""
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    connections = [
        await loop.create_connection(lambda: Connection(latencies), HOST, port) for _ in range(CONNECTIONS)
    ]
    content = contents()
    memory: list[int] = []
    cpu, began = cpu_seconds(pid), time.perf_counter()
    sent = 0
    while sent < events:
        due = min(int((time.perf_counter() - began) * rate) + 1, events)
        for number in range(sent, due):
            transport, connection = connections[number % CONNECTIONS]
            connection.due.append(began + number / rate)
            transport.write(content(number))
        sent = due
        if sent * MEMORY_SAMPLES // events > len(memory):
            memory.append(resident(pid))
        await asyncio.sleep(TICK)
    while len(latencies) < events:
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - began
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
    share = (cpu_seconds(pid) - cpu) / seconds
    return Outcome(events, seconds, p50, p99, p999, max(latencies), share, memory or [resident(pid)])


def contents() -> Callable[[int], bytes]:
    """A function that makes the POST of each event by its number: requests are even, their answers odd."""
    rows = np.random.default_rng(0).normal(0, 1, (1_000, len(INPUTS)))
    rows[:, 0] = np.arange(1_000)
    rows[:, -1] = np.abs(rows[:, -1])
    bodies = [json.dumps({"instances": [row]}).encode() for row in rows.tolist()]
    run = os.urandom(6).hex()

    def content(number: int) -> bytes:
        name, part = f"{run}-{number // 2:08d}", number % 2
        body = bodies[number // 2 % len(bodies)]
        if part:
            row = {"id": f"{name}-0", "probability": 0.00123, "label": 0, "alert": "normal"}
            body = json.dumps({"predictions": [row], "model_version": "0123456789ab"}).encode()
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
        head = (
            "POST / HTTP/1.1\r\nHost: detector\r\nUser-Agent: Go-http-client/1.1\r\n"
            "Content-Type: application/json\r\n"
            f"Ce-Id: {name}\r\nCe-Time: {moment}\r\nCe-Specversion: 1.0\r\nCe-Source: http://localhost:9081/\r\n"
            f"Ce-Type: org.kubeflow.serving.inference.{'response' if part else 'request'}\r\nCe-Endpoint: \r\n"
            "Ce-Inferenceservicename: fraud\r\nCe-Namespace: default\r\nCe-Component: predictor\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    return content


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Resident memory of a process [KiB]."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def summary(port: int) -> str:
    """What the detector counted."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return "\n".join(
        line for line in lines if line.startswith(("fraud_events_total", "fraud_durable", "fraud_intake"))
    )


if __name__ == "__main__":
    main()
