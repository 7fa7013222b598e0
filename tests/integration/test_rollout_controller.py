"""The controller over KServe: store and target against kmock, predictors' counters over HTTP, a tick at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from asgi import Client
from bundles import sibling
from kserve_stand_in import CONFIG_MAPS, NAMESPACE, Cluster, Failure, running
from kubernetes.client import ApiClient, Configuration
from pods_stand_in import Pods, serving
from structlog.testing import capture_logs

from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import FraudError, TemporaryError
from fraudkit.policy.rollout import RolloutRules, Step
from fraudkit.settings import EventSettings
from serving.rollout.apiserver import ApiServer
from serving.rollout.app import RolloutApi
from serving.rollout.configmap import STATE, ConfigMapStore
from serving.rollout.controller import Controller
from serving.rollout.engine import Asked, judge
from serving.rollout.evidence import NO_LABELS, Evidence
from serving.rollout.state import Counts, Rollout, State
from serving.rollout.store import Superseded
from serving.rollout.targets import Observed
from serving.rollout.targets.kserve import KserveTarget
from serving.rollout.template import TemplateFile

RULES = RolloutRules(
    steps=tuple(Step(percent=percent, requests=20, bake_seconds=1, limit_seconds=600) for percent in (10, 50, 100))
)
TEMPLATE = "spec: {predictor: {minReplicas: 1, model: {modelFormat: {name: fraud}, runtime: fraud-1}}}\n"
OTHER = TEMPLATE.replace("fraud-1", "fraud-2")
NOBODY = "http://127.0.0.1:9"


@dataclass
class World:
    """A controller, whose clock goes on by a second with each tick; detector and sinks are away."""

    url: str
    cluster: Cluster
    pods: Pods
    bundles: Path
    file: Path
    sinks: tuple[str, ...] = ()
    now: float = 1_000.0
    controllers: list[Controller] = field(default_factory=list)
    ends: list[Callable[[], None]] = field(default_factory=list)

    @property
    def controller(self) -> Controller:
        return self.controllers[-1]

    def start(self) -> Controller:
        configuration = Configuration()
        configuration.host = self.url
        configuration.retries = False
        server = ApiServer(NAMESPACE, ApiClient(configuration))
        target = KserveTarget(server, lambda version: f"s3://bundles/{version}")
        evidence = Evidence(BundleStore(self.bundles), NOBODY, RULES.skew_tolerance)
        events, read = EventSettings(sinks=self.sinks), TemplateFile(self.file).read
        store = ConfigMapStore(server, "fraud-rollout")
        made = Controller(store, target, evidence, RULES, events, 5.0, lambda: self.now, read)
        self.controllers.append(made)
        self.ends.append(target.close)
        return made

    def put(self, state: State) -> None:
        """What a controller left behind."""
        found = self.cluster.get(CONFIG_MAPS, "fraud-rollout")
        assert found is not None
        found["data"][STATE] = state.model_dump_json()
        self.cluster.put(CONFIG_MAPS, found)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 1.0
            try:
                self.controller.tick()
            except Superseded:
                raise
            except FraudError:
                assert self.controller.troubles.now
            self.cluster.settle(1)

    def ask(self, version: str, key: str) -> Rollout:
        return self.controller.ask(Asked(version, key, "a test", "to see"))

    def until(self, key: str, *statuses: str) -> Rollout:
        for _ in range(60):
            self.tick()
            found = self.controller.state.get(key)
            if found and found.status in statuses:
                return found
        raise AssertionError(found)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Cluster]]:
    with running() as found:
        yield found


@pytest.fixture
def world(server: tuple[str, Cluster], bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    url, cluster = server
    cluster.objects.clear()
    cluster.start()
    file = tmp_path / "template.yaml"
    file.write_text(TEMPLATE)
    with serving() as pods:
        cluster.serve = pods
        made = World(url, cluster, pods, bundle.path.parent, file)
        made.start()
        yield made
        for end in made.ends:
            end()


@pytest.fixture
def served(world: World, bundle: Bundle) -> World:
    """With a first model."""
    world.tick()
    world.ask(bundle.version, "bootstrap")
    world.until("bootstrap", "confirmed")
    world.pods.grow = 10
    return world


@pytest.fixture
def second(bundle: Bundle, tmp_path: Path) -> str:
    return sibling(bundle, tmp_path / "draft", bundle.path.parent, 1e-6).version


def runtime(cluster: Cluster) -> str:
    found: str = cluster.service["spec"]["predictor"]["model"]["runtime"]
    return found


def test_before_the_state_is_loaded_nobody_can_ask_and_it_is_said_why(world: World, bundle: Bundle) -> None:
    with pytest.raises(TemporaryError, match="not loaded: it was not tried yet"):
        world.ask(bundle.version, "bootstrap")
    world.cluster.down = True
    world.tick()
    assert "answered 503" in world.controller.troubles.now["state"]
    with pytest.raises(TemporaryError, match="answered 503"):
        assert world.controller.state
    world.cluster.down = False
    world.tick()
    assert "state" not in world.controller.troubles.now
    assert world.controller.troubles.errors["state"] == 1


def test_a_service_that_is_refused_again_and_again_is_said_once(
    world: World, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise Failure(500, "failed calling webhook: connection refused")

    world.tick()
    world.ask(bundle.version, "bootstrap")
    with monkeypatch.context() as until_then, capture_logs() as said:
        until_then.setattr(world.cluster, "_create", refuse)
        world.tick(3)
    assert world.controller.troubles.errors["target"] == 3
    (once,) = (one for one in said if one.get("of") == "target")
    assert "connection refused" in once["reason"]
    world.until("bootstrap", "confirmed")
    assert "target" not in world.controller.troubles.now


def test_a_changed_template_is_rolled_out_without_labels_scores_or_detector(served: World) -> None:
    served.file.write_text(OTHER)
    served.tick()
    going_on = served.controller.state.going_on
    assert going_on
    ended = served.until(going_on.key, "confirmed", "rolled_back")
    assert [(step.percent, step.outcome) for step in ended.steps] == [(10, "pass"), (50, "pass"), (100, "pass")]
    assert ended.status == "confirmed"
    assert runtime(served.cluster) == "fraud-2"
    assert "does not answer" in served.controller.troubles.now["evidence"]
    count = len(served.cluster.writes)
    served.tick(5)
    assert len(served.cluster.writes) == count


def test_a_template_that_fails_is_rolled_back_once_and_challengers_come_with_the_one_before(
    served: World, second: str
) -> None:
    served.file.write_text(OTHER)
    served.tick()
    going_on = served.controller.state.going_on
    assert going_on
    served.pods.broken = {"fraud-predictor-00002"}
    assert served.until(going_on.key, "confirmed", "rolled_back").said[1] == "errors"
    count = len(served.controller.state.rollouts)
    served.tick(5)
    assert len(served.controller.state.rollouts) == count
    assert "was tried and rolled back" in served.controller.troubles.now["template"]
    assert runtime(served.cluster) == "fraud-1"
    assert "fraud-1" in served.ask(second, "drift-second").template
    served.controller.act("drift-second", "rollback", "a test", "to see")
    served.until("drift-second", "rolled_back")
    assert "fraud-2" in served.ask(second, "manual-second").template


def test_an_invalid_template_is_said_and_the_last_good_one_stays_in_use(served: World, second: str) -> None:
    served.file.write_text("spec: {}")
    served.tick(3)
    assert "not an InferenceService" in served.controller.troubles.now["template"]
    assert served.controller.state.going_on is None
    assert "fraud-1" in served.ask(second, "manual-second").template
    served.file.unlink()
    served.start()
    served.tick(2)
    assert "cannot be read" in served.controller.troubles.now["template"]
    served.controller.act("manual-second", "rollback", "a test", "to see")
    served.until("manual-second", "rolled_back")
    assert "fraud-1" in served.ask(second, "manual-third").template
    assert runtime(served.cluster) == "fraud-1"


def test_without_any_template_a_first_model_has_to_wait(world: World, bundle: Bundle) -> None:
    world.file.unlink()
    world.tick()
    with pytest.raises(TemporaryError, match=r"no template to make a service from: the template cannot be read"):
        world.ask(bundle.version, "bootstrap")
    world.file.write_text(TEMPLATE)
    world.tick()
    world.ask(bundle.version, "bootstrap")
    world.until("bootstrap", "confirmed")


def test_a_new_model_comes_with_the_template_of_now(served: World, second: str) -> None:
    served.controller.act(served.ask(second, "manual-second").id, "pause", "a test", "to see")
    served.file.write_text(OTHER)
    served.tick(5)
    assert runtime(served.cluster) == "fraud-1"
    served.controller.act("manual-second", "rollback", "a test", "to see")
    served.until("manual-second", "rolled_back")
    assert "fraud-2" in served.ask(second, "manual-third").template
    served.tick(3)
    assert runtime(served.cluster) == "fraud-2"


def test_without_the_detector_a_canary_goes_no_step_further_and_back_where_it_does_harm(
    served: World, second: str
) -> None:
    found = served.ask(second, "drift-second")
    served.tick()
    scored = Counts(skew_rows=1_000)  # before the detector went away, and the controller was killed
    served.put(served.controller.state.with_(found.model_copy(update={"counts": scored})))
    served.start()
    served.tick(10)
    found = served.controller.state.going_on or found
    passes = Observed(settled=True, ready=True)
    _, verdict = judge(served.controller.state, passes, NO_LABELS, RULES, served.now)
    assert verdict
    assert verdict.passed
    assert (found.status, found.step) == ("running", 0)
    assert "does not answer" in served.controller.troubles.now["evidence"]
    served.pods.broken = {"fraud-predictor-00002"}
    assert served.until("drift-second", "rolled_back").said[1] == "errors"


def test_who_follows_a_canary_is_told_each_check_and_of_one_that_is_over_none(served: World, second: str) -> None:
    served.ask(second, "drift-second")
    served.tick(3)
    client = Client(RolloutApi(served.controller, BundleStore(served.bundles)).app())
    told = client.get("/v1/rollouts/drift-second/checks").json()
    assert (told["status"], told["steps"]) == ("running", [10, 50, 100])
    seen = {check["name"]: check for check in told["checks"]}
    assert (seen["requests"]["limit"], seen["requests"]["at_least"]) == (20, True)
    assert seen["requests"]["canary"] > 0
    assert (seen["scores"]["canary"], seen["scores"]["outcome"]) == (0, "inconclusive")
    assert [check["outcome"] for check in told["checks"] if check["name"] == "errors"] == ["pass"]
    served.controller.act("drift-second", "rollback", "a test", "to see")
    assert client.get("/v1/rollouts/drift-second/checks").json()["checks"] == []
    assert client.get("/v1/rollouts/nobody/checks").status_code == 404


def test_counters_are_read_at_each_look_and_written_now_and_then(served: World, second: str) -> None:
    served.ask(second, "drift-second")
    served.tick(10)
    version = served.cluster.version
    seen = served.controller.state
    served.controller.tick()
    assert served.controller.state != seen
    assert served.cluster.version == version
    before = served.controller.state.get("drift-second")
    served.start()
    served.tick()
    after = served.controller.state.get("drift-second")
    assert before
    assert after
    assert after.counts.canary.step.requests >= before.counts.canary.step.requests


def test_bundles_that_are_away_are_said_and_nothing_begins(served: World, second: str) -> None:
    served.bundles /= "away"
    served.start()
    served.tick()
    with pytest.raises(TemporaryError, match="folder of the bundles"):
        served.ask(second, "drift-second")
    assert "folder of the bundles" in served.controller.troubles.now["evidence"]


def test_what_another_hand_did_stops_a_roll_out_and_a_person_may_have_it_go_on(served: World, second: str) -> None:
    served.ask(second, "drift-second")
    served.tick(5)
    served.cluster.edit({"spec": {"predictor": {"minReplicas": 3}}})
    served.until("drift-second", "stopped")
    assert "minReplicas to 3" in served.controller.troubles.now["foreign"]
    served.controller.act("drift-second", "resume", "a test", "it was me")
    served.tick(3)
    found = served.controller.state.get("drift-second")
    assert found
    assert found.status == "running"
    assert "foreign" not in served.controller.troubles.now


def test_events_wait_for_their_sink_until_it_is_listed_no_longer(served: World, second: str) -> None:
    served.sinks = (f"{NOBODY}/",)
    served.start()
    served.tick()
    served.ask(second, "manual-second")
    served.controller.act("manual-second", "promote", "a test", "to see")
    served.until("manual-second", "provisional")
    served.tick()
    assert len(served.controller.state.outbox) == 1
    assert f"an event waits for {NOBODY}/" in served.controller.troubles.now["sinks"]
    served.sinks = ()
    served.start()
    served.tick()
    assert served.controller.state.outbox == ()


def test_the_controller_that_was_there_before_does_nothing_more(served: World, second: str) -> None:
    old = served.controller
    served.start()
    served.tick()
    count = len(served.cluster.writes)
    with pytest.raises(Superseded):
        old.ask(Asked(second, "manual-second", "a test", "to see"))
    for _ in range(2):
        with pytest.raises(Superseded):
            old.tick()
    assert len(served.cluster.writes) == count
    assert served.controller.state.get("manual-second") is None
