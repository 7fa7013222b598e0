"""Versions as processes of this machine behind the gateway: whatever happens to them, no request fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from predictors import PREDICT, ROW, Server

from fraudkit.bundle import Bundle, Origin, seal
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.scoring import Scorer
from serving.rollout.targets import Observed, Side, Wanted
from serving.rollout.targets.local import NOBODY, LocalTarget

DRAIN = 0.5
BODY = {"instances": [ROW]}
CONTROLLER = """
import json, signal, sys, time
from pathlib import Path
from fraudkit import logs
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import TemporaryError
from serving.rollout.targets import Wanted
from serving.rollout.targets.local import LocalTarget

logs.configure()
bundles, gateway, state, wanted = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
target, mark = LocalTarget(BundleStore(Path(bundles)), gateway, Path(state), 0.5), ""
said = False
try:
    while True:
        time.sleep(0.05)
        try:
            mark = target.apply(Wanted(**json.loads(wanted)), mark)
            settled = target.observe(Wanted(**json.loads(wanted)), mark).settled
        except TemporaryError:
            continue
        if settled and not said:
            print("settled", flush=True)
            said = True
finally:
    target.stop_all()
"""


@pytest.fixture(scope="module")
def other(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle beside `bundle`, with other weights."""
    draft = tmp_path_factory.mktemp("other") / "draft"
    shutil.copytree(bundle.path, draft)
    scorer = replace(Scorer.from_json((draft / "scorer.json").read_bytes()), intercept=-4.0)
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    origin = Origin(
        run="other", trigger="manual-other", data="none", code="none", libraries={}, created=datetime.now(UTC)
    )
    return seal(draft, bundle.path.parent, origin)


@contextmanager
def gateway(stable: str, log: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway, and its URL."""
    environment = os.environ | {"FRAUD__DETECTOR__URL": NOBODY}
    command = [sys.executable, "-m", "serving.gateway", "--stable", stable, "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    try:
        wait_until(lambda: "\n" in log.read_text())
        yield process, f"http://127.0.0.1:{json.loads(log.read_text().partition(chr(10))[0])['port']}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def load(url: str) -> Iterator[list[Any]]:
    """Requests from two callers all the time: what they were answered, which is no failure when all is over."""
    over, said = Event(), []

    def call() -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not over.is_set():
                answer = client.post(PREDICT, json=BODY)
                said.append(answer.json()["model_version"] if answer.is_success else answer.text)
                time.sleep(0.01)  # the servers that start need their time too

    callers = [Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield said
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert len(said) > 100
    assert {len(one) for one in said} == {12}, [one for one in said if len(one) != 12][:3]


class Steps:
    """A target that is told what is wanted until it is so, as a controller does."""

    def __init__(self, target: LocalTarget, url: str) -> None:
        self.target, self.url, self.mark = target, url, ""

    def step(self, wanted: Wanted) -> Observed:
        began = time.monotonic()
        self.mark = self.target.apply(wanted, self.mark)
        seen = self.target.observe(wanted, self.mark)
        assert time.monotonic() - began < 4
        self.mark = seen.mark
        time.sleep(0.03)
        return seen

    def until(self, wanted: Wanted, condition: Callable[[Observed], bool]) -> Observed:
        deadline = time.monotonic() + 40
        while True:
            try:
                seen = self.step(wanted)
            except TemporaryError:  # a machine that is busy
                assert time.monotonic() < deadline
                continue
            if condition(seen):
                return seen
            assert time.monotonic() < deadline, seen

    def settle(self, wanted: Wanted) -> Observed:
        return self.until(wanted, lambda seen: seen.settled)

    def share(self, version: str, requests: int = 400) -> float:
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            said = [client.post(PREDICT, json=BODY).json()["model_version"] for _ in range(requests)]
        return said.count(version) / requests


@pytest.fixture
def folder(bundle: Bundle) -> Path:
    return bundle.path.parent


@pytest.fixture
def steps(predictor: Server, folder: Path, tmp_path: Path) -> Iterator[Steps]:
    """A target behind whose gateway somebody serves already."""
    with gateway(predictor.url, tmp_path / "gateway.log") as (_, url):
        target = LocalTarget(BundleStore(folder), url, tmp_path / "state", DRAIN)
        yield Steps(target, url)
        target.stop_all()
        target.close()
        assert pids(tmp_path / "state") == {}


def wait_until(condition: Callable[[], Any], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(state: Path) -> dict[str, int]:
    """The processes on record, by version."""
    return {one["version"]: one["pid"] for one in json.loads((state / "servers.json").read_text())["servers"]}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tellings(log: Path) -> list[dict[str, Any]]:
    """What a gateway was told, in turn."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] == "traffic is split anew"]


def test_a_roll_out_from_its_start_to_promotion_costs_no_request(
    steps: Steps, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    with load(steps.url):
        steps.settle(Wanted(bundle.version))
        stable = pids(tmp_path / "state")[bundle.version]
        for percent in (10, 25, 50, 100):
            wanted = Wanted(bundle.version, other.version, percent)
            seen = steps.settle(wanted)
            assert (seen.ready, seen.problem, seen.foreign) == (True, "", "")
            assert steps.share(other.version) == pytest.approx(percent / 100, abs=0.12)
        served = {side: httpx.get(f"{url}/metrics").text for side, (url,) in steps.target.servers(wanted).items()}
        canary = pids(tmp_path / "state")[other.version]
        steps.settle(Wanted(other.version))
        assert alive(stable)  # it drains
        steps.until(Wanted(other.version), lambda _: pids(tmp_path / "state") == {other.version: canary})
    assert not alive(stable)
    assert steps.share(other.version, 50) == 1
    assert bundle.version in served[Side.STABLE]
    assert other.version in served[Side.CANARY]
    told = tellings(tmp_path / "gateway.log")
    assert [one["percent"] for one in told if one["canary"]] == [10, 25, 50, 100]
    assert all(one != after for one, after in pairwise(told))
    assert len(told) == 6
    ended = (tmp_path / "state" / "logs" / f"predictor-{bundle.version}.log").read_text()
    assert '"predictor stopped"' in ended


def test_a_canary_that_is_killed_comes_back_and_is_rolled_back_at_no_cost(
    steps: Steps, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    wanted = Wanted(bundle.version, other.version, 50)
    with load(steps.url):
        steps.settle(wanted)
        first = pids(tmp_path / "state")[other.version]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "died" in steps.target.observe(wanted, steps.mark).problem)
        seen = steps.target.observe(wanted, steps.mark)
        assert (seen.settled, seen.ready) == (False, False)
        died = f"the canary ({other.version}) has died 1 time, last with -9; its log ends: "
        assert seen.problem.startswith(died)
        assert '"predictor started"' in seen.problem
        assert steps.settle(wanted).problem == seen.problem
        assert steps.share(other.version) == pytest.approx(0.5, abs=0.12)
        canary = pids(tmp_path / "state")[other.version]
        assert canary != first
        steps.settle(Wanted(bundle.version))
        assert steps.share(bundle.version, 50) == 1
        steps.until(Wanted(bundle.version), lambda _: not alive(canary))
    assert [one["percent"] for one in tellings(tmp_path / "gateway.log")][-2:] == [50, 0]


def test_a_controller_that_is_killed_leaves_its_servers_to_the_next(
    predictor: Server, folder: Path, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    def controller(**wanted: Any) -> subprocess.Popen[bytes]:
        arguments = (str(folder), url, str(tmp_path / "state"), json.dumps(wanted))
        process = subprocess.Popen([sys.executable, "-c", CONTROLLER, *arguments], stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"settled\n"
        process.stdout.close()
        return process

    with gateway(predictor.url, tmp_path / "gateway.log") as (_, url), load(url) as said:
        first = controller(stable=bundle.version, canary=other.version, percent=50)
        servers = pids(tmp_path / "state")
        first.kill()
        first.wait()
        so_far = len(said)
        wait_until(lambda: len(said) > so_far + 200)
        assert all(map(alive, servers.values()))
        second = controller(stable=bundle.version, canary=other.version, percent=25)
        assert pids(tmp_path / "state") == servers
        second.kill()
        second.wait()
        third = controller(stable=bundle.version)
        wait_until(lambda: not alive(servers[other.version]))
        wait_until(lambda: pids(tmp_path / "state") == {bundle.version: servers[bundle.version]})
        httpx.put(f"{url}/gateway/traffic", json={"stable": predictor.url})
        third.terminate()
        assert third.wait(30) is not None
    assert not alive(servers[bundle.version])
    assert [one["percent"] for one in tellings(tmp_path / "gateway.log") if one["canary"]] == [50, 25]


def test_another_hand_on_the_traffic_is_noticed_and_left_alone_until_it_was_seen(
    steps: Steps, predictor: Server, bundle: Bundle, tmp_path: Path
) -> None:
    wanted = Wanted(bundle.version)
    steps.settle(wanted)
    httpx.put(f"{steps.url}/gateway/traffic", json={"stable": predictor.url})
    with pytest.raises(TemporaryError, match="another hand changed the traffic"):
        steps.target.apply(wanted, steps.mark)
    seen = steps.target.observe(wanted, steps.mark)
    assert not seen.settled
    assert f'it is {{"stable":"{predictor.url}","canary":null' in seen.foreign
    steps.mark = seen.mark
    assert steps.settle(wanted).foreign == ""


def test_a_gateway_that_is_away_is_said_and_told_again_when_it_is_back(
    predictor: Server, folder: Path, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    wanted = Wanted(bundle.version, other.version, 50)
    with gateway(NOBODY, tmp_path / "first.log") as (_, url):
        target = LocalTarget(BundleStore(folder), url, tmp_path / "state", DRAIN)
        steps = Steps(target, url)
        steps.settle(wanted)
    with pytest.raises(TemporaryError, match=f"the gateway at {url} did not answer"):
        target.apply(wanted, steps.mark)
    with gateway(NOBODY, tmp_path / "second.log", int(url.rpartition(":")[2])):
        seen = steps.target.observe(wanted, steps.mark)
        assert (seen.settled, seen.foreign) == (False, "")
        assert steps.settle(wanted).foreign == ""
    target.stop_all()
    target.close()


def test_a_gateway_that_refuses_or_is_none_is_said(predictor: Server, folder: Path, tmp_path: Path) -> None:
    for url, said in ((predictor.url, "answers 404"), ("nonsense", "'nonsense' is no URL of a gateway")):
        target = LocalTarget(BundleStore(folder), url, tmp_path / "state")
        with pytest.raises(PermanentError, match=said):
            target.observe(Wanted("0" * 12), "")
        target.close()


def test_a_damaged_bundle_is_never_served_and_why_is_said(
    steps: Steps, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(bundle.path, bundles / bundle.version)
    shutil.copytree(other.path, bundles / other.version)
    (bundles / other.version / "card.md").write_text("changed")
    target = LocalTarget(BundleStore(bundles), steps.url, tmp_path / "damaged", DRAIN)
    steps = Steps(target, steps.url)
    wanted = Wanted(bundle.version, other.version, 10)
    with load(steps.url):
        seen = steps.until(wanted, lambda seen: "has died 2 times" in seen.problem)
        assert not seen.ready
        assert "card.md is not what the manifest says; do not use this bundle" in seen.problem
        assert steps.share(bundle.version, 50) == 1
        assert steps.settle(Wanted(bundle.version)).problem == ""
    target.stop_all()
    target.close()


def test_a_port_that_is_taken_meanwhile_is_changed(
    steps: Steps, bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    wanted = Wanted(bundle.version, other.version, 50)
    with load(steps.url):
        steps.settle(wanted)
        [url] = steps.target.servers(wanted)[Side.CANARY]
        os.kill(pids(tmp_path / "state")[other.version], signal.SIGKILL)
        wait_until(lambda: "died" in steps.target.observe(wanted, steps.mark).problem)
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
            steps.settle(wanted)
        assert steps.target.servers(wanted)[Side.CANARY] != (url,)


def test_a_record_that_cannot_be_read_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text("{")
    with pytest.raises(PermanentError, match=r"servers\.json cannot be read; end the predictors"):
        LocalTarget(BundleStore(folder), NOBODY, tmp_path)


def test_a_server_that_cannot_be_put_on_record_does_not_begin(
    steps: Steps, folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    state = tmp_path / "full"
    (state / "servers.unfinished").mkdir(parents=True)
    target = LocalTarget(BundleStore(folder), steps.url, state)
    with pytest.raises(TemporaryError, match=r"servers\.json cannot be written"):
        target.apply(Wanted(bundle.version), "")
    target.close()
    assert (state / "logs" / f"predictor-{bundle.version}.log").read_bytes() == b""
    steps.target.apply(Wanted(bundle.version), "")


def test_a_process_that_only_has_the_pid_of_a_server_is_left_alone(
    folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    server = {"version": bundle.version, "port": 9, "pid": os.getpid(), "born": "before"}
    (tmp_path / "servers.json").write_text(json.dumps({"servers": [server]}))
    target = LocalTarget(BundleStore(folder), NOBODY, tmp_path)
    target.stop_all()
    target.close()
    assert pids(tmp_path) == {}
