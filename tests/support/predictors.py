"""What the tests of the predictor share: a server, a predictor in this process, and requests in every protocol.

A tensor is one object, `{"name", "shape", "datatype", "data"}`, from which `v2` makes JSON, `binary` JSON with
bytes after it, and `infer_message` a gRPC message.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import httpx
import numpy as np
import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from fraudkit.schema import INPUTS, FloatArray
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor
from serving.predictor.grpc_service import GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.request import OUTPUTS
from serving.predictor.work import LargeWork

PREDICT, EXPLAIN, INFER = "/v1/models/fraud:predict", "/v1/models/fraud:explain", "/v2/models/fraud/infer"
SERVICE: Final = "/inference.GRPCInferenceService/"
JSON: Final = {"content-type": "application/json"}
BINARY: Final = {"content-type": "application/octet-stream"}
LENGTH: Final = "inference-header-content-length"
ROW: Final = [3600.0, *[0.5] * 28, 12.5]
NAMED: Final = dict(zip(INPUTS, ROW, strict=True))
TWO: Final = np.array([ROW, ROW])
MEBIBYTE: Final = 1024 * 1024
UNLIMITED: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

Tensor = dict[str, Any]
Outputs = dict[str, list[Any]]
"""The outputs of an answer by name, each with one value per row, texts as `str`."""

_CODES: Final = {"FP64": "<f8", "FP32": "<f4", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"} | {
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}
CONTENTS: Final = {"FP64": "fp64", "FP32": "fp32", "INT64": "int64", "UINT64": "uint64", "BYTES": "bytes"} | {
    name: "uint" if name.startswith("U") else "int"
    for name in ("INT8", "INT16", "INT32", "UINT8", "UINT16", "UINT32")
}


# Processes


@dataclass(frozen=True)
class Server:
    """A predictor in a process of its own."""

    process: subprocess.Popen[bytes]
    stderr: Path
    host: str
    port: int
    grpc_port: int | None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def target(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.stderr.read_text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def wait_for(self, event: str, times: int = 1) -> None:
        """Wait until it has logged `event` so many times."""
        deadline = time.monotonic() + 20
        while self.stderr.read_text().count(f'"event": "{event}"') < times:
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"the predictor did not log {event!r}: {self.stderr.read_text()}")
            time.sleep(0.02)

    def counts(self) -> dict[str, float]:
        with httpx.Client(base_url=self.url) as client:
            return counts(client)


def command(directory: Path, *options: str) -> list[str]:
    ports = ("--http_port", "0", "--grpc_port", "0")
    return [sys.executable, "-m", "serving.predictor", "--bundle", str(directory), *ports, *options]


def start(directory: Path, folder: Path, *options: str, **variables: str) -> Server:
    """A predictor on free ports, once it has said which; what it logs goes to `folder`."""
    stderr = folder / "stderr"
    with stderr.open("wb") as file:
        process = subprocess.Popen(command(directory, *options), stderr=file, env=os.environ | variables)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        first, newline, _ = stderr.read_text().partition("\n")
        if newline:
            said = json.loads(first)
            return Server(process, stderr, said["host"], said["port"], said["grpc_port"])
        time.sleep(0.02)
    process.kill()
    process.wait()
    pytest.fail(f"the predictor did not start: {stderr.read_text()}")


@contextmanager
def running(directory: Path, folder: Path, *options: str, **variables: str) -> Iterator[Server]:
    """A predictor that ends well when it is told to."""
    server = start(directory, folder, *options, **variables)
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            code = server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.process.kill()
            code = server.process.wait()
    assert code == 0


def refusal(directory: Path, *options: str) -> tuple[int, str]:
    """The exit code and the one line of a predictor that does not start."""
    done = subprocess.run(command(directory, *options), capture_output=True, text=True, timeout=20)
    [line] = done.stderr.splitlines()
    return done.returncode, line


# In this process


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def in_process(model: FraudModel, **settings: Any) -> Predictor:
    return Predictor(model, Starlette(), ServingSettings(**settings), Metrics(), LargeWork())


class _Arriving:
    """A body on its way, as uvicorn hands it over: `more_body` says whether there is more to wait for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.more_body = len(pieces) > 1

    async def receive(self) -> Any:
        piece = self._pieces.pop(0)
        self.more_body = bool(self._pieces)
        return {"type": "http.request", "body": piece, "more_body": self.more_body}


async def ask(
    app: Predictor,
    path: str,
    body: bytes,
    headers: Mapping[str, str] = JSON,
    method: str = "POST",
    *,
    whole: bool = True,
) -> Reply:
    """One request to `app` as the server would hand it over, its body `whole` or in two pieces.

    A POST that is whole is asked for at once first; in pieces, which take longer, it goes by way of ASGI alone.
    """
    sent: list[Any] = []
    arriving = _Arriving([body] if whole else [body[:1], body[1:]])

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    if whole and method == "POST" and path.encode() in app.at_once:
        at_once = app.answer(path.encode(), named, body)
        if at_once:
            status, fields, content = at_once
            return Reply(status, dict(parse_headers(BytesIO(fields)).items()), content)
    await app({"type": "http", "method": method, "path": path, "headers": named}, arriving.receive, send)
    head, *parts = sent
    answered = {name.decode(): value.decode() for name, value in head["headers"]}
    return Reply(head["status"], answered, b"".join(part["body"] for part in parts))


def call(app: Predictor, path: str, body: bytes, **headers: str) -> Reply:
    """The same, for who is not in an event loop."""
    return asyncio.run(ask(app, path, body, JSON | headers))


# Requests


def transactions(count: int, seed: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    rows = random.normal(0, 2, (count, len(INPUTS)))
    rows[:, 0] = random.uniform(0, 2e9, count)
    rows[:, -1] = random.lognormal(3, 1.5, count)
    return rows


def objects(rows: FloatArray) -> list[dict[str, float]]:
    return [dict(zip(INPUTS, row, strict=True)) for row in rows.tolist()]


def tensor(data: Any, shape: Any = None, name: Any = "transactions", datatype: Any = "FP64") -> Tensor:
    return {"name": name, "shape": shape or [1, len(INPUTS)], "datatype": datatype, "data": data}


def matrix(rows: NDArray[Any], datatype: str = "FP64", name: str = "transactions") -> Tensor:
    """All rows in one tensor."""
    return tensor(rows.tolist(), list(rows.shape), name, datatype)


def columns(rows: FloatArray, datatype: str = "FP64", **changes: Tensor) -> list[Tensor]:
    """One tensor for each input; `changes` by name."""
    tensors = {name: tensor(rows[:, i].tolist(), [len(rows)], name, datatype) for i, name in enumerate(INPUTS)}
    return list((tensors | changes).values())


def ids(*texts: str) -> Tensor:
    return tensor(list(texts), [len(texts)], "id", "BYTES")


def v1_requests(rows: FloatArray) -> dict[str, dict[str, Any]]:
    half = len(rows) // 2
    return {
        "lists": {"instances": rows.tolist()},
        "objects": {"instances": objects(rows)},
        "both": {"instances": [*rows.tolist()[:half], *objects(rows)[half:]]},
    }


def v2(*tensors: Tensor, **members: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **members}


def v2_requests(rows: FloatArray) -> dict[str, dict[str, Any]]:
    shape = [len(rows), len(INPUTS)]
    return {
        "flat": v2(tensor(rows.ravel().tolist(), shape)),
        "nested": v2(matrix(rows)),
        "columns": v2(*columns(rows)),
        "columns of one": v2(*columns(rows, V3=tensor(rows[:, [3]].tolist(), [len(rows), 1], "V3"))),
        "named FP32": v2(matrix(rows, "FP32", "x")),
    }


def binary(
    *tensors: Tensor, header: object = None, size: int | None = None, **members: Any
) -> tuple[bytes, dict[str, str]]:
    """A V2 body with the tensors as bytes, but for those that say `"json": True`; and its headers.

    `header` is what to say of the JSON's length instead of the truth, `size` what of the first tensor's.
    """
    inputs, tail = [], []
    for given in tensors:
        head = {name: value for name, value in given.items() if name not in ("data", "json")}
        if given.get("json"):
            head["data"] = given["data"]
        else:
            tail.append(packed(given))
            told = len(tail[-1]) if size is None or len(tail) > 1 else size
            head["parameters"] = {"binary_data_size": told} | given.get("parameters", {})
        inputs.append(head)
    content = orjson.dumps({"inputs": inputs, **members})
    length = str(len(content) if header is None else header)
    return content + b"".join(tail), BINARY | {LENGTH: length}


def packed(given: Tensor) -> bytes:
    """The data of a tensor as bytes; those that are bytes already stay as they are."""
    data = given["data"]
    if isinstance(data, bytes):
        return data
    if given["datatype"] == "BYTES":
        texts = [text.encode() if isinstance(text, str) else text for text in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(data, dtype=_CODES[given["datatype"]]).tobytes()


def infer_message(
    *tensors: Tensor,
    raw: bool = False,
    outputs: Iterable[str] = (),
    model: str = "fraud",
    version: str = "",
    **members: Any,
) -> Any:
    """A gRPC request with typed or raw contents."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, **members)
    for given in tensors:
        added = message.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        if raw:
            message.raw_input_contents.append(packed(given))
        elif len(given["data"]):
            field = getattr(added.contents, f"{CONTENTS[given['datatype']]}_contents")
            values = given["data"] if given["datatype"] == "BYTES" else np.ravel(given["data"]).tolist()
            field.extend(value.encode() if isinstance(value, str) else value for value in values)
    for name in outputs:
        message.outputs.add(name=name)
    return message


# Answers


def read_v1(document: dict[str, Any]) -> Outputs:
    predictions = document["predictions"]
    return {name: [prediction[name] for prediction in predictions] for name in predictions[0]}


def read_v2(content: bytes, headers: Mapping[str, str]) -> Outputs:
    """The outputs in a V2 answer, be they JSON or bytes."""
    length = int(headers.get(LENGTH, len(content)))
    document, place, outputs = json.loads(content[:length]), length, {}
    for output in document["outputs"]:
        if "data" in output:
            outputs[output["name"]] = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            outputs[output["name"]] = _unpacked(output["datatype"], content[place : place + size])
            place += size
        assert output["datatype"] == OUTPUTS[output["name"]]
        assert output["shape"] == [len(outputs[output["name"]])]
    assert place == len(content)
    return outputs


def read_message(answer: Any) -> Outputs:
    """The outputs in a gRPC answer, be they typed or raw."""
    outputs: Outputs = {}
    for place, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            outputs[output.name] = _unpacked(output.datatype, answer.raw_output_contents[place])
        else:
            values = getattr(output.contents, f"{CONTENTS[output.datatype]}_contents")
            outputs[output.name] = [value.decode() if isinstance(value, bytes) else value for value in values]
        assert output.datatype == OUTPUTS[output.name]
        assert list(output.shape) == [len(outputs[output.name])]
    return outputs


def _unpacked(datatype: str, content: bytes) -> list[Any]:
    if datatype != "BYTES":
        values: list[Any] = np.frombuffer(content, _CODES[datatype]).tolist()
        return values
    texts, place = [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<I", content, place)
        texts.append(content[place + 4 : place + 4 + length].decode())
        place += 4 + length
    assert place == len(content)
    return texts


# gRPC


def unary(channel: grpc.Channel, method: str, message: Any, kind: Any = bytes, **options: Any) -> Any:
    """What `method` answers to a message, or to bytes that are perhaps none; `kind` is that of the answer."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    call: Any = channel.unary_unary(SERVICE + method)
    answer = call(content, timeout=60, **options)
    return answer if kind is bytes else kind.FromString(answer)


def infer(channel: grpc.Channel, message: Any, **options: Any) -> Any:
    return unary(channel, "ModelInfer", message, pb.ModelInferResponse, **options)


def grpc_refusal(
    channel: grpc.Channel, message: Any, method: str = "ModelInfer", **options: Any
) -> tuple[grpc.StatusCode, str]:
    """The code and the text that a message is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, method, message, **options)
    error: Any = caught.value
    return error.code(), error.details()


class _AbortedError(Exception):
    pass


class _Context:
    """What a handler needs to know of a call."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata
        self.code = grpc.StatusCode.OK
        self.details = ""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details
        raise _AbortedError


async def grpc_ask(
    service: GrpcService, content: bytes, method: str = "ModelInfer", metadata: Sequence[tuple[str, str]] = ()
) -> tuple[grpc.StatusCode, bytes]:
    """One message to `service` as the server would hand it over: the code, and the answer or the text."""
    context = _Context(metadata)
    handler: Any = service._handlers()[method]
    try:
        return context.code, await handler.unary_unary(content, context)
    except _AbortedError:
        return context.code, context.details.encode()


def grpc_call(service: GrpcService, content: bytes, method: str = "ModelInfer") -> tuple[grpc.StatusCode, bytes]:
    """The same, for who is not in an event loop."""
    return asyncio.run(grpc_ask(service, content, method))


# Metrics


def counts(client: httpx.Client) -> dict[str, float]:
    """What the predictor has counted, as `name{label="value",…}` with the labels in order."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name.startswith("fraud_"):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What counts have changed, and by how much; but for the sums and buckets of times."""
    return {
        name: count - before.get(name, 0.0)
        for name, count in after.items()
        if count != before.get(name, 0.0) and not name.startswith(("fraud_request_seconds_", "fraud_model_"))
    }


def exactly(values: Sequence[float], expected: Sequence[float] | FloatArray) -> None:
    """Raise unless the values are equal but for the last digits of a sum, a logarithm and an exponential."""
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=0)
