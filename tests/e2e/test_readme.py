"""Every command of the README, run as it stands there, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from ports import free_port, ports_of_parts

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]
SERVERS = ("mlflow ui", "python -m serving.predictor")
PLATFORM, WATCHED = "fraudctl up", ("fraudctl drift", "fraudctl launch", "fraudctl runs", "fraudctl rollout")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """A reader's environment: the commands on the path, no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD")}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}


@contextmanager
def running(
    command: str, url: str, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, once `url` answers, until the block ends."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(url, process, folder / "server.log")
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))


def test_the_readme_has_commands_of_every_kind() -> None:
    heads = {shlex.split(command)[0] for command in COMMANDS}
    assert heads == {"make", "curl", "fraudctl", "mlflow", "python"}


def test_the_two_commands_are_make_demo_and_make_test(folder: Path, environment: dict[str, str]) -> None:
    assert [command for command in COMMANDS if command.startswith("make")] == ["make demo", "make test"]
    fresh = subprocess.run(["make", "-q", ".venv/.installed"], cwd=ROOT, capture_output=True).returncode == 0
    if not fresh:
        pytest.skip("this environment was not made by `make env`")
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pytest" in plan.stdout  # it is what runs this test


def test_make_demo_tells_the_whole_story_and_the_clients_lines_work_while_it_does(
    folder: Path, environment: dict[str, str]
) -> None:
    record, port = folder / "out.json", free_port()
    own = environment | ports_of_parts() | {"FRAUD_STATE": str(folder / "demo")}
    command = f"make -C {ROOT} demo ARGS='--exit --json {record} --port {port}'"
    lines = [command for command in COMMANDS if command.startswith("curl")]
    assert lines
    with running(command, f"http://127.0.0.1:{port}/v1/models/fraud", folder, own) as demo:
        for line in lines:
            here = line.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            done = subprocess.run(["bash", "-c", here], env=own, capture_output=True, text=True, check=True)
            answer = json.loads(done.stdout)
            assert "error" not in answer
            if ":explain" in line:
                (prediction,) = answer["predictions"]
                assert prediction["id"] == "t-1"
                assert len(prediction["reasons"]) == 30
        code = demo.wait(600)
    assert record.exists(), (folder / "server.log").read_text("utf-8")
    told = json.loads(record.read_text(encoding="utf-8"))
    assert (code, told["unmet"]) == (0, []), (folder / "server.log").read_text("utf-8")
    assert told["requests"]["failed"] == 0
    assert told["requests"]["sent"] * 5 >= 20_000 * 3
    assert told["detection"]["verdict"] == "drift"
    assert told["auprc"]["difference"]["low"] > 0
    assert "drift" not in told["after"]["verdicts"]
    drifted, shuffled, monthly = told["runs"]
    assert [run["key"].split("-")[0] for run in told["runs"]] == ["drift", "manual", "schedule"]
    assert [run["outcome"] for run in (drifted, shuffled, monthly)] == ["promoted", "rejected", "no_gain"]
    assert [rollout["outcome"] for rollout in told["rollouts"]] == ["confirmed", "rolled_back"]
    assert [step["percent"] for step in told["rollouts"][0]["steps"]] == [10, 25, 50, 100]
    assert {trigger["runs"] for trigger in told["triggers"]} == {1}


def test_the_engineers_and_platform_teams_commands_run_in_order(folder: Path, environment: dict[str, str]) -> None:
    commands = [c for c in COMMANDS if not c.startswith(("make", "curl", PLATFORM, *WATCHED))]
    folder = folder / "engineer"  # without the demo's champion: a first model passes
    folder.mkdir()
    for command in commands:
        if command.startswith(SERVERS):
            port = free_port()
            here = re.sub(r"(--(?:http_)?port) \d+", rf"\1 {port}", command)
            path = "/" if command.startswith("mlflow") else "/v1/models/fraud"
            with running(here, f"http://127.0.0.1:{port}{path}", folder, environment):
                continue
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (folder / "profile.html").stat().st_size > 10_000
    assert "fraud-training" in (folder / "fraud_training.yaml").read_text(encoding="utf-8")


def test_the_watchers_commands_work_while_the_platform_is_up(folder: Path, environment: dict[str, str]) -> None:
    assert PLATFORM in COMMANDS
    folder = folder / "watcher"
    folder.mkdir()
    port, ports = free_port(), ports_of_parts()
    here = f"{PLATFORM} --port {port}"
    with running(here, f"http://127.0.0.1:{port}/v1/models/fraud", folder, environment | ports):
        for command in (c for c in COMMANDS if c.startswith(WATCHED)):
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment | ports, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert done.stdout
