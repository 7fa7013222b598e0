"""The payload logger, as KServe's agent does it: CloudEvents, posted beside the request, at most once.

Its quirks are kept, because the detector has to live with them: an id that the caller did not give is made up and
not told to the predictor; the content type of an answer's event is the request's; `ce-endpoint` is empty; an
answer is logged on status 200 alone. One is not: KServe's queue makes callers wait, and a slow sink has its agent
killed. Here what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import uuid4

import httpx
import structlog

from fraudkit.settings import MODEL_NAME

log = structlog.get_logger()

REQUEST: Final = "org.kubeflow.serving.inference.request"
RESPONSE: Final = "org.kubeflow.serving.inference.response"
WORKERS: Final = 5
TIMEOUT_SECONDS: Final = 10.0
QUEUE_BYTES: Final = 256 * 1024 * 1024
METADATA: Final = ("Inference-Header-Content-Length",)
"""Headers that are named in the logger's configuration, in their canonical case."""


class _Payload(NamedTuple):
    kind: str
    id: str
    content_type: str
    metadata: str
    body: bytes
    time: datetime


class Call(NamedTuple):
    """What both events of a request share."""

    id: str
    content_type: str
    metadata: str


class PayloadLogger:
    """Posts events to `url`.

    Args:
        url: The sink; None logs nothing.
        queue: Most events that wait.
    """

    def __init__(self, url: str | None, queue: int) -> None:
        self.counts: Counter[str] = Counter()
        self._url = url
        self._queue: asyncio.Queue[_Payload] = asyncio.Queue(queue)
        self._bytes = 0
        self._failing = False

    async def run(self) -> None:
        """Post what comes, until cancelled."""
        if self._url is None:
            return
        limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WORKERS):
                group.create_task(self._work(client, self._url))

    def call(self, headers: Mapping[str, str]) -> Call:
        """What the events of a request with these headers, by lower-case name, share."""
        named = {name: [headers[name.lower()]] for name in METADATA if name.lower() in headers}
        return Call(headers.get("ce-id") or str(uuid4()), headers.get("content-type", ""), json.dumps(named))

    def request(self, call: Call, body: bytes) -> None:
        """Log a request."""
        self._put(REQUEST, call, body)

    def answer(self, call: Call, status: int, body: bytes) -> None:
        """Log its answer."""
        if status == httpx.codes.OK:
            self._put(RESPONSE, call, body)

    def _put(self, kind: str, call: Call, body: bytes) -> None:
        if self._url is None:
            return
        if self._queue.full() or self._bytes + len(body) > QUEUE_BYTES:
            self.counts["dropped"] += 1
            return
        self._bytes += len(body)
        self._queue.put_nowait(_Payload(kind, *call, body, datetime.now(UTC)))

    async def _work(self, client: httpx.AsyncClient, url: str) -> None:
        while True:
            payload = await self._queue.get()
            self._bytes -= len(payload.body)
            try:
                answer = await client.post(url, headers=_headers(payload), content=payload.body)
                problem = None if answer.status_code == httpx.codes.OK else f"status {answer.status_code}"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            self.counts["failed" if problem else "posted"] += 1
            if problem and not self._failing:
                log.warning("log events are lost", url=url, reason=problem)
            elif self._failing and not problem:
                log.info("log events are taken again", url=url)
            self._failing = problem is not None


def _headers(payload: _Payload) -> dict[str, str]:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": payload.id,
        "ce-type": payload.kind,
        "ce-source": "http://localhost:9081/",
        "ce-time": payload.time.isoformat().replace("+00:00", "Z"),
        "ce-inferenceservicename": MODEL_NAME,
        "ce-namespace": "local",
        "ce-component": "predictor",
        "ce-endpoint": "",
        "ce-metadata": payload.metadata,
    }
    return headers | ({"content-type": payload.content_type} if payload.content_type else {})
