"""The platform on this machine: detector, launcher, controller with its predictors, gateway; until Ctrl-C."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime

from rich.console import Console

from fraudctl.asking import who
from fraudctl.rollout import begin, models, wait_for_champion
from fraudctl.runs import find_bundle, synthesized_path, train_here
from fraudctl.server import HOST, require_free
from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.processes import READY_SECONDS, Part, Running, stop_all
from fraudkit.settings import MODEL_NAME, Settings
from serving.rollout.targets.local import NOBODY

WATCH_SECONDS = 0.2


def up(data: str | None, port: int, settings: Settings, out: Console, errors: Console) -> None:
    """Start all parts, tell the detector of the model, and look after them until a signal.

    Raises:
        InvalidInput: A port is taken, or named twice.
        PermanentError: A part did not become ready.
    """
    owners = {
        "detector": settings.detector.port,
        "launcher": settings.launcher.port,
        "controller": settings.rollout.port,
    }
    for owner, own in owners.items():
        if port == own:
            raise InvalidInput(f"port {port} is the {owner}'s; choose another with --port")
    for taken in (port, *owners.values()):
        require_free(taken)
    bundle = _bundle(data, settings, errors)
    environment = os.environ | _environment(data, port, settings)
    logs = settings.state.absolute() / "logs"
    running: list[Running] = []
    try:
        for part in parts(port, settings):
            errors.print(f"starting {part.name}", highlight=False)
            running.append(Running(part, environment, logs / f"{part.name}.log"))
        for one in running:
            one.wait_ready()
        _tell(_served(bundle, settings), port, settings, out)
        _look_after(running, errors)
    finally:
        stop_all(running)


def parts(port: int, settings: Settings) -> list[Part]:
    """What runs, those that others ask first; the last one is ended first, the gateway before its predictors."""
    detector, controller = settings.detector.port, settings.rollout.port
    return [
        Part("detector", "detectors", ("--port", str(detector)), f"http://{HOST}:{detector}/health"),
        Part("evaluator", "detectors.evaluator"),
        Part(
            "launcher",
            "pipelines.launcher",
            ("--port", str(settings.launcher.port)),
            f"http://{HOST}:{settings.launcher.port}/health",
        ),
        Part("controller", "serving.rollout", ("--port", str(controller)), f"http://{HOST}:{controller}/health"),
        Part(
            "gateway", "serving.gateway", ("--stable", NOBODY, "--port", str(port)), f"http://{HOST}:{port}/health"
        ),
    ]


def _environment(data: str | None, port: int, settings: Settings) -> dict[str, str]:
    """What the parts are told of each other, and of the data that runs begin from."""
    launcher, detector = f"http://{HOST}:{settings.launcher.port}", f"http://{HOST}:{settings.detector.port}"
    told = {
        "FRAUD__DETECTOR__URL": detector,
        "FRAUD__ROLLOUT__URL": f"http://{HOST}:{settings.rollout.port}",
        "FRAUD__ROLLOUT__GATEWAY": f"http://{HOST}:{port}",
        "FRAUD__LAUNCHER__URL": launcher,
        "FRAUD__LAUNCHER__SCHEDULE": "true",
        "FRAUD__EVENTS__LAUNCHER": launcher,
        "FRAUD__EVENTS__SINKS": json.dumps([*settings.events.sinks, f"{launcher}/", f"{detector}/"]),
    }
    made = synthesized_path(settings).absolute()
    base = data or settings.launcher.data or (str(made) if made.exists() else None)
    return told | ({"FRAUD__LAUNCHER__DATA": base} if base else {})


def _served(bundle: Bundle, settings: Settings) -> str:
    """The version that serves: the one that did before, or this first one; another one is rolled out."""
    url = f"http://{HOST}:{settings.rollout.port}"
    champion = models(url).champion
    if champion is None:
        begin(url, bundle.version, "bootstrap", "fraudctl up", "the first model of this platform")
    elif champion != bundle.version:
        key = f"manual-up-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        begin(url, bundle.version, key, who(), "trained by fraudctl up")
    return wait_for_champion(url, READY_SECONDS)


def _bundle(data: str | None, settings: Settings, errors: Console) -> Bundle:
    """The champion; trained now where there is none, or where data are given."""
    if data is None:
        try:
            return find_bundle(None, settings)
        except InvalidInput:
            errors.print("there is no model yet: training one", highlight=False)
    finished = train_here(data, settings, errors)
    if finished.conclusion.version is None:
        raise PermanentError(f"the gate did not pass the model: {finished.evaluation.verdict.message}")
    return find_bundle(finished.conclusion.version, settings)


def _tell(version: str, port: int, settings: Settings, out: Console) -> None:
    url = f"http://{HOST}:{port}"
    row = ", ".join(["3600", *["0.1"] * 28, "12.5"])
    out.print(
        f"[bold]Model[/]      {version} at {url}/v1/models/{MODEL_NAME}:predict",
        f"[bold]Drift[/]      {url}/v1/models/{MODEL_NAME}/drift (or: fraudctl drift status)",
        f"[bold]Runs[/]       http://{HOST}:{settings.launcher.port}/v1/runs (or: fraudctl runs)",
        f"[bold]Roll-outs[/]  http://{HOST}:{settings.rollout.port}/v1/rollouts (or: fraudctl rollout status)",
        f"[bold]Logs[/]       {settings.state.absolute() / 'logs'}",
        f"[bold]Try it[/]     curl {url}/v1/models/{MODEL_NAME}:predict -d '{{\"instances\": [[{row}]]}}'",
        "Ctrl-C stops all of it.",
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


def _look_after(running: list[Running], errors: Console) -> None:
    while True:
        time.sleep(WATCH_SECONDS)
        for one in running:
            said = one.look_after(time.monotonic())
            if said:
                errors.print(said, highlight=False, soft_wrap=True)
