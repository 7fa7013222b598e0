"""What a person meets when the machine does not play along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from ports import free_port, ports_of_parts

BIN = Path(sys.executable).parent


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD")}
    return kept | {"FRAUD_STATE": str(tmp_path / "state"), "TMPDIR": str(tmp_path / "scratch")} | more


def test_a_state_folder_that_is_a_file_is_one_line_and_one_object(real_sample: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    done = subprocess.run(
        [BIN / "fraudctl", "train", "--data", real_sample, "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Not a directory" in json.loads(done.stdout)["error"]
    assert [line for line in done.stderr.splitlines() if "state" in line][-1].startswith("fraudctl: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_terminated_demo_leaves_no_part_and_no_scratch_file(real_sample: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [BIN / "fraudctl", "demo", "--data", real_sample, "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(command, env=environment(tmp_path) | ports_of_parts(), stdout=log, stderr=log)
    end = time.monotonic() + 120
    while "Clean traffic" not in (tmp_path / "log").read_text(encoding="utf-8"):
        assert demo.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
        assert time.monotonic() < end
        time.sleep(0.2)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(30) == 143
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v1/models/fraud")
    assert list((tmp_path / "scratch").glob("fraud-*")) == []


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_no_half_of_anything_and_the_next_one_succeeds(
    real_sample: Path, tmp_path: Path
) -> None:
    command = [BIN / "fraudctl", "train", "--data", real_sample, "--json"]
    for seconds in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5):
        killed = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        killed.kill()
        killed.wait()
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True)
    record = json.loads(done.stdout)
    assert record["gate"]["reason"] in ("first_model", "no_gain"), done.stderr
