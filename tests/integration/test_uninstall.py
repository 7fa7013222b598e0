"""The end of a release: the controller first, then what it made, and nothing of anybody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import kmock
import kserve_stand_in
import pytest
from aiohttp import web
from kserve_stand_in import CONFIG_MAPS, ISVC, NAMESPACE, Cluster, Failure, running
from kubernetes.client import ApiClient, Configuration

from fraudkit.errors import PermanentError, TemporaryError
from serving.rollout import uninstall
from serving.rollout.apiserver import ApiServer
from serving.rollout.uninstall import RIGHTS

DEPLOYMENTS = kmock.resource("apps/v1/deployments")
RUNTIMES = kmock.resource("serving.kserve.io/v1alpha1/servingruntimes")
KINDS = {kind.plural: kind for kind in (DEPLOYMENTS, ISVC, CONFIG_MAPS, RUNTIMES)}
SELECTOR = "app.kubernetes.io/instance=fraud"


class Release(Cluster):
    """Objects that take a while to go, as those with something below them do.

    Attributes:
        lingering: Looks at what was deleted that still find it.
    """

    lingering = 2

    async def _handle(self, request: Any) -> web.StreamResponse:
        if self.failures:
            return self.failures.pop(0)
        kind = KINDS[request.resource.plural]
        assert request.resource.group == kind.group
        if request.name is None:
            wanted = dict(part.split("=") for part in request.params["labelSelector"].split(","))
            found = [one for one in self.all(kind) if wanted.items() <= one["metadata"]["labels"].items()]
            return web.json_response({"items": found})
        one = self.get(kind, request.name)
        if one is None:
            raise Failure(404, f'{kind.plural} "{request.name}" not found', "NotFound", request.name)
        if request.action == kmock.action.DELETE:
            one["metadata"]["deletionTimestamp"] = self.lingering
        elif one["metadata"].get("deletionTimestamp"):
            one["metadata"]["deletionTimestamp"] -= 1
        self.put(kind, one)
        if one["metadata"].get("deletionTimestamp") == 0 or (
            kind is RUNTIMES and request.method.value == "DELETE"
        ):
            self.remove(kind, request.name)
        return web.json_response(one)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Cluster]]:
    monkeypatch.setattr(kserve_stand_in, "Cluster", Release)
    with running() as found:
        yield found


@pytest.fixture
def cluster(world: tuple[str, Cluster], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A release in full operation, and somebody else's runtime and ConfigMap."""
    monkeypatch.setattr(uninstall, "POLL_SECONDS", 0.01)
    found = world[1]
    for kind, name in (
        *((DEPLOYMENTS, "fraud-rollout"), (ISVC, "fraud"), (CONFIG_MAPS, "fraud-rollout")),
        *(
            (CONFIG_MAPS, "other"),
            (RUNTIMES, "fraud-serving-1"),
            (RUNTIMES, "fraud-serving-2"),
            (RUNTIMES, "other"),
        ),
    ):
        labels = {} if name == "other" else {"app.kubernetes.io/instance": "fraud"}
        found.put(kind, {"metadata": {"name": name, "labels": labels}})
    return found


@pytest.fixture
def server(world: tuple[str, Cluster], cluster: Cluster) -> Iterator[ApiServer]:
    configuration = Configuration()
    configuration.host = world[0]
    configuration.retries = False
    made = ApiServer(NAMESPACE, ApiClient(configuration))
    yield made
    made.close()


def run(server: ApiServer, seconds: float = 20.0) -> None:
    uninstall.uninstall(server, "fraud-rollout", SELECTOR, time.monotonic() + seconds)


def left(cluster: Cluster) -> set[tuple[str, str]]:
    return {(kind.plural, one["metadata"]["name"]) for kind in KINDS.values() for one in cluster.all(kind)}


def test_what_the_release_made_is_gone_and_what_others_made_is_not(server: ApiServer, cluster: Cluster) -> None:
    run(server)
    assert left(cluster) == {("configmaps", "other"), ("servingruntimes", "other")}


def test_the_controller_goes_before_what_it_could_make_anew(server: ApiServer, cluster: Cluster) -> None:
    run(server)
    deleted = [request.resource.plural for request in cluster if request.method.value == "DELETE"]
    assert deleted == ["deployments", "inferenceservices", "servingruntimes", "servingruntimes", "configmaps"]


def test_it_asks_for_nothing_that_its_role_does_not_give(server: ApiServer, cluster: Cluster) -> None:
    run(server)
    asked = set()
    for request in cluster:
        method = request.method.value
        verb = "delete" if method == "DELETE" else "get" if request.name else "list"
        asked.add((verb, request.resource.group, request.resource.plural))
    assert asked == {(verb, kind.group, kind.plural) for kind in RIGHTS for verb in kind.verbs}


def test_a_second_time_finds_nothing_to_do(server: ApiServer, cluster: Cluster) -> None:
    run(server)
    run(server)
    assert left(cluster) == {("configmaps", "other"), ("servingruntimes", "other")}


def test_what_does_not_go_is_said_by_name(server: ApiServer, cluster: Release) -> None:
    cluster.lingering = 1_000_000
    with pytest.raises(TemporaryError, match=r"deployments\.apps fraud-rollout is still being deleted"):
        run(server, seconds=0.1)


def test_a_refusal_says_which_right_is_missing(server: ApiServer, cluster: Cluster) -> None:
    cluster.answer(403, "forbidden")
    with pytest.raises(PermanentError, match=r"no right to delete deployments\.apps in namespace models"):
        run(server)


def test_wrong_use_ends_with_2_and_no_cluster_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        uninstall.main(["--namespace", "models"])
    assert ended.value.code == 2
    told = ["--namespace", "models", "--controller", "fraud-rollout", "--runtimes", SELECTOR]
    assert uninstall.main(told) == 1
    assert "no access to Kubernetes" in capsys.readouterr().err
