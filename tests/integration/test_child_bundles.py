"""Children of bundles, asked of a real controller: other thresholds, and a new reference that was offered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import Client
from controllers import arrive, controller_of

from fraudkit.bundle import CARD, REFERENCE, SCORER, Bundle, child_of, child_origin, load, seal
from fraudkit.bundle_store import BundleStore
from fraudkit.scoring import Thresholds
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller

GOOD = {"review": 0.1, "block": 0.7, "by": "an analyst", "reason": "too many reviews"}
ACCEPT = {"by": "an engineer", "reason": "the alarm stands for ever"}


@dataclass
class World:
    """A controller whose champion is `champion`."""

    champion: Bundle
    controller: Controller
    client: Client

    @property
    def bundles(self) -> Path:
        return self.champion.path.parent

    def versions(self) -> set[str]:
        return {path.name for path in self.bundles.iterdir()}

    def thresholds(self, version: str, **changes: Any) -> httpx.Response:
        return self.client.post(f"/v1/bundles/{version}/thresholds", json=GOOD | changes)

    def accept(self, version: str, **changes: Any) -> httpx.Response:
        return self.client.post(f"/v1/bundles/{version}/reference", json=ACCEPT | changes)

    def roll_back(self, key: str) -> None:
        self.controller.act(key, "rollback", "a test", "for the next one")
        arrive(self.controller)
        assert self.controller.state.going_on is None


@pytest.fixture
def world(bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    bundles = tmp_path / "bundles"
    champion = load(Path(shutil.copytree(bundle.path, bundles / bundle.version)))
    with controller_of(champion, tmp_path) as controller:
        yield World(champion, controller, Client(RolloutApi(controller, BundleStore(bundles)).app()))


def offered(world: World, run: str = "drift-x-1") -> Bundle:
    """A child of the champion with another reference, as a run seals one."""
    with child_of(world.champion) as draft:
        (draft / REFERENCE / "rows.parquet").write_text(f"rows of {run}\n")
        told = {"what": "new rows.", "by": "the pipeline", "reason": "no gain"}
        return seal(draft, world.bundles, child_origin(draft, world.champion, **told, run=(run, run)))


def test_other_thresholds_are_a_child_with_the_same_weights_that_is_rolled_out(world: World) -> None:
    answer = world.thresholds(world.champion.version)
    assert answer.status_code == 201
    rollout = answer.json()
    child = load(world.bundles / rollout["version"])
    assert rollout["key"] == f"manual-thresholds-{child.version}"
    assert (rollout["champion"], rollout["status"]) == (world.champion.version, "running")
    assert (rollout["by"], rollout["reason"]) == (GOOD["by"], GOOD["reason"])
    assert child.scorer == replace(world.champion.scorer, thresholds=Thresholds(0.1, 0.7))
    before, after = world.champion.manifest, child.manifest
    assert {name for name in before.files if before.files[name] != after.files[name]} == {SCORER, CARD}
    assert (after.parent, after.by, after.reason) == (world.champion.version, GOOD["by"], GOOD["reason"])
    assert (after.run, after.trigger, after.data, after.code) == (
        before.run,
        before.trigger,
        before.data,
        before.code,
    )
    card = (child.path / CARD).read_text(encoding="utf-8")
    assert card.startswith(f"# Fraud model `{child.version}`\n\nA child of `{world.champion.version}`")
    assert "is that of the parent's thresholds" in card
    assert card.endswith((world.champion.path / CARD).read_text(encoding="utf-8"))


def test_the_same_thresholds_asked_again_are_the_roll_out_that_was_begun(world: World) -> None:
    first = world.thresholds(world.champion.version).json()
    again = world.thresholds(world.champion.version, by="another", reason="too")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    world.roll_back(first["key"])
    later = world.thresholds(world.champion.version)
    assert (later.status_code, later.json()["status"]) == (200, "rolled_back")
    assert world.versions() == {world.champion.version, first["version"]}


def test_the_way_back_from_other_thresholds_is_the_parent_itself(world: World) -> None:
    child = world.thresholds(world.champion.version).json()
    world.roll_back(child["key"])
    back = world.thresholds(child["version"], review=0.05, block=0.6)
    assert back.status_code == 409
    assert back.json()["error"] == f"{world.champion.version} serves already"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"review": 0.0}, "review:"),
        ({"review": "much"}, "review:"),
        ({"block": 1.0}, "block:"),
        ({"review": 0.7, "block": 0.7}, "review, block: thresholds must satisfy 0 < review < block < 1"),
        ({"review": 0.7 - 1e-15}, "review, block: thresholds must satisfy 0 < review < block < 1"),
        ({"review": 0.05, "block": 0.6}, "review, block: 0.05 and 0.6 are what this version has"),
        ({"by": ""}, "by:"),
        ({"reason": "x" * 1_001}, "reason:"),
        ({"reveiw": 0.1}, "reveiw:"),
    ],
)
def test_what_is_wrong_with_thresholds_is_named_and_nothing_is_made(
    world: World, changes: dict[str, Any], said: str
) -> None:
    answer = world.thresholds(world.champion.version, **changes)
    assert (answer.status_code, answer.json()["error"][: len(said)]) == (400, said)
    assert world.versions() == {world.champion.version}
    assert len(world.controller.state.rollouts) == 1


@pytest.mark.parametrize("version", ["0" * 12, "nothing", "..", "0123456789AB"])
def test_a_bundle_that_is_not_there_is_not_found(world: World, version: str) -> None:
    for answer in (world.thresholds(version), world.accept(version)):
        assert answer.status_code == 404


def test_while_a_roll_out_goes_on_no_child_is_made(world: World) -> None:
    waiting = offered(world)
    begun = world.thresholds(world.champion.version).json()
    before = world.versions()
    for answer in (world.thresholds(world.champion.version, review=0.2), world.accept(waiting.version)):
        assert answer.status_code == 409
        assert f"the roll-out of {begun['version']} ({begun['key']}) goes on" in answer.json()["error"]
    assert world.versions() == before


def test_a_reference_that_was_offered_is_rolled_out_once_it_is_accepted(world: World) -> None:
    child = offered(world)
    answer = world.accept(child.version)
    assert answer.status_code == 201
    rollout = answer.json()
    assert (rollout["key"], rollout["version"]) == (f"manual-reference-{child.version}", child.version)
    assert (rollout["by"], rollout["reason"]) == (ACCEPT["by"], ACCEPT["reason"])
    again = world.accept(child.version)
    assert (again.status_code, again.json()["id"]) == (200, rollout["id"])


def test_only_the_champion_with_another_reference_is_accepted(world: World) -> None:
    own = world.accept(world.champion.version)
    assert (own.status_code, "is a child of no other bundle" in own.json()["error"]) == (400, True)
    child = world.thresholds(world.champion.version).json()
    world.roll_back(child["key"])
    other = world.accept(child["version"])
    assert (other.status_code, "in more than its reference" in other.json()["error"]) == (400, True)
    with child_of(load(world.bundles / child["version"])) as draft:
        (draft / REFERENCE / "rows.parquet").write_text("other rows\n")
        parent = load(world.bundles / child["version"])
        origin = child_origin(draft, parent, what="new rows.", by="a test", reason="to see")
        grandchild = seal(draft, world.bundles, origin)
    late = world.accept(grandchild.version)
    assert late.status_code == 400
    assert late.json()["error"].endswith(
        f"is a child of {parent.version}; the champion is {world.champion.version}"
    )
    assert len(world.controller.state.rollouts) == 2


def test_a_damaged_bundle_is_not_rolled_out(world: World) -> None:
    child = offered(world)
    (child.path / CARD).write_text("another card")
    answer = world.accept(child.version)
    assert (answer.status_code, CARD in answer.json()["error"]) == (400, True)
    assert len(world.controller.state.rollouts) == 1
