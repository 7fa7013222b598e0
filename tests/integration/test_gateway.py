"""The gateway before real servers: what passes, what is logged, and what a dead or slow peer costs the caller."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
from predictors import BINARY, LENGTH, PREDICT, ROW, TWO, Server, binary, matrix
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from detectors.events import LoggedRequest, LoggedResponse, read
from fraudkit.http import BoundedProtocol, Held, listen
from fraudkit.http import Server as HttpServer
from serving.gateway.app import Gateway, Owner
from serving.gateway.payloads import REQUEST, RESPONSE, PayloadLogger
from serving.gateway.traffic import Split, Traffic

NOWHERE = "http://127.0.0.1:9"
ELSEWHERE = {Owner.DETECTOR: NOWHERE, Owner.LAUNCHER: NOWHERE, Owner.CONTROLLER: NOWHERE}
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
    stable: str,
    canary: str | None = None,
    percent: float = 0,
    sink: str | None = None,
    queue: int = 1_000,
    queue_bytes: int = 2**27,
    parts: Mapping[Owner, str] = ELSEWHERE,
) -> AsyncIterator[Running]:
    split = Split(Traffic(stable=stable, canary=canary, percent=percent), seed=1)
    payloads = PayloadLogger(sink, queue, queue_bytes, 20.0)
    app = Gateway(split, payloads, parts, 16 * 1024 * 1024, 30.0)
    posting = asyncio.create_task(payloads.run())
    protocol = partial(BoundedProtocol, app, Held(), 64 * 1024 * 1024)
    try:
        async with (
            serving(app, protocol) as url,
            httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
        ):
            yield Running(app, split, payloads, client)
    finally:
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


@pytest.mark.parametrize("kind", ["slow", "silent", "dead", "none"])
def test_a_dead_or_slow_detector_costs_the_caller_nothing(kind: str) -> None:
    async def run() -> PayloadLogger:
        sink = Sink(seconds=5.0)
        async with serving(app_of(named("stable"))) as stable, serving(app_of(sink)) as slow:
            silent = f"http://127.0.0.1:{nobody.getsockname()[1]}/"  # is connected to, and never reads
            url = {"slow": f"{slow}/", "silent": silent, "dead": f"{NOWHERE}/", "none": None}[kind]
            async with gateway(stable, sink=url, queue=50) as running:
                many = [running.client.post(PREDICT, json={"n": n}) for n in range(300)]
                answers = await asyncio.gather(*many)
                assert [answer.json()["from"] for answer in answers] == ["stable"] * 300
                return running.payloads

    with listen("127.0.0.1", 0) as nobody:
        payloads = asyncio.run(run())
    if kind in ("slow", "silent"):
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


async def echo(request: Request) -> Response:
    """Says what it was asked, with fields that are easily lost on the way."""
    body = await request.body()
    fields = [[name.decode(), value.decode("latin-1")] for name, value in request.headers.raw]
    query = request.scope["query_string"].decode()
    said = {"path": request.scope["raw_path"].decode(), "query": query, "fields": fields, "bytes": len(body)}
    response = JSONResponse(said)
    response.raw_headers += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-name", "é".encode("latin-1"))]
    return response


async def talk(url: str, *lines: bytes) -> bytes:
    """What a server says to a request of these lines, which ends the connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\r\n".join([*lines, b"host: x", b"connection: close, x-mine", b"", b""]))
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


def test_nothing_is_lost_or_added_on_the_way() -> None:
    async def run() -> None:
        async with serving(app_of(echo)) as stable, gateway(stable) as running:
            url = str(running.client.base_url)
            target = b"/v1/models/a%2Fb/../%41?x=%2f&y=a|b"
            said = await talk(url, b"GET %s HTTP/1.1" % target, b"x-a: 1", b"x-a: 2", b"x-mine: 3")
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.count(b"set-cookie: ") == 2
            assert "x-name: é".encode("latin-1") in head
            told = json.loads(body)
            assert f"{told['path']}?{told['query']}".encode() == target
            assert [field for field in told["fields"] if field[0] != "host"] == [["x-a", "1"], ["x-a", "2"]]
            again = json.loads((await talk(url, b"GET /v1/models/fraud HTTP/1.1")).partition(b"\r\n\r\n")[2])
            assert [name for name, _ in again["fields"]] == ["host"]  # no cookie of another caller's answer
            length = len((await running.client.get("/v1/models/fraud")).content)
            running.client.cookies.clear()
            answer = await running.client.head("/v1/models/fraud")
            assert (int(answer.headers["content-length"]), answer.content) == (length, b"")

    asyncio.run(run())


def test_fields_that_are_not_ascii_pass_and_are_logged() -> None:
    async def run() -> list[tuple[dict[str, str], bytes]]:
        sink = Sink()
        async with (
            serving(app_of(sink)) as url,
            serving(app_of(echo)) as stable,
            gateway(stable, sink=f"{url}/") as running,
        ):
            said = await talk(str(running.client.base_url), b"GET /v1/models/fraud HTTP/1.1", "ce-id: é".encode())
            assert said.startswith(b"HTTP/1.1 200")
            wrong = await talk(str(running.client.base_url), b"GET /v1/models/fraud HTTP/1.1", b"ce-id: \xe9")
            assert wrong.startswith(b"HTTP/1.1 400")
            assert b"ce-id: must be UTF-8" in wrong
            assert (await running.client.get("/v1/models/fraud", headers={"ce-id": "after"})).status_code == 200
            await sink.wait_for(4)
        return sink.events

    ids = {headers["ce-id"].encode("latin-1").decode() for headers, _ in asyncio.run(run())}
    assert ids == {"é", "after"}


def test_a_proxy_for_the_internet_gets_no_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(variable, NOWHERE)
        monkeypatch.setenv(variable.upper(), NOWHERE)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    async def run() -> None:
        sink = Sink()
        async with (
            serving(app_of(sink)) as url,
            serving(app_of(named("stable"))) as stable,
            gateway(stable, sink=f"{url}/") as running,
        ):
            assert (await running.client.post(PREDICT, json={})).json() == {"from": "stable"}
            await sink.wait_for(2)

    asyncio.run(run())


class Rude:
    """A server that writes `answers` as they are, one after each request, and closes after all but whole ones."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.answers and await reader.readuntil(b"\r\n\r\n"):
            self.asked += 1
            answer = self.answers.pop(0)
            writer.write(answer)
            if not answer.endswith(KEPT):
                break
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


KEPT = b'{"from": "rude"}'
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n" + KEPT
HALF = WHOLE[:-5]


def test_a_canary_that_goes_away_in_the_middle_costs_no_request() -> None:
    async def run() -> None:
        rude = Rude(b"", HALF, WHOLE[:12], WHOLE)
        async with (
            serving(app_of(named("stable"))) as stable,
            rude.running() as canary,
            gateway(stable, canary, 100) as running,
        ):
            answers = [await running.client.post(PREDICT, content=b"") for _ in range(4)]
            assert [answer.json()["from"] for answer in answers] == ["stable", "stable", "stable", "rude"]
            metrics = (await running.client.get("/metrics")).text
            assert "fraud_gateway_fallbacks_total 3.0" in metrics
            assert 'fraud_gateway_requests_total{code="200",target="canary"} 1.0' in metrics

    asyncio.run(run())


def test_a_kept_connection_that_stable_closes_costs_no_request() -> None:
    async def run() -> None:
        # The second request meets a connection that is closed without an answer; the third goes a new way.
        rude = Rude(WHOLE, b"", WHOLE)
        async with rude.running() as stable, gateway(stable) as running:
            for _ in range(2):
                answer = await running.client.post(PREDICT, content=b"")
                assert (answer.status_code, answer.content) == (200, KEPT)
            assert rude.asked == 3

    asyncio.run(run())


def test_what_the_detector_says_passes_as_it_comes() -> None:
    begun = asyncio.Event()

    async def parts(request: Request) -> Response:
        async def content() -> AsyncIterator[bytes]:
            yield b"first"
            await begun.wait()  # it goes on only once the caller has the first part
            yield b"second"

        return StreamingResponse(content(), 201, media_type="application/vnd.apache.parquet")

    async def run() -> None:
        async with (
            serving(app_of(parts)) as detector,
            gateway(NOWHERE, parts=ELSEWHERE | {Owner.DETECTOR: detector}) as running,
        ):
            for path in ("/v1/labelled", "/v1/models/fraud/drift/history?limit=1", "/v1/windows/x"):
                begun.clear()
                async with running.client.stream("GET", path) as answer:
                    assert (answer.status_code, answer.headers["content-type"][-7:]) == (201, "parquet")
                    chunks = answer.aiter_raw()
                    assert await anext(chunks) == b"first"
                    begun.set()
                    assert b"".join([chunk async for chunk in chunks]) == b"second"
        rude = Rude(HALF)
        async with (
            rude.running() as detector,
            gateway(NOWHERE, parts=ELSEWHERE | {Owner.DETECTOR: detector}) as running,
        ):
            with pytest.raises(httpx.RemoteProtocolError):
                await running.client.get("/v1/labelled")

    asyncio.run(run())


def test_each_part_is_asked_by_its_paths_and_no_web_page_changes_anything() -> None:
    owners = {
        Owner.LAUNCHER: ("/v1/runs", "/v1/runs/manual-a"),
        Owner.CONTROLLER: ("/v1/rollouts", "/v1/rollouts/r1/pause", "/v1/bundles/0123456789ab/thresholds"),
        Owner.DETECTOR: ("/v1/labels",),
    }

    async def run() -> None:
        async with (
            serving(app_of(named("launcher"))) as launcher,
            serving(app_of(named("controller"))) as controller,
            serving(app_of(named("detector"))) as detector,
            gateway(
                NOWHERE,
                parts={Owner.LAUNCHER: launcher, Owner.CONTROLLER: controller, Owner.DETECTOR: detector},
            ) as running,
        ):
            for owner, paths in owners.items():
                for path in paths:
                    assert (await running.client.post(path, json={})).json() == {"from": str(owner)}
                    page = {"origin": "http://rebound.example"}
                    assert (await running.client.post(path, json={}, headers=page)).status_code == 403
                    assert (await running.client.get(path, headers=page)).json() == {"from": str(owner)}
        async with gateway(NOWHERE) as running:
            answer = await running.client.get("/v1/runs")
            assert answer.status_code == 503
            assert "the launcher at" in answer.json()["error"]

    asyncio.run(run())


def test_the_split_is_not_for_web_pages_nor_for_other_machines() -> None:
    async def run() -> None:
        async with gateway(NOWHERE) as running:
            page = {"origin": "http://rebound.example"}
            assert (await running.client.put("/gateway/traffic", json={}, headers=page)).status_code == 403
            assert (await running.client.delete("/gateway/traffic")).status_code == 405
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            async def receive() -> Any:
                return {"type": "http.request", "body": b""}

            scope = {"method": "GET", "path": "/gateway/traffic", "headers": [], "client": ("192.0.2.7", 1)}
            await running.gateway(scope, receive, send)
            assert sent[0]["status"] == 403

    asyncio.run(run())


def test_log_events_are_bounded_in_bytes() -> None:
    async def run() -> Counter[str]:
        async with (
            serving(app_of(named("stable"))) as stable,
            serving(app_of(Sink(seconds=5.0))) as slow,
            gateway(stable, sink=f"{slow}/", queue_bytes=100_000) as running,
        ):
            for _ in range(10):
                await running.client.post(PREDICT, content=b"[" * 40_000)
            return running.payloads.counts

    assert asyncio.run(run())["dropped"] == 8  # two of the requests fit, and all of the short answers


def test_a_body_that_is_cut_off_is_no_request() -> None:
    async def run() -> None:
        sink = Sink()
        async with (
            serving(app_of(sink)) as url,
            serving(app_of(named("stable"))) as stable,
            gateway(stable, sink=f"{url}/") as running,
        ):
            host, port = str(running.client.base_url).removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n[".encode())
            writer.close()
            await writer.wait_closed()
            await running.client.post(PREDICT, json={}, headers={"ce-id": "whole"})
            await sink.wait_for(2)
        assert {headers["ce-id"] for headers, _ in sink.events} == {"whole"}

    asyncio.run(run())


def test_a_body_that_is_too_large_is_refused() -> None:
    async def run() -> None:
        async with serving(app_of(named("stable"))) as stable, gateway(stable) as running:
            answer = await running.client.post(PREDICT, content=b"[" * (16 * 1024 * 1024 + 1))
            assert answer.status_code == 413
            answer = await running.client.post(PREDICT, content=b"[" * (16 * 1024 * 1024))
            assert answer.json() == {"from": "stable"}

    asyncio.run(run())
