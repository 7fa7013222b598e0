"""The parts on this machine, composed: detector, evaluator, launcher, controller, console, gateway."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from types import TracebackType

import httpx
from rich.console import Console

from fraudctl.server import HOST, require_free
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.processes import READY_SECONDS, Part, Running, stop_all
from fraudkit.settings import MODEL_NAME, Settings
from serving.rollout.targets.local import NOBODY

POLL_SECONDS = 0.1


class Platform:
    """All parts, for as long as a `with` block lasts.

    Args:
        settings: Their settings.
        port: Of the gateway, at which the model is.
        data: The base data of runs that name no other.
        errors: Hears of parts that start, die and are started again.
        variables: Settings of the parts beside the environment's.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        data: str | None,
        errors: Console,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._errors = errors
        self._logs = settings.state.absolute() / "logs"
        self._port = port
        self.url = f"http://{HOST}:{port}"
        self.detector = f"http://{HOST}:{settings.detector.port}"
        self.launcher = f"http://{HOST}:{settings.launcher.port}"
        self.controller = f"http://{HOST}:{settings.rollout.port}"
        self._environment = os.environ | dict(variables or {}) | self._told(data)
        self._running: list[Running] = []

    def __enter__(self) -> Platform:
        try:
            for part in self._parts():
                self._errors.print(f"starting {part.name}", highlight=False)
                log = self._logs / f"{part.name}.log"
                self._running.append(Running(part, self._environment, log))
            for one in self._running:
                one.wait_ready()
        except BaseException:
            stop_all(self._running)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_all(self._running)

    def look_after(self) -> None:
        """Start parts again that have died."""
        for one in self._running:
            said = one.look_after(time.monotonic())
            if said:
                self._errors.print(said, highlight=False, soft_wrap=True)

    def wait_for_model(self) -> None:
        """Wait until the gateway's model answers: the controller brings it back first.

        Raises:
            PermanentError: It does not.
        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/v2/models/{MODEL_NAME}/ready", timeout=2, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(POLL_SECONDS)
        raise PermanentError(f"no model answers at {self.url}; the logs are in {self._logs}")

    def _parts(self) -> list[Part]:
        """What runs, those that others ask first; the last is ended first, the gateway before its predictors."""
        own = self._settings
        return [
            _served("detector", "detectors", own.detector.port),
            Part("evaluator", "detectors.evaluator"),
            _served("launcher", "pipelines.launcher", own.launcher.port),
            _served("controller", "serving.rollout", own.rollout.port),
            _served("console", "serving.console", own.console.port),
            _served("gateway", "serving.gateway", self._port, "--stable", NOBODY),
        ]

    def _told(self, data: str | None) -> dict[str, str]:
        """What the parts are told of each other, and of the data that runs begin from."""
        sinks = [*self._settings.events.sinks, f"{self.launcher}/", f"{self.detector}/"]
        told = {
            "FRAUD_STATE": str(self._settings.state.absolute()),
            "FRAUD__DETECTOR__URL": self.detector,
            "FRAUD__ROLLOUT__URL": self.controller,
            "FRAUD__ROLLOUT__GATEWAY": self.url,
            "FRAUD__CONSOLE__MODEL": self.url,
            "FRAUD__LAUNCHER__URL": self.launcher,
            "FRAUD__EVENTS__LAUNCHER": self.launcher,
            "FRAUD__EVENTS__SINKS": json.dumps(sinks),
        }
        return told | ({"FRAUD__LAUNCHER__DATA": data} if data else {})


def require_ports(settings: Settings, port: int) -> None:
    """Raise InvalidInput when a port is taken, or named twice; before anything takes time."""
    owners = {
        "detector": settings.detector.port,
        "launcher": settings.launcher.port,
        "controller": settings.rollout.port,
        "console": settings.console.port,
    }
    for owner, own in owners.items():
        if port == own:
            raise InvalidInput(f"port {port} is the {owner}'s; choose another with --port")
    for taken in (port, *owners.values()):
        require_free(taken)


def _served(name: str, module: str, port: int, *arguments: str) -> Part:
    return Part(name, module, (*arguments, "--port", str(port)), f"http://{HOST}:{port}/health")
