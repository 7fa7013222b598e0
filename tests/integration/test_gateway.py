"""The gateway before real servers: what passes, what is logged, and what a dead or slow peer costs the caller."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
from predictors import BINARY, LENGTH, PREDICT, ROW, TWO, Server, binary, matrix
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from detectors.events import LoggedRequest, LoggedResponse, read
from fraudkit.http import BoundedProtocol, Held, listen
from fraudkit.http import Server as HttpServer
from serving.gateway.app import Gateway
from serving.gateway.payloads import REQUEST, RESPONSE, PayloadLogger
from serving.gateway.traffic import Split, Traffic

NOWHERE = "http://127.0.0.1:9"
Handler = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def serving(app: ASGIApp, protocol: Any = "httptools") -> AsyncIterator[str]:
    """An app on a free port of this machine, in this process."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=protocol, lifespan="off", ws="none", log_config=None, interface="asgi3", server_header=False
    )
    config.timeout_graceful_shutdown = 2
    server = HttpServer(config, 30.0)
    server.capture_signals = _nothing  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task


@contextmanager
def _nothing() -> Any:
    yield


def app_of(handler: Handler) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)

    return app


class Sink:
    """Keeps what it is sent; slow, if told to be."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.events: list[tuple[dict[str, str], bytes]] = []
        self._seconds = seconds

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(self._seconds)
        self.events.append((dict(request.headers), body))
        return Response()

    async def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.events) < count:
            assert time.monotonic() < deadline, len(self.events)
            await asyncio.sleep(0.01)


class Running:
    """A gateway that runs, and a client of it."""

    def __init__(self, gateway: Gateway, split: Split, payloads: PayloadLogger, client: httpx.AsyncClient) -> None:
        self.gateway, self.split, self.payloads, self.client = gateway, split, payloads, client


@asynccontextmanager
async def gateway(
    stable: str, canary: str | None = None, percent: float = 0, sink: str | None = None, queue: int = 1_000
) -> AsyncIterator[Running]:
    split = Split(Traffic(stable=stable, canary=canary, percent=percent), seed=1)
    payloads = PayloadLogger(sink, queue)
    app = Gateway(split, payloads, NOWHERE, 16 * 1024 * 1024, 30.0)
    posting = asyncio.create_task(payloads.run())
    protocol = partial(BoundedProtocol, app, Held(), 64 * 1024 * 1024)
    async with serving(app, protocol) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield Running(app, split, payloads, client)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    await app.close()


def named(name: str) -> Handler:
    async def answer(request: Request) -> Response:
        await request.body()
        return JSONResponse({"from": name}, headers={"x-model-version": name})

    return answer


def test_what_passes_is_what_the_predictor_says(predictor: Server) -> None:
    async def run() -> None:
        body, headers = binary(matrix(TWO), id="mine")
        async with gateway(predictor.url) as running, httpx.AsyncClient(base_url=predictor.url) as direct:
            for method, path, arguments in [
                ("POST", PREDICT, {"json": {"instances": [ROW]}, "headers": {"ce-id": "a"}}),
                ("POST", PREDICT, {"json": {"instances": [[1]]}, "headers": {"ce-id": "a"}}),
                ("POST", PREDICT, {"content": gzip.compress(b"{}"), "headers": {"content-encoding": "gzip"}}),
                ("POST", "/v2/models/fraud/infer", {"content": body, "headers": headers | {"ce-id": "b"}}),
                ("GET", "/v1/models/fraud", {}),
                ("GET", "/v2/models/fraud?x=1", {}),
                ("GET", "/v1/models/none", {}),
            ]:
                ours = await running.client.request(method, path, **arguments)  # type: ignore[arg-type]
                theirs = await direct.request(method, path, **arguments)  # type: ignore[arg-type]
                assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
                kept = {name: value for name, value in theirs.headers.items() if name != "date"}
                assert {name: value for name, value in ours.headers.items() if name != "date"} == kept

    asyncio.run(run())


def test_events_are_those_of_the_logger_with_its_quirks(predictor: Server) -> None:
    async def run() -> list[tuple[dict[str, str], bytes]]:
        sink = Sink()
        body, headers = binary(matrix(TWO))
        async with serving(app_of(sink)) as url, gateway(predictor.url, sink=f"{url}/") as running:
            await running.client.post(PREDICT, json={"instances": [ROW]}, headers={"ce-id": "mine"})
            await running.client.post("/v2/models/fraud/infer", content=body, headers=headers)
            await running.client.post(PREDICT, json={"instances": [[1]]}, headers={"ce-id": "bad"})
            await running.client.get("/v1/models/fraud", headers={"ce-id": "get"})
            await sink.wait_for(7)
        return sink.events

    events = asyncio.run(run())
    said = Counter((headers["ce-type"], headers["ce-id"]) for headers, _ in events)
    assert said[REQUEST, "mine"] == said[RESPONSE, "mine"] == said[REQUEST, "bad"] == 1
    assert (RESPONSE, "bad") not in said
    assert {headers["ce-endpoint"] for headers, _ in events} == {""}
    reads = [read(headers, body, "fraud") for headers, body in events]
    requests = {event.id: event for event in reads if isinstance(event, LoggedRequest)}
    answers = {event.id: event for event in reads if isinstance(event, LoggedResponse)}
    assert requests.keys() == answers.keys()
    assert answers["mine"].row_ids == ("mine-0",)
    [made] = set(answers) - {"mine"}
    # The predictor was not told the id that the logger made up.
    assert not answers[made].row_ids[0].startswith(made)
    [length] = [json.loads(h["ce-metadata"]) for h, _ in events if h["ce-id"] == made and h["ce-type"] == REQUEST]
    assert list(length) == ["Inference-Header-Content-Length"]
    types = {headers["content-type"] for headers, _ in events if headers["ce-id"] == made}
    assert types == {BINARY["content-type"]}
    assert LENGTH in "inference-header-content-length"


def test_the_canary_gets_its_share_and_it_can_be_changed_without_a_failed_request() -> None:
    async def run() -> None:
        async with (
            serving(app_of(named("stable"))) as stable,
            serving(app_of(named("canary"))) as canary,
            gateway(stable, canary, 20) as running,
        ):
            answers = [await running.client.post(PREDICT, json={}) for _ in range(400)]
            share = Counter(answer.json()["from"] for answer in answers)
            assert 50 < share["canary"] < 110
            whole = {"stable": canary, "canary": None, "percent": 0}
            changed = await running.client.put("/gateway/traffic", json=whole)
            assert changed.json() == (await running.client.get("/gateway/traffic")).json() == whole
            assert {(await running.client.post(PREDICT, json={})).json()["from"] for _ in range(50)} == {"canary"}
            for wrong in (
                {"stable": "x"},
                {"stable": stable, "percent": 10},
                {"stable": stable, "percent": 101},
            ):
                assert (await running.client.put("/gateway/traffic", json=wrong)).status_code == 400

    asyncio.run(run())


def test_a_canary_that_cannot_be_reached_costs_no_request() -> None:
    async def run() -> str:
        async with serving(app_of(named("stable"))) as stable, gateway(stable, NOWHERE, 50) as running:
            answers = [await running.client.post(PREDICT, json={}) for _ in range(60)]
            assert {(answer.status_code, answer.json()["from"]) for answer in answers} == {(200, "stable")}
            return (await running.client.get("/metrics")).text

    text = asyncio.run(run())
    fallbacks = next(line for line in text.splitlines() if line.startswith("fraud_gateway_fallbacks_total"))
    assert 15 < float(fallbacks.split()[1]) < 45


def test_without_the_model_the_answer_says_so() -> None:
    async def run() -> None:
        async with gateway(NOWHERE) as running:
            answer = await running.client.post(PREDICT, json={})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "cannot be reached" in answer.json()["error"]
            drift = await running.client.get("/v1/models/fraud/drift")
            assert (drift.status_code, "scoring goes on" in drift.json()["error"]) == (503, True)
            assert (await running.client.get("/nowhere")).status_code == 404

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["slow", "dead", "none"])
def test_a_dead_or_slow_detector_costs_the_caller_nothing(kind: str) -> None:
    async def run() -> PayloadLogger:
        sink = Sink(seconds=5.0)
        async with serving(app_of(named("stable"))) as stable, serving(app_of(sink)) as slow:
            url = {"slow": f"{slow}/", "dead": f"{NOWHERE}/", "none": None}[kind]
            async with gateway(stable, sink=url, queue=50) as running:
                many = [running.client.post(PREDICT, json={"n": n}) for n in range(300)]
                answers = await asyncio.gather(*many)
                assert [answer.json()["from"] for answer in answers] == ["stable"] * 300
                return running.payloads

    payloads = asyncio.run(run())
    if kind == "slow":
        assert payloads.counts["dropped"] >= 400
    if kind == "dead":
        assert payloads.counts["failed"] > 0
        assert payloads.counts["posted"] == 0


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as caller:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert caller.getpeername() == listener.getsockname()


def test_a_body_that_is_too_large_is_refused() -> None:
    async def run() -> None:
        async with serving(app_of(named("stable"))) as stable, gateway(stable) as running:
            answer = await running.client.post(PREDICT, content=b"[" * (16 * 1024 * 1024 + 1))
            assert answer.status_code == 413

    asyncio.run(run())
