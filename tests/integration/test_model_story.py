"""`fraudctl model` beside the APIs of a launcher and a controller, and without them."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from controllers import arrive, controller_of, served
from rich.console import Console

from fraudctl.__main__ import main
from fraudctl.model import StoryRecord, show, story
from fraudkit.bundle import REFERENCE, SCORER, Bundle, Gate, Learned, Origin, child_of, child_origin, load, seal
from fraudkit.bundle_store import BundleStore
from fraudkit.database import Database
from fraudkit.events import CONTENT_TYPE, RetrainRequested, encode
from fraudkit.scoring import Thresholds
from fraudkit.settings import LauncherSettings, RolloutSettings, Settings, load_settings
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.launcher.triggers import of_event
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller

NOBODY = "http://127.0.0.1:9"
KEY = "drift-0123456789ab-20261124T1445Z-1"
WHO = {"by": "an analyst", "reason": "too many reviews"}


@dataclass(frozen=True)
class World:
    """A first model that a run trained, and its child with other thresholds, which a person promoted."""

    first: Bundle
    child: str
    variables: dict[str, str]
    settings: Settings


@pytest.fixture(scope="module")
def first(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`bundle`, with an origin that tells more."""
    given = bundle.manifest.model_dump(include=set(Origin.model_fields))
    learned = Learned(
        uri="base.parquet", base=(1_200, 400), recent=(700, 90), since=given["created"], as_of=given["created"]
    )
    gate = Gate(outcome="pass", reason="first_model", message="a first model, above every floor")
    more = {"run": f"{KEY}-1", "trigger": KEY, "learned": learned, "gate": gate}
    return seal(bundle.path, tmp_path_factory.mktemp("bundles"), Origin(**given | more))


@pytest.fixture(scope="module")
def world(first: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, bundles = tmp_path_factory.mktemp("story"), first.path.parent
    with ExitStack() as stack:
        launcher = stack.enter_context(launcher_of(folder))
        controller = stack.enter_context(controller_of(first, folder))
        url = stack.enter_context(served(RolloutApi(controller, BundleStore(bundles)).app()))
        child = promoted(url, controller, first)
        sections = {"launcher": {"url": launcher}, "rollout": {"url": url}}
        variables = {"FRAUD_STATE": str(folder), "FRAUD__BUNDLES": str(bundles)}
        variables |= {"FRAUD__LAUNCHER__URL": launcher, "FRAUD__ROLLOUT__URL": url}
        yield World(first, child, variables, load_settings(state=folder, bundles=bundles, **sections))


@contextmanager
def launcher_of(folder: Path) -> Iterator[str]:
    """A launcher that was asked for a run by a drift; nothing runs it."""
    database = Database(f"sqlite:///{folder / 'launcher.db'}", MIGRATIONS, "launcher.database")
    database.migrate()
    store = RunStore(database)
    asking = Asking(store, LauncherSettings(data="base.parquet"), lambda: 1_800_000_000.0)
    moment = datetime(2026, 11, 24, 14, 45, tzinfo=UTC)
    drift = {"episode_start": moment, "as_of": moment, "reason": "V14 moved", "verdict_id": "w-17"}
    event = encode(RetrainRequested(key=KEY, version="0123456789ab", **drift), "/the-detector", moment)
    asking.ask(of_event({"content-type": CONTENT_TYPE}, event.encode()))
    with served(LauncherApi(store, asking).app()) as url:
        yield url
    database.close()


def promoted(url: str, controller: Controller, first: Bundle) -> str:
    """A child of the first model with other thresholds, which a person promotes."""
    asked = WHO | {"review": 0.2, "block": 0.7}
    answer = httpx.post(f"{url}/v1/bundles/{first.version}/thresholds", json=asked)
    assert answer.status_code == 201, answer.text
    rollout = answer.json()
    httpx.post(f"{url}/v1/rollouts/{rollout['key']}/promote", json=WHO | {"reason": "now"}).raise_for_status()
    arrive(controller)
    assert controller.state.champion == rollout["version"]
    return str(rollout["version"])


def shown(told: StoryRecord) -> str:
    written = io.StringIO()
    show(told, Console(file=written, width=80))
    return written.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `fraudctl model` prints."""
    monkeypatch.setattr(sys, "argv", ["fraudctl", "model", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def test_the_version_of_any_answer_leads_to_who_asked_what_was_learned_and_what_the_gate_said(
    world: World,
) -> None:
    told = story(world.first.version, world.settings)
    assert told.asked
    assert (told.asked.key, told.asked.by, told.asked.reason) == (KEY, "/the-detector", "V14 moved")
    assert [one.key for one in told.rollouts] == ["bootstrap"]
    assert (told.serves, told.ancestors, told.away) == (False, (), ())
    assert told.summary == (
        f"Trained on {learned(world.first)} by the run {KEY}-1: /the-detector asked for it (V14 moved); the "
        "gate: first_model, a first model, above every floor. It was the first model and took all traffic at "
        "once; it does not serve now."
    )
    text = shown(told)
    for said in (
        "/the-detector: V14 moved",
        "verdict w-17",
        "base data base.parquet",
        world.first.manifest.data,
        "bootstrap, asked",
    ):
        assert said in text


def learned(first: Bundle) -> str:
    day = f"{first.manifest.created:%Y-%m-%d %H:%M}"
    live = f"90 frauds and 700 legitimate ones of live traffic ({day} to {day} UTC)"
    return f"400 frauds and 1,200 legitimate rows, and {live}"


def test_a_child_tells_who_made_it_who_promoted_it_and_its_parent(world: World) -> None:
    told = story(world.child, world.settings)
    assert (told.serves, told.own, told.away) == (True, ("thresholds",), ())
    assert (told.review, told.block) == (0.2, 0.7)
    assert [one.version for one in told.ancestors] == [world.first.version]
    assert told.ancestors[0].asked == told.asked
    assert told.summary == (
        f"A child of {world.first.version} with other thresholds, made by an analyst: too many reviews. It was "
        "promoted by an analyst, provisionally, until labels confirm it; it serves now."
    )
    text = shown(told)
    assert text.index("an analyst: promote (now)") < text.index(f"Its parent {world.first.version}")
    assert text.count("base data base.parquet") == 1


def test_the_command_tells_of_what_serves_though_mlflow_never_heard_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    told = StoryRecord.model_validate_json(run(monkeypatch, capsys, "--json"))
    assert told == story(world.child, world.settings)
    assert run(monkeypatch, capsys, "--path").strip() == told.bundle == str(world.first.path.parent / world.child)
    assert told.summary in run(monkeypatch, capsys, world.child).replace("\n", " ")


def test_parts_that_are_away_are_said_and_the_bundle_tells_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = {"FRAUD__LAUNCHER__URL": NOBODY, "FRAUD__ROLLOUT__URL": NOBODY}
    for name, value in (world.variables | away).items():
        monkeypatch.setenv(name, value)
    told = StoryRecord.model_validate_json(run(monkeypatch, capsys, world.first.version, "--json"))
    assert (told.serves, told.asked, told.rollouts) == (None, None, ())
    assert [said.partition(":")[0] for said in told.away] == [
        "the roll-out controller is away",
        "the launcher is away",
    ]
    assert f"it was asked for as {KEY}; the gate: first_model" in told.summary
    text = run(monkeypatch, capsys, world.first.version)
    assert "The launcher is away: " in text
    assert "400 frauds and 1,200 legitimate rows" in text


def test_what_answers_and_is_no_controller_is_away_too(world: World) -> None:
    wrong = {"url": world.settings.launcher.url}
    told = story(world.first.version, world.settings.model_copy(update={"rollout": RolloutSettings(**wrong)}))
    assert [said.partition(":")[0] for said in told.away] == ["the roll-out controller is away"]
    assert (told.serves, told.asked is not None) == (None, True)


def test_a_child_whose_parent_is_gone_says_so(world: World, tmp_path: Path) -> None:
    orphan = load(world.first.path.parent / world.child)
    alone = seal(orphan.path, tmp_path, Origin(**orphan.manifest.model_dump(include=set(Origin.model_fields))))
    told = story(alone.version, load_settings(state=tmp_path, bundles=tmp_path, rollout={"url": NOBODY}))
    assert (told.own, told.ancestors) == ((), ())
    text = shown(told)
    assert "that bundle is not here" in text
    assert "base data base.parquet" in text


def alone(bundles: Path) -> Settings:
    """No part is there but bundles."""
    return load_settings(state=bundles, bundles=bundles, launcher={"url": NOBODY}, rollout={"url": NOBODY})


def test_a_reference_that_a_run_offered_is_told_with_that_run(first: Bundle, tmp_path: Path) -> None:
    given = first.manifest.model_dump(include=set(Origin.model_fields))
    parent = seal(first.path, tmp_path, Origin(**given))
    with child_of(parent) as draft:
        (draft / REFERENCE / "rows.parquet").write_text("new rows")
        why, run = "AUPRC on recent rows: no sure gain", ("drift-x-1", "drift-x")
        origin = child_origin(draft, parent, what="new rows.", by="the pipeline", reason=why, run=run)
        child = seal(draft, tmp_path, origin)
    told = story(child.version, alone(tmp_path))
    assert (told.own, [one.version for one in told.ancestors]) == (("reference",), [parent.version])
    assert told.summary.startswith(
        f"A child of {parent.version} with another reference, made by the pipeline: {why}."
    )
    before, _, after = shown(told).partition(f"Its parent {parent.version}")
    assert "drift-x-1" in before
    assert "base.parquet" not in before
    assert f"{KEY}-1" in after


def test_a_parent_that_was_sealed_again_as_its_childs_child_ends_the_story(first: Bundle, tmp_path: Path) -> None:
    given = first.manifest.model_dump(include=set(Origin.model_fields))
    parent = seal(first.path, tmp_path, Origin(**given))
    asked = {"what": "-", "by": "an analyst", "reason": "to see"}
    with child_of(parent) as draft:
        (draft / SCORER).write_bytes(replace(parent.scorer, thresholds=Thresholds(0.3, 0.7)).to_json())
        child = seal(draft, tmp_path, child_origin(draft, parent, **asked))
    shutil.rmtree(parent.path)
    with child_of(child) as draft:
        (draft / SCORER).write_bytes(parent.scorer.to_json())
        again = seal(draft, tmp_path, child_origin(draft, child, **asked))
    told = story(again.version, alone(tmp_path))
    assert [told.version, *(one.version for one in told.ancestors)] == [parent.version, child.version]
