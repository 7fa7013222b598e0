"""What happens on a connection: requests in pieces and in a row, upgrades, trailers, clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import parse_headers
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from predictors import PREDICT, ROW, SERVICE, UNLIMITED, Server, in_process, infer_message, running, tensor

from fraudkit.bundle import Bundle
from fraudkit.http import MOST_HELD_TOGETHER, BoundedProtocol, Held
from fraudkit.settings import ServingSettings
from serving.predictor.grpc_service import CONCURRENT, GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.work import LargeWork

SOUND = json.dumps({"instances": [ROW], "id": "a"}).encode()
MANY = json.dumps({"instances": [ROW] * 1_000, "id": "many"}).encode()
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"


def post(body: bytes, *fields: str, version: str = "1.1") -> bytes:
    head = [f"POST {PREDICT} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join((*head, "", "")).encode() + body


def chunked(body: bytes, *trailers: str) -> bytes:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    tail = "\r\n".join(("0", *trailers, "", "")).encode()
    return head + b"%x\r\n%s\r\n" % (len(body), body) + tail


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with closing(socket.create_connection((server.host, server.port), 10)) as connection:
        yield connection


def answers(connection: socket.socket, count: int = 1) -> list[tuple[int, dict[str, Any]]]:
    """The next answers on a connection: status and document."""
    found = []
    with connection.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            length = parse_headers(file)["content-length"]
            found.append((status, json.loads(file.read(int(length)))))
    return found


def first_id(answer: tuple[int, dict[str, Any]]) -> str:
    status, document = answer
    assert status == 200, document
    return str(document["predictions"][0]["id"])


# In pieces, and in a row


@pytest.mark.parametrize("cut", [1, 20, 60, -len(SOUND) - 1, -len(SOUND), -1])
def test_a_request_may_come_in_pieces(predictor: Server, cut: int) -> None:
    request = post(SOUND)
    with connected(predictor) as connection:
        for piece in (request[:cut], request[cut:]):
            connection.sendall(piece)
            time.sleep(0.02)
        assert first_id(answers(connection)[0]) == "a-0"


def test_a_body_that_takes_a_while_is_answered(predictor: Server) -> None:
    request = post(SOUND)
    with connected(predictor) as connection:
        connection.sendall(request[:-10])
        time.sleep(2.5)  # longer than such bodies are waited for
        connection.sendall(request[-10:])
        assert first_id(answers(connection)[0]) == "a-0"


def test_requests_in_one_segment_are_answered_in_their_order(predictor: Server) -> None:
    bodies = [json.dumps({"instances": [ROW], "id": f"r{i}"}).encode() for i in range(20)]
    with connected(predictor) as connection:
        connection.sendall(b"".join(map(post, bodies)))
        assert [first_id(answer) for answer in answers(connection, 20)] == [f"r{i}-0" for i in range(20)]


def test_a_short_request_waits_for_the_long_one_before_it(predictor: Server) -> None:
    with connected(predictor) as connection:
        connection.sendall(post(MANY) + post(SOUND) + post(MANY) + post(b"{}"))
        *scored, refused = answers(connection, 4)
        assert [first_id(answer) for answer in scored] == ["many-0", "a-0", "many-0"]
        assert refused[0] == 400


def test_requests_of_all_kinds_may_follow_each_other(predictor: Server) -> None:
    ready = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(predictor) as connection:
        for _ in range(3):
            for sent, status in ((post(SOUND), 200), (ready, 200), (post(b"[]"), 400), (chunked(SOUND), 200)):
                connection.sendall(sent)
                assert answers(connection)[0][0] == status


@pytest.mark.parametrize(
    "request_",
    [post(SOUND, version="1.0"), post(SOUND, "Connection: close"), post(MANY, "Connection: close")],
    ids=["HTTP/1.0", "close", "close and long"],
)
def test_the_connection_is_closed_where_the_client_wants_that(predictor: Server, request_: bytes) -> None:
    with connected(predictor) as connection:
        connection.sendall(request_)
        answer = connection.makefile("rb").read()  # up to the end
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answer


def test_a_client_that_asks_first_is_told_to_go_on(predictor: Server) -> None:
    request = post(SOUND, "Expect: 100-continue")
    with connected(predictor) as connection:
        connection.sendall(request[: -len(SOUND)])
        assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(SOUND)
        assert first_id(answers(connection)[0]) == "a-0"


# Upgrades and trailers


@pytest.mark.parametrize("body", [SOUND, MANY], ids=["short", "long"])
@pytest.mark.parametrize("fields", [H2C, "Connection: upgrade\r\nUpgrade: websocket", "Upgrade: TLS/1.0"])
def test_a_wish_for_another_protocol_is_passed_over(predictor: Server, fields: str, body: bytes) -> None:
    request = post(body, fields)
    with connected(predictor) as connection:
        connection.sendall(request + request + post(SOUND))
        assert [status for status, _ in answers(connection, 3)] == [200] * 3
        connection.sendall(request[: -len(body)])  # and where the body comes later, in two pieces
        time.sleep(0.02)
        connection.sendall(body[:100])
        time.sleep(0.02)
        connection.sendall(body[100:])
        assert answers(connection)[0][0] == 200


def test_the_same_without_a_body(predictor: Server) -> None:
    with connected(predictor) as connection:
        connection.sendall(f"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n{H2C}\r\n\r\n".encode())
        assert answers(connection)[0][0] == 200


def test_it_is_no_proxy(predictor: Server) -> None:
    with connected(predictor) as connection:
        connection.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\nabc")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")


def test_what_follows_a_body_in_chunks_is_no_part_of_its_head(predictor: Server) -> None:
    with connected(predictor) as connection:
        connection.sendall(chunked(SOUND, "Ce-Id: forged", "Content-Encoding: gzip", "Content-Type: text/html"))
        assert first_id(answers(connection)[0]) == "a-0"


# Clients that go on, or away


def test_a_body_that_is_refused_is_read_so_that_the_answer_arrives(predictor: Server) -> None:
    body = b" " * (40 * 1024 * 1024)
    with connected(predictor) as connection:
        connection.sendall(post(body))  # all of it, before anything is read
        [(status, document)] = answers(connection)
        assert (status, document["error"].startswith("the body has more than ")) == (413, True)
        connection.sendall(post(SOUND))
        assert first_id(answers(connection)[0]) == "a-0"


def test_a_body_that_does_not_end_is_not_read_for_ever(bundle: Bundle, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(bundle.path, tmp_path, FRAUD__SERVING__READ_SECONDS="1"))
        connection = stack.enter_context(connected(server))
        connection.sendall(post(SOUND).replace(str(len(SOUND)).encode(), b"9" * 12))
        assert answers(connection)[0][0] == 413
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < began + 20:
                connection.sendall(b" " * 1_000)
                time.sleep(0.01)
        assert time.monotonic() - began < 10


def test_clients_that_leave_are_no_errors(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, tmp_path) as server:
        for sent in (post(SOUND)[:-5], post(MANY)[:-5], post(MANY) * 5, post(SOUND) * 50, post(MANY), b"POST /"):
            for _ in range(5):
                with connected(server) as connection:
                    connection.sendall(sent)
        with connected(server) as connection:
            connection.sendall(post(SOUND))
            assert first_id(answers(connection)[0]) == "a-0"
        assert server.events() == ["predictor started"]


def test_only_so_much_is_held_for_bodies_that_are_waited_for(bundle: Bundle) -> None:
    body = MANY + b" " * (900_000 - len(MANY))
    request, held = post(body), Held()
    app = in_process(FraudModel(bundle.path, Metrics()))
    protocol: Any = partial(BoundedProtocol, app, held, 16 * len(body))
    config = uvicorn.Config(app, interface="asgi3", http=protocol, lifespan="off", log_level="error")

    async def crowd(server: uvicorn.Server, listener: socket.socket) -> list[bytes]:
        served = asyncio.create_task(server.serve([listener]))
        connections = [await asyncio.open_connection(*listener.getsockname()) for _ in range(60)]  # 54 MB
        sent = [writer.drain() for _, writer in connections if not writer.write(request[:-1])]
        await asyncio.gather(*sent)
        await asyncio.sleep(0.2)
        assert 16 * 1024 * 1024 < held.size <= MOST_HELD_TOGETHER
        for _, writer in connections[1:]:
            writer.write(request[-1:])
        firsts = [await reader.readline() for reader, _ in connections[1:]]
        for _, writer in connections:
            writer.close()
        await asyncio.sleep(0.2)
        assert held.size == 0
        server.should_exit = True
        await served
        return firsts

    with socket.create_server(("127.0.0.1", 0)) as listener:
        firsts = asyncio.run(crowd(uvicorn.Server(config), listener))
    assert firsts == [b"HTTP/1.1 200 OK\r\n"] * 59


# gRPC


def test_calls_that_bring_no_message_do_not_keep_others_out_for_ever(bundle: Bundle) -> None:
    metrics = Metrics()
    service = GrpcService(FraudModel(bundle.path, metrics), ServingSettings(), metrics, LargeWork())

    async def crowd() -> bytes:
        server, port = service.server("127.0.0.1", 0, age_seconds=1.0, grace_seconds=1.0)
        await server.start()
        target, path = f"127.0.0.1:{port}", f"{SERVICE}ModelInfer"
        try:
            async with grpc.aio.insecure_channel(target, UNLIMITED) as silent:
                waiting = [silent.stream_unary(path)(_never()) for _ in range(CONCURRENT)]
                await asyncio.sleep(0.5)
                scored = infer_message(tensor(ROW)).SerializeToString()
                async with grpc.aio.insecure_channel(target, UNLIMITED) as channel:
                    call = channel.unary_unary(path)
                    with pytest.raises(grpc.aio.AioRpcError, match="Concurrent RPC limit exceeded"):
                        await call(scored)
                    await asyncio.sleep(3.0)
                    answer = await call(scored)
                for one in waiting:
                    one.cancel()
        finally:
            await server.stop(None)
        return bytes(answer)

    assert asyncio.run(crowd())


async def _never() -> Any:
    await asyncio.sleep(60)
    yield b""
