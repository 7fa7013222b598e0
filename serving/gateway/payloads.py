"""The payload logger, as the agent of KServe 0.20 does it: CloudEvents, beside the request, at most once.

Its quirks are kept, because the detector has to live with them: an id that the caller did not give is made up and
not told to the predictor; the content type of an answer's event is the request's; `ce-endpoint` is empty; only an
answer of status 200 is logged; nothing is posted twice. One is not: the agent waits for its sink without end and
holds every event meanwhile, until it is killed and the data path with it. Here an event that does not fit is
dropped and counted, and the sink has a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Final, NamedTuple
from uuid import uuid4

import aiohttp
import structlog
from multidict import CIMultiDict

from fraudkit.settings import MODEL_NAME
from serving.gateway import upstream

log = structlog.get_logger()

REQUEST: Final = "org.kubeflow.serving.inference.request"
RESPONSE: Final = "org.kubeflow.serving.inference.response"
WORKERS: Final = 5
OK: Final = 200
METADATA: Final = ("Inference-Header-Content-Length",)
"""Headers that are named in the logger's configuration, in their canonical case."""
_NANOSECONDS: Final = 1_000_000_000


class Call(NamedTuple):
    """What both events of a request share."""

    id: str
    content_type: str
    metadata: str


class _Payload(NamedTuple):
    kind: str
    call: Call
    body: bytes
    time: int


class PayloadLogger:
    """Posts events to `url`.

    Args:
        url: The sink; None logs nothing.
        queue: Most events that wait.
        queue_bytes: Most bytes of them, with those that are being posted.
        seconds: How long the sink may take.
    """

    def __init__(self, url: str | None, queue: int, queue_bytes: int, seconds: float) -> None:
        self.counts: Counter[str] = Counter()
        self._url = url
        self._queue: asyncio.Queue[_Payload] = asyncio.Queue(queue)
        self._most_bytes = queue_bytes
        self._bytes = 0
        self._seconds = seconds
        self._failing = False

    async def run(self) -> None:
        """Post what comes, until cancelled."""
        if self._url is None:
            return
        async with upstream.session(self._seconds) as client, asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(client, self._url))

    async def drain(self, seconds: float) -> None:
        """Wait until what is queued is posted, but no longer than `seconds`; the rest counts as dropped."""
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            self.counts["dropped"] += self._queue.qsize()

    def call(self, headers: CIMultiDict[str]) -> Call:
        """What the events of a request with these headers share."""
        named = {name: headers.getall(name) for name in METADATA if name in headers}
        metadata = json.dumps(named, separators=(",", ":"))
        return Call(headers.get("Ce-Id") or str(uuid4()), headers.get("Content-Type", ""), metadata)

    def request(self, call: Call, body: bytes, arrived: int) -> None:
        """Log a request that arrived at a time [ns since 1970]."""
        self._put(_Payload(REQUEST, call, body, arrived))

    def answer(self, call: Call, status: int, body: bytes) -> None:
        """Log its answer."""
        if status == OK:
            self._put(_Payload(RESPONSE, call, body, time.time_ns()))

    def _put(self, payload: _Payload) -> None:
        if self._url is None:
            return
        if self._queue.full() or self._bytes + len(payload.body) > self._most_bytes:
            self.counts["dropped"] += 1
            return
        self._bytes += len(payload.body)
        self._queue.put_nowait(payload)

    async def _work(self, client: aiohttp.ClientSession, url: str) -> None:
        while True:
            payload = await self._queue.get()
            problem = await self._post(client, url, payload)
            self._bytes -= len(payload.body)
            self._queue.task_done()
            self.counts["failed" if problem else "posted"] += 1
            if problem and not self._failing:
                log.warning("log events are lost", url=url, reason=problem)
            elif self._failing and not problem:
                log.info("log events are taken again", url=url)
            self._failing = problem is not None

    async def _post(self, client: aiohttp.ClientSession, url: str, payload: _Payload) -> str | None:
        """What went wrong, if anything did."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await upstream.ask(
                    client, url, upstream.Asked("POST", "", _headers(payload), payload.body)
                )
        except TimeoutError:
            return f"no answer within {self._seconds:g} s"
        except (aiohttp.ClientError, ValueError) as error:  # a worker that ends would end the log
            return f"{type(error).__name__}: {error}"
        return None if answer.status == OK else f"status {answer.status}"


def _headers(payload: _Payload) -> CIMultiDict[str]:
    headers = CIMultiDict({
        "ce-specversion": "1.0",
        "ce-id": payload.call.id,
        "ce-type": payload.kind,
        "ce-source": "http://localhost:9081/",
        "ce-time": rfc3339(payload.time),
        "ce-recordedtime": rfc3339(time.time_ns()),
        "ce-inferenceservicename": MODEL_NAME,
        "ce-namespace": "local",
        "ce-component": "predictor",
        "ce-endpoint": "",
        "ce-metadata": payload.call.metadata,
    })  # fmt: skip
    if payload.call.content_type:
        headers["content-type"] = payload.call.content_type
    return headers


def rfc3339(nanoseconds: int) -> str:
    """A time [ns since 1970] as Go writes it: UTC, the fraction without zeros at its end."""
    seconds, fraction = divmod(nanoseconds, _NANOSECONDS)
    digits = f"{fraction:09d}".rstrip("0")
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{digits}Z" if digits else f"{whole}Z"
