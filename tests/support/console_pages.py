"""The console as an app in this process, for who comes with a name and a role."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import httpx

from fraudkit.bundle_store import BundleStore
from fraudkit.settings import ConsoleSettings, DetectorSettings, LauncherSettings, RolloutSettings, Settings
from serving.console.access import Access
from serving.console.app import ConsoleApp
from serving.console.context import Console
from serving.console.peers import Peers

NOBODY: Final = "http://127.0.0.1:9"
ENGINEER, ANALYST, VIEWER = "an-engineer", "an-analyst", "a-viewer"


class Pages:
    """Pages of a console whose parts are elsewhere, or away.

    Args:
        bundles: The folder of the bundles.
        controller: URL of the roll-out controller.
        launcher: … of the launcher.
        detector: … of the detector.
    """

    def __init__(
        self, bundles: Path, controller: str = NOBODY, launcher: str = NOBODY, detector: str = NOBODY
    ) -> None:
        console = ConsoleSettings(
            user_header="x-user",
            engineers=(ENGINEER,),
            analysts=(ANALYST,),
            mlflow="http://mlflow.example/",
            kfp="http://kfp.example",
        )
        self._settings = Settings(
            bundles=bundles,
            console=console,
            rollout=RolloutSettings(url=controller),
            launcher=LauncherSettings(url=launcher),
            detector=DetectorSettings(url=detector),
        )

    def get(self, path: str, user: str = ENGINEER) -> httpx.Response:
        """A page as somebody sees it."""
        return asyncio.run(self._ask("GET", path, user))

    def post(self, path: str, user: str = ENGINEER, **fields: str) -> httpx.Response:
        """What comes of a form that somebody sends."""
        return asyncio.run(self._ask("POST", path, user, data=fields))

    async def _ask(self, method: str, path: str, user: str, **content: Any) -> httpx.Response:
        """Ask a console of its own: connections to the parts belong to the loop that made them."""
        settings, peers = self._settings, Peers.of(self._settings)
        access = Access(settings.console, "0.0.0.0")  # noqa: S104  # a header says who asks
        app = ConsoleApp(Console(settings, peers, BundleStore.of(settings)), access)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console")
        async with peers.client, client:
            return await client.request(method, path, headers={"x-user": user}, **content)
