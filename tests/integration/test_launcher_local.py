"""Runs on this machine: a process and a folder each, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraudkit.settings import load_settings
from pipelines.launcher import job
from pipelines.launcher.backends import Order, Phase, Progress, Result
from pipelines.launcher.local import Ended, LocalBackend, alone, read_ended, read_order, write_ended

ORDER = Order("manual-a", 1, "nowhere.csv", datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))
PROMOTED = Result(outcome="promoted", reason="first_model", message="a first model")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    made = LocalBackend(tmp_path / "runs")
    yield made
    made.close()


def ended(backend: LocalBackend, order: Order, handle: str) -> Progress:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        progress = backend.look(order, handle)
        if progress.phase is not Phase.RUNNING:
            return progress
        time.sleep(0.05)
    pytest.fail("the run did not end")


def test_an_order_reaches_the_process_as_it_was(backend: LocalBackend) -> None:
    assert read_order(Path(backend.start(ORDER))) == ORDER


def test_data_that_are_not_there_end_the_run_with_a_message(backend: LocalBackend) -> None:
    progress = ended(backend, ORDER, backend.start(ORDER))
    assert (progress.phase, progress.retry) == (Phase.FAILED, False)
    assert "nowhere.csv" in progress.message


def test_a_process_that_is_killed_is_worth_another_attempt(backend: LocalBackend, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.csv")
    order = Order("manual-b", 1, str(tmp_path / "endless.csv"), None, ORDER.as_of)
    handle = backend.start(order)
    assert backend.start(order) == handle
    assert backend.look(order, handle).phase is Phase.RUNNING
    [child] = backend._children.values()
    child.send_signal(signal.SIGKILL)
    progress = ended(backend, order, handle)
    assert (progress.phase, progress.retry) == (Phase.FAILED, True)
    assert "-9" in progress.message


def test_another_launcher_finds_how_a_run_ended(backend: LocalBackend, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "manual-a" / "1"
    folder.mkdir(parents=True)
    write_ended(folder, Ended(result=PROMOTED))
    handle = backend.start(ORDER)
    assert not backend._children
    assert backend.look(ORDER, handle).result == PROMOTED


def test_a_run_that_another_launcher_started_is_running_for_as_long_as_it_is_at_work(
    backend: LocalBackend, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "manual-a" / "1"
    folder.mkdir(parents=True)
    with alone(folder) as mine:
        assert mine
        assert backend.look(ORDER, str(folder)).phase is Phase.RUNNING
    progress = backend.look(ORDER, str(folder))
    assert (progress.phase, progress.retry) == (Phase.FAILED, True)


def test_a_folder_is_for_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.launcher.local._LOCK_SECONDS", 0.1)
    with alone(tmp_path) as mine, alone(tmp_path) as also:
        assert (mine, also) == (True, False)
        done = subprocess.run([sys.executable, "-m", "pipelines.launcher.job", str(tmp_path)], check=False)
        assert done.returncode == 0
        assert read_ended(tmp_path) is None


def test_a_run_trains_a_first_model_and_the_second_one_has_no_gain(
    real_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "state"))
    settings = load_settings(state=tmp_path / "state")
    first = job.run(Order("bootstrap", 1, str(real_sample), None, ORDER.as_of), settings)
    assert (first.outcome, first.reason) == ("promoted", "first_model")
    second = job.run(Order("schedule-2026-12", 1, str(real_sample), None, ORDER.as_of), settings)
    assert (second.outcome, second.reason, second.version) == ("no_gain", "no_gain", first.version)
