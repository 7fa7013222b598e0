"""Models and roll-outs on the page: a real controller is steered, whoever may; what is away is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bundles import sibling
from console_pages import ENGINEER, VIEWER, Pages
from controllers import controller_of, served
from structlog.testing import capture_logs

from fraudkit.bundle import REFERENCE, Bundle, child_of, child_origin, load, seal
from fraudkit.bundle_store import BundleStore
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller
from serving.rollout.engine import Asked


@dataclass
class World:
    champion: Bundle
    challenger: str
    controller: Controller
    pages: Pages

    def status(self, name: str = "manual-second") -> str:
        found = self.controller.state.get(name)
        assert found
        return str(found.status)


@pytest.fixture
def world(bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    """A champion; another version is in the store, and not tried yet."""
    bundles = tmp_path / "bundles"
    champion = load(Path(shutil.copytree(bundle.path, bundles / bundle.version)))
    challenger = sibling(champion, tmp_path / "draft", bundles, 0.3).version
    with (
        controller_of(champion, tmp_path) as controller,
        served(RolloutApi(controller, BundleStore(bundles)).app()) as url,
    ):
        yield World(champion, challenger, controller, Pages(bundles, url))


@pytest.fixture
def tried(world: World) -> World:
    """With a roll-out that goes on."""
    world.controller.ask(Asked(world.challenger, "manual-second", "a test", "to see"))
    return world


def steer(world: World, action: str, user: str = ENGINEER, **fields: str) -> tuple[int, str]:
    rollout = world.controller.state.get("manual-second")
    assert rollout
    answer = world.pages.post(f"/models/rollouts/{rollout.id}/{action}", user, **fields)
    return answer.status_code, answer.headers.get("location") or answer.text


def test_an_engineer_steers_with_a_reason_that_the_controller_keeps(tried: World) -> None:
    assert steer(tried, "pause", reason="to look at it") == (303, "/models?did=pause")
    assert tried.status() == "paused"
    assert "The roll-out is paused" in tried.pages.get("/models?did=pause").text
    assert steer(tried, "resume", reason="it looks well")[0] == 303
    assert steer(tried, "rollback", reason="it is of no use")[0] == 303
    rollout = tried.controller.state.get("manual-second")
    assert rollout
    assert [(hand.action, hand.by, hand.reason) for hand in rollout.hands] == [
        ("pause", ENGINEER, "to look at it"),
        ("resume", ENGINEER, "it looks well"),
        ("rollback", ENGINEER, "it is of no use"),
    ]


def test_what_cannot_be_done_is_said_on_the_page_and_the_reason_stays_in_its_field(tried: World) -> None:
    status, text = steer(tried, "pause", reason="  ")
    assert (status, tried.status()) == (422, "running")
    assert "reason: say why" in text
    status, text = steer(tried, "resume", reason="it looks well")
    assert (status, tried.status()) == (422, "running")
    assert "a roll-out that is running cannot resume" in text
    assert 'value="it looks well"' in text
    assert steer(tried, "destroy", reason="x")[0] == 404


def test_a_viewer_sees_a_roll_out_and_steers_none_and_each_try_is_audited(tried: World) -> None:
    seen = tried.pages.get("/models", VIEWER).text
    assert tried.challenger in seen
    assert "formaction" not in seen
    assert "takes the role engineer" in seen
    with capture_logs() as told:
        assert steer(tried, "promote", VIEWER, reason="I want it")[0] == 403
        assert tried.status() == "running"
        assert steer(tried, "pause", reason="to look")[0] == 303
    lines = [(one["by"], one["action"], one["outcome"], one["reason"]) for one in told if one["event"] == "audit"]
    refused = f"to promote takes the role engineer; {VIEWER} is viewer"
    assert lines == [(VIEWER, "promote", refused, "I want it"), (ENGINEER, "pause", "done", "to look")]


def test_the_live_part_follows_the_roll_out_and_offers_what_can_be_done(tried: World) -> None:
    seen = tried.pages.get("/models/now").text
    assert "<!doctype" not in seen
    assert seen.count('aria-current="step"') == 1
    assert "It was not looked at yet." in seen
    buttons = tried.pages.get("/models/buttons").text
    assert [action for action in ("pause", "resume", "promote", "rollback") if f"/{action}" in buttons] == [
        "pause",
        "promote",
        "rollback",
    ]
    steer(tried, "rollback", reason="no")
    assert "Traffic is on its way" in tried.pages.get("/models/buttons").text


def test_a_reference_that_is_offered_is_accepted_with_a_reason(world: World) -> None:
    assert "A new reference is offered" not in world.pages.get("/models").text
    with child_of(world.champion) as draft:
        (draft / REFERENCE / "rows.parquet").write_text("newer rows\n")
        told = {"what": "new rows.", "by": "the pipeline", "reason": "no gain"}
        origin = child_origin(draft, world.champion, **told, run=("drift-x-1", "drift-x"))
        offer = seal(draft, world.champion.path.parent, origin).version
    page = world.pages.get("/models").text
    assert "A new reference is offered" in page
    assert f"/models/{offer}/reference" in page
    assert world.pages.post(f"/models/{offer}/reference").status_code == 422
    answer = world.pages.post(f"/models/{offer}/reference", reason="the world has changed")
    assert answer.headers["location"] == "/models?did=accept"
    assert world.status(f"manual-reference-{offer}") == "running"
    assert "A new reference is offered" not in world.pages.get("/models").text


def test_a_version_tells_where_it_came_from_and_what_cannot_be_read_of_it(world: World) -> None:
    page = world.pages.get(f"/models/{world.champion.version}")
    assert page.status_code == 200
    assert "serves now" in page.text
    assert "card.md of a test" in page.text
    assert "it took all traffic at once" in page.text
    assert "http://mlflow.example/#/models/fraud" in page.text
    assert "the launcher does not answer" in page.text
    assert f"metrics.json of {world.champion.version} cannot be read" in page.text
    assert world.pages.get("/models/0123456789ab").status_code == 404
    assert world.pages.get("/models/..%2Fx").status_code == 404


def test_metrics_stand_beside_those_of_who_was_champion(tried: World) -> None:
    for version, auprc in ((tried.champion.version, 0.5), (tried.challenger, 0.625)):
        folder = tried.champion.path.parent / version
        with child_of(load(folder)) as draft:
            natural = {"auprc": {"value": auprc, "low": 0.4, "high": 0.75}, "rows": 1_000}
            (draft / "metrics.json").write_text(json.dumps({"natural": natural}))
            origin = load(folder).manifest.model_dump(exclude={"format", "version", "files", "sha256"})
            shutil.rmtree(folder)
            seal(draft, folder.parent, type(tried.champion.manifest).__base__.model_validate(origin))
    page = tried.pages.get("/models").text
    assert "0.625 <small>0.4 to 0.75</small>" in page
    assert "0.5 <small>0.4 to 0.75</small>" in page
    assert page.count('class="dot other"') == 1


def test_a_controller_that_is_away_is_said(bundle: Bundle) -> None:
    page = Pages(bundle.path.parent).get("/models")
    assert page.status_code == 200
    assert "the roll-out controller does not answer" in page.text
    assert Pages(bundle.path.parent).get("/models/now").status_code == 502
