"""A platform of this machine with a console, some traffic of a changed world, and outcomes: one for all views."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from ports import free_port, ports_of_parts

from fraudctl.demo import RUSHED
from fraudctl.traffic import Callers, Synthesized
from pipelines.data.synthesize import synthesize, write

READY_SECONDS = 180.0
CLEAN, CHANGED = 4_000, 4_000


@dataclass(frozen=True)
class World:
    """Where it is.

    Attributes:
        console: URL of the page.
        gateway: … of the model, and of the parts' APIs.
        folder: Its files.
        variables: Its settings, for commands of fraudctl.
    """

    console: str
    gateway: str
    folder: Path
    variables: dict[str, str]

    def get(self, path: str) -> httpx.Response:
        """What a part's API says, through the gateway."""
        return httpx.get(f"{self.gateway}{path}", timeout=10, trust_env=False)


@contextmanager
def console_world(folder: Path) -> Iterator[World]:
    """`fraudctl up` with settings in which hours pass in seconds; some windows have been judged."""
    base, port = folder / "base.parquet", free_port()
    write(base, synthesize(60_000, 3, fraud_rate=0.01))
    own = ports_of_parts()
    variables = os.environ | RUSHED | own | {"FRAUD_STATE": str(folder / "state")}
    log = (folder / "up.log").open("w")
    command = [sys.executable, "-m", "fraudctl", "up", "--data", str(base), "--port", str(port)]
    up = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    world = World(f"http://127.0.0.1:{own['FRAUD__CONSOLE__PORT']}", f"http://127.0.0.1:{port}", folder, variables)
    try:
        _until(lambda: world.get("/v2/models/fraud/ready").is_success, up, folder)
        _until(lambda: httpx.get(f"{world.console}/health", trust_env=False).is_success, up, folder)
        with Callers(world.gateway, own["FRAUD__DETECTOR__URL"], Synthesized(5)) as callers:
            callers.flow(new=False, over=lambda sent: sent.rows >= CLEAN)
            changed = callers.flow(new=True, over=lambda sent: sent.rows >= CHANGED)
            callers.report(changed, CHANGED // 2)
            assert callers.failed == []
        yield world
    finally:
        up.terminate()
        up.wait(60)
        log.close()


def _until(condition, up: subprocess.Popen[bytes], folder: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert up.poll() is None, (folder / "up.log").read_text()
        assert time.monotonic() < deadline, (folder / "up.log").read_text()
        time.sleep(0.2)
