"""Two launchers on one database, killed again and again, while each of many triggers comes several times."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from detectors_running import Process, start

pytestmark = pytest.mark.slow

KEYS, DELIVERIES, KILLS = 15, 4, 2


class Pair:
    """Two launchers, of which one may be dead for a moment."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._variables = {
            "FRAUD_STATE": str(folder / "state"),
            "FRAUD__LAUNCHER__DATABASE": database_url,
            "FRAUD__LAUNCHER__PORT": "0",
            "FRAUD__LAUNCHER__POLL_SECONDS": "0.05",
            "FRAUD__LAUNCHER__RETRY_SECONDS": "0.1",
            "FRAUD__LAUNCHER__ATTEMPTS": "10",
            "FRAUD__LAUNCHER__DATA": str(folder / "nowhere.csv"),
        }
        self.processes = [self._start(), self._start()]

    def kill_one(self, which: int) -> None:
        self.processes[which].kill()
        self.processes[which] = self._start()

    def deliver(self, key: str, which: int) -> str:
        body = {"key": key, "by": "a test", "reason": "to see"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(f"{self.processes[which].url}/v1/runs", json=body, timeout=20)
            except httpx.HTTPError:
                which = 1 - which
                time.sleep(0.05)
                continue
            if answer.is_success:
                return str(answer.json()["state"])
            assert answer.status_code == 503, answer.text
        pytest.fail(f"{key} was not taken")

    def runs(self, query: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = httpx.get(f"{self.processes[0].url}/v1/runs?{query}").json()["runs"]
        return found

    def end(self) -> None:
        assert [process.end() for process in self.processes] == [0, 0]

    def _start(self) -> Process:
        return start("pipelines.launcher", self._folder, **self._variables)


def test_every_key_has_one_record_and_no_two_runs_are_active(database_url: str, tmp_path: Path) -> None:
    pair, chance = Pair(tmp_path, database_url), random.Random(7)  # noqa: S311
    deliveries = [f"manual-{number}" for number in range(KEYS) for _ in range(DELIVERIES)]
    chance.shuffle(deliveries)
    stop = threading.Event()

    def kill() -> None:
        for _ in range(KILLS):
            if not stop.wait(chance.uniform(0.1, 1.5)):
                pair.kill_one(chance.randrange(2))

    killing = threading.Thread(target=kill)
    killing.start()

    def deliver(key: str) -> tuple[str, str]:
        time.sleep(0.05)
        return key, pair.deliver(key, chance.randrange(2))

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(deliver, deliveries))
    stop.set()
    killing.join()
    deadline = time.monotonic() + 120
    while pair.runs("active=true") and time.monotonic() < deadline:
        time.sleep(0.1)
    records = pair.runs("limit=1000")
    pair.end()
    assert sorted(str(run["key"]) for run in records) == sorted({key for key, _ in told})
    assert {run["state"] for run in records} == {"run", "coalesced"}
    # Whoever was told that the key was new was told the truth; a killed process may have told nobody.
    for run in records:
        states = [state for key, state in told if key == run["key"] and state != "duplicate"]
        assert states in ([], [run["state"]])
    ran = [run for run in records if run["state"] == "run"]
    spans = sorted((float(str(run["asked"])), float(str(run["ended"]))) for run in ran)
    assert spans
    assert all(ended <= asked for (_, ended), (asked, _) in pairwise(spans))
    assert all(run["outcome"] == "failed" for run in ran)
