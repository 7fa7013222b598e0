"""Runs on the page: what a real launcher has, and one that is started by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from console_pages import ENGINEER, VIEWER, Pages
from controllers import served

from fraudkit.bundle import Bundle
from fraudkit.database import Database
from fraudkit.settings import LauncherSettings
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.store import MIGRATIONS, RunStore


@dataclass
class World:
    store: RunStore
    pages: Pages


@pytest.fixture
def world(bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    """A launcher that nobody has asked for a run yet."""
    database = Database(f"sqlite:///{tmp_path / 'launcher.db'}", MIGRATIONS, "launcher.database")
    database.migrate()
    store = RunStore(database)
    asking = Asking(store, LauncherSettings(data="base.csv"), lambda: 1_795_828_000.0)
    with served(LauncherApi(store, asking).app()) as url:
        yield World(store, Pages(bundle.path.parent, launcher=url))
    database.close()


def test_a_run_by_hand_is_recorded_with_who_wants_it_and_why(world: World) -> None:
    assert "No run was asked for yet" in world.pages.get("/runs").text
    answer = world.pages.post("/runs", name="after-the-fair", data_uri=" other.csv ", reason="prices changed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/manual-after-the-fair?became=run")
    run = world.store.get("manual-after-the-fair")
    assert run
    assert (run.by, run.reason, run.data_uri) == (ENGINEER, "prices changed", "other.csv")
    page = world.pages.get(answer.headers["location"]).text
    assert "A run was asked for." in page
    assert 'data-live="/runs/manual-after-the-fair/now"' in page
    assert "prices changed" in world.pages.get("/runs/table").text


def test_what_the_launcher_does_with_a_key_is_told_in_words(world: World) -> None:
    world.pages.post("/runs", name="first", reason="a")
    second = world.pages.post("/runs", name="second", reason="b").headers["location"]
    assert "Another run goes on" in world.pages.get(second).text
    assert "because" in world.pages.get(second).text
    again = world.pages.post("/runs", name="manual-first", reason="c").headers["location"]
    assert again == "/runs/manual-first?became=duplicate"
    run = world.store.get("manual-first")
    assert run
    assert run.reason == "a"
    assert run.data_uri == "base.csv"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a b", "reason": "x"}, "name: letters, digits"),
        ({"name": "", "reason": "x"}, "name: letters, digits"),
        ({"name": "good", "reason": ""}, "reason: say why"),
        ({"name": "good", "reason": "x", "data_uri": "u" * 1_001}, "data_uri: String should have at most 1000"),
    ],
)
def test_what_is_wrong_with_a_form_is_said_beside_what_was_typed(
    world: World, fields: dict[str, str], said: str
) -> None:
    answer = world.pages.post("/runs", **fields)
    assert answer.status_code == 422
    assert said in answer.text
    assert f'value="{fields["name"]}"' in answer.text
    assert world.store.last(10, None) == ()


def test_a_viewer_sees_runs_and_starts_none(world: World) -> None:
    assert "takes the role engineer" in world.pages.get("/runs", VIEWER).text
    assert world.pages.post("/runs", VIEWER, name="mine", reason="x").status_code == 403
    assert world.store.last(10, None) == ()


def test_a_run_that_nobody_asked_for_and_a_launcher_that_is_away_are_said(world: World, bundle: Bundle) -> None:
    missing = world.pages.get("/runs/manual-nothing")
    assert missing.status_code == 404
    assert "nobody asked for a run" in missing.text
    away = Pages(bundle.path.parent)
    for path in ("/runs", "/runs/manual-x"):
        page = away.get(path)
        assert page.status_code == 200
        assert "the launcher does not answer" in page.text
    assert away.post("/runs", name="x", reason="y").status_code == 422
