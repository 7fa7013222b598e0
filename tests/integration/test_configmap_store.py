"""The controller's state in a ConfigMap, against kmock: one controller at a time, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kserve_stand_in import CONFIG_MAPS, NAMESPACE, Cluster, running
from kubernetes.client import ApiClient, Configuration

from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.policy.rollout import RolloutRules
from serving.rollout.apiserver import ApiServer
from serving.rollout.configmap import HOLDER, STATE, ConfigMapStore
from serving.rollout.engine import Asked, act, ask, settle
from serving.rollout.state import Pending, State
from serving.rollout.store import Superseded
from serving.rollout.targets import Observed

NAME = "fraud-rollout"
RULES = RolloutRules()
SEEN = Observed(settled=True, ready=True, mark="m")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Cluster]]:
    with running() as found:
        yield found


@pytest.fixture
def cluster(server: tuple[str, Cluster]) -> Cluster:
    server[1].objects.clear()
    server[1].start()
    return server[1]


@pytest.fixture
def api(server: tuple[str, Cluster], cluster: Cluster) -> Iterator[ApiServer]:
    configuration = Configuration()
    configuration.host = server[0]
    configuration.retries = False
    made = ApiServer(NAMESPACE, ApiClient(configuration))
    yield made
    made.close()


def named(champion: str) -> State:
    return State(champion=champion * 12)


def stored(cluster: Cluster) -> State:
    found = cluster.get(CONFIG_MAPS, NAME)
    assert found is not None
    return State.model_validate_json(found["data"][STATE])


def rolled_out(count: int, reason: str = "to see") -> State:
    """After so many roll-outs."""
    state = State()
    for number in range(count):
        state, rollout = ask(state, Asked(f"{number:012x}", f"manual-{number}", "a test", reason), RULES, number)
        if state.going_on and rollout.champion is not None:
            state = act(state, rollout.id, "promote", "a test", "to see", number)
        state = settle(state, SEEN, number)
    return state


def test_a_state_that_is_not_there_is_new_and_what_is_saved_is_loaded(api: ApiServer, cluster: Cluster) -> None:
    store = ConfigMapStore(api, NAME)
    assert store.load() == State() == stored(cluster)
    state = rolled_out(3)
    store.save(state)
    store.check()
    assert ConfigMapStore(api, NAME).load() == state


def test_an_empty_config_map_of_somebody_else_is_taken_and_its_labels_stay(
    api: ApiServer, cluster: Cluster
) -> None:
    labels = {"app": "fraud"}
    cluster.put(CONFIG_MAPS, {"metadata": {"name": NAME, "resourceVersion": "7", "labels": labels}})
    store = ConfigMapStore(api, NAME)
    assert store.load() == State()
    store.save(named("a"))
    found = cluster.get(CONFIG_MAPS, NAME)
    assert found is not None
    assert found["metadata"]["labels"] == labels


def test_whoever_loads_it_has_it_and_the_one_before_stops_at_its_next_look_or_write(api: ApiServer) -> None:
    first, second = ConfigMapStore(api, NAME), ConfigMapStore(api, NAME)
    first.load()
    first.save(named("a"))
    assert second.load() == named("a")
    with pytest.raises(Superseded, match=r"another controller, .+, has taken ConfigMap fraud-rollout"):
        first.check()
    with pytest.raises(Superseded):
        first.save(named("b"))
    second.save(named("c"))
    second.check()


def test_a_state_that_a_person_edits_stops_the_controller_and_the_next_one_takes_it(
    api: ApiServer, cluster: Cluster
) -> None:
    store = ConfigMapStore(api, NAME)
    store.load()
    found = cluster.get(CONFIG_MAPS, NAME)
    assert found is not None
    found["data"][STATE] = named("b").model_dump_json()
    found["metadata"]["resourceVersion"] = "9999"
    cluster.put(CONFIG_MAPS, found)
    with pytest.raises(Superseded, match="another hand"):
        store.save(named("c"))
    assert stored(cluster) == named("b") == ConfigMapStore(api, NAME).load()


def test_a_change_of_the_metadata_is_no_other_controller(api: ApiServer, cluster: Cluster) -> None:
    store = ConfigMapStore(api, NAME)
    store.load()
    found = cluster.get(CONFIG_MAPS, NAME)
    assert found is not None
    found["metadata"] |= {"annotations": {"who": "a person"}, "resourceVersion": "9999"}
    cluster.put(CONFIG_MAPS, found)
    store.save(named("a"))
    assert stored(cluster) == named("a")


def test_a_write_whose_answer_got_lost_is_its_own(api: ApiServer, cluster: Cluster) -> None:
    store = ConfigMapStore(api, NAME)
    store.load()
    cluster.lost = 1
    with pytest.raises(TemporaryError, match="answered 504"):
        store.save(named("a"))
    assert stored(cluster) == named("a")
    store.save(named("b"))
    store.check()
    assert stored(cluster) == named("b")


def test_while_the_api_server_is_away_nothing_is_kept_and_the_next_write_is(
    api: ApiServer, cluster: Cluster
) -> None:
    store = ConfigMapStore(api, NAME)
    cluster.down = True
    with pytest.raises(TemporaryError, match="answered 503"):
        store.load()
    cluster.down = False
    store.load()
    cluster.down = True
    for call in (store.check, lambda: store.save(named("a"))):
        with pytest.raises(TemporaryError, match="answered 503"):
            call()
    cluster.down = False
    store.save(named("b"))
    assert stored(cluster) == named("b")


def test_one_that_was_deleted_is_made_again_as_it_was(api: ApiServer, cluster: Cluster) -> None:
    store = ConfigMapStore(api, NAME)
    store.load()
    store.save(named("a"))
    for call, state in ((store.check, named("a")), (lambda: store.save(named("b")), named("b"))):
        cluster.remove(CONFIG_MAPS, NAME)
        call()
        assert stored(cluster) == state


def test_two_that_make_it_at_once_are_told_apart(api: ApiServer, cluster: Cluster) -> None:
    first = ConfigMapStore(api, NAME)
    other: dict[str, Any] = {"metadata": {"name": NAME, "resourceVersion": "7"}, "data": {HOLDER: "another"}}
    cluster.before_write.append(lambda: cluster.put(CONFIG_MAPS, other))
    with pytest.raises(TemporaryError, match="changed meanwhile"):
        first.load()
    assert first.load() == State()


def test_what_is_no_state_is_not_written_over(api: ApiServer, cluster: Cluster) -> None:
    cluster.put(CONFIG_MAPS, {"metadata": {"name": NAME, "resourceVersion": "7"}, "data": {STATE: "{]"}})
    with pytest.raises(PermanentError, match="ConfigMap fraud-rollout does not hold the state"):
        ConfigMapStore(api, NAME).load()
    found = cluster.get(CONFIG_MAPS, NAME)
    assert found is not None
    assert found["data"] == {STATE: "{]"}


def test_at_the_limit_the_oldest_roll_outs_are_forgotten_and_what_goes_on_never_is(
    api: ApiServer, cluster: Cluster
) -> None:
    store = ConfigMapStore(api, NAME, most_bytes=20_000)
    store.load()
    state = rolled_out(50, reason="r" * 1_000)
    state, going_on = ask(state, Asked("f" * 12, "manual-last", "a test", "to see"), RULES, 99.0)
    store.save(state)
    kept = stored(cluster)
    assert 5 < len(kept.rollouts) < 30
    assert kept.rollouts == state.rollouts[-len(kept.rollouts) :]
    assert kept.going_on == going_on
    waiting = tuple(Pending(body="e" * 1_000 + str(number), sinks=("http://away",)) for number in range(30))
    with pytest.raises(PermanentError, match="30 events that wait"):
        store.save(state.model_copy(update={"outbox": waiting}))
    assert stored(cluster) == kept


def test_fifty_long_roll_outs_are_far_below_the_limit(api: ApiServer, cluster: Cluster) -> None:
    store = ConfigMapStore(api, NAME)
    store.load()
    state = rolled_out(60, reason="r" * 1_000)
    store.save(state)
    assert stored(cluster) == state
    assert len(state.model_dump_json()) < 250_000
