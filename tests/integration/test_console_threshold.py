"""Thresholds on the page over a controller that is real: who applies what, and what came of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from console_pages import ANALYST, ENGINEER, Pages
from controllers import controller_of, served
from structlog.testing import capture_logs

from fraudkit.bundle import Bundle, Origin, seal
from fraudkit.bundle_store import BundleStore
from fraudkit.scoring import Thresholds
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller

RATE = 0.01


@dataclass
class World:
    champion: Bundle
    controller: Controller
    store: BundleStore
    pages: Pages

    def apply(self, user: str = ENGINEER, **changed: str) -> tuple[int, str]:
        """What comes of applying thresholds: the status, and where to or the text."""
        fields = {"version": self.champion.version, "review": "0.1", "block": "0.8", "reason": "too many alerts"}
        answer = self.pages.post("/threshold", user, **fields | changed)
        return answer.status_code, answer.headers.get("location") or answer.text


@pytest.fixture(scope="module")
def measured(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a holdout: 40 frauds, and 960 legitimate rows that stand for four times as many."""
    folder, random = tmp_path_factory.mktemp("measured"), np.random.default_rng(3)
    shutil.copytree(bundle.path, folder / "draft")
    probability = np.append(random.beta(2, 1, 40), random.beta(0.2, 8, 960))
    labels = np.append(np.ones(40), np.zeros(960)).astype(np.int8)
    pq.write_table(pa.table({"probability": probability, "label": labels}), folder / "draft" / "holdout.parquet")
    (folder / "draft" / "metrics.json").write_text(json.dumps({"natural": {"natural_rate": RATE}}))
    origin = Origin(run="t", trigger="manual-t", data="none", code="none", libraries={}, created=datetime.now(UTC))
    return seal(folder / "draft", folder / "bundles", origin)


@pytest.fixture
def world(measured: Bundle, tmp_path: Path) -> Iterator[World]:
    store = BundleStore(tmp_path / "bundles")
    shutil.copytree(measured.path, store.folder / measured.version)
    champion = store.load(measured.version)
    with (
        controller_of(champion, tmp_path) as controller,
        served(RolloutApi(controller, store).app()) as url,
    ):
        yield World(champion, controller, store, Pages(store.folder, url))


def cell(text: str, name: str) -> str:
    """What the page says of what was chosen."""
    found = re.search(rf'data-cell="{re.escape(name)}">([^<]*)<', text)
    assert found, text
    return found[1]


def test_the_page_shows_what_holds_now_beside_what_is_chosen_without_a_script(world: World) -> None:
    now, other = world.pages.get("/threshold").text, world.pages.get("/threshold?review=0.2&block=0.9").text
    assert (cell(now, "review.text"), cell(now, "block.text")) == ("5%", "60%")
    assert (cell(other, "review.text"), cell(other, "block.text")) == ("20%", "90%")
    assert f'<td class="number">{cell(now, "review.recall")}</td>' in other
    assert cell(now, "review.recall") != cell(other, "review.recall")
    assert "1,000 transactions with 40 frauds" in now
    assert "is not known: the detector is away" in now


def test_the_holdout_is_read_at_the_natural_rate_of_its_evaluation(world: World) -> None:
    everything = world.pages.get("/threshold?review=0.000000000001&block=0.9").text
    assert cell(everything, "review.recall").startswith("100.0%")
    assert cell(everything, "review.precision").startswith("1.0%")


def test_an_engineer_applies_with_a_reason_and_a_roll_out_of_a_child_begins(world: World) -> None:
    with capture_logs() as logs:
        status, location = world.apply()
    assert status == 303
    began = world.controller.state.going_on
    assert began
    assert location == f"/threshold?rollout={began.id}"
    assert (began.by, began.reason) == (ENGINEER, "too many alerts")
    assert world.store.load(began.version).scorer.thresholds == Thresholds(0.1, 0.8)
    text = world.pages.get(location).text
    assert f"Version <code>{began.version}</code> with your thresholds is a roll-out" in text
    assert f"The roll-out of <code>{began.version}</code> goes on" in text
    (audited,) = [line for line in logs if line["event"] == "audit"]
    assert (audited["by"], audited["outcome"], audited["review"]) == (ENGINEER, "done", "0.1")
    status, text = world.apply(review="0.2")
    assert status == 409
    assert "goes on: it is" in text


@pytest.mark.parametrize(
    ("user", "changed", "status", "said"),
    [
        (ANALYST, {}, 403, "to set thresholds takes the role engineer"),
        (ENGINEER, {"reason": " "}, 422, "reason: say why"),
        (ENGINEER, {"review": "0.9"}, 422, "review &lt; block"),
        (ENGINEER, {"review": "much"}, 422, "are probabilities"),
        (ENGINEER, {"review": "0.05", "block": "0.6"}, 400, "are what this version has"),
        (ENGINEER, {"version": "0123456789ab"}, 422, "the champion is"),
    ],
)
def test_what_cannot_be_applied_is_said_on_the_page_and_nothing_begins(
    world: World, user: str, changed: dict[str, str], status: int, said: str
) -> None:
    answered, text = world.apply(user, **changed)
    assert answered == status
    assert said in text
    assert '<h2 id="choose">' in text
    assert world.controller.state.going_on is None
    assert (user == ENGINEER) == ('name="reason"' in text)


def test_a_controller_that_is_away_is_said(measured: Bundle) -> None:
    answer = Pages(measured.path.parent).get("/threshold")
    assert answer.status_code == 200
    assert "the roll-out controller does not answer" in answer.text


def test_a_holdout_that_cannot_be_read_is_said(world: World) -> None:
    (world.champion.path / "metrics.json").write_text("{}")
    answer = world.pages.get("/threshold")
    assert answer.status_code == 500
    assert "do not use this bundle" in answer.text
