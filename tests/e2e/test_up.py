"""`fraudctl up`, as a person starts it: scored, watched, restarted, stopped; nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from ports import free_port, ports_of_parts
from sqlalchemy import func, select
from watched import traffic

from detectors.store.database import Database
from detectors.store.tables import BINDINGS

pytestmark = pytest.mark.slow
FRAUDCTL = Path(sys.executable).parent / "fraudctl"
STEP = 20


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def children(pid: int) -> dict[str, int]:
    """The parts that `pid` has started, by module."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_text().split("\0")
            except (OSError, IndexError):
                continue
            if parent == pid and "-m" in command:
                found[command[command.index("-m") + 1]] = int(folder.name)
    return found


PARTS = {
    "detectors",
    "detectors.evaluator",
    "pipelines.launcher",
    "serving.rollout",
    "serving.console",
    "serving.gateway",
}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def serving(state: Path) -> list[str]:
    """The command lines of the predictors of a state folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if "serving.predictor" in line and str(state) in line:
                found.append(line)
    return found


class Platform:
    def __init__(self, state: Path, data: Path | None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD")}
        self.environment = (
            kept
            | ports_of_parts()
            | {
                "FRAUD_STATE": str(state),
                "FRAUD__LAUNCHER__POLL_SECONDS": "0.2",
                "FRAUD__DETECTOR__BUCKET_SECONDS": "1",
                "FRAUD__DETECTOR__LATENESS_SECONDS": "1",
                "FRAUD__DETECTOR__WINDOW_ROWS": "200",
                "FRAUD__DETECTOR__WINDOW_LEAST": "100",
            }
        )
        command = [FRAUDCTL, "up", "--port", str(self.port), *(["--data", str(data)] if data else [])]
        self.output = state.parent / f"up-{self.port}.out"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=self.environment)
        wait_until(lambda: "Ctrl-C" in self.output.read_text() or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.output.read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([FRAUDCTL, *arguments], capture_output=True, text=True, env=self.environment)


@pytest.fixture(scope="module")
def state(real_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "state"


@pytest.fixture(scope="module")
def platform(state: Path, real_sample: Path) -> Iterator[Platform]:
    started = Platform(state, real_sample)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait()


def test_a_run_by_hand_on_the_same_data_has_no_gain_and_its_key_starts_no_second_one(platform: Platform) -> None:
    done = platform.run("launch", "--key", "again", "--reason", "to see", "--wait", "--json")
    record = json.loads(done.stdout)
    assert (done.returncode, record["state"]) == (1, "run"), done.stderr
    assert (record["run"]["outcome"], record["run"]["reason"]) == ("no_gain", "to see")
    again = platform.run("launch", "--key", "again")
    assert again.returncode == 1
    assert "asked for before" in again.stdout
    listed = json.loads(platform.run("runs", "--json").stdout)
    assert [run["key"] for run in listed] == ["manual-again"]


def test_the_platform_scores_watches_and_takes_labels(platform: Platform, tmp_path: Path) -> None:
    rows = traffic(1_000, 61, 0.0, 3_600.0)
    with httpx.Client(base_url=platform.url) as client:
        for first in range(0, len(rows), STEP):
            body = {"instances": rows[first : first + STEP].tolist()}
            answer = client.post("/v1/models/fraud:predict", json=body, headers={"ce-id": f"t{first}"})
            assert answer.status_code == 200
            time.sleep(0.05)
        # What closes the buckets is newer traffic.
        wait_until(lambda: len(client.get("/v1/transactions").json()["transactions"]) == 100)
        time.sleep(3)
        client.post("/v1/models/fraud:predict", json={"instances": rows[:1].tolist()})
        wait_until(lambda: client.get("/v1/models/fraud/drift").json()["window"] is not None)
    status = platform.run("drift", "status", "--json")
    assert json.loads(status.stdout)["version"] == answer.headers["x-model-version"]
    assert platform.run("drift", "status").returncode in (0, 1)
    assert "Windows" in platform.run("drift", "history").stdout
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label,source\nt0-0,1,chargeback\nt20-3,0,review\nnone-1,0,review\nt0-1,maybe,review\n")
    told = platform.run("labels", str(labels), "--json")
    record = json.loads(told.stdout)
    assert told.returncode == 1
    assert (record["accepted"], record["unknown"], record["rejected"]) == (3, 1, 1)
    assert record["problems"] == [{"line": 5, "field": "label", "problem": "must be 0 or 1"}]
    assert "line 5, label" in platform.run("labels", str(labels)).stdout


def test_a_part_that_dies_is_started_again(platform: Platform) -> None:
    parts = children(platform.process.pid)
    assert parts.keys() == PARTS
    os.kill(parts["detectors"], signal.SIGKILL)
    # Scoring goes on without it.
    row = {"instances": traffic(1, 1).tolist()}
    assert httpx.post(f"{platform.url}/v1/models/fraud:predict", json=row).status_code == 200
    wait_until(lambda: children(platform.process.pid).get("detectors") not in (None, parts["detectors"]))
    assert "detector ended with -9; it is started again" in platform.output.read_text()


def test_a_port_that_is_taken_is_said(platform: Platform) -> None:
    again = platform.run("up", "--port", str(platform.port))
    assert again.returncode == 2
    assert f"port {platform.port} on 127.0.0.1 is taken" in again.stderr


def test_a_signal_ends_all_of_it(platform: Platform) -> None:
    parts = children(platform.process.pid)
    platform.process.send_signal(signal.SIGTERM)
    assert platform.process.wait(40) == 143
    assert not any(alive(pid) for pid in parts.values())


def test_when_it_is_killed_its_parts_end_too(state: Path, platform: Platform) -> None:
    again = Platform(state, None)
    row = {"instances": traffic(1, 1).tolist()}
    assert httpx.post(f"{again.url}/v1/models/fraud:predict", json=row).status_code == 200
    parts = children(again.process.pid)
    assert parts.keys() == PARTS
    # The model is watched already: its detector was not bound anew.
    database = Database(f"sqlite:///{state / 'detector.db'}")
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(BINDINGS)).scalar_one() == 1
    database.close()
    assert serving(state)
    again.process.kill()
    again.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in parts.values()) and not serving(state), 60)
