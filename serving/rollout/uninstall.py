"""End a release: stop the roll-outs, then remove what the controller made and Helm does not know.

Bundles, runs, volumes and Secrets stay. It can be run again at any time: what is gone is gone.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Final

import structlog

from fraudkit.commands import Arguments, command
from fraudkit.errors import TemporaryError
from fraudkit.settings import MODEL_NAME, RolloutSettings
from serving.rollout.apiserver import CONFIG_MAPS, INFERENCE_SERVICES, ApiServer, Kind, connect

log = structlog.get_logger()

DEPLOYMENTS: Final = Kind("apps/v1", "deployments", "Kubernetes", ("delete", "get"))
SERVICES: Final = replace(INFERENCE_SERVICES, verbs=("delete", "get"))
RUNTIMES: Final = Kind("serving.kserve.io/v1alpha1", "servingruntimes", "KServe", ("delete", "list"))
STATE: Final = replace(CONFIG_MAPS, verbs=("delete", "get"))
RIGHTS: Final = (DEPLOYMENTS, SERVICES, RUNTIMES, STATE)
"""All that its Role gives; the chart is held against it."""
POLL_SECONDS: Final = 1.0
_MOST: Final = 500


@command("uninstall")
def main(arguments: Arguments) -> None:
    """Remove all of it."""
    parser = argparse.ArgumentParser("python -m serving.rollout.uninstall", description=__doc__)
    parser.add_argument("--namespace", required=True, help="The release's.")
    parser.add_argument("--controller", required=True, help="Name of the controller's Deployment.")
    parser.add_argument("--runtimes", required=True, help="Label selector of the release's ServingRuntimes.")
    parser.add_argument("--seconds", type=float, default=240.0, help="How long it may take.")
    told = parser.parse_args(arguments)
    server = ApiServer(told.namespace, connect())
    uninstall(server, told.controller, told.runtimes, time.monotonic() + told.seconds)


def uninstall(server: ApiServer, controller: str, runtimes: str, end: float) -> None:
    """Remove the controller, and once it can make nothing anew, what it made.

    Args:
        server: The release's namespace.
        controller: Name of the controller's Deployment.
        runtimes: Label selector of the ServingRuntimes.
        end: Until when, by the monotonic clock.

    Raises:
        TemporaryError: It was not done by then.
        PermanentError: The API server refuses.
    """
    _gone(server, DEPLOYMENTS, controller, end)
    _gone(server, SERVICES, MODEL_NAME, end)
    for found in server.listed(RUNTIMES, runtimes, _MOST):
        server.delete(RUNTIMES, found["metadata"]["name"])
    _gone(server, STATE, RolloutSettings().config_map, end)
    log.info("uninstalled", namespace=server.namespace)


def _gone(server: ApiServer, kind: Kind, name: str, end: float) -> None:
    """Delete an object and wait until nothing of it is left."""
    server.delete(kind, name)
    while server.get(kind, name) is not None:
        if time.monotonic() > end:
            raise TemporaryError(f"{kind.name} {name} is still being deleted")
        time.sleep(POLL_SECONDS)
    log.info("removed", kind=kind.name, name=name)


if __name__ == "__main__":
    sys.exit(main())
