"""The platform on this machine, until Ctrl-C."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Console

from fraudctl.asking import who
from fraudctl.platform import Platform, require_ports
from fraudctl.rollout import begin, models, wait_for_champion
from fraudctl.runs import find_bundle, synthesized_path, train_here
from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.processes import READY_SECONDS
from fraudkit.settings import MODEL_NAME, Settings

WATCH_SECONDS = 0.2
SCHEDULED = {"FRAUD__LAUNCHER__SCHEDULE": "true"}


def up(data: str | None, port: int, settings: Settings, out: Console, errors: Console) -> None:
    """Start all parts, tell the detector of the model, and look after them until a signal.

    Raises:
        InvalidInput: A port is taken, or named twice.
        PermanentError: A part did not become ready.
    """
    require_ports(settings, port)
    bundle = _bundle(data, settings, errors)
    made = synthesized_path(settings).absolute()
    base = data or settings.launcher.data or (str(made) if made.exists() else None)
    with Platform(settings, port, base, errors, SCHEDULED) as platform:
        version = _served(bundle, platform.controller, trained=data is not None)
        platform.wait_for_model()
        _tell(version, platform, settings, out)
        stay(platform)


def stay(platform: Platform) -> None:
    """Look after the parts for good."""
    while True:
        time.sleep(WATCH_SECONDS)
        platform.look_after()


def _served(bundle: Bundle, controller: str, *, trained: bool) -> str:
    """The version that serves: the one that did before, or this first one; one trained just now is rolled out."""
    champion = models(controller).champion
    if champion is None:
        begin(controller, bundle.version, "bootstrap", "fraudctl up", "the first model of this platform")
    elif trained and champion != bundle.version:  # else MLflow's alias is behind what serves
        key = f"manual-up-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        begin(controller, bundle.version, key, who(), "trained by fraudctl up")
    return wait_for_champion(controller, READY_SECONDS)


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


def _tell(version: str, platform: Platform, settings: Settings, out: Console) -> None:
    row = ", ".join(["3600", *["0.1"] * 28, "12.5"])
    url = platform.url
    out.print(
        f"[bold]Page[/]       http://127.0.0.1:{settings.console.port}/",
        f"[bold]Model[/]      {version} at {url}/v1/models/{MODEL_NAME}:predict",
        f"[bold]Drift[/]      {url}/v1/models/{MODEL_NAME}/drift (or: fraudctl drift status)",
        f"[bold]Runs[/]       {url}/v1/runs (or: fraudctl runs)",
        f"[bold]Roll-outs[/]  {url}/v1/rollouts (or: fraudctl rollout status)",
        f"[bold]Logs[/]       {settings.state.absolute() / 'logs'}",
        f"[bold]Try it[/]     curl {url}/v1/models/{MODEL_NAME}:predict -d '{{\"instances\": [[{row}]]}}'",
        "Ctrl-C stops all of it.",
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )
