"""The predictor as a process: how it starts, what it logs, how it changes its model and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from predictors import (
    EXPLAIN,
    INFER,
    JSON,
    PREDICT,
    ROW,
    SERVICE,
    UNLIMITED,
    Server,
    grpc_refusal,
    infer,
    infer_message,
    matrix,
    read_message,
    refusal,
    running,
    start,
    tensor,
    transactions,
    unary,
    v2,
)

from fraudkit.bundle import Bundle, Origin, seal

SOUND = json.dumps({"instances": [ROW], "id": "a"}).encode()
SCORED = infer_message(tensor(ROW), id="b")


@pytest.fixture
def other(bundle: Bundle, tmp_path: Path) -> Bundle:
    """Another sealed bundle."""
    draft = tmp_path / "draft"
    shutil.copytree(bundle.path, draft)
    (draft / "manifest.json").unlink()
    scorer = replace(bundle.scorer, intercept=bundle.scorer.intercept + 1.0)
    (draft / "scorer.json").write_bytes(scorer.to_json())
    origin = Origin(run="b", trigger="test", data="none", code="none", libraries={}, created=datetime.now(UTC))
    return seal(draft, tmp_path / "bundles", origin)


@pytest.fixture
def damaged(bundle: Bundle, tmp_path: Path) -> Path:
    copy = tmp_path / "damaged"
    shutil.copytree(bundle.path, copy)
    with (copy / "scorer.json").open("a") as file:
        file.write(" ")
    return copy


def point(link: Path, target: Path) -> None:
    """Have `link` name `target`, from one moment to the next."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


# Start


def test_it_says_in_one_line_of_json_what_it_serves_and_where(predictor: Server, bundle: Bundle) -> None:
    line = predictor.lines()[0]
    assert line.pop("timestamp")
    assert line == {
        "event": "predictor started",
        "level": "info",
        "model": "fraud",
        "version": bundle.version,
        "host": "127.0.0.1",
        "port": predictor.port,
        "grpc_port": predictor.grpc_port,
    }


def test_it_listens_on_loopback_alone(predictor: Server) -> None:
    for port in (predictor.port, predictor.grpc_port):
        with socket.create_connection(("127.0.0.1", port), 10):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 10)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").is_file(), reason="there is no IPv6 here")
def test_it_listens_on_an_address_of_ipv6(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, tmp_path, "--host", "::1") as server:
        assert httpx.get(f"http://[::1]:{server.port}/v1/models/fraud").json()["ready"] is True
        with grpc.insecure_channel(f"[::1]:{server.grpc_port}") as channel:
            assert unary(channel, "ServerReady", b"", pb.ServerReadyResponse).ready


def test_the_model_may_have_another_name(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, tmp_path, "--model_name", "cards") as server:
        with httpx.Client(base_url=server.url) as client:
            assert client.get("/v1/models").json() == {"models": ["cards"]}
            assert client.post("/v1/models/cards:predict", content=SOUND, headers=JSON).status_code == 200
            assert client.post(PREDICT, content=SOUND, headers=JSON).status_code == 404
            assert client.post("/v2/models/cards/infer", json=v2(tensor(ROW))).json()["model_name"] == "cards"
        with grpc.insecure_channel(server.target) as channel:
            assert infer(channel, infer_message(tensor(ROW), model="cards")).model_name == "cards"
            assert grpc_refusal(channel, SCORED)[0] is grpc.StatusCode.NOT_FOUND


def test_it_takes_kserves_own_options_and_serves_without_grpc(bundle: Bundle, tmp_path: Path) -> None:
    options = ("--enable_grpc", "false", "--workers", "1", "--max_threads", "4", "--enable_docs_url", "false")
    with running(bundle.path, tmp_path, *options) as server:
        assert server.grpc_port is None
        assert httpx.post(server.url + PREDICT, content=SOUND, headers=JSON).status_code == 200


@pytest.mark.parametrize("option", ["--http_port", "--grpc_port"])
def test_a_port_that_is_taken_is_said_in_one_line(bundle: Bundle, predictor: Server, option: str) -> None:
    port = predictor.port if option == "--http_port" else predictor.grpc_port
    code, line = refusal(bundle.path, option, str(port))
    assert code == 1
    assert line.startswith(f"predictor: cannot listen on 127.0.0.1, port {port}")


@pytest.mark.parametrize("port", [-1, 65_536])
@pytest.mark.parametrize("option", ["--http_port", "--grpc_port"])
def test_a_port_that_there_is_not_is_said_in_one_line(bundle: Bundle, option: str, port: int) -> None:
    code, line = refusal(bundle.path, option, str(port))
    assert code in (1, 2)
    assert line.startswith("predictor: ")
    assert str(port) in line


def test_an_address_that_is_not_here_is_said_in_one_line(bundle: Bundle) -> None:
    code, line = refusal(bundle.path, "--host", "203.0.113.1")
    assert code == 1
    assert line.startswith("predictor: cannot listen on 203.0.113.1, port 0")


def test_more_than_one_worker_is_refused_as_wrong_use(bundle: Bundle) -> None:
    assert refusal(bundle.path, "--workers", "2") == (
        2,
        "predictor: --workers: this server has one worker; run more replicas instead",
    )


def test_a_damaged_bundle_is_not_served(damaged: Path) -> None:
    said = f"predictor: {damaged}: scorer.json is not what the manifest says; do not use this bundle"
    assert refusal(damaged) == (1, said)


def test_a_bundle_that_is_not_there_is_not_served(tmp_path: Path) -> None:
    code, line = refusal(tmp_path / "none")
    assert code == 1
    assert line.startswith(f"predictor: there is no bundle {tmp_path / 'none'}")


def test_serving_a_request_imports_no_scikit_learn(bundle: Bundle) -> None:
    program = f"""
import asyncio, pathlib, sys
import httpx
import serving.predictor.__main__
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor, kserve_app
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.work import LargeWork

async def main():
    metrics = Metrics()
    model = FraudModel(pathlib.Path({str(bundle.path)!r}), metrics)
    app = Predictor(model, kserve_app(model), ServingSettings(), metrics, LargeWork())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.post({EXPLAIN!r}, json={{"instances": [{ROW}]}})).status_code == 200
        assert (await client.get("/v1/models")).json() == {{"models": ["fraud"]}}

asyncio.run(main())
print([name for name in ("sklearn", "scipy", "skops", "mlflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# Logs


def requests(server: Server) -> list[Callable[[], Any]]:
    """Requests of every kind, right and wrong, and what they log: path, status, rows and id."""

    def http(path: str, content: bytes = b"") -> Callable[[], Any]:
        return lambda: httpx.request(
            "POST" if content else "GET", server.url + path, content=content, headers=JSON
        )

    def call(message: Any, method: str = "ModelInfer") -> Callable[[], Any]:
        def made() -> None:
            with grpc.insecure_channel(server.target) as channel:
                channel.unary_unary(SERVICE + method).future(message).exception()

        return made

    large = json.dumps({"instances": transactions(3_000).tolist(), "id": "large"}).encode()
    return [
        http(PREDICT, SOUND),
        http(PREDICT, large),
        http(EXPLAIN, SOUND),
        http(INFER, json.dumps(v2(matrix(transactions(2)), id="c")).encode()),
        http(PREDICT, b"{"),
        http("/nowhere"),
        http("/v1/models/fraud"),
        call(SCORED.SerializeToString()),
        call(b"\xff"),
        call(b"", "ServerReady"),
    ]


def test_it_logs_nothing_of_requests(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, tmp_path) as server:
        for ask in requests(server):
            ask()
        assert server.events() == ["predictor started"]
    assert server.events() == ["predictor started", "predictor stopped"]


def test_with_a_request_log_each_request_is_a_line_of_json(bundle: Bundle, tmp_path: Path) -> None:
    grpc_path = SERVICE + "ModelInfer"
    with running(bundle.path, tmp_path, "--request_log") as server:
        for ask in requests(server):
            ask()
        lines = [line for line in server.lines() if line["event"] == "request"]
    assert [(line["path"], line["status"], line["rows"], line["id"]) for line in lines] == [
        (PREDICT, 200, 1, "a"),
        (PREDICT, 200, 3_000, "large"),
        (EXPLAIN, 200, 1, "a"),
        (INFER, 200, 2, "c"),
        (PREDICT, 400, 0, ""),
        ("/nowhere", 404, 0, ""),
        ("/v1/models/fraud", 200, 0, ""),
        (grpc_path, "OK", 1, "b"),
        (grpc_path, "INVALID_ARGUMENT", 0, ""),
        (SERVICE + "ServerReady", "OK", 0, ""),
    ]
    for line in lines:
        assert line["model_version"] == bundle.version
        assert 0 < line["milliseconds"] < 60_000
        assert line["level"] == "info"
    assert server.events() == ["predictor started", *["request"] * 10, "predictor stopped"]


def test_the_log_holds_nothing_of_a_requests_rows_or_headers(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, tmp_path, "--request_log") as server:
        row = [7e9, *[0.123456789] * 28, 98765.4321]
        headers = {"authorization": "Bearer s3cret", "user-agent": "s3cret"}
        for instances in ([row], [[*row, 1.0]], [[*row[:-1], "98765.4321"]]):
            httpx.post(server.url + PREDICT, json={"instances": instances}, headers=headers)
        httpx.get(server.url + "/v1/models/fraud?token=s3cret", headers=headers)
        logged = server.stderr.read_text()
    assert logged.count('"event": "request"') == 4
    assert not [secret for secret in ("s3cret", "98765", "0.1234") if secret in logged]


# Slow clients


def test_a_client_that_does_not_send_its_request_is_let_go(bundle: Bundle, tmp_path: Path) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SOUND)}\r\n\r\n".encode()
    with running(bundle.path, tmp_path, FRAUD__SERVING__READ_SECONDS="1") as server, ExitStack() as stack:
        address = (server.host, server.port)
        begun = [b"", b"POST /v1", head[:-2], head, head + SOUND[:10]]
        began = time.monotonic()
        connections = [stack.enter_context(socket.create_connection(address, 15)) for _ in begun]
        for connection, sent in zip(connections, begun, strict=True):
            connection.sendall(sent)
        with httpx.Client(base_url=server.url) as client:
            assert client.post(PREDICT, content=SOUND, headers=JSON).status_code == 200
        answers = [connection.makefile("rb").read() for connection in connections]
        assert 1 <= time.monotonic() - began < 10
        assert answers[:3] == [b""] * 3
        for answer in answers[3:]:
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"the body did not arrive within 1 s" in answer
        assert server.events() == ["predictor started"]


def test_settings_bound_a_request(bundle: Bundle, tmp_path: Path) -> None:
    bounds = {"MAX_ROWS": "3", "MAX_EXPLAINED": "2", "MAX_BYTES": "4096"}
    with running(
        bundle.path, tmp_path, **{f"FRAUD__SERVING__{name}": most for name, most in bounds.items()}
    ) as server:
        with httpx.Client(base_url=server.url) as client:
            for path, rows, status in ((PREDICT, 3, 200), (PREDICT, 4, 413), (EXPLAIN, 2, 200), (EXPLAIN, 3, 413)):
                assert client.post(path, json={"instances": [ROW] * rows}).status_code == status
            assert client.post(PREDICT, content=SOUND + b" " * 4096, headers=JSON).status_code == 413
        with grpc.insecure_channel(server.target) as channel:
            for count, said in ((4, "has 4 rows, at most 3"), (40, "Received message larger than max")):
                code, text = grpc_refusal(channel, infer_message(matrix(transactions(count)), raw=True))
                assert (code, said in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


# Reload


@pytest.fixture
def linked(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server of a link to `bundle`, and the link."""
    link = tmp_path / "current"
    link.symlink_to(bundle.path)
    with running(link, tmp_path) as server:
        yield server, link


def score(made: Bundle) -> float:
    return float(made.scorer.probabilities(np.array([ROW]))[0])


def said(response: httpx.Response) -> set[str]:
    """The versions in a body and, where there is one, in the header."""
    body: str = response.raise_for_status().json()["model_version"]
    return {body, response.headers.get("x-model-version", body)}


def versions(server: Server) -> set[str]:
    """The version that the server names, in every place that names one."""
    with httpx.Client(base_url=server.url) as client, grpc.insecure_channel(server.target) as channel:
        found = said(client.post(PREDICT, content=SOUND, headers=JSON))
        found |= said(client.post(PREDICT, json={"instances": [ROW, ROW]}))
        found |= said(client.post(INFER, json=v2(tensor(ROW))))
        found |= {client.get("/v1/models/fraud").json()["model_version"]}
        found |= set(client.get("/v2/models/fraud").json()["versions"])
        found |= {client.get("/openapi.json").json()["info"]["version"]}
        found |= {infer(channel, SCORED).model_version}
        asked = pb.ModelMetadataRequest(name="fraud")
        found |= set(unary(channel, "ModelMetadata", asked, pb.ModelMetadataResponse).versions)
    info = [name for name in server.counts() if name.startswith("fraud_model_info")]
    return found | {name.partition('version="')[2].rstrip('"}') for name in info}


def test_after_sighup_it_serves_what_the_link_names_by_then(
    linked: tuple[Server, Path], bundle: Bundle, other: Bundle
) -> None:
    server, link = linked
    assert versions(server) == {bundle.version}
    point(link, other.path)
    assert versions(server) == {bundle.version}
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for("bundle loaded")
    assert versions(server) == {other.version}
    line = server.lines()[-1]
    assert (line["event"], line["version"], line["former"]) == ("bundle loaded", other.version, bundle.version)
    [probability] = (
        row["probability"]
        for row in httpx.post(server.url + PREDICT, content=SOUND, headers=JSON).json()["predictions"]
    )
    assert probability == pytest.approx(score(other), rel=1e-13)
    found = server.counts()
    assert found['fraud_model_loads_total{outcome="loaded"}'] == 2
    assert found['fraud_model_loads_total{outcome="refused"}'] == 0


def test_after_a_reload_the_former_versions_paths_are_gone(
    linked: tuple[Server, Path], bundle: Bundle, other: Bundle
) -> None:
    server, link = linked
    point(link, other.path)
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for("bundle loaded")
    document = v2(tensor(ROW))
    for version, status in ((bundle.version, 404), (other.version, 200)):
        path = f"{server.url}/v2/models/fraud/versions/{version}"
        assert httpx.post(f"{path}/infer", json=document).status_code == status
        assert httpx.get(path).status_code == status
        assert httpx.get(f"{path}/ready").status_code == status
    with grpc.insecure_channel(server.target) as channel:
        code, said = grpc_refusal(channel, infer_message(tensor(ROW), version=bundle.version))
        assert (code, other.version in said) == (grpc.StatusCode.NOT_FOUND, True)
        assert infer(channel, infer_message(tensor(ROW), version=other.version)).model_version == other.version


def test_a_body_that_comes_after_its_path_has_gone_is_told_so(
    linked: tuple[Server, Path], bundle: Bundle, other: Bundle
) -> None:
    server, link = linked
    body = json.dumps(v2(tensor(ROW))).encode()
    head = f"POST {INFER.replace('/infer', f'/versions/{bundle.version}/infer')} HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection((server.host, server.port), 10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n".encode())
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200  # so the head has been read
        point(link, other.path)
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_for("bundle loaded")
        connection.sendall(body)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n"


@pytest.mark.parametrize("target", ["damaged", "nothing", "itself"])
def test_a_bundle_that_is_not_sound_is_refused_and_the_one_before_it_still_served(
    linked: tuple[Server, Path], bundle: Bundle, damaged: Path, target: str
) -> None:
    server, link = linked
    point(link, {"damaged": damaged, "nothing": link.with_name("none"), "itself": link}[target])
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for("bundle refused")
    line = server.lines()[-1]
    assert (line["level"], line["model"], line["version"]) == ("error", "fraud", bundle.version)
    assert target != "damaged" or "scorer.json is not what the manifest says" in line["reason"]
    assert versions(server) == {bundle.version}
    found = server.counts()
    assert found['fraud_model_loads_total{outcome="refused"}'] == 1
    assert found['fraud_model_loads_total{outcome="loaded"}'] == 1
    point(link, bundle.path)
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for("bundle loaded")
    assert versions(server) == {bundle.version}


def test_no_request_fails_while_the_model_changes(
    linked: tuple[Server, Path], bundle: Bundle, other: Bundle
) -> None:
    server, link = linked
    done = threading.Event()
    seen: list[tuple[set[str], float]] = []

    def ask_on() -> None:
        with httpx.Client(base_url=server.url) as client, grpc.insecure_channel(server.target) as channel:
            while not done.is_set():
                response = client.post(PREDICT, content=SOUND, headers=JSON)
                seen.append((said(response), response.json()["predictions"][0]["probability"]))
                message = infer(channel, SCORED)
                seen.append(({message.model_version}, read_message(message)["probability"][0]))

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        for change in range(10):
            point(link, (bundle if change % 2 else other).path)
            os.kill(server.process.pid, signal.SIGHUP)
            server.wait_for("bundle loaded", change + 1)
    finally:
        done.set()
        asking.join()
    expected = {made.version: score(made) for made in (bundle, other)}
    assert set().union(*(named for named, _ in seen)) == expected.keys()
    for named, probability in seen:
        assert len(named) == 1
        assert probability == pytest.approx(expected[named.pop()], rel=1e-13)


# End


def test_sigterm_lets_requests_finish_that_have_begun(bundle: Bundle, tmp_path: Path) -> None:
    server = start(bundle.path, tmp_path)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SOUND)}\r\n\r\n".encode()
    come = threading.Event()

    def slowly() -> Iterator[bytes]:
        come.wait(30)
        yield SCORED.SerializeToString()

    with (
        socket.create_connection((server.host, server.port), 30) as connection,
        socket.create_connection((server.host, server.port), 30),  # it is idle, and holds nothing up
        grpc.insecure_channel(server.target, UNLIMITED) as channel,
    ):
        connection.sendall(head + SOUND[:20])
        begun: Any = channel.stream_unary(SERVICE + "ModelInfer").future(slowly(), timeout=30, wait_for_ready=True)
        time.sleep(0.5)
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.5)
        for port in (server.port, server.grpc_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((server.host, port), 5)
        assert server.process.poll() is None
        connection.sendall(SOUND[20:])
        come.set()
        answer = connection.recv(65_536).decode()
        message = pb.ModelInferResponse.FromString(begun.result(30))
    assert answer.startswith("HTTP/1.1 200")
    assert read_message(message)["id"] == ["b-0"]
    assert server.process.wait(30) == 0
    assert server.events() == ["predictor started", "predictor stopped"]


def test_sigterm_lets_large_requests_finish_that_wait_for_their_turn(bundle: Bundle, tmp_path: Path) -> None:
    rows = transactions(10_000)
    body = json.dumps({"instances": rows.tolist()}).encode()
    server = start(bundle.path, tmp_path, "--request_log")
    done: list[int] = []

    def ask() -> None:
        response = httpx.post(server.url + PREDICT, content=body, headers=JSON, timeout=60)
        done.append(len(response.raise_for_status().json()["predictions"]))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    server.wait_for("request")
    os.kill(server.process.pid, signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert done == [10_000] * 4
    assert server.process.wait(30) == 0


def test_a_signal_ends_it_soon_where_connections_are_idle(bundle: Bundle, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        server = start(bundle.path, tmp_path)
        with httpx.Client(base_url=server.url) as client, grpc.insecure_channel(server.target) as channel:
            assert client.get("/v2/health/ready").status_code == 200
            assert unary(channel, "ServerReady", b"", pb.ServerReadyResponse).ready
            began = time.monotonic()
            os.kill(server.process.pid, number)
            assert server.process.wait(30) == 0
            assert time.monotonic() - began < 10
        assert server.events() == ["predictor started", "predictor stopped"]


def test_a_signal_that_comes_with_the_start_ends_it_too(bundle: Bundle, tmp_path: Path) -> None:
    for _ in range(2):
        server = start(bundle.path, tmp_path)
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.events() == ["predictor started", "predictor stopped"]


def test_a_head_that_does_not_end_is_cut_off(predictor: Server) -> None:
    sent = 0
    with socket.create_connection((predictor.host, predictor.port), 10) as connection, suppress(OSError):
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        while sent < 64 * 1024 * 1024:
            sent += connection.send(b"a: b\r\n" * 1_000)
    assert sent < 32 * 1024 * 1024
    assert httpx.get(f"{predictor.url}/v2/health/ready").status_code == 200
