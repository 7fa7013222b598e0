"""The detector's HTTP side: events at `/`, and the API that everyone else asks about the log."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from detectors.intake import Intake
from fraudkit.api import Api
from fraudkit.database import error_handlers
from fraudkit.http import Field
from fraudkit.settings import DetectorSettings

_OK: Final = 200


class Detector:
    """The detector as an ASGI 3 app that answers events at once, without any of what other requests take.

    Args:
        intake: Where events go.
        settings: The bounds of an event.
        api: The other paths.
    """

    at_once: Container[bytes] = frozenset({b"/"})

    def __init__(self, intake: Intake, settings: DetectorSettings, api: Sequence[BaseRoute] = ()) -> None:
        self._intake = intake
        self._settings = settings
        self._fields = f"intake-replica: {intake.replica}\r\ncontent-length: 0\r\n\r\n"
        own = [
            Route("/", self._post, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        self._app = Api([*own, *api], error_handlers("detector"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that could not be answered at once."""
        await self._app(scope, receive, send)

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> tuple[int, bytes, bytes]:  # noqa: ARG002
        """Take an event. A broker turns an answer with a body into a failure, so none has one."""
        return _OK, (self._numbers(headers, body) + self._fields).encode(), b""

    async def _post(self, request: Request) -> Response:
        """Take an event whose body is large, or came slowly."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.read_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._settings.max_bytes:
                        return _refusal(413, f"an event has at most {self._settings.max_bytes:,} bytes")
        except TimeoutError:
            return _refusal(408, f"the event did not arrive within {self._settings.read_seconds:g} seconds")
        except ClientDisconnect:
            return Response(status_code=400)
        head = self._numbers(request.scope["headers"], bytes(body))
        fields = dict(line.split(": ") for line in head.splitlines())
        return Response(headers=fields | {"intake-replica": self._intake.replica})

    def _numbers(self, headers: list[Field], body: bytes) -> str:
        number = self._intake.offer(headers, body)
        durable = self._intake.counts.durable
        if number is None:
            return f"intake-dropped: overload\r\ndurable-seq: {durable}\r\n"
        return f"intake-seq: {number}\r\ndurable-seq: {durable}\r\n"

    async def _health(self, _: Request) -> Response:
        """Ready as soon as events are taken, whatever is behind: a peer that is away is in the metrics."""
        events, _size = self._intake.waiting
        failing = self._intake.counts.failing_since > 0
        return JSONResponse({"ready": True, "store": "failing" if failing else "ok", "waiting": events})

    def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _refusal(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status, headers={"connection": "close"})
