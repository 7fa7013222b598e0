"""The console's drift page over a detector that is real; launcher and controller are away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asgi import Client
from watched import START, Detector, bind, events_of, settings_of, traffic, watched_bundle

from detectors.api.drift import DriftApi
from detectors.app import Detector as App
from detectors.intake import Intake
from detectors.store.database import Database
from detectors.store.verdicts import VerdictStore
from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from pipelines.data.synthesize import Shift
from serving.console.access import Access
from serving.console.app import ConsoleApp
from serving.console.context import Console
from serving.console.peers import Peer, Peers

NOBODY = "http://127.0.0.1:9"


class Watched:
    """A detector on a database of its own, and the console that asks it."""

    def __init__(self, watched: Bundle, folder: Path) -> None:
        self.settings = settings_of(watched)
        self.database = Database(f"sqlite:///{folder / 'detector.db'}")
        self.database.migrate()
        self.detector = Detector(self.database, self.settings)
        self.bundles = BundleStore.of(self.settings)

    def page(self, path: str, now: float = START) -> str:
        """What the console shows at a time [s, UTC]."""
        store, configured = VerdictStore(self.database), self.settings.detector
        drift = DriftApi(store, configured, self.settings.drift, self.bundles, lambda: now)
        intake = Intake("replica", self.detector.log, "fraud", configured)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(App(intake, configured, drift.routes())))
        away = Peer("launcher", NOBODY, httpx.AsyncClient(trust_env=False))
        detector = Peer("detector", "http://detector", client)
        console = Console(self.settings, Peers(away, detector, away, away, away.client), self.bundles)
        app = ConsoleApp(console, Access(self.settings.console, "127.0.0.1"))
        answer = Client(app).get(f"http://127.0.0.1{path}")
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return watched_bundle(bundle.scorer, tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def drifted(watched: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two hours as ever, and two of another world."""
    made = Watched(watched, tmp_path_factory.mktemp("drifted"))
    clean, moved = traffic(4_000, 41, 0.0, 7_200.0), traffic(4_000, 42, 7_200.0, 7_200.0, Shift(mean=0.4))
    made.detector.store([bind(watched.version), *events_of(clean), *events_of(moved, "m")])
    made.detector.run()
    yield made
    made.database.close()


def test_before_the_first_window_the_page_says_what_it_waits_for(watched: Bundle, tmp_path: Path) -> None:
    empty = Watched(watched, tmp_path)
    shown = empty.page("/drift")
    empty.database.close()
    assert "no model has been promoted" in shown
    assert "No window has been judged yet" in shown
    assert "the launcher does not answer" in shown


def test_a_drift_is_told_with_its_windows_columns_and_numbers_while_other_parts_are_away(drifted: Watched) -> None:
    history = drifted.detector.history()
    drifting = next(one for one in history.windows if one.verdict.level == "drift")
    columns = {s.subject for c in drifting.verdict.channels if c.channel == "inputs" for s in c.statistics}
    shown = drifted.page(f"/drift?window={drifting.id}&feature=V9")
    assert 'class="level drift"' in shown
    assert "Drift detected" in shown
    assert "the launcher does not answer" in shown
    assert shown.count('class="mark ') >= len(history.windows)
    assert f'<option value="{drifting.id}" selected>' in shown
    assert "V9: this window beside the reference" in shown
    assert columns
    assert all(f'<th scope="row">{column}</th>' in shown for column in columns)
    # The column that is taken when none is asked for is one that moved.
    taken = re.search(r"<h3>(\w+): this window beside", drifted.page(f"/drift?window={drifting.id}"))
    assert taken
    assert taken[1] in columns
    part = drifted.page("/drift/now")
    assert "<h1>" not in part
    assert "Live traffic is no longer what the model was made for." in part
    assert "so nothing is known of now" in drifted.page("/drift/now", START + 1e6)


def test_a_window_that_is_not_kept_is_said_and_the_rest_is_shown(drifted: Watched) -> None:
    shown = drifted.page("/drift?window=gone&last=7&feature=V99")
    assert "There is no window “gone”" in shown
    assert "Verdicts over time" in shown
