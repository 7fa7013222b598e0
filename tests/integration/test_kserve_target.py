"""KServe as a target, against kmock with a simulated KServe and Knative behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from aiohttp import web
from kserve_stand_in import ISVC, KSVC, NAMESPACE, PODS, Cluster, running
from kubernetes.client import ApiClient, Configuration

from fraudkit.errors import PermanentError, TemporaryError
from serving.rollout.apiserver import ApiServer
from serving.rollout.targets import Observed, Side, Wanted
from serving.rollout.targets.kserve import TEMPLATE, KserveTarget

TEMPLATE_TEXT = """
metadata: {labels: {app: fraud}}
spec:
  predictor:
    minReplicas: 1
    timeout: 60
    logger: {mode: all, url: "http://detector"}
    model:
      modelFormat: {name: fraud}
      runtime: fraud-0123abcd
      resources: {requests: {cpu: 1000m, memory: 512Mi}}
"""


def uri(version: str) -> str:
    return f"s3://bundles/{version}"


def wanted(stable: str, canary: str | None = None, percent: int = 0, template: str = TEMPLATE_TEXT) -> Wanted:
    return Wanted(stable, canary, percent, template)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Cluster]]:
    with running() as found:
        yield found


@pytest.fixture
def cluster(server: tuple[str, Cluster]) -> Cluster:
    server[1].objects.clear()
    server[1].start()
    return server[1]


def connected(url: str, timeout: float = 10.0) -> KserveTarget:
    configuration = Configuration()
    configuration.host = url
    configuration.retries = False
    configuration.api_key["authorization"] = "Bearer very-secret"
    return KserveTarget(ApiServer(NAMESPACE, ApiClient(configuration), timeout), uri)


@pytest.fixture
def target(server: tuple[str, Cluster], cluster: Cluster) -> Iterator[KserveTarget]:
    made = connected(server[0])
    yield made
    made.close()


def brought(target: KserveTarget, cluster: Cluster, goal: Wanted, mark: str = "") -> Observed:
    """Apply until it is so."""
    for _ in range(8):
        mark = target.apply(goal, mark)
        cluster.settle()
        seen = target.observe(goal, mark)
        assert not seen.foreign
        if seen.settled:
            return seen
    raise AssertionError(seen)


def changes(cluster: Cluster) -> list[tuple[Any, Any]]:
    """What each write did: the bundle, and the percent; `...` where it says nothing of it."""
    predictors = [body["spec"]["predictor"] for body in cluster.writes]
    return [
        (each.get("model", {}).get("storageUri", ...), each.get("canaryTrafficPercent", ...))
        for each in predictors
    ]


# A roll-out


def test_the_first_model_is_created_with_its_runtime_and_without_a_percent(
    target: KserveTarget, cluster: Cluster
) -> None:
    before = target.observe(wanted("v0"), "")
    assert before == Observed(settled=False, ready=None, mark="absent")
    brought(target, cluster, wanted("v0"), before.mark)
    assert changes(cluster) == [(uri("v0"), ...)]
    assert cluster.writes[0]["spec"]["predictor"]["model"]["runtime"] == "fraud-0123abcd"
    assert cluster.writes[0]["metadata"] == {"labels": {"app": "fraud"}, "name": "fraud", "namespace": NAMESPACE}


def test_a_canary_starts_with_one_patch_steps_by_the_percent_alone_and_is_promoted_by_removing_it(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    for percent in (10, 50, 100):
        seen = brought(target, cluster, wanted("v0", "v1", percent), mark)
        assert seen.ready is True
        assert cluster.traffic().get(uri("v1")) == percent
        mark = seen.mark
    brought(target, cluster, wanted("v1"), mark)
    assert cluster.traffic() == {uri("v1"): 100}
    assert changes(cluster)[1:] == [(uri("v1"), 10), (..., 50), (..., 100), (..., None)]
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]
    assert all("annotations" not in body["metadata"] for body in cluster.writes)


def test_a_percent_is_settled_although_kserve_observes_another_generation_than_the_services_own(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 100), mark).mark
    assert brought(target, cluster, wanted("v1"), mark).settled
    assert cluster.service["metadata"]["generation"] > cluster.service["status"]["observedGeneration"]


def test_a_rollback_takes_the_traffic_first_then_restores_the_bundle_and_removes_the_percent_last(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 25), mark).mark
    cluster.writes.clear()
    brought(target, cluster, wanted("v0"), mark)
    assert changes(cluster) == [(..., 0), (uri("v0"), 0), (..., None)]
    assert cluster.traffic() == {uri("v0"): 100}


def test_a_rollback_keeps_the_percent_at_zero_until_the_restored_revision_is_ready(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 25), mark).mark
    mark = target.apply(wanted("v0"), mark)
    cluster.settle()
    mark = target.apply(wanted("v0"), mark)
    cluster.slow = 5
    for _ in range(5):
        assert target.apply(wanted("v0"), mark) == mark
        cluster.settle(1)
        assert cluster.traffic() == {uri("v0"): 100}
    brought(target, cluster, wanted("v0"), mark)


def test_a_rollback_from_100_waits_for_kserve_to_take_the_champion_back(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 100), mark).mark
    mark = target.apply(wanted("v0"), mark)
    cluster.kserve()
    cluster.configuration()
    service = cluster.service
    service["status"]["observedGeneration"] += 1  # KServe has seen that Knative has it, and no traffic yet
    cluster.put(ISVC, service)
    assert target.apply(wanted("v0"), mark) == mark
    cluster.settle()
    assert cluster.traffic() == {uri("v0"): 100}
    assert changes(cluster)[-1] == (..., 0)
    brought(target, cluster, wanted("v0"), mark)


def test_applying_what_is_there_already_writes_nothing(target: KserveTarget, cluster: Cluster) -> None:
    for goal in (wanted("v0"), wanted("v0", "v1", 10)):
        mark = brought(target, cluster, goal).mark
        count = len(cluster.writes)
        assert target.apply(goal, mark) == mark
        assert len(cluster.writes) == count


def test_no_canary_starts_before_the_champion_has_all_traffic(target: KserveTarget, cluster: Cluster) -> None:
    goal = wanted("v0", "v1", 10)
    mark = target.apply(goal, "")
    assert target.apply(goal, mark) == mark
    cluster.settle()
    assert target.apply(goal, mark) != mark
    assert changes(cluster) == [(uri("v0"), ...), (uri("v1"), 10)]


@pytest.mark.parametrize("through", [0, 10])
def test_a_promoted_model_is_reversed(target: KserveTarget, cluster: Cluster, through: int) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 100), mark).mark
    mark = brought(target, cluster, wanted("v1"), mark).mark
    if through:
        mark = brought(target, cluster, wanted("v1", "v2", 100), mark).mark
        mark = brought(target, cluster, wanted("v2"), mark).mark
    brought(target, cluster, wanted("v0"), mark)
    assert cluster.traffic() == {uri("v0"): 100}


# Killed at any moment

STORIES = {
    "promoted": ([wanted("v0", "v1", 10), wanted("v0", "v1", 50), wanted("v0", "v1", 100), wanted("v1")], set()),
    "rolled back": ([wanted("v0", "v1", 10), wanted("v0", "v1", 50), wanted("v0")], set()),
    "rolled back from 100": ([wanted("v0", "v1", 50), wanted("v0", "v1", 100), wanted("v0")], set()),
    "rolled back while it fails": ([wanted("v0", "v1", 10), wanted("v0")], {uri("v1")}),
}
SHARES = {
    "promoted": [0, 10, 50, 100],
    "rolled back": [0, 10, 50, 0],
    "rolled back from 100": [0, 50, 100, 0],
    "rolled back while it fails": [0],
}


class Controller:
    """Does as a controller does, whose process is killed at one of its calls: what that returned is lost."""

    def __init__(self, url: str, cluster: Cluster, pace: int, forgets: bool) -> None:
        self.url, self.cluster, self.pace, self.forgets = url, cluster, pace, forgets
        self.target = connected(url)
        self.mark = ""
        self.calls = 0
        self.kill = -1
        self.step = 0
        self.shares: list[int] = []

    def run(self, goals: list[Wanted], kill: int) -> None:
        self.kill = kill
        for goal in goals:
            self.bring(goal)
        self.target.close()

    def bring(self, goal: Wanted) -> None:
        for _ in range(120):
            self.keep(self.target.apply(goal, self.mark))
            self.go_on()
            seen = self.target.observe(goal, self.mark)
            assert not seen.foreign
            self.keep(seen.mark)
            if seen.settled or seen.ready is False:
                return
        raise AssertionError(f"{goal} never came about: {seen}")

    def keep(self, mark: str) -> None:
        self.calls += 1
        if self.calls == self.kill:
            self.target.close()
            self.target = connected(self.url)
            self.mark = "" if self.forgets else self.mark
        else:
            self.mark = mark

    def go_on(self) -> None:
        """KServe and Knative do as much as they get to."""
        steps = self.cluster.steps()
        for _ in range(self.pace):
            steps[self.step % len(steps)]()
            self.step += 1
            traffic = self.cluster.traffic()
            assert not traffic or sum(traffic.values()) == 100
            share = traffic.get(uri("v1"), 0)
            if not self.shares or self.shares[-1] != share:
                self.shares.append(share)


@pytest.mark.parametrize("pace", [7, *(pytest.param(pace, marks=pytest.mark.slow) for pace in (4, 1))])
@pytest.mark.parametrize("story", list(STORIES))
def test_killed_between_any_two_calls_it_goes_on_and_no_traffic_jumps(
    server: tuple[str, Cluster], cluster: Cluster, story: str, pace: int
) -> None:
    kill, last = 0, 1
    while kill <= last:
        for forgets in (False, True):
            cluster.objects.clear()
            cluster.start()
            goals, cluster.broken = STORIES[story]
            controller = Controller(server[0], cluster, pace, forgets)
            controller.run([wanted("v0"), *goals], kill)
            assert controller.shares == SHARES[story], f"killed at call {kill}"
            last = controller.calls
        kill += {7: 1, 4: 3, 1: 15}[pace]  # so slowly most of the calls find nothing new
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


# Readiness


def test_a_slow_canary_is_not_known_to_be_ready_and_has_no_traffic(target: KserveTarget, cluster: Cluster) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    cluster.slow = 3
    goal = wanted("v0", "v1", 10)
    mark = target.apply(goal, mark)
    seen = target.observe(goal, mark)
    assert (seen.settled, seen.ready, seen.problem) == (False, None, "")
    cluster.settle(2)
    seen = target.observe(goal, mark)
    assert (seen.settled, seen.ready, seen.problem) == (False, None, "")
    assert cluster.traffic() == {uri("v0"): 100}
    cluster.settle()
    seen = target.observe(goal, mark)
    assert (seen.settled, seen.ready) == (True, True)


def test_a_failing_canary_is_said_with_its_reason_while_the_champion_serves(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    cluster.broken = {uri("v1")}
    goal = wanted("v0", "v1", 10)
    mark = target.apply(goal, mark)
    cluster.settle()
    seen = target.observe(goal, mark)
    assert (seen.settled, seen.ready, seen.foreign) == (False, False, "")
    assert seen.problem == "ExitCode1: Container failed with: no such bundle; ModelLoadFailed: no such bundle"
    assert cluster.traffic() == {uri("v0"): 100}
    assert target.servers(goal) == {Side.STABLE: ("http://10.0.0.1:8080",), Side.CANARY: ()}
    brought(target, cluster, wanted("v0"), mark)


def test_conditions_and_failures_of_something_before_are_not_believed(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    cluster.broken = {uri("v1")}
    mark = target.apply(wanted("v0", "v1", 10), mark)
    cluster.settle()
    assert cluster.service["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    mark = brought(target, cluster, wanted("v0"), mark).mark
    cluster.condition(type="Ready", status="False", reason="Old", message="of something before")
    goal = wanted("v0", "v2", 10)
    mark = target.apply(goal, mark)
    for step in [None, *cluster.steps()]:
        if step:
            step()
        seen = target.observe(goal, mark)
        assert (seen.problem, seen.ready) in (("", None), ("", True))
    cluster.condition(type="Ready", status="True")  # of the champion alone
    mark = target.apply(wanted("v0", "v2", 20), mark)
    assert not target.observe(wanted("v0", "v2", 20), mark).settled
    assert cluster.service["status"]["modelStatus"]["lastFailureInfo"]


def test_a_canary_that_knative_refuses_is_rolled_back_without_moving_the_champion(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 100), mark).mark
    mark = brought(target, cluster, wanted("v1"), mark).mark
    cluster.refuses_template = True
    goal = wanted("v1", "v2", 10)
    mark = target.apply(goal, mark)
    cluster.settle()
    assert target.observe(goal, mark).ready is None
    for _ in range(3):
        mark = target.apply(wanted("v1"), mark)
        cluster.settle()
        assert cluster.traffic() == {uri("v1"): 100}
    assert target.observe(wanted("v1"), mark).settled
    assert cluster.component["latestRolledoutRevision"] == "fraud-predictor-00002"


# Other hands


def test_the_champions_share_at_another_revision_is_seen_and_a_rollback_mends_it(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    mark = brought(target, cluster, wanted("v0", "v1", 100), mark).mark
    mark = brought(target, cluster, wanted("v1"), mark).mark
    goal = wanted("v1", "v2", 10)
    mark = target.apply(goal, mark)
    cluster.race()
    assert cluster.traffic() == {uri("v2"): 10, uri("v0"): 90}
    seen = target.observe(goal, mark)
    assert not seen.settled
    assert seen.foreign == "the champion's share goes to fraud-predictor-00001 (s3://bundles/v0)"
    brought(target, cluster, wanted("v1"), seen.mark)
    assert cluster.traffic() == {uri("v1"): 100}


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"model": {"storageUri": "s3://x"}}, "spec.predictor.model.storageUri to 's3://x'"),
        ({"canaryTrafficPercent": 80}, "spec.predictor.canaryTrafficPercent to 80"),
        ({"canaryTrafficPercent": None}, "spec.predictor.canaryTrafficPercent to None"),
        ({"minReplicas": 3}, "spec.predictor.minReplicas to 3"),
        ({"logger": None}, "spec.predictor.logger to None"),
    ],
)
def test_a_change_by_another_hand_is_named_and_not_built_upon(
    target: KserveTarget, cluster: Cluster, patch: dict[str, Any], said: str
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    goal = wanted("v0", "v1", 10)
    mark = brought(target, cluster, goal, mark).mark
    cluster.edit({"spec": {"predictor": patch}})
    count = len(cluster.writes)
    for step in (goal, wanted("v0", "v1", 25)):
        with pytest.raises(TemporaryError, match="look again: another hand changed"):
            target.apply(step, mark)
    assert len(cluster.writes) == count
    seen = target.observe(goal, mark)
    assert seen.foreign == f"another hand changed {said}"
    brought(target, cluster, wanted("v0"), seen.mark)
    assert cluster.traffic() == {uri("v0"): 100}


def test_a_deleted_service_is_foreign_and_so_is_one_made_again(target: KserveTarget, cluster: Cluster) -> None:
    goal = wanted("v0")
    mark = brought(target, cluster, goal).mark
    cluster.remove(ISVC, "fraud")
    seen = target.observe(goal, mark)
    assert seen.foreign == "InferenceService fraud was deleted"
    with pytest.raises(TemporaryError, match="was deleted"):
        target.apply(goal, mark)
    target.apply(goal, seen.mark)
    assert target.observe(goal, mark).foreign == "InferenceService fraud was deleted and made again"


def test_what_moves_the_generation_but_nothing_of_ours_is_not_foreign(
    target: KserveTarget, cluster: Cluster
) -> None:
    goal = wanted("v0")
    mark = brought(target, cluster, goal).mark
    cluster.edit({"metadata": {"labels": {"team": "x"}}, "spec": {"predictor": {"maxReplicas": 4}}})
    assert not target.observe(goal, mark).foreign


def test_an_edit_between_reading_and_writing_is_a_conflict(target: KserveTarget, cluster: Cluster) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    cluster.before_write.append(lambda: cluster.edit({"spec": {"predictor": {"minReplicas": 3}}}))
    with pytest.raises(TemporaryError, match="it was changed meanwhile"):
        target.apply(wanted("v0", "v1", 10), mark)
    assert changes(cluster) == [(uri("v0"), ...)]


# Templates


def test_a_changed_template_is_rolled_out_as_the_same_version_and_loses_the_fields_it_has_no_longer(
    target: KserveTarget, cluster: Cluster
) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    changed = TEMPLATE_TEXT.replace("    timeout: 60\n", "").replace("512Mi", "1Gi")
    mark = brought(target, cluster, wanted("v0", "v0", 10, changed), mark).mark
    predictor = cluster.service["spec"]["predictor"]
    assert "timeout" not in predictor
    assert predictor["model"]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert target.servers(wanted("v0", "v0", 10, changed)).keys() == {Side.STABLE, Side.CANARY}
    brought(target, cluster, wanted("v0"), mark)
    predictor = cluster.service["spec"]["predictor"]
    assert predictor["timeout"] == 60
    assert predictor["model"]["resources"]["requests"]["memory"] == "512Mi"


def test_how_a_template_is_written_is_no_change(target: KserveTarget, cluster: Cluster) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    again = yaml.safe_dump(yaml.safe_load(TEMPLATE_TEXT))
    assert target.apply(wanted("v0", template=again), mark) == mark
    with pytest.raises(PermanentError, match="serve already"):
        target.apply(wanted("v0", "v0", 10, again), mark)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        TEMPLATE_TEXT.replace("runtime: fraud-0123abcd", ""),
        TEMPLATE_TEXT.replace("runtime: fraud-0123abcd", "runtime: ''"),
        TEMPLATE_TEXT + "      storageUri: s3://x\n",
        TEMPLATE_TEXT + "    canaryTrafficPercent: 10\n",
    ],
)
def test_a_template_that_would_not_serve_is_refused(target: KserveTarget, text: str) -> None:
    with pytest.raises(PermanentError, match="template"):
        target.apply(wanted("v0", template=text), "")


def test_a_mode_that_ignores_the_percent_is_refused(target: KserveTarget, cluster: Cluster) -> None:
    mark = brought(target, cluster, wanted("v0")).mark
    service = cluster.service
    service["status"]["deploymentMode"] = "Standard"
    cluster.put(ISVC, service)
    with pytest.raises(PermanentError, match="not in Knative mode"):
        target.apply(wanted("v0", "v1", 10), mark)


# Pods


def test_only_pods_that_are_ready_and_not_ending_are_servers(target: KserveTarget, cluster: Cluster) -> None:
    assert target.servers(wanted("v0")) == {}
    brought(target, cluster, wanted("v0"))
    label = {"serving.knative.dev/revision": "fraud-predictor-00001"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    cluster.put(PODS, {"metadata": {"name": "six", "labels": label}, "status": ready | {"podIP": "fd00::1"}})
    cluster.put(PODS, {"metadata": {"name": "new", "labels": label}, "status": {"podIP": "10.0.0.8"}})
    ending = {"name": "old", "labels": label, "deletionTimestamp": "2026-11-25T00:00:00Z"}
    cluster.put(PODS, {"metadata": ending, "status": ready | {"podIP": "10.0.0.9"}})
    assert target.servers(wanted("v0")) == {Side.STABLE: ("http://10.0.0.1:8080", "http://[fd00::1]:8080")}


# Errors


@pytest.mark.parametrize(
    ("status", "message", "error", "said"),
    [
        (401, "Unauthorized", PermanentError, "get inferenceservices.serving.kserve.io in namespace models"),
        (
            403,
            "cannot get",
            PermanentError,
            "no right to get inferenceservices.serving.kserve.io in namespace models",
        ),
        (
            403,
            'admission webhook "v" denied the request: no',
            PermanentError,
            "refused with 403: admission webhook",
        ),
        (422, "spec.predictor: bad", PermanentError, "refused with 422: spec.predictor: bad"),
        (429, "slow down", TemporaryError, "answered 429"),
        (500, "failed calling webhook", TemporaryError, "failed calling webhook"),
        (503, "", TemporaryError, "answered 503"),
        (409, "exists", TemporaryError, "changed meanwhile"),
    ],
)
def test_an_answer_that_is_an_error_says_what_to_do(
    target: KserveTarget, cluster: Cluster, status: int, message: str, error: type[Exception], said: str
) -> None:
    for call in (target.apply, target.observe):
        cluster.answer(status, message)
        with pytest.raises(error, match=said) as raised:
            call(wanted("v0"), "")
        assert "secret" not in f"{raised.value}{raised.value.__cause__}"


@pytest.mark.parametrize(
    ("group", "said"), [("serving.kserve.io", "KServe"), ("serving.knative.dev", "Knative Serving")]
)
def test_kinds_that_are_missing_are_said_to_be_not_installed(
    target: KserveTarget, cluster: Cluster, group: str, said: str
) -> None:
    brought(target, cluster, wanted("v0"))
    cluster.installed.remove(group)
    with pytest.raises(PermanentError, match=f"{said} is not installed"):
        target.observe(wanted("v0"), "")


def test_silence_and_answers_that_are_none_may_pass(server: tuple[str, Cluster], cluster: Cluster) -> None:
    hasty = connected(server[0], timeout=0.2)
    cluster.failures.append(web.Response(text="<html>"))
    with pytest.raises(TemporaryError, match="not JSON"):
        hasty.observe(wanted("v0"), "")
    cluster.hold = 0.6
    with pytest.raises(TemporaryError, match="does not answer"):
        hasty.observe(wanted("v0"), "")
    cluster.hold = 0.0
    hasty.close()
    gone = connected("http://127.0.0.1:9")
    with pytest.raises(TemporaryError, match="does not answer"):
        gone.apply(wanted("v0"), "")
    gone.close()


def test_a_revision_says_what_it_is_made_from(target: KserveTarget, cluster: Cluster) -> None:
    brought(target, cluster, wanted("v0"))
    template = cluster.get(KSVC, "fraud-predictor")
    assert template is not None
    assert len(template["spec"]["template"]["metadata"]["annotations"][TEMPLATE]) == 16
