"""Alerts on the page over a detector that is real: who marks what, what is found, what is said of the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from console_pages import ANALYST, VIEWER, Pages
from controllers import served
from log_events import HOUR, answer, request, rows_of
from structlog.testing import capture_logs

from detectors.api.transactions import TransactionsApi
from detectors.app import Detector as App
from detectors.intake import Intake
from detectors.labels import Outcome
from detectors.store.database import Database
from detectors.store.labels import LabelStore, known_of
from detectors.store.log import Entry, RequestLog
from detectors.store.transactions import TransactionStore
from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.settings import LabelSettings, Settings

NOW = HOUR + 100_000.0
REQUESTS = 40


@dataclass
class World:
    database: Database
    pages: Pages

    def outcome(self, name: str) -> Outcome | None:
        with self.database.read() as connection:
            return known_of(connection, [name], NOW).reported.get(name)


@pytest.fixture
def world(bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    """Of each request the first row is normal, the second is up for review, the third blocked."""
    database = Database(f"sqlite:///{tmp_path / 'detector.db'}")
    database.migrate()
    log, events = RequestLog(database, 60.0, "replica"), list[Entry]()
    for number in range(REQUESTS):
        when, chances = HOUR + 60 * number, (0.01, 0.1, 0.9)
        events.append(request(f"q{number}", when, rows_of(3, number)))
        events.append(answer(f"q{number}", when + 0.1, chances, (0, 1, 2), bundle.version))
    log.store(events, NOW)
    bundles = BundleStore(bundle.path.parent)
    store = TransactionStore(database, LabelSettings(review_share=0.2))
    api = TransactionsApi(store, LabelStore(database), bundles, lambda: NOW)
    configured = Settings().detector
    with served(App(Intake("replica", log, "fraud", configured), configured, api.routes())) as url:
        yield World(database, Pages(bundles.folder, detector=url))


def ids(text: str) -> list[str]:
    """The transactions of a page."""
    assert "Not here now" not in text, text
    return re.findall(r'<th scope="row"><code>(.*?)</code>', text)


def test_the_newest_alerts_come_first_and_older_ones_a_link_away(world: World) -> None:
    seen: list[str] = []
    path = "/alerts"
    while True:
        text = world.pages.get(path).text
        seen += ids(text)
        older = re.search(r'href="([^"]*)">Older', text)
        if older is None:
            break
        path = older[1].replace("&amp;", "&")
    assert seen == [f"q{number}-{row}" for number in reversed(range(REQUESTS)) for row in (1, 2)]


def test_a_list_is_of_an_alert_a_time_and_one_transaction_whatever_its_alert(world: World) -> None:
    assert {name[-1] for name in ids(world.pages.get("/alerts?alert=block").text)} == {"2"}
    assert {name[-1] for name in ids(world.pages.get("/alerts?alert=all").text)} == {"0", "1", "2"}
    assert ids(world.pages.get(f"/alerts?until={HOUR + 30}").text) == ["q0-1", "q0-2"]
    assert ids(world.pages.get("/alerts?id=q7-0").text) == ["q7-0"]
    assert "No transaction with the id q7-9 is known" in world.pages.get("/alerts?id=q7-9").text
    wrong = world.pages.get("/alerts?since=yesterday")
    assert wrong.status_code == 422
    assert "is no time" in wrong.text


def test_an_analyst_marks_and_marks_otherwise_and_it_is_kept_who_did(world: World) -> None:
    marked = world.pages.post("/alerts/label", ANALYST, id="q7-2", label="1", list="alert=block")
    assert marked.status_code == 303
    assert marked.headers["location"] == "/alerts?alert=block&marked=q7-2&as=fraud"
    assert world.outcome("q7-2") == Outcome(1, "analyst", NOW, ANALYST)
    text = world.pages.get(marked.headers["location"]).text
    assert "<code>q7-2</code> is marked as fraud" in text
    found = world.pages.get("/alerts?id=q7-2").text
    assert f"analyst, {ANALYST}" in found
    assert "Mark q7-2 as legitimate" in found
    assert "Mark q7-2 as fraud" not in found
    assert world.pages.post("/alerts/label", ANALYST, id="q7-2", label="0").status_code == 303
    assert world.outcome("q7-2") == Outcome(0, "analyst", NOW, ANALYST)


def test_a_viewer_marks_nothing_and_each_try_is_audited(world: World) -> None:
    with capture_logs() as logs:
        refused = world.pages.post("/alerts/label", VIEWER, id="q7-2", label="1", list="alert=block")
        world.pages.post("/alerts/label", ANALYST, id="q7-2", label="1")
    assert refused.status_code == 403
    assert "takes the role analyst" in refused.text
    assert {name[-1] for name in ids(refused.text)} == {"2"}
    assert "Mark q" not in refused.text
    audited = [
        (line["by"], line["target"], line["label"], line["outcome"]) for line in logs if line["event"] == "audit"
    ]
    assert audited[1] == (ANALYST, "q7-2", "1", "done")
    assert audited[0][:3] == (VIEWER, "q7-2", "1")
    assert "takes the role analyst" in audited[0][3]


def test_what_cannot_be_marked_is_said(world: World) -> None:
    unknown = world.pages.post("/alerts/label", ANALYST, id="q99-0", label="1").headers["location"]
    assert "is no transaction that is known yet" in world.pages.get(unknown).text
    again: list[Entry] = [request("o", NOW, rows_of(1, 9), ("q7-2",)), answer("o", NOW, row_ids=("q7-2",))]
    RequestLog(world.database, 60.0, "replica").store(again, NOW)
    doubtful = world.pages.post("/alerts/label", ANALYST, id="q7-2", label="1", list="id=q7-2").headers["location"]
    assert "several transactions have this id" in world.pages.get(doubtful).text
    for fields in ({"id": "q7-2", "label": "2"}, {"label": "1"}, {"id": "x" * 400, "label": "1"}):
        assert world.pages.post("/alerts/label", ANALYST, **fields).status_code in (400, 422)


def test_the_review_sample_is_without_alert_and_what_is_marked_leaves_it(world: World) -> None:
    sample = ids(world.pages.get("/alerts?show=review").text)
    assert 0 < len(sample) < REQUESTS / 2
    assert {name[-1] for name in sample} == {"0"}
    world.pages.post("/alerts/label", ANALYST, id=sample[0], label="0", list="show=review")
    assert ids(world.pages.get("/alerts?show=review").text) == sample[1:]


def test_the_part_that_is_loaded_again_is_the_list_alone(world: World) -> None:
    text = world.pages.get("/alerts").text
    live = re.search(r'data-live="([^"]*)"', text)
    assert live
    part = world.pages.get(live[1].replace("&amp;", "&")).text
    assert ids(part) == ids(text)
    assert "<html" not in part


def test_a_detector_that_is_away_is_said_and_the_page_is_there(bundle: Bundle) -> None:
    pages = Pages(bundle.path.parent)
    for path in ("/alerts", "/alerts/part"):
        answer = pages.get(path)
        assert answer.status_code == 200
        assert "the detector does not answer" in answer.text
    tried = pages.post("/alerts/label", ANALYST, id="q7-2", label="1")
    assert tried.status_code == 502
