"""A real controller whose champion serves by record alone: nothing ticks, and no traffic moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.http import listen
from fraudkit.policy.rollout import RolloutRules
from fraudkit.settings import EventSettings
from serving.rollout import engine
from serving.rollout.controller import Controller
from serving.rollout.engine import Asked
from serving.rollout.evidence import Evidence
from serving.rollout.state import State
from serving.rollout.store import FileStore
from serving.rollout.targets import Observed
from serving.rollout.targets.local import NOBODY, LocalTarget

RULES = RolloutRules()
THERE = Observed(settled=True, ready=True, mark="m")
"""What a target says once traffic is where it is wanted."""


@contextmanager
def controller_of(champion: Bundle, folder: Path, *, serves: bool = True) -> Iterator[Controller]:
    """A controller that has brought `champion` to serve, as its first model; its state is kept in `folder`.

    Without `serves` it only could.
    """
    bundles = BundleStore(champion.path.parent)
    asked = Asked(champion.version, "bootstrap", "the pipeline", "a first model")
    store = FileStore(folder / "rollout.json")
    if serves:
        store.save(engine.settle(engine.ask(State(), asked, RULES, 0.0)[0], THERE, 1.0))
    target = LocalTarget(bundles, NOBODY, folder / "servers")
    evidence = Evidence(bundles, NOBODY, RULES.skew_tolerance)
    try:
        controller = Controller(store, target, evidence, RULES, EventSettings(), 30.0, lambda: 5.0)
        controller.load()
        yield controller
    finally:
        target.close()
        store.close()


def arrive(controller: Controller) -> None:
    """Let traffic be where the controller wants it."""
    controller._change(lambda state: engine.settle(state, THERE, 9.0))


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of an app that a thread of this process serves."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
