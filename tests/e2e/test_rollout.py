"""Roll-outs through detector, gateway, predictors and controller, all real: promoted, rolled back, killed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from detectors_running import Process, start

from fraudkit.bundle import Bundle, Origin, load, seal
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import Scorer

pytestmark = pytest.mark.slow

RULES = {
    "steps": [
        {"percent": percent, "requests": 20, "bake_seconds": 0.5, "limit_seconds": 60} for percent in (10, 50, 100)
    ],
    "skew_rows": 20,
    "frauds": 60,
    "least_frauds": 20,
}
NOBODY = "http://127.0.0.1:9"


def sibling(bundle: Bundle, folder: Path, scorer: Scorer) -> Bundle:
    draft = folder / uuid4().hex
    shutil.copytree(bundle.path, draft)
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    origin = Origin(run="t", trigger="manual-t", data="none", code="none", libraries={}, created=datetime.now(UTC))
    return seal(draft, bundle.path.parent, origin)


def wait_until(condition: Callable[[], Any], what: Callable[[], str], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(what())
        time.sleep(0.1)


def rows_of(count: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).normal(0, 2, (count, len(INPUTS)))
    rows[:, 0], rows[:, -1] = np.abs(rows[:, 0]) * 10_000, np.abs(rows[:, -1])
    return rows


@dataclass
class World:
    """All parts; callers ask all the time, and half of what is alerted by the first model comes back as fraud."""

    bundle: Bundle
    folder: Path
    detector: Process
    gateway: Process
    controller: Process
    variables: dict[str, str]
    failed: list[str]
    sent: int = 0

    @property
    def url(self) -> str:
        return self.controller.url

    def ask(self, version: str, key: str) -> httpx.Response:
        body = {"version": version, "key": key, "by": "a test", "reason": "to see"}
        return httpx.post(f"{self.url}/v1/rollouts", json=body)

    def of(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/rollouts/{key}").json()
        return found

    def until(self, key: str, *statuses: str) -> dict[str, Any]:
        wait_until(lambda: self.of(key)["status"] in statuses, lambda: json.dumps(self.of(key), indent=1))
        return self.of(key)

    def call(self, over: Event) -> None:
        with httpx.Client(base_url=self.gateway.url, timeout=30, trust_env=False) as client:
            while not over.is_set():
                self.sent += 1
                rows = rows_of(5, self.sent)
                name = f"q{self.sent}"
                answer = client.post(
                    "/v1/models/fraud:predict", json={"instances": rows.tolist()}, headers={"ce-id": name}
                )
                if not answer.is_success:
                    self.failed.append(answer.text)
                else:
                    self.label(name, rows)
                time.sleep(0.02)

    def label(self, name: str, rows: FloatArray) -> None:
        frauds = self.bundle.scorer.probabilities(rows) >= self.bundle.scorer.thresholds.review
        labels = [{"id": f"{name}-{i}", "label": int(fraud)} for i, fraud in enumerate(frauds)]
        httpx.post(f"{self.detector.url}/v1/labels", json=labels)

    def restart(self) -> None:
        self.controller.kill()
        self.controller = start("serving.rollout", self.folder, **self.variables)


@pytest.fixture(scope="module")
def world(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rollout")
    common = {"FRAUD_STATE": str(folder / "state"), "FRAUD__BUNDLES": str(bundle.path.parent)}
    detector = start("detectors", folder, **common, FRAUD__DETECTOR__PORT="0")
    common["FRAUD__DETECTOR__URL"] = detector.url
    gateway = start("serving.gateway", folder, ("--stable", NOBODY, "--port", "0"), **common)
    variables = common | {
        "FRAUD__ROLLOUT__PORT": "0",
        "FRAUD__ROLLOUT__GATEWAY": gateway.url,
        "FRAUD__ROLLOUT__POLL_SECONDS": "0.1",
        "FRAUD__ROLLOUT__LABEL_SECONDS": "1",
        "FRAUD__ROLLOUT__RULES": json.dumps(RULES),
        "FRAUD__EVENTS__SINKS": json.dumps([f"{detector.url}/"]),
    }
    controller = start("serving.rollout", folder, **variables)
    made = World(bundle, folder, detector, gateway, controller, variables, [])
    assert made.ask(bundle.version, "bootstrap").status_code == 201
    made.until("bootstrap", "confirmed")
    over = Event()
    caller = Thread(target=made.call, args=(over,))
    caller.start()
    yield made
    over.set()
    caller.join()
    assert made.failed == []
    assert [gateway.end(), made.controller.end(), detector.end()] == [0, 0, 0]


def test_a_first_model_serves_and_the_detector_hears_of_it(world: World) -> None:
    assert world.ask(world.bundle.version, "bootstrap").status_code == 200
    assert httpx.get(f"{world.url}/v1/models").json()["champion"] == world.bundle.version
    drift = f"{world.detector.url}/v1/models/fraud/drift"
    wait_until(lambda: httpx.get(drift).json()["version"] == world.bundle.version, lambda: httpx.get(drift).text)


def test_an_equal_model_is_promoted_step_by_step_and_labels_confirm_it(world: World) -> None:
    scorer = world.bundle.scorer
    equal = sibling(world.bundle, world.folder, replace(scorer, intercept=scorer.intercept + 1e-6))
    assert world.ask(equal.version, "drift-equal").status_code == 201
    assert world.ask(world.bundle.version, "manual-too-early").status_code == 409
    ended = world.until("drift-equal", "confirmed", "rolled_back")
    assert ended["status"] == "confirmed", json.dumps(ended, indent=1)
    assert [(step["percent"], step["outcome"]) for step in ended["steps"]] == [
        (10, "pass"),
        (50, "pass"),
        (100, "pass"),
    ]
    assert ended["counts"]["skew_differing"] == 0
    assert httpx.get(f"{world.gateway.url}/gateway/traffic").json()["percent"] == 0


def test_a_model_that_misses_frauds_is_rolled_back_whoever_is_killed_meanwhile(world: World) -> None:
    champion = httpx.get(f"{world.url}/v1/models").json()["champion"]
    scorer = world.bundle.scorer
    blind = sibling(world.bundle, world.folder, replace(scorer, intercept=scorer.intercept - 4.0))
    assert world.ask(blind.version, "drift-blind").status_code == 201
    wait_until(lambda: world.of("drift-blind")["settled"], lambda: json.dumps(world.of("drift-blind")))
    world.restart()
    ended = world.until("drift-blind", "rolled_back", "confirmed", "provisional")
    assert (ended["status"], ended["said"][1]) == ("rolled_back", "recall"), json.dumps(ended, indent=1)
    assert httpx.get(f"{world.url}/v1/models").json()["champion"] == champion


def test_people_pause_go_on_and_roll_back_with_their_names_on_record(world: World) -> None:
    scorer = world.bundle.scorer
    third = sibling(world.bundle, world.folder, replace(scorer, intercept=scorer.intercept + 2e-6))
    world.ask(third.version, "manual-third")
    for action, status in (("pause", "paused"), ("resume", "running"), ("rollback", "rolling_back")):
        answer = httpx.post(
            f"{world.url}/v1/rollouts/manual-third/{action}", json={"by": "somebody", "reason": "lunch"}
        )
        assert answer.json()["status"] == status
    ended = world.until("manual-third", "rolled_back")
    assert [(hand["action"], hand["by"]) for hand in ended["hands"]] == [
        ("pause", "somebody"),
        ("resume", "somebody"),
        ("rollback", "somebody"),
    ]
    again = httpx.post(f"{world.url}/v1/rollouts/manual-third/pause", json={"by": "somebody", "reason": "x"})
    assert again.status_code == 409


def test_other_thresholds_serve_and_are_watched_once_a_person_promotes_them(world: World) -> None:
    champion = httpx.get(f"{world.url}/v1/models").json()["champion"]
    # Labels have no say: what is alerted stays the same, and more of it is blocked.
    review = load(world.bundle.path.parent / champion).scorer.thresholds.review
    asked = {"review": review, "block": 0.4, "by": "an analyst", "reason": "block more"}
    begun = httpx.post(f"{world.url}/v1/bundles/{champion}/thresholds", json=asked)
    assert begun.status_code == 201, begun.text
    key, child = begun.json()["key"], begun.json()["version"]
    httpx.post(f"{world.url}/v1/rollouts/{key}/promote", json={"by": "an analyst", "reason": "I know"})
    world.until(key, "provisional", "confirmed")
    rows = rows_of(200, 0)
    answer = httpx.post(f"{world.gateway.url}/v1/models/fraud:predict", json={"instances": rows.tolist()}).json()
    assert answer["model_version"] == child
    alerts = [one["alert"] for one in answer["predictions"]]
    expected = np.digitize([one["probability"] for one in answer["predictions"]], (review, 0.4))
    assert alerts == [("normal", "review", "block")[i] for i in expected]
    assert {"normal", "review", "block"} == set(alerts)
    drift = f"{world.detector.url}/v1/models/fraud/drift"
    wait_until(lambda: httpx.get(drift).json()["version"] == child, lambda: httpx.get(drift).text)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"version": "0" * 12}, 400, "there is no bundle"),
        ({"version": "../../etc"}, 400, "version"),
        ({"key": "a b"}, 400, "key"),
        ({"reason": ""}, 400, "reason"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(world: World, body: dict[str, str], status: int, said: str) -> None:
    good = {"version": world.bundle.version, "key": "manual-x", "by": "a test", "reason": "to see"}
    answer = httpx.post(f"{world.url}/v1/rollouts", json=good | body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert httpx.get(f"{world.url}/v1/rollouts/nobody").status_code == 404
