"""`python -m serving.rollout` over KServe: against kmock, whose KServe and Knative get on whenever it asks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from detectors_running import Process, start
from kserve_stand_in import NAMESPACE, Cluster, running
from pods_stand_in import Pods, serving

from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.settings import load_settings
from serving.rollout.apiserver import RIGHTS
from serving.rollout.store import FileStore
from serving.rollout.template import canonical, digest

RULES = {
    "steps": [
        {"percent": percent, "requests": 20, "bake_seconds": 0.2, "limit_seconds": 60} for percent in (10, 50, 100)
    ]
}
TEMPLATE = """
metadata: {labels: {app: fraud}, annotations: {team: risk}}
spec:
  predictor:
    timeout: 60
    model: {modelFormat: {name: fraud}, runtime: fraud-1}
"""
OTHER = TEMPLATE.replace("fraud-1", "fraud-2")
NOBODY = "http://127.0.0.1:9"
DOCUMENTED = (Path(__file__).parents[2] / "docs/rollout.md").read_text(encoding="utf-8")


def key_of(template: str) -> str:
    return f"template-{digest(canonical(template))}"


def wait_until(condition: Callable[[], Any], what: Callable[[], str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(what())
        time.sleep(0.05)


@dataclass
class World:
    """A controller in a process of its own, and all that it reaches; the detector is away all the time."""

    cluster: Cluster
    pods: Pods
    folder: Path
    variables: dict[str, str]
    client: httpx.Client
    processes: list[Process] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "template.yaml"

    def start(self) -> Process:
        made = start("serving.rollout", self.folder, **self.variables)
        self.processes.append(made)
        return made

    def get(self, path: str) -> httpx.Response:
        return self.client.get(f"{self.processes[-1].url}{path}")

    @property
    def status(self) -> str:
        found: str = self.get("/health").json()["status"]
        return found

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, self.get("/metrics").text
        return float(found[1])

    def ask(self, version: str, key: str) -> httpx.Response:
        body = {"version": version, "key": key, "by": "a test", "reason": "to see"}
        return self.client.post(f"{self.processes[-1].url}/v1/rollouts", json=body)

    def of(self, key: str) -> dict[str, Any]:
        answer = self.get(f"/v1/rollouts/{key}")
        found: dict[str, Any] = answer.json() if answer.is_success else {"status": answer.text, "step": -1}
        return found

    def until(self, key: str, status: str) -> dict[str, Any]:
        wait_until(lambda: self.of(key)["status"] == status, lambda: f"{json.dumps(self.of(key))} {self.status}")
        return self.of(key)

    def changes(self) -> list[tuple[Any, Any]]:
        """What each write did: the runtime, and the percent; `...` where it says nothing of it."""
        written = [body["spec"]["predictor"] for body in self.cluster.writes]
        return [
            (one.get("model", {}).get("runtime", ...), one.get("canaryTrafficPercent", ...)) for one in written
        ]


@pytest.fixture(scope="module")
def world(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("controller")
    with running() as (url, cluster), serving() as pods, httpx.Client(timeout=30, trust_env=False) as client:
        cluster.serve, cluster.pace, cluster.down = pods, 1, True
        named = {"cluster": "here", "user": "somebody"}
        config = {
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "users": [{"name": "somebody", "user": {"token": "very-secret"}}],
            "contexts": [{"name": "here", "context": named}],
            "current-context": "here",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        variables = {
            "FRAUD__BUNDLES": str(folder / "bundles"),
            "FRAUD__DETECTOR__URL": NOBODY,
            "FRAUD__EVENTS__SINKS": json.dumps([f"{NOBODY}/"]),
            "FRAUD__ROLLOUT__TARGET": "kserve",
            "FRAUD__ROLLOUT__NAMESPACE": NAMESPACE,
            "FRAUD__ROLLOUT__KUBECONFIG": str(folder / "kubeconfig"),
            "FRAUD__ROLLOUT__TEMPLATE": str(folder / "template.yaml"),
            "FRAUD__ROLLOUT__STORAGE_URI": "s3://bundles/",
            "FRAUD__ROLLOUT__PORT": "0",
            "FRAUD__ROLLOUT__POLL_SECONDS": "0.1",
            "FRAUD__ROLLOUT__LABEL_SECONDS": "0.2",
            "FRAUD__ROLLOUT__RULES": json.dumps(RULES),
        }
        made = World(cluster, pods, folder, variables, client)
        made.start()
        yield made
        assert made.processes[-1].end() == 0
        for process in made.processes:
            if process.process.poll() is None:
                process.kill()


def test_it_is_ready_with_everything_away_says_so_and_goes_on_when_it_is_there(world: World) -> None:
    wait_until(lambda: "state: get configmaps" in world.status, lambda: world.status)
    assert world.get("/health").json() == {"ready": True, "champion": None, "status": world.status}
    for path in ("/v1/rollouts", "/v1/models", "/v1/rollouts/bootstrap"):
        answer = world.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "answered 503" in answer.json()["error"]
    assert world.ask("0" * 12, "bootstrap").status_code == 503
    assert world.metric('fraud_rollout_trouble{of="state"}') == 1
    assert world.metric('fraud_rollout_errors_total{of="state"}') >= 1
    for said in ("evidence: the folder of the bundles", "template: the template cannot be read"):
        assert said in world.status
    world.cluster.down = False
    wait_until(lambda: world.get("/v1/rollouts").is_success, lambda: world.status)
    assert world.metric('fraud_rollout_trouble{of="state"}') == 0
    assert "very-secret" not in world.processes[-1].stderr.read_text()


def test_a_first_model_serves_once_its_bundle_and_a_template_are_there(world: World, bundle: Bundle) -> None:
    assert world.ask(bundle.version, "bootstrap").status_code == 503
    (world.folder / "bundles").symlink_to(bundle.path.parent)
    answer = world.ask(bundle.version, "bootstrap")
    assert (answer.status_code, "no template" in answer.text) == (503, True)
    world.file.write_text(TEMPLATE)
    wait_until(lambda: "template" not in world.status, lambda: world.status)
    assert world.ask(bundle.version, "bootstrap").status_code == 201
    assert world.ask(bundle.version, "bootstrap").status_code == 200
    world.until("bootstrap", "confirmed")
    assert world.changes() == [("fraud-1", ...)]
    assert world.cluster.traffic() == {f"s3://bundles/{bundle.version}": 100}
    assert world.metric(f'fraud_rollout_champion_info{{version="{bundle.version}"}}') == 1
    assert world.metric("fraud_rollout_outbox") == 1
    wait_until(lambda: "sinks: an event waits" in world.status, lambda: world.status)


def test_a_changed_template_is_rolled_out_also_by_a_controller_that_follows_a_killed_one(world: World) -> None:
    world.pods.grow = 10
    world.file.write_text(OTHER)
    wait_until(lambda: world.of(key_of(OTHER))["step"] == 1, lambda: json.dumps(world.of(key_of(OTHER))))
    world.pods.grow = 0
    wait_until(lambda: world.of(key_of(OTHER))["settled"], lambda: json.dumps(world.of(key_of(OTHER))))
    assert world.metric('fraud_rollout_status{status="running"}') == 1
    assert world.metric("fraud_rollout_percent") == 50
    assert world.metric("fraud_rollout_step_seconds") > 0
    count = len(world.cluster.writes)
    world.processes[-1].kill()
    world.start()
    wait_until(lambda: world.of(key_of(OTHER))["step"] == 1, lambda: world.status)
    assert len(world.cluster.writes) == count
    world.pods.grow = 10
    ended = world.until(key_of(OTHER), "confirmed")
    assert [(step["percent"], step["outcome"]) for step in ended["steps"]] == [
        (10, "pass"),
        (50, "pass"),
        (100, "pass"),
    ]
    assert world.changes()[1:] == [("fraud-2", 10), (..., 50), (..., 100), (..., None)]
    assert world.metric("fraud_rollout_percent") == world.metric("fraud_rollout_provisional") == 0
    assert world.get("/v1/models").json()["challenger"] is None
    assert world.metric("fraud_rollout_outbox") == 1  # a template is nobody's event
    said = re.findall(r"^# TYPE (fraud_rollout_\w+) ", world.get("/metrics").text, re.MULTILINE)
    assert sorted(said) == sorted(re.findall(r"^\| `(fraud_rollout_\w+)", DOCUMENTED, re.MULTILINE))


def test_a_folder_that_nobody_may_write_to_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(PermanentError, match=r"rollout\.json cannot be written: .*; FRAUD_STATE names its folder"):
        FileStore(tmp_path / "state" / "rollout.json")


def test_a_second_controller_takes_over_and_the_first_one_stops_loudly(world: World) -> None:
    first, known = world.processes[-1], world.get("/v1/rollouts").json()
    world.start()
    assert first.process.wait(20) == 1
    said = first.stderr.read_text()
    assert "another controller" in said
    assert said.endswith("rollout: the controller has failed; its log says how\n")
    wait_until(lambda: world.get("/v1/rollouts").is_success, lambda: world.status)
    assert world.get("/v1/rollouts").json() == known
    world.file.write_text(TEMPLATE)
    world.until(key_of(TEMPLATE), "confirmed")
    assert world.changes()[5:] == [("fraud-1", 10), (..., 50), (..., 100), (..., None)]


def test_what_it_asked_of_the_api_server_is_what_its_role_gives_it(world: World) -> None:
    assert world.cluster.asked() == {(verb, kind.name) for kind in RIGHTS for verb in kind.verbs}


def test_no_label_or_annotation_of_the_service_changes_after_it_was_made(world: World) -> None:
    created, *patches = world.cluster.writes
    made = {key: created["metadata"][key] for key in ("labels", "annotations")}
    assert len(patches) == 8
    for patch in patches:
        assert patch["metadata"].keys() <= {"resourceVersion", *made}
        assert {key: patch["metadata"].get(key, made[key]) for key in made} == made
    now = world.cluster.service["metadata"]
    assert now["labels"] == made["labels"]
    assert now["annotations"] == made["annotations"] | {"serving.kserve.io/model-format": "fraud"}


def test_the_table_of_the_documentation_is_what_the_role_must_give() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(\w+)` \| ([a-z, ]+) \|", DOCUMENTED, re.MULTILINE)
    assert rows == [(kind.group or '""', kind.plural, ", ".join(kind.verbs)) for kind in RIGHTS]


@pytest.mark.parametrize("missing", ["TEMPLATE", "STORAGE_URI"])
def test_without_template_or_storage_uri_it_does_not_start(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"TARGET": "kserve", "TEMPLATE": "/template.yaml", "STORAGE_URI": "s3://bundles"}
    for name in settings.keys() - {missing}:
        monkeypatch.setenv(f"FRAUD__ROLLOUT__{name}", settings[name])
    with pytest.raises(InvalidInput, match="rollout: the target kserve needs template and storage_uri"):
        load_settings()
