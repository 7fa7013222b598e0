"""Start the roll-out controller, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import REGISTRY

from fraudkit.api import MAX_BYTES, READ_SECONDS
from fraudkit.bundle_store import BundleStore
from fraudkit.commands import Arguments, add_address, command
from fraudkit.errors import PermanentError
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller, Loop
from serving.rollout.evidence import Evidence
from serving.rollout.metrics import RolloutMetrics
from serving.rollout.store import FileStore, Store
from serving.rollout.targets import Target
from serving.rollout.targets.local import LocalTarget

log = structlog.get_logger()

STOP_SECONDS: Final = 10.0


@command("rollout")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    settings = load_settings()
    parser = argparse.ArgumentParser("python -m serving.rollout", description=__doc__)
    add_address(parser, settings.rollout.host, settings.rollout.port)
    options = parser.parse_args(arguments)
    serve(settings, options.host, options.port)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal.

    Raises:
        PermanentError: The address cannot be listened on, another controller is at work, or this one has failed.
    """
    own, failures = settings.rollout, threading.Event()

    def failed() -> None:
        failures.set()
        os.kill(os.getpid(), signal.SIGTERM)

    bundles = BundleStore.of(settings)
    store, target, template = _places(settings, bundles)
    evidence = Evidence(bundles, settings.detector.url, own.rules.skew_tolerance)
    controller = Controller(
        store, target, evidence, own.rules, settings.events, own.label_seconds, time.time, template
    )
    loop = Loop(controller, own.poll_seconds, failed)
    listener = listen(host, port)
    server = Server(config(RolloutApi(controller, bundles).app(), 2 * MAX_BYTES, 5), READ_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    at, number = listener.getsockname()[:2]
    log.info("rollout started", host=at, port=number, target=own.target)
    if own.target == "local":
        controller.load()  # a file is there at once, or will not be
    REGISTRY.register(RolloutMetrics(controller))
    loop.start()
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    loop.stop(STOP_SECONDS)
    if isinstance(target, LocalTarget):
        target.stop_all()
    target.close()
    store.close()
    log.info("rollout stopped")
    if failures.is_set():
        raise PermanentError("the controller has failed; its log says how")


def _places(settings: Settings, bundles: BundleStore) -> tuple[Store, Target, Callable[[], str] | None]:
    """Where the state is kept, where models serve, and what reads the template of their service."""
    own = settings.rollout
    if own.target == "local":
        store = FileStore(settings.state / "rollout.json")
        return store, LocalTarget(bundles, own.gateway, settings.state / "servers"), None
    from serving.rollout.apiserver import ApiServer, connect
    from serving.rollout.configmap import ConfigMapStore
    from serving.rollout.targets.kserve import KserveTarget
    from serving.rollout.template import TemplateFile

    server, prefix = ApiServer(own.namespace, connect(own.kubeconfig)), str(own.storage_uri).rstrip("/")
    target = KserveTarget(server, lambda version: f"{prefix}/{version}")
    return ConfigMapStore(server, own.config_map), target, TemplateFile(Path(str(own.template))).read


if __name__ == "__main__":
    sys.exit(main())
