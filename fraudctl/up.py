"""The platform on this machine: predictor, detector, evaluator, launcher and gateway, until Ctrl-C."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime

import httpx
from rich.console import Console

from fraudctl.drift import fetch_status
from fraudctl.runs import find_bundle, synthesized_path, train_here
from fraudctl.server import HOST, require_free
from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.events import CONTENT_TYPE, ModelPromoted, encode
from fraudkit.processes import READY_SECONDS, Part, Running, stop_all
from fraudkit.settings import MODEL_NAME, Settings

WATCH_SECONDS = 0.2


def up(data: str | None, port: int, settings: Settings, out: Console, errors: Console) -> None:
    """Start all parts, tell the detector of the model, and look after them until a signal.

    Raises:
        InvalidInput: A port is taken, or named twice.
        PermanentError: A part did not become ready.
    """
    for owner, own in (("detector", settings.detector.port), ("launcher", settings.launcher.port)):
        if port == own:
            raise InvalidInput(f"port {port} is the {owner}'s; choose another with --port")
    for taken in (port, settings.detector.port, settings.launcher.port):
        require_free(taken)
    bundle = _bundle(data, settings, errors)
    environment = os.environ | _environment(data, settings)
    logs = settings.state.absolute() / "logs"
    running: list[Running] = []
    try:
        for part in parts(bundle, port, settings):
            errors.print(f"starting {part.name}", highlight=False)
            running.append(Running(part, environment, logs / f"{part.name}.log"))
        for one in running:
            one.wait_ready()
        _bind(bundle.version, f"http://{HOST}:{settings.detector.port}")
        _tell(bundle, port, settings, out)
        _look_after(running, errors)
    finally:
        stop_all(running)


def parts(bundle: Bundle, port: int, settings: Settings) -> list[Part]:
    """What runs, those that others ask first."""
    predictor, detector = _free_port(), settings.detector.port
    stable = f"http://{HOST}:{predictor}"
    serve = ("--bundle", str(bundle.path), "--host", HOST, "--http_port", str(predictor), "--enable_grpc", "false")
    return [
        Part("predictor", "serving.predictor", serve, f"{stable}/v1/models/{MODEL_NAME}"),
        Part("detector", "detectors", ("--port", str(detector)), f"http://{HOST}:{detector}/health"),
        Part("evaluator", "detectors.evaluator"),
        Part(
            "launcher",
            "pipelines.launcher",
            ("--port", str(settings.launcher.port)),
            f"http://{HOST}:{settings.launcher.port}/health",
        ),
        Part(
            "gateway", "serving.gateway", ("--stable", stable, "--port", str(port)), f"http://{HOST}:{port}/health"
        ),
    ]


def _environment(data: str | None, settings: Settings) -> dict[str, str]:
    """What the parts are told of each other, and of the data that runs begin from."""
    launcher = f"http://{HOST}:{settings.launcher.port}"
    told = {
        "FRAUD__DETECTOR__URL": f"http://{HOST}:{settings.detector.port}",
        "FRAUD__LAUNCHER__URL": launcher,
        "FRAUD__LAUNCHER__SCHEDULE": "true",
        "FRAUD__EVENTS__LAUNCHER": launcher,
        "FRAUD__EVENTS__SINKS": json.dumps([*settings.events.sinks, f"{launcher}/"]),
    }
    made = synthesized_path(settings).absolute()
    base = data or settings.launcher.data or (str(made) if made.exists() else None)
    return told | ({"FRAUD__LAUNCHER__DATA": base} if base else {})


def announce(version: str, detector: str, key: str) -> None:
    """Tell the detector which model serves from now on; said again under the same key, it changes nothing.

    Raises:
        PermanentError: The detector does not take it.
    """
    promoted = ModelPromoted(model=MODEL_NAME, version=version, key=key, by="fraudctl up")
    body = encode(promoted, "/fraud-platform/fraudctl", datetime.now(UTC))
    try:
        answer = httpx.post(
            f"{detector}/",
            content=body.encode(),
            headers={"content-type": CONTENT_TYPE},
            timeout=10,
            trust_env=False,  # a proxy for the internet does not know this machine's detector
        )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise PermanentError(f"the detector at {detector} was not told of the model: {error}") from error


def _bind(version: str, detector: str) -> None:
    """Announce a model that the detector does not watch already: bound anew it would forget what it saw."""
    end = time.monotonic() + READY_SECONDS
    while True:  # it takes events before its database has been made
        try:
            watched = fetch_status(detector).version
            break
        except PermanentError:
            if time.monotonic() > end:
                raise
            time.sleep(WATCH_SECONDS)
    if watched != version:
        announce(version, detector, f"up-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


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


def _tell(bundle: Bundle, port: int, settings: Settings, out: Console) -> None:
    url = f"http://{HOST}:{port}"
    row = ", ".join(["3600", *["0.1"] * 28, "12.5"])
    out.print(
        f"[bold]Model[/]      {bundle.version} at {url}/v1/models/{MODEL_NAME}:predict",
        f"[bold]Drift[/]      {url}/v1/models/{MODEL_NAME}/drift (or: fraudctl drift status)",
        f"[bold]Runs[/]       http://{HOST}:{settings.launcher.port}/v1/runs (or: fraudctl runs)",
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
