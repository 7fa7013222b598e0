"""The platform in a real cluster: the one that KUBECONFIG reaches, with the chart installed (`make kind-up`).

`FRAUD_RELEASE` and `FRAUD_NAMESPACE` say which release, `FRAUD_GATEWAY` the Service of Knative's gateway, as
namespace/name. The tests score transactions and ask for one run by hand; neither changes what serves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import pytest

from fraudkit.schema import INPUTS

Json = dict[str, Any]
T = TypeVar("T")

PARTS = {"detector", "evaluator", "launcher", "rollout"}
PORTS = {"detector": 8082, "launcher": 8083, "rollout": 8084}
MODEL = "inferenceservice.serving.kserve.io/fraud"
RUN_SECONDS = 3_600
"""A run with its roll-out, on two cores that pull images meanwhile."""
SOON = 180

pytestmark = pytest.mark.slow


def until(what: Callable[[], T | None], seconds: float, why: str) -> T:
    """Its first answer that is not None."""
    end = time.monotonic() + seconds
    while (found := what()) is None:
        assert time.monotonic() < end, f"not within {seconds} s: {why}"
        time.sleep(2)
    return found


@dataclass(frozen=True)
class Cluster:
    """The cluster that KUBECONFIG reaches, and the release in it."""

    release: str
    namespace: str

    def kubectl(self, *arguments: str) -> str:
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def get(self, *what: str) -> Json:
        """An object, or the list of those that fit."""
        found: Json = json.loads(self.kubectl("get", *what, "--output", "json"))
        return found

    @contextmanager
    def at(self, service: str, port: int, namespace: str | None = None) -> Iterator[httpx.Client]:
        """HTTP to a Service."""
        command = ["kubectl", "--namespace", namespace or self.namespace, "port-forward", service, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                said = process.stdout.readline() if process.stdout else ""
                found = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", said)
                assert found, f"{command} says {said!r}"
                with httpx.Client(base_url=f"http://{found[1]}", timeout=60, trust_env=False) as client:
                    yield client
            finally:
                process.terminate()

    def part(self, name: str) -> Any:
        """HTTP to a part of the release."""
        return self.at(f"service/{self.release}-{name}", PORTS[name])


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster; `make kind-up` makes one")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    found = Cluster(os.environ.get("FRAUD_RELEASE", "fraud"), os.environ.get("FRAUD_NAMESPACE", "fraud"))
    looked = [
        "kubectl",
        "-n",
        found.namespace,
        "get",
        f"deployment/{found.release}-rollout",
        "--request-timeout=10s",
    ]
    done = subprocess.run(looked, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"KUBECONFIG reaches no release {found.release} in {found.namespace}: {done.stderr.strip()[-300:]}"
        )
    return found


@pytest.fixture(scope="module")
def first_run(cluster: Cluster) -> Json:
    """The run that the installation asked for, once it has ended."""
    return ended(cluster, "bootstrap")


def ended(cluster: Cluster, key: str) -> Json:
    with cluster.part("launcher") as launcher:

        def run() -> Json | None:
            found: Json = launcher.get(f"/v1/runs/{key}").raise_for_status().json()
            return found if found["status"] == "ended" else None

        return until(run, RUN_SECONDS, f"the run {key} goes on")


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, first_run: Json) -> Iterator[httpx.Client]:
    """HTTP to the model as a client outside has it: Kourier's gateway, and the Host that KServe names."""
    namespace, _, name = os.environ.get("FRAUD_GATEWAY", "kourier-system/kourier").partition("/")
    url = urllib.parse.urlsplit(cluster.get(MODEL)["status"]["components"]["predictor"]["url"])
    with cluster.at(f"service/{name}", 80, namespace) as client:
        client.headers["Host"] = url.netloc
        yield client


def row(amount: float = 12.5) -> dict[str, float | str]:
    named: dict[str, float | str] = {"id": f"e2e-{uuid.uuid4().hex}", "Time": time.time(), "Amount": amount}
    return {**dict.fromkeys(INPUTS, 0.0), **named}


def test_all_parts_are_ready(cluster: Cluster) -> None:
    def waiting() -> list[Json] | None:
        found: list[Json] = cluster.get("deployments", "-l", f"app.kubernetes.io/instance={cluster.release}")[
            "items"
        ]
        return (
            found if all(one["status"].get("readyReplicas") == one["spec"]["replicas"] for one in found) else None
        )

    ready = until(waiting, SOON, cluster.kubectl("get", "pods"))
    assert {one["metadata"]["name"].removeprefix(f"{cluster.release}-") for one in ready} >= PARTS


def test_the_first_run_ended_promoted_and_its_model_serves(cluster: Cluster, first_run: Json) -> None:
    assert first_run["outcome"] == "promoted", first_run
    with cluster.part("rollout") as rollout:
        assert rollout.get("/v1/models").raise_for_status().json()["champion"] == first_run["version"]

        def well() -> bool | None:
            return rollout.get("/health").raise_for_status().json()["status"] == "well" or None

        until(well, SOON, "the controller is not well")


def test_the_inference_service_is_ready_and_one_revision_has_all_traffic(
    cluster: Cluster, first_run: Json
) -> None:
    service = cluster.get(MODEL)
    assert {one["type"]: one["status"] for one in service["status"]["conditions"]}["Ready"] == "True"
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith(f"/{first_run['version']}")
    predictor = service["status"]["components"]["predictor"]
    (traffic,) = predictor["traffic"]
    assert traffic["percent"] == 100
    assert traffic["revisionName"] == predictor["latestReadyRevision"]


def test_a_transaction_is_scored_through_the_gateway_and_its_event_reaches_the_detector(
    cluster: Cluster, gateway: httpx.Client, first_run: Json
) -> None:
    asked = row()
    scored = gateway.post("/v1/models/fraud:predict", json={"instances": [asked]}).raise_for_status().json()
    assert scored["model_version"] == first_run["version"]
    (answer,) = scored["predictions"]
    assert answer["id"] == asked["id"]
    assert 0 < answer["probability"] < 1
    assert answer["alert"] in ("normal", "review", "block")
    with cluster.part("detector") as detector:

        def logged() -> Json | None:
            since = {"since": str(time.time() - 3_600), "limit": "1000"}
            newest = detector.get("/v1/transactions", params=since).raise_for_status().json()["transactions"]
            return next((one for one in newest if one["id"] == asked["id"]), None)

        kept = until(logged, SOON, "the log event has not reached the detector")
    assert kept["version"] == first_run["version"]
    assert kept["probability"] == answer["probability"]
    assert kept["inputs"]["Amount"] == asked["Amount"]


def test_v2_answers_as_v1_does(gateway: httpx.Client) -> None:
    asked = row(99.0)
    values = [float(asked[name]) for name in INPUTS]
    tensor = {"name": "input", "shape": [1, len(INPUTS)], "datatype": "FP64", "data": values}
    second = gateway.post("/v2/models/fraud/infer", json={"inputs": [tensor]}).raise_for_status().json()
    first = gateway.post("/v1/models/fraud:predict", json={"instances": [values]}).raise_for_status().json()
    outputs = {one["name"]: one["data"] for one in second["outputs"]}
    assert outputs["probability"] == pytest.approx([first["predictions"][0]["probability"]], rel=1e-12)
    assert outputs["alert"] == [first["predictions"][0]["alert"]]


def test_a_mistake_comes_back_through_the_gateway_as_one(gateway: httpx.Client) -> None:
    refused = gateway.post("/v1/models/fraud:predict", json={"instances": [row(-1.0)]})
    assert refused.status_code == 400
    assert "Amount" in refused.json()["error"]


def test_helms_own_test_passes(cluster: Cluster, first_run: Json) -> None:
    if shutil.which("helm") is None:
        pytest.skip("helm is missing")
    command = ["helm", "--namespace", cluster.namespace, "test", cluster.release, "--logs", "--timeout", "15m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logged" in done.stdout


def test_a_run_by_hand_without_anything_new_gains_nothing_and_leaves_what_serves_alone(
    cluster: Cluster, first_run: Json
) -> None:
    before = cluster.get(MODEL)
    wanted = {"key": f"manual-e2e-{uuid.uuid4().hex[:8]}", "by": "e2e", "reason": "nothing is new"}
    with cluster.part("launcher") as launcher:
        told = [launcher.post("/v1/runs", json=wanted).raise_for_status().json()["state"] for _ in range(2)]
        assert told == ["run", "duplicate"]
    run = ended(cluster, wanted["key"])
    assert run["outcome"] == "no_gain", run
    assert run["version"] == first_run["version"]
    after = cluster.get(MODEL)
    for told_of in ("annotations", "labels", "generation"):
        assert after["metadata"].get(told_of) == before["metadata"].get(told_of)
    assert (
        after["status"]["components"]["predictor"]["traffic"]
        == before["status"]["components"]["predictor"]["traffic"]
    )
