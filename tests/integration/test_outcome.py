"""How a run ends where a controller rolls its model out, and how the launcher hears of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bundles import sibling
from controllers import arrive, controller_of, served
from outages import Outage
from starlette.responses import PlainTextResponse

from fraudkit import client
from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.database import Database
from fraudkit.errors import InvalidInput, PermanentError, TemporaryError
from fraudkit.settings import LauncherSettings, Settings, load_settings
from pipelines import controller as asking_controller
from pipelines import following, tasks
from pipelines.controller import Rollout
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import Result
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.launcher.triggers import Trigger
from pipelines.outcome import rolled_out, tell
from pipelines.rollout_page import rollout_page
from pipelines.steps.conclude import Conclusion
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller
from serving.rollout.state import Status, StepRecord

KEY = "drift-0123456789ab-20261124T1445Z-1"
HAND = "somebody"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_controller, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def challenger(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sibling(bundle, tmp_path_factory.mktemp("draft") / "other", bundle.path.parent, 0.5)


@pytest.fixture
def world(bundle: Bundle, tmp_path: Path) -> Iterator[World]:
    with controller_of(bundle, tmp_path) as controller:
        outage = Outage(RolloutApi(controller, BundleStore(bundle.path.parent)).app())
        with served(outage) as url:
            yield World(controller, outage, load_settings(state=tmp_path, rollout={"url": f"{url}/"}))


@dataclass
class World:
    """A real controller, and what a run is told of it."""

    controller: Controller
    outage: Outage
    settings: Settings
    heard: list[Rollout] = field(default_factory=list)

    def end(self, result: Result, then: Callable[[], None] = lambda: None) -> tuple[Result, Rollout | None]:
        """How a run ends; `then` happens once its roll-out was seen."""

        def hear(rollout: Rollout) -> None:
            self.heard.append(rollout)
            if len(self.heard) == 1:
                then()

        return rolled_out(result, KEY, self.settings, hear)

    def act(self, action: str) -> None:
        """A person's word, and traffic where it is wanted then."""
        self.controller.act(KEY, action, HAND, "they say <so>")
        arrive(self.controller)


def registered(challenger: Bundle) -> Result:
    return Result(outcome="challenger", reason="better", message="it is better", version=challenger.version)


@pytest.mark.parametrize(
    ("action", "outcome", "status"),
    [("promote", "promoted", "provisional"), ("rollback", "rolled_back", "rolled_back")],
)
def test_a_run_ends_as_its_roll_out_does(
    world: World, challenger: Bundle, bundle: Bundle, action: str, outcome: str, status: str
) -> None:
    result, rollout = world.end(registered(challenger), lambda: world.act(action))
    assert rollout
    assert (rollout.status, rollout.champion, rollout.hands[-1].by) == (status, bundle.version, HAND)
    assert (result.outcome, result.reason, result.version) == (outcome, "by_hand", challenger.version)
    assert [one.status for one in world.heard] == ["running", status]
    kept = world.controller.state.get(KEY)
    assert kept
    assert (kept.by, kept.reason) == ("the pipeline", "it is better")


def test_a_run_that_was_killed_goes_on_following_the_roll_out_that_it_began(
    world: World, challenger: Bundle
) -> None:
    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        world.end(registered(challenger), kill)
    world.heard.clear()
    result, _ = world.end(registered(challenger), lambda: world.act("rollback"))
    assert result.outcome == "rolled_back"
    assert len(world.controller.state.rollouts) == 2, "the first model's, and one"


def test_the_next_attempt_ends_as_the_roll_out_of_the_one_before_though_its_gate_sees_no_gain(
    world: World, challenger: Bundle
) -> None:
    world.end(registered(challenger), lambda: world.act("promote"))
    again = Result(outcome="no_gain", reason="no_gain", message="the champion's own", version=challenger.version)
    result, _ = world.end(again)
    assert result.outcome == "promoted"
    other = again.model_copy(update={"version": "f" * 12})
    assert world.end(other) == (other, None)


@pytest.mark.parametrize("outcome", ["no_gain", "rejected"])
def test_what_the_gate_refused_asks_for_no_roll_out(world: World, challenger: Bundle, outcome: str) -> None:
    refused = registered(challenger).model_copy(update={"outcome": outcome})
    assert world.end(refused) == (refused, None)
    assert world.controller.state.get(KEY) is None


def test_without_a_controller_a_run_ends_as_challenger(challenger: Bundle, tmp_path: Path) -> None:
    result = registered(challenger)
    assert rolled_out(result, KEY, load_settings(state=tmp_path), print) == (result, None)


def test_a_roll_out_that_cannot_begin_now_leaves_a_challenger_and_says_why(
    world: World, challenger: Bundle
) -> None:
    world.controller.ask(asked_by_hand(challenger.version))
    result, rollout = world.end(registered(challenger))
    assert rollout is None
    assert (result.outcome, result.reason) == ("challenger", "not_rolled_out")
    assert "(manual-other) goes on" in result.message


def asked_by_hand(version: str) -> Any:
    from serving.rollout.engine import Asked

    return Asked(version, "manual-other", HAND, "to see")


def test_a_model_that_the_controller_refuses_fails_the_run(world: World) -> None:
    missing = Result(outcome="challenger", reason="better", message="it is", version="e" * 12)
    with pytest.raises(PermanentError, match="there is no bundle"):
        world.end(missing)


def test_a_controller_that_is_away_is_waited_for(world: World, challenger: Bundle) -> None:
    def away() -> None:
        world.act("promote")
        world.outage.requests = 3

    world.outage.requests = 2
    result, _ = world.end(registered(challenger), away)
    assert result.outcome == "promoted"
    assert world.outage.requests == 0


def test_a_controller_that_is_away_for_too_long_fails_the_run(
    world: World, challenger: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 0.05)
    world.outage.requests = 1_000
    with pytest.raises(TemporaryError, match="503: no healthy upstream"):
        world.end(registered(challenger))


def test_what_is_no_controller_is_said(challenger: Bundle, tmp_path: Path) -> None:
    async def anything(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("<html>")(scope, receive, send)

    with served(anything) as url, pytest.raises(PermanentError, match="does not answer as a roll-out controller"):
        rolled_out(registered(challenger), KEY, load_settings(state=tmp_path, rollout={"url": url}), print)


def test_the_page_shows_steps_numbers_verdict_and_who_did_what(world: World, challenger: Bundle) -> None:
    def judged() -> None:
        step = StepRecord(
            percent=10, began=0.0, ended=600.0, requests=1_234, outcome="pass", reason="well", message="<b>all</b>"
        )
        kept = world.controller.state.get(KEY)
        assert kept
        assert kept.status is Status.RUNNING
        world.controller._change(lambda state: state.with_(kept.model_copy(update={"steps": (step,)})))
        world.act("rollback")

    page = rollout_page(*world.end(registered(challenger), judged))
    for shown in (
        challenger.version,
        "10 %",
        "1,234",
        "600",
        "well: &lt;b&gt;all",
        "rolled_back",
        HAND,
        "&lt;so&gt;",
    ):
        assert shown in page
    assert "<so>" not in page
    assert "http" not in page.replace("http-equiv", ""), "nothing from outside"


# The tasks of KFP


@dataclass
class Artifact:
    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


def test_the_task_shows_the_roll_out_and_tells_the_launcher(
    world: World, bundle: Bundle, challenger: Bundle, launcher: Launcher, tmp_path: Path
) -> None:
    conclusion = Conclusion(
        run="r",
        version=challenger.version,
        bundle=challenger.path,
        aliases=("challenger",),
        mlflow_run="m",
        report="none",
    )
    (tmp_path / "model").write_text(conclusion.model_dump_json())
    settings = {
        "state": str(tmp_path),
        "rollout": {"url": world.settings.rollout.url},
        "launcher": {"results": launcher.url},
    }
    page = Artifact(str(tmp_path / "rollout.html"))
    followed = threading.Thread(
        target=following.roll_out,
        args=(
            KEY,
            1,
            json.dumps(settings),
            Artifact("none", {"outcome": "pass", "reason": "better", "message": "it is better"}),
            Artifact(str(tmp_path / "model")),
            page,
        ),
    )
    followed.start()
    while world.controller.state.get(KEY) is None:
        followed.join(0.01)
        assert followed.is_alive()
    world.act("promote")
    followed.join(30)
    assert f"Roll-out of {challenger.version}" in Path(page.path).read_text()
    assert page.metadata["outcome"] == "promoted"
    told = launcher.store.get(KEY)
    assert told
    assert told.reported
    assert (told.reported.outcome, told.reported.version) == ("promoted", challenger.version)


@pytest.mark.parametrize(("since", "as_of"), [("2026-11-24T00:00:00Z", ""), ("", "2026-11-24T00:00:00Z")])
def test_a_span_with_one_end_is_an_error_that_says_so(since: str, as_of: str, tmp_path: Path) -> None:
    nothing = Artifact(str(tmp_path / "nothing"))
    with pytest.raises(InvalidInput, match="since and as_of go together"):
        tasks.prepare("nowhere.csv", since, as_of, "{}", nothing, nothing)


# Telling the launcher


@dataclass
class Launcher:
    store: RunStore
    url: str
    outage: Outage

    def settings(self) -> Settings:
        return load_settings(launcher={"results": self.url})


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """A launcher whose first attempt of `KEY` goes on."""
    database = Database(f"sqlite:///{tmp_path / 'launcher.db'}", MIGRATIONS, "launcher.database")
    database.migrate()
    store = RunStore(database)
    asking = Asking(store, LauncherSettings(data="x.csv"), lambda: 1e9)
    asking.ask(Trigger(KEY, "a test", "to see"))
    store.begin(KEY, 1, 1e9)
    outage = Outage(LauncherApi(store, asking).app())
    with served(outage) as url:
        yield Launcher(store, url, outage)
    database.close()


REJECTED = Result(outcome="rejected", reason="leak", message="it leaks", version="d" * 12)


def test_the_launcher_is_told_once_it_is_there_again(launcher: Launcher) -> None:
    launcher.outage.requests = 3
    tell(REJECTED, KEY, 1, launcher.settings())
    told = launcher.store.get(KEY)
    assert told
    assert told.reported == REJECTED
    tell(REJECTED, KEY, 1, launcher.settings())


def test_a_launcher_that_stays_away_fails_the_task(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 0.05)
    launcher.outage.requests = 1_000
    with pytest.raises(TemporaryError, match="503"):
        tell(REJECTED, KEY, 1, launcher.settings())


@pytest.mark.parametrize(
    ("key", "attempt", "said"), [("manual-x", 1, "404: nobody asked"), (KEY, 2, "409: attempt 2")]
)
def test_a_launcher_that_does_not_take_it_fails_the_task(
    launcher: Launcher, key: str, attempt: int, said: str
) -> None:
    with pytest.raises(PermanentError, match=said):
        tell(REJECTED, key, attempt, launcher.settings())


def test_a_run_that_no_launcher_started_tells_nobody(launcher: Launcher, tmp_path: Path) -> None:
    launcher.outage.requests = 1
    tell(REJECTED, KEY, 0, launcher.settings())
    tell(REJECTED, KEY, 1, load_settings(state=tmp_path))
    assert launcher.outage.requests == 1, "nobody was asked"


def test_a_long_message_is_told_as_far_as_the_launcher_takes_it(launcher: Launcher) -> None:
    tell(REJECTED.model_copy(update={"message": "x" * 10_000}), KEY, 1, launcher.settings())
    told = launcher.store.get(KEY)
    assert told
    assert told.reported
    assert len(told.reported.message) == 4_000


@pytest.mark.parametrize("module", ["pipelines.following", "pipelines.launcher.__main__"])
def test_what_lives_long_imports_none_of_what_trains(module: str) -> None:
    script = (
        f"import sys, {module}; print(*{{'kfp', 'mlflow', 'pandas', 'pyarrow', 'sklearn'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
