"""Requests to an ASGI app in this process, for tests that are no coroutines."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


class Client:
    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, arguments))

    def put(self, path: str, **arguments: Any) -> httpx.Response:
        return asyncio.run(self._ask("PUT", path, arguments))

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, arguments))

    async def _ask(self, method: str, path: str, arguments: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://detector") as client:
            return await client.request(method, path, **arguments)
