"""The gateway as an ASGI app: the inference protocol to stable or canary, other paths to those who own them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import httpx
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fraudkit.http import Field
from fraudkit.settings import MODEL_NAME
from serving.gateway.payloads import PayloadLogger
from serving.gateway.traffic import Split, Target, Traffic

log = structlog.get_logger()

TRAFFIC: Final = "/gateway/traffic"
_MODEL: Final = re.compile(r"/v[12](/|$)")
_DETECTOR: Final = re.compile(
    rf"/v1/(models/{MODEL_NAME}/(drift|versions)(/|$)|(windows|labels|labelled|transactions|review)(/|$))"
)
_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
_UPSTREAM_SECONDS: Final = 60.0


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Gateway:
    """The app; `at_once` is empty, because every request waits for another server.

    Args:
        split: Chooses stable or canary.
        payloads: Logs what passes.
        detector: Where the detector is.
        max_bytes: Most bytes of a body.
        read_seconds: Longest time that a body may take to arrive.
    """

    at_once: frozenset[bytes] = frozenset()

    def __init__(
        self, split: Split, payloads: PayloadLogger, detector: str, max_bytes: int, read_seconds: float
    ) -> None:
        self._split = split
        self._payloads = payloads
        self._detector = detector
        self._max_bytes = max_bytes
        self._read_seconds = read_seconds
        self._counts: Counter[tuple[str, int]] = Counter()
        self._fallbacks = 0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(timeout=_UPSTREAM_SECONDS, limits=limits)
        self._registry = CollectorRegistry()
        self._registry.register(_Metrics(self))

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> None:
        """Nothing is answered at once."""

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = request.url.path
        if path == "/health":
            return JSONResponse({"ready": True})
        if path == "/metrics":
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
        try:
            async with asyncio.timeout(self._read_seconds):
                body = await self._read(request)
        except TimeoutError:
            return _refusal(408, f"the body did not arrive within {self._read_seconds:g} seconds")
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _refusal(413, f"a body has at most {self._max_bytes:,} bytes")
        if path == TRAFFIC:
            return self._traffic(request, body)
        if _DETECTOR.match(path):
            return await self._detected(request, body)
        if _MODEL.match(path):
            return await self._inferred(request, body)
        return _refusal(404, f"there is no {path}")

    async def _read(self, request: Request) -> bytes | None:
        """The body; None when it is too large."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_bytes:
                return None
        return bytes(body)

    def _traffic(self, request: Request, body: bytes) -> Response:
        """Say how traffic is split, or split it anew from the next request on."""
        if request.client is None or not ip_address(request.client.host).is_loopback:
            return _refusal(403, "traffic is split from this machine alone")
        if request.method == "PUT":
            try:
                self._split.traffic = Traffic.model_validate_json(body)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                return _refusal(400, f"{'.'.join(map(str, first['loc'])) or 'traffic'}: {first['msg']}")
            log.info("traffic is split anew", **self._split.traffic.model_dump())
        elif request.method != "GET":
            return _refusal(405, "GET or PUT")
        return JSONResponse(self._split.traffic.model_dump())

    async def _detected(self, request: Request, body: bytes) -> Response:
        try:
            return _response(await self._ask(self._detector, request, body))
        except httpx.HTTPError:
            return _refusal(503, f"the detector at {self._detector} cannot be reached; scoring goes on")

    async def _inferred(self, request: Request, body: bytes) -> Response:
        call = self._payloads.call(_first(request))
        self._payloads.request(call, body)
        target, url = self._split.choose()
        try:
            answer = await self._ask(url, request, body)
        except httpx.HTTPError as error:
            if target is Target.STABLE:
                self._counts[target, 503] += 1
                return _refusal(503, f"the model cannot be reached ({type(error).__name__}); try again")
            # Scoring changes nothing, so asking another server does no harm.
            self._fallbacks += 1
            log.warning("the canary cannot be reached: stable answers", url=url, error=type(error).__name__)
            target, url = Target.STABLE, self._split.traffic.stable
            try:
                answer = await self._ask(url, request, body)
            except httpx.HTTPError:
                self._counts[target, 503] += 1
                return _refusal(503, "the model cannot be reached; try again")
        self._counts[target, answer.status] += 1
        self._payloads.answer(call, answer.status, answer.body)
        return _response(answer)

    async def _ask(self, url: str, request: Request, body: bytes) -> Answer:
        path = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        asked = self._client.build_request(
            request.method, f"{url}{path}{'?' + query if query else ''}", headers=headers, content=body or None
        )
        for name in set(asked.headers) - {name for name, _ in headers} - {"host", "content-length"}:
            del asked.headers[name]  # what httpx adds of its own
        response = await self._client.send(asked, stream=True)
        try:
            content = b"".join([chunk async for chunk in response.aiter_raw()])
        finally:
            await response.aclose()
        kept = [(name, value) for name, value in response.headers.items() if name not in _HOP]
        return Answer(response.status_code, kept, content)


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


def _first(request: Request) -> Mapping[str, str]:
    """The headers by lower-case name; of several the first, as Go's Header.Get."""
    found: dict[str, Any] = {}
    for name, value in request.headers.items():
        found.setdefault(name, value)
    return found


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    length = [(name, value) for name, value in response.raw_headers if name == b"content-length"]
    kept = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in answer.headers if n != "content-length"]
    response.raw_headers = [*kept, *length]
    return response


def _refusal(status: int, error: str) -> Response:
    headers = {"connection": "close"} if status in (408, 413) else {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": error}, status, headers=headers)
