"""MLflow's aliases follow what the controller says, whatever was lost, repeated or away meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import httpx
import pytest
from bundles import sibling
from controllers import arrive, controller_of, served
from detectors_running import running, start
from mlflow import MlflowClient
from outages import Outage

from fraudkit.bundle import Bundle, Origin, child_of, seal
from fraudkit.bundle_store import BundleStore
from fraudkit.database import Database
from fraudkit.errors import InvalidInput, TemporaryError
from fraudkit.events import CONTENT_TYPE, ModelPromoted, encode
from fraudkit.settings import Settings, load_settings
from pipelines import registry
from pipelines.controller import Model, Models
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.tracking import Tracking
from serving.rollout.app import RolloutApi
from serving.rollout.engine import Asked

KEY = "drift-a"
AT = datetime(2026, 11, 24, 14, 45, tzinfo=UTC)
WAS = "2026-11-24T14:45:00Z by somebody"


@dataclass
class Registry:
    """MLflow with a first model and two later ones, and what it shows."""

    settings: Settings
    tracking: Tracking
    versions: tuple[str, str, str]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.settings.tracking_uri, self.settings.tracking_uri)

    def aliases(self) -> dict[str, str]:
        """The bundle version that each alias names."""
        named = self.client.get_registered_model("fraud").aliases
        return {alias: self.tags(number)["bundle_version"] for alias, number in named.items()}

    def tags(self, number: str) -> dict[str, str]:
        tags: dict[str, str] = self.client.get_model_version("fraud", number).tags
        return tags

    def tags_of(self, version: str) -> dict[str, str]:
        (found,) = self.client.search_model_versions(f"tags.bundle_version = '{version}'")
        return self.tags(str(found.version))


@pytest.fixture(scope="module")
def mlflow(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    state = tmp_path_factory.mktemp("registry")
    settings = load_settings(state=state, bundles=bundle.path.parent)
    tracking = Tracking(settings)
    other = sibling(bundle, tmp_path_factory.mktemp("draft") / "other", bundle.path.parent, 0.7)
    versions = bundle.version, other.version, "c" * 12
    for version in versions:
        run = tracking.log_run(version, {}, {}, {}, {})
        tracking.register(run.run_id, version, {})
    return Registry(settings, tracking, versions)


def now(champion: str, challenger: str | None = None, **ended: str) -> Models:
    over = tuple(Model(version=version, status=status) for status, version in ended.items())
    return Models(champion=champion, challenger=challenger, models=over)


def test_aliases_are_those_of_what_serves_and_what_is_tried(mlflow: Registry) -> None:
    first, second, third = mlflow.versions
    assert mlflow.aliases() == {"champion": first, "challenger": third}, "as they were registered"
    mlflow.tracking.mirror(now(first, second, confirmed=first), [])
    assert mlflow.aliases() == {"champion": first, "challenger": second}
    mlflow.tracking.mirror(now(second, provisional=second, confirmed=first), [])
    assert mlflow.aliases() == {"champion": second}
    mlflow.tracking.mirror(now(second, third), [])
    mlflow.tracking.mirror(now(second, rolled_back=third, confirmed=second), [])
    assert mlflow.aliases() == {"champion": second}
    mlflow.tracking.mirror(now(first, reversed=second), [])
    assert mlflow.aliases() == {"champion": first}


def test_a_model_that_waits_for_its_roll_out_stays_challenger(mlflow: Registry) -> None:
    first, second, third = mlflow.versions
    mlflow.tracking.register(mlflow.tracking.log_run("again", {}, {}, {}, {}).run_id, third, {})
    mlflow.tracking.mirror(now(first, confirmed=first, rolled_back=second), [])
    assert mlflow.aliases() == {"champion": first, "challenger": third}


def test_what_happened_is_in_the_tags_in_whatever_order_and_however_often_it_is_heard(mlflow: Registry) -> None:
    first, second, _ = mlflow.versions
    told = [
        (second, f"promoted.{KEY}", WAS),
        (second, f"rolled_back.{KEY}", f"{WAS}: recall fell"),
        (first, f"promoted.{KEY}-reversed", WAS),
    ]
    seen = []
    for order in permutations(told):
        mlflow.tracking.mirror(now(first, reversed=second), [*order, order[0]])
        seen.append((mlflow.aliases()["champion"], mlflow.tags_of(first), mlflow.tags_of(second)))
    assert all(one == seen[0] for one in seen)
    assert seen[0][0] == first
    assert seen[0][1][f"promoted.{KEY}-reversed"] == WAS
    assert seen[0][2][f"rolled_back.{KEY}"] == f"{WAS}: recall fell"


def test_a_child_that_no_run_registered_is_registered_beside_its_parent(mlflow: Registry, bundle: Bundle) -> None:
    first = mlflow.versions[0]
    with child_of(bundle) as draft:
        (draft / "reference" / "rows.parquet").write_text("other rows\n")
        origin = bundle.manifest.model_dump(include=set(Origin.model_fields)) | {"parent": first}
        child = seal(draft, bundle.path.parent, Origin.model_validate(origin))
    for _ in range(2):
        mlflow.tracking.mirror(now(child.version, provisional=child.version), [(child.version, "promoted.x", WAS)])
    assert mlflow.aliases()["champion"] == child.version
    tags = mlflow.tags_of(child.version)
    assert (tags["parent_version"], tags["promoted.x"]) == (first, WAS)
    (found,) = mlflow.client.search_model_versions(f"tags.bundle_version = '{child.version}'")
    assert Path(found.source.removeprefix("file://"), "manifest.json").is_file()


def test_a_version_that_mlflow_does_not_know_moves_no_alias(mlflow: Registry) -> None:
    before = mlflow.aliases()
    mlflow.tracking.mirror(now("e" * 12), [("e" * 12, "promoted.x", WAS)])
    assert mlflow.aliases()["champion"] == before["champion"]


def test_beside_a_controller_a_first_model_is_champion_once_it_serves(tmp_path: Path, bundle: Bundle) -> None:
    settings = load_settings(state=tmp_path, rollout={"url": "http://127.0.0.1:9"})
    tracking = Tracking(settings)
    run = tracking.log_run("first", {}, {}, {}, {})
    assert tracking.register(run.run_id, bundle.version, {}) == ("challenger",)
    tracking.mirror(now(bundle.version, confirmed=bundle.version), [])
    assert Registry(settings, tracking, (bundle.version,) * 3).aliases() == {"champion": bundle.version}


def test_before_there_is_a_model_there_is_nothing_to_repair(tmp_path: Path) -> None:
    Tracking(load_settings(state=tmp_path)).mirror(Models(champion=None), [])


def test_what_cannot_be_repaired_now_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"rollout\.url"):
        registry.repair(load_settings(state=tmp_path), [])
    with pytest.raises(TemporaryError, match="does not answer"):
        registry.repair(load_settings(state=tmp_path, rollout={"url": "http://127.0.0.1:9"}), [])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_the_controller_did_reaches_mlflow_though_it_was_away_and_the_launcher_killed(
    mlflow: Registry, bundle: Bundle, tmp_path: Path
) -> None:
    first, second, _ = mlflow.versions
    mlflow.tracking.mirror(now(first), [])
    event = encode(ModelPromoted(model="fraud", version=second, key="manual-b", by="somebody"), "/rollout", AT)
    database = Database(f"sqlite:///{tmp_path / 'launcher.db'}", MIGRATIONS, "launcher.database")
    store = RunStore(database)
    with ExitStack() as stack:
        stack.callback(database.close)
        controller = stack.enter_context(controller_of(bundle, tmp_path))
        outage = Outage(RolloutApi(controller, BundleStore(bundle.path.parent)).app())
        variables = {
            "FRAUD_STATE": str(mlflow.settings.state),
            "FRAUD__BUNDLES": str(bundle.path.parent),
            "FRAUD__LAUNCHER__DATABASE": f"sqlite:///{tmp_path / 'launcher.db'}",
            "FRAUD__LAUNCHER__PORT": "0",
            "FRAUD__LAUNCHER__POLL_SECONDS": "0.1",
            "FRAUD__ROLLOUT__URL": stack.enter_context(served(outage)),
        }
        controller.ask(Asked(second, "manual-b", "somebody", "to see"))
        controller.act("manual-b", "promote", "somebody", "it is good")
        arrive(controller)
        outage.requests = 1_000

        launcher = start("pipelines.launcher", tmp_path, **variables)
        stack.callback(launcher.kill)
        for _ in range(2):
            answer = httpx.post(f"{launcher.url}/", content=event, headers={"content-type": CONTENT_TYPE})
            assert (answer.status_code, answer.content) == (200, b"")
        until(lambda: "MLflow does not show yet what serves" in launcher.stderr.read_text())
        launcher.kill()
        (kept,) = store.moves(10)
        assert (kept.version, kept.tag) == (second, "promoted.manual-b")

        outage.requests = 0
        with running("pipelines.launcher", tmp_path, **variables):
            until(lambda: store.moves(10) == ())
    assert mlflow.aliases()["champion"] == second
    assert mlflow.tags_of(second)["promoted.manual-b"] == WAS
