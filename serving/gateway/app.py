"""The gateway as an ASGI app: the inference protocol to stable or canary, other paths to those who own them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final

import aiohttp
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from fraudkit.http import Field, Held
from fraudkit.settings import MODEL_NAME
from serving.gateway import upstream
from serving.gateway.payloads import PayloadLogger
from serving.gateway.traffic import Split, Target, Traffic
from serving.gateway.upstream import FAILURES, Answer, Asked

log = structlog.get_logger()

TRAFFIC: Final = "/gateway/traffic"
UPSTREAM_SECONDS: Final = 60.0
"""Longest time without a byte of an answer."""
HELD_BODIES: Final = 8
"""Bodies of the largest size that are held at a time; beyond, 503."""


class Owner(StrEnum):
    """Who answers at a path."""

    HEALTH = "health"
    METRICS = "metrics"
    TRAFFIC = "traffic"
    DETECTOR = "detector"
    LAUNCHER = "launcher"
    CONTROLLER = "controller"
    CONSOLE = "console"
    MODEL = "model"


_ROUTES: Final = (
    (re.compile(r"/"), Owner.CONSOLE),
    (re.compile(r"/health"), Owner.HEALTH),
    (re.compile(r"/metrics"), Owner.METRICS),
    (re.compile(TRAFFIC), Owner.TRAFFIC),
    (re.compile(rf"/v1/models/{MODEL_NAME}/(drift|versions)(/.*)?"), Owner.DETECTOR),
    (re.compile(r"/v1/(labels|labelled|logged|transactions|review|windows)(/.*)?"), Owner.DETECTOR),
    (re.compile(r"/v1/runs(/.*)?"), Owner.LAUNCHER),
    (re.compile(r"/v1/(rollouts|bundles)(/.*)?"), Owner.CONTROLLER),
    (re.compile(r"/v[12](/.*)?"), Owner.MODEL),
)
"""Paths and their owners; the first that fits."""
_READS: Final = ("GET", "HEAD")


class _RefusedError(Exception):
    def __init__(self, status: int, error: str, *headers: Field) -> None:
        super().__init__(error)
        self.answer = _json(status, {"error": error}, *headers)


class _ClientGoneError(Exception):
    pass


class Gateway:
    """The app; `at_once` is empty, because every request waits for another server. Made in an event loop.

    Args:
        split: Chooses stable or canary.
        payloads: Logs what passes.
        parts: Where the other parts are.
        max_bytes: Most bytes of a body.
        read_seconds: Longest time that a body may take to arrive.
    """

    at_once: frozenset[bytes] = frozenset()

    def __init__(
        self,
        split: Split,
        payloads: PayloadLogger,
        parts: Mapping[Owner, str],
        max_bytes: int,
        read_seconds: float,
    ) -> None:
        self._split = split
        self._payloads = payloads
        self._parts = parts
        self._max_bytes = max_bytes
        self._read_seconds = read_seconds
        self._held = 0
        self._counts: Counter[tuple[str, int]] = Counter()
        self._fallbacks = 0
        self._canary_fails = False
        self._client = upstream.session(UPSTREAM_SECONDS)
        self._registry = CollectorRegistry()
        self._registry.register(_Metrics(self))

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> None:
        """Nothing is answered at once."""

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        arrived = time.time_ns()
        try:
            async with self._body(scope, receive) as body:
                await self._respond(scope, body, arrived, send)
        except _RefusedError as refused:
            await _send(send, refused.answer)
        except _ClientGoneError:
            return  # before all of the request was here: it was none

    async def _respond(self, scope: Scope, body: bytes, arrived: int, send: Send) -> None:
        path = scope["path"]
        owner = next((owner for pattern, owner in _ROUTES if pattern.fullmatch(path)), None)
        match owner:
            case Owner.MODEL:
                await _send(send, await self._inferred(_asked(scope, body), arrived))
            case Owner.DETECTOR | Owner.LAUNCHER | Owner.CONTROLLER:
                await self._passed(owner, _asked(scope, body), scope, send)
            case Owner.CONSOLE:
                # A page of its own port: what people do there, files among it, must not stand in scoring's way.
                place = (b"location", f"{self._parts[owner]}/".encode())
                await _send(send, _json(307, {"console": f"{self._parts[owner]}/"}, place))
            case Owner.TRAFFIC:
                await _send(send, self._traffic(scope, body))
            case Owner.METRICS:
                media = (b"content-type", CONTENT_TYPE_LATEST.encode())
                await _send(send, _own(200, generate_latest(self._registry), media))
            case Owner.HEALTH:
                await _send(send, _json(200, {"ready": True}))
            case _:
                raise _RefusedError(404, f"there is no {path}")

    @asynccontextmanager
    async def _body(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body of a request; it counts as held until it is let go."""
        self._check(int(dict(scope["headers"]).get(b"content-length", b"0")))
        held = Held()
        try:
            yield await self._read(receive, held)
        finally:
            self._held -= held.size

    async def _read(self, receive: Receive, held: Held) -> bytes:
        chunks, more = [], True
        try:
            async with asyncio.timeout(self._read_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    chunks.append(message.get("body", b""))
                    held.size += len(chunks[-1])
                    self._held += len(chunks[-1])
                    self._check(held.size)
                    more = message.get("more_body", False)
        except TimeoutError:
            late = f"the body did not arrive within {self._read_seconds:g} seconds"
            raise _RefusedError(408, late, (b"connection", b"close")) from None
        return b"".join(chunks)

    def _check(self, size: int) -> None:
        """Raise when a body of this size is too large, or too many bytes are held already."""
        if size > self._max_bytes:
            raise _RefusedError(413, f"a body has at most {self._max_bytes:,} bytes")
        if self._held > HELD_BODIES * self._max_bytes:
            raise _unavailable("too many large requests at a time; try again later")

    def _traffic(self, scope: Scope, body: bytes) -> Answer:
        """Say how traffic is split, or split it anew from the next request on."""
        if _by_a_page(scope) or not _from_here(scope):
            raise _RefusedError(403, "traffic is split from this machine alone, and by no web page")
        if scope["method"] == "PUT":
            try:
                self._split.traffic = Traffic.model_validate_json(body)
            except ValidationError as error:
                raise _RefusedError(400, _problem(error)) from None
            self._canary_fails = False
            log.info("traffic is split anew", **self._split.traffic.model_dump())
        elif scope["method"] != "GET":
            raise _RefusedError(405, "GET or PUT", (b"allow", b"GET, PUT"))
        return _json(200, self._split.traffic.model_dump())

    async def _passed(self, part: Owner, request: Asked, scope: Scope, send: Send) -> None:
        """Pass on what a part says as it comes: files of labelled rows are long."""
        if scope["method"] not in _READS and _by_a_page(scope):
            raise _RefusedError(403, "nothing is changed for a web page of another place")
        started, url = False, self._parts[part]
        try:
            async with upstream.send(self._client, url, request) as response:
                self._counts[part, response.status] += 1
                started = True
                fields = upstream.end_to_end(response.raw_headers)
                await send({"type": "http.response.start", "status": response.status, "headers": fields})
                async for chunk in response.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except FAILURES as error:
            if started:  # the answer stays without its end, and the server closes the connection
                log.warning("an answer is cut off", part=part, target=request.target, error=_said(error))
                return
            self._counts[part, 503] += 1
            where = f"the {part} at {url} cannot be reached ({_said(error)})"
            raise _unavailable(f"{where}; scoring goes on. Start it, then try again") from error

    async def _inferred(self, request: Asked, arrived: int) -> Answer:
        call = self._payloads.call(request.headers)
        self._payloads.request(call, request.body, arrived)
        target, url = self._split.choose()
        answer = await self._canary(url, request) if target is Target.CANARY else None
        if answer is None:
            target, answer = Target.STABLE, await self._stable(request)
        self._counts[target, answer.status] += 1
        self._payloads.answer(call, answer.status, answer.body)
        return answer

    async def _canary(self, url: str, request: Asked) -> Answer | None:
        """The canary's answer; None when it gives none. Scoring changes nothing: stable may be asked as well."""
        try:
            answer = await upstream.ask(self._client, url, request)
        except FAILURES as error:
            self._fallbacks += 1
            if not self._canary_fails:
                log.warning("the canary cannot be reached: stable answers", url=url, error=_said(error))
            self._canary_fails = True
            return None
        if self._canary_fails:
            log.info("the canary answers again", url=url)
        self._canary_fails = False
        return answer

    async def _stable(self, request: Asked) -> Answer:
        url = self._split.traffic.stable
        try:
            try:
                return await upstream.ask(self._client, url, request)
            except aiohttp.ClientConnectionError as error:
                if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)):
                    raise
                # A kept connection, which the server closed at that moment.
                return await upstream.ask(self._client, url, request)
        except FAILURES as error:
            self._counts[Target.STABLE, 503] += 1
            where = f"the model at {url} cannot be reached ({_said(error)})"
            raise _unavailable(f"{where}: see that the predictor there runs, then try again") from error


class _Metrics(Collector):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        gateway = self._gateway
        requests = CounterMetricFamily(
            "fraud_gateway_requests", "Requests by server and status.", labels=("target", "code")
        )
        for (target, code), count in list(gateway._counts.items()):
            requests.add_metric((target, str(code)), count)
        events = CounterMetricFamily(
            "fraud_gateway_events", "Log events by what became of them.", labels=("outcome",)
        )
        for outcome in ("posted", "failed", "dropped"):
            events.add_metric((outcome,), gateway._payloads.counts[outcome])
        yield requests
        yield events
        yield CounterMetricFamily(
            "fraud_gateway_fallbacks", "Requests that stable answered for the canary.", value=gateway._fallbacks
        )
        percent = gateway._split.traffic.percent
        yield GaugeMetricFamily("fraud_gateway_canary_percent", "Share of the canary.", value=percent)


def _asked(scope: Scope, body: bytes) -> Asked:
    try:
        return upstream.asked(scope, body)
    except ValueError as error:
        raise _RefusedError(400, str(error)) from None


def _by_a_page(scope: Scope) -> bool:
    """Whether a web page asks: a browser names it in `Origin`. No page has business here."""
    return b"origin" in dict(scope["headers"])


def _from_here(scope: Scope) -> bool:
    """Whether this machine asks."""
    caller = scope["client"]
    return caller is not None and ip_address(caller[0]).is_loopback


def _unavailable(error: str) -> _RefusedError:
    return _RefusedError(503, error, (b"retry-after", b"1"))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _problem(error: ValidationError) -> str:
    """What is wrong with a traffic, in one line."""
    first = error.errors(include_url=False)[0]
    said = first.get("ctx", {}).get("error", first["msg"])
    return f"{'.'.join(map(str, first['loc'])) or 'traffic'}: {said}"


def _json(status: int, document: dict[str, Any], *headers: Field) -> Answer:
    return _own(status, json.dumps(document).encode(), (b"content-type", b"application/json"), *headers)


def _own(status: int, body: bytes, *headers: Field) -> Answer:
    return Answer(status, [*headers, (b"content-length", b"%d" % len(body))], body)


async def _send(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
