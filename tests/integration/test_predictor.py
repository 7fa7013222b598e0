"""The predictor as its clients meet it: a real process, a real bundle, real requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.constants.constants import PredictorProtocol
from starlette.applications import Starlette

from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS
from fraudkit.settings import ServingSettings
from serving.predictor.app import INLINE_BYTES, Predictor
from serving.predictor.model import FraudModel
from serving.predictor.protocol import OUTPUTS

PREDICT, EXPLAIN, INFER = "/v1/models/fraud:predict", "/v1/models/fraud:explain", "/v2/models/fraud/infer"
JSON = {"content-type": "application/json"}
ROW = [3600.0, *[0.5] * 28, 12.5]
NAMED = dict(zip(INPUTS, ROW, strict=True))
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    stderr: Path
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def command(directory: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "serving.predictor", "--bundle", str(directory), *options]


def start(directory: Path, folder: Path, *options: str) -> Server:
    """A predictor on a free port, once it has said which."""
    stderr = folder / "stderr"
    with stderr.open("wb") as file:
        process = subprocess.Popen(command(directory, "--http_port", "0", *options), stderr=file)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = stderr.read_text().splitlines()
        if lines:
            started = json.loads(lines[0])
            return Server(process, stderr, started["host"], started["port"])
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"the predictor did not start: {stderr.read_text()}")


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(bundle.path, tmp_path_factory.mktemp("predictor"))
    yield running
    running.process.terminate()
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as connected:
        yield connected


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Predictor:
    return Predictor(FraudModel(bundle), Starlette(), ServingSettings())


def call(app: Predictor, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """One request to `app` in this process."""

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post(path, content=body, headers=JSON | headers)

    response = asyncio.run(post())
    return response.status_code, response.json()


def transactions(count: int, seed: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    rows = random.normal(0, 2, (count, len(INPUTS)))
    rows[:, 0] = random.uniform(0, 2e9, count)
    rows[:, -1] = random.lognormal(3, 1.5, count)
    return rows


def v2(*tensors: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **members}


def tensor(data: Any, shape: Any = None, name: Any = "transactions", datatype: Any = "FP64") -> dict[str, Any]:
    return {"name": name, "shape": shape or [1, len(INPUTS)], "datatype": datatype, "data": data}


def columns(rows: FloatArray, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    tensors = {
        name: tensor(rows[:, i].tolist(), [len(rows)], name, "FP64") for i, name in enumerate(INPUTS)
    } | changes
    return list(tensors.values())


def v1_requests(rows: FloatArray) -> dict[str, dict[str, Any]]:
    objects = [dict(zip(INPUTS, row, strict=True)) for row in rows.tolist()]
    return {
        "lists": {"instances": rows.tolist()},
        "objects": {"instances": objects},
        "both": {"instances": [*rows.tolist()[:10], *objects[10:]]},
    }


def v2_requests(rows: FloatArray) -> dict[str, dict[str, Any]]:
    shape = [len(rows), len(INPUTS)]
    return {
        "flat": v2(tensor(rows.ravel().tolist(), shape)),
        "nested": v2(tensor(rows.tolist(), shape)),
        "columns": v2(*columns(rows)),
        "columns of one": v2(*columns(rows, V3=tensor(rows[:, [3]].tolist(), [len(rows), 1], "V3"))),
        "named FP32": v2(tensor(rows.tolist(), shape, "x", "FP32")),
    }


@pytest.mark.parametrize("form", ["lists", "objects", "both"])
@pytest.mark.parametrize("count", [1, 200])
def test_v1_predictions_are_those_of_the_bundles_scorer(
    client: httpx.Client, bundle: Bundle, form: str, count: int
) -> None:
    rows = transactions(count)
    answer = client.post(PREDICT, json=v1_requests(rows)[form]).json()
    assert answer["model_version"] == bundle.version
    expected = bundle.scorer.probabilities(rows)
    levels = bundle.scorer.alerts(expected)
    assert [set(p) for p in answer["predictions"]] == [{"id", "probability", "label", "alert"}] * count
    np.testing.assert_allclose([p["probability"] for p in answer["predictions"]], expected, rtol=1e-12)
    assert [p["alert"] for p in answer["predictions"]] == [ALERTS[level] for level in levels]
    assert [p["label"] for p in answer["predictions"]] == (expected >= 0.05).astype(int).tolist()


@pytest.mark.parametrize("form", ["flat", "nested", "columns", "columns of one", "named FP32"])
def test_v2_outputs_are_those_of_the_bundles_scorer(client: httpx.Client, bundle: Bundle, form: str) -> None:
    rows = transactions(150, seed=1)
    answer = client.post(INFER, json=v2_requests(rows)[form] | {"id": "batch"}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("fraud", bundle.version, "batch")
    kinds = [(output["name"], output["datatype"], output["shape"]) for output in answer["outputs"]]
    assert kinds == [
        ("probability", "FP64", [150]),
        ("label", "INT64", [150]),
        ("alert", "BYTES", [150]),
        ("id", "BYTES", [150]),
    ]
    probability, label, alert, ids = (output["data"] for output in answer["outputs"])
    np.testing.assert_allclose(probability, bundle.scorer.probabilities(rows), rtol=1e-12)
    assert label == [int(name != "normal") for name in alert]
    assert ids == [f"batch-{row}" for row in range(150)]


def test_explain_gives_thirty_reasons_that_add_up_to_the_log_odds(client: httpx.Client, bundle: Bundle) -> None:
    rows = transactions(3, seed=2)
    predictions = client.post(EXPLAIN, json={"instances": rows.tolist()}).json()["predictions"]
    typical = bundle.scorer.logits(np.array([bundle.scorer.typical]))[0]
    for row, prediction in zip(rows, predictions, strict=True):
        reasons = prediction["reasons"]
        sizes = [abs(reason["contribution"]) for reason in reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert {reason["feature"]: reason["value"] for reason in reasons} == dict(zip(INPUTS, row, strict=True))
        logit = np.log(prediction["probability"] / (1 - prediction["probability"]))
        assert typical + sum(r["contribution"] for r in reasons) == pytest.approx(logit, rel=1e-9)


def test_v2_returns_only_the_outputs_that_were_asked_for(client: httpx.Client) -> None:
    wanted = [{"name": "reasons"}, {"name": "label"}]
    answer = client.post(INFER, json=v2(tensor(ROW), outputs=wanted)).json()
    explained = client.post(EXPLAIN, json={"instances": [ROW]}).json()["predictions"][0]
    assert [output["name"] for output in answer["outputs"]] == ["reasons", "label"]
    assert json.loads(answer["outputs"][0]["data"][0]) == explained["reasons"]


def test_an_integer_tensor_with_integers_is_scored(client: httpx.Client, bundle: Bundle) -> None:
    row = [7200, *range(-14, 14), 3]
    for datatype in ("INT8", "INT64"):
        changes = {"Time": tensor([7200], [1], "Time", "UINT32")}
        tensors = columns(np.array([row], dtype=float), **changes)
        for name in tensors[1:]:
            name["datatype"] = datatype
            name["data"] = [int(value) for value in name["data"]]
        answer = client.post(INFER, json=v2(*tensors)).json()
        expected = bundle.scorer.probabilities(np.array([row], dtype=float))
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("headers", "members", "expected"),
    [
        ({"Ce-Id": "event"}, {"id": "body"}, ["event-0", "own", "event-2"]),
        ({}, {"id": "body"}, ["body-0", "own", "body-2"]),
        ({"ce-id": "événement".encode()}, {}, ["événement-0", "own", "événement-2"]),
    ],
)
def test_a_row_is_named_by_itself_or_by_header_body_and_index(
    client: httpx.Client, headers: dict[str, Any], members: dict[str, Any], expected: list[str]
) -> None:
    document = {"instances": [NAMED, NAMED | {"id": "own"}, ROW], **members}
    predictions = client.post(PREDICT, json=document, headers=headers).json()["predictions"]
    assert [prediction["id"] for prediction in predictions] == expected


def test_a_request_without_an_id_gets_a_fresh_one_each_time(client: httpx.Client) -> None:
    ids = [client.post(PREDICT, json={"instances": [ROW]}).json()["predictions"][0]["id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert [len(row_id) for row_id in ids] == [38, 38]


def test_v2_takes_ids_of_rows_and_returns_the_requests_own_id(client: httpx.Client) -> None:
    ids = tensor(["a:1", "b:2"], [2], "id", "BYTES")
    document = v2(ids, tensor([ROW, ROW], [2, 30]), id="mine")
    answer = client.post(INFER, json=document, headers={"Ce-Id": "event"}).json()
    assert answer["id"] == "mine"
    assert answer["outputs"][3]["data"] == ["a:1", "b:2"]
    del document["inputs"][0]
    answer = client.post(INFER, json=document, headers={"Ce-Id": "event"}).json()
    assert answer["outputs"][3]["data"] == ["event-0", "event-1"]


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in NAMED.items() if name not in names}


def changed(position: int, value: Any) -> list[Any]:
    return [*ROW[:position], value, *ROW[position + 1 :]]


def raw_row(position: int, text: str) -> bytes:
    values = [repr(value) for value in ROW]
    values[position] = text
    return f'{{"instances": [[{", ".join(values)}]]}}'.encode()


TWO = np.array([ROW, ROW])
V1_MISTAKES: dict[str, tuple[Any, int, str]] = {
    "an empty body": (b"", 400, "the body is not JSON"),
    "a cut-off body": (b'{"instances": [[1, 2', 400, "the body is not JSON"),
    "invalid UTF-8": (b'{"id": "\xff"}', 400, "not valid UTF-8"),
    "NaN": (raw_row(3, "NaN"), 400, "the body is not JSON"),
    "Infinity": (raw_row(3, "-Infinity"), 400, "the body is not JSON"),
    "a number beyond double": (raw_row(3, "1e999"), 400, "infinity"),
    "a list as body": ([ROW], 400, "the body must be a JSON object"),
    "null as body": (b"null", 400, "the body must be a JSON object"),
    "no instances": ({"rows": [ROW]}, 400, "instances: Field required"),
    "instances not a list": ({"instances": NAMED}, 400, "instances: Input should be a valid list"),
    "no rows": ({"instances": []}, 400, "instances: has no rows"),
    "a row without values": ({"instances": [ROW, []]}, 400, "row 1: has 0 values, must have 30"),
    "a row too short": ({"instances": [ROW, ROW[1:]]}, 400, "row 1: has 29 values, must have 30"),
    "a row too long": ({"instances": [[*ROW, 1]]}, 400, "row 0: has 31 values, must have 30"),
    "a number as row": ({"instances": [ROW, 5]}, 400, "row 1: 5 must be a list of 30 numbers"),
    "a text as row": ({"instances": ["x" * 30]}, 400, "must be a list of 30 numbers"),
    "null as row": ({"instances": [None]}, 400, "row 0: None must be a list of 30 numbers"),
    "null": ({"instances": [ROW, changed(5, None)]}, 400, "row 1, V5: is null"),
    "true": ({"instances": [changed(5, True)]}, 400, "row 0, V5: True is not a number"),
    "a number as text": ({"instances": [changed(29, "12.5")]}, 400, "row 0, Amount: '12.5' is not a number"),
    "a list as value": ({"instances": [changed(1, [1])]}, 400, "row 0, V1: [1] is not a number"),
    "a deep value": (raw_row(2, "[" * 1000 + "]" * 1000), 400, "row 0, V2:"),
    "too deep a value": (raw_row(2, "[" * 2000 + "]" * 2000), 400, "depth"),
    "a huge integer": (raw_row(4, "9" * 300), 400, "row 0, V4: 1e+300 is beyond the limit"),
    "a large number": ({"instances": [changed(4, -1e13)]}, 400, "row 0, V4: -1e+13 is beyond the limit"),
    "a negative Amount": ({"instances": [changed(29, -0.01)]}, 400, "row 0, Amount: -0.01 is negative"),
    "a negative Time": ({"instances": [ROW, changed(0, -1)]}, 400, "row 1, Time: -1 is negative"),
    "a name missing": ({"instances": [NAMED, without("V7")]}, 400, "row 1, V7: is missing"),
    "a name unknown": ({"instances": [NAMED | {"V29": 1}]}, 400, "row 0, 'V29': is not an input"),
    "the label": ({"instances": [NAMED | {"Class": 1}]}, 400, "row 0, 'Class': is not an input"),
    "another case": ({"instances": [without("Amount") | {"amount": 1}]}, 400, "row 0, Amount: is missing"),
    "null by name": ({"instances": [NAMED | {"V7": None}]}, 400, "row 0, V7: is null"),
    "a name twice": (
        json.dumps({"instances": [NAMED]}).replace('"V7": 0.5', '"V7": 0.5, "V7": 9').encode(),
        400,
        "V7: is given more than once",
    ),
    "instances twice": (raw_row(1, "1")[:-1] + b', "instances": []}', 400, "instances: "),
    "an id that is a number": ({"instances": [ROW, NAMED | {"id": 7}]}, 400, "row 1, id: must be a text"),
    "an id that is null": ({"instances": [NAMED | {"id": None}]}, 400, "row 0, id: must be a text"),
    "an empty id": ({"instances": [NAMED | {"id": ""}]}, 400, "row 0, id: has 0 characters"),
    "too long an id": ({"instances": [NAMED | {"id": "x" * 257}]}, 400, "row 0, id: has 257 characters"),
    "an id with a NUL": ({"instances": [NAMED | {"id": "a\0"}]}, 400, "row 0, id: has characters that"),
    "an id twice": ({"instances": [NAMED | {"id": "a"}] * 2}, 400, "row 1, id: is that of row 0 too"),
    "an id like a given one": (
        {"id": "a", "instances": [NAMED | {"id": "a-1"}, ROW]},
        400,
        "row 1, id: is that of row 0 too",
    ),
    "a request id that is a number": ({"id": 7, "instances": [ROW]}, 400, "id: Input should be a valid string"),
    "too long a request id": ({"id": "x" * 257, "instances": [ROW]}, 400, "id: has 257 characters"),
    "too many rows": ({"instances": [[0]] * 10_001}, 413, "instances: has 10,001 rows, at most 10,000"),
}
V2_MISTAKES: dict[str, tuple[Any, int, str]] = {
    "no inputs": ({"id": "x"}, 400, "inputs: Field required"),
    "inputs empty": (v2(), 400, "inputs: List should have at least 1 item"),
    "an input that is no object": ({"inputs": [ROW]}, 400, "inputs.0: Input should be"),
    "a V1 request": ({"instances": [ROW]}, 400, "inputs: Field required"),
    "no name": (v2({"shape": [1, 30], "datatype": "FP64", "data": ROW}), 400, "inputs.0.name: Field required"),
    "an empty name": (v2(tensor(ROW, name="")), 400, "inputs.0.name: String should have at least 1"),
    "no shape": (v2({"name": "x", "datatype": "FP64", "data": ROW}), 400, "inputs.0.shape: Field required"),
    "no data": (v2({"name": "x", "shape": [1, 30], "datatype": "FP64"}), 400, "inputs.0.data: Field required"),
    "data null": (v2(tensor(None)), 400, "inputs.0.data: Input should be a valid list"),
    "a shape of three": (v2(tensor(ROW, [1, 1, 30])), 400, "inputs.0.shape: List should have at most 2"),
    "a shape of texts": (v2(tensor(ROW, ["1", "30"])), 400, "inputs.0.shape.0: Input should be a valid integer"),
    "a shape of booleans": (v2(tensor(ROW, [True, 30])), 400, "inputs.0.shape.0: Input should be a valid int"),
    "a shape of one": (v2(tensor(ROW, [30])), 400, "transactions: has shape [30], must be [n, 30]"),
    "a narrow shape": (v2(tensor(ROW[1:], [1, 29])), 400, "transactions: has shape [1, 29], must be [n, 30]"),
    "a negative shape": (v2(tensor(ROW, [-1, 30])), 400, "transactions: has no rows"),
    "no rows": (v2(tensor([], [0, 30])), 400, "transactions: has no rows"),
    "fewer data than the shape": (v2(tensor(ROW, [2, 30])), 400, "has 30 values, its shape says 60"),
    "more data than the shape": (v2(tensor(ROW * 2)), 400, "has 60 values, its shape says 30"),
    "no data at all": (v2(tensor([])), 400, "has 0 values, its shape says 30"),
    "a ragged tensor": (v2(tensor([ROW, ROW[1:]], [2, 30])), 400, "row 1, transactions: must be a list of 30"),
    "an object among lists": (v2(tensor([ROW, NAMED], [2, 30])), 400, "row 1, transactions: must be a list of"),
    "too deep a tensor": (v2(tensor([[ROW]], [1, 30])), 400, "row 0, transactions: must be a list of 30"),
    "a huge shape": (v2(tensor(ROW, [2**62, 30])), 413, "rows, at most 10,000"),
    "an overflowing shape": (v2(tensor(ROW, [1, 2**63])), 400, "must be [n, 30]"),
    "a shape beyond 64 bits": (v2(tensor(ROW, [2**64, 30])), 400, "inputs.0.shape.0: Input should be a valid"),
    "too many rows": (v2(tensor([0], [10_001, 30])), 413, "transactions: has 10,001 rows, at most 10,000"),
    "booleans": (v2(tensor(ROW, datatype="BOOL")), 400, "transactions: has datatype BOOL, must be FP64"),
    "bytes": (v2(tensor(ROW, datatype="BYTES")), 400, "transactions: has datatype BYTES, must be FP64"),
    "half precision": (v2(tensor(ROW, datatype="FP16")), 400, "transactions: has datatype FP16"),
    "a datatype that is a number": (v2(tensor(ROW, datatype=64)), 400, "inputs.0.datatype: Input should be"),
    "null": (v2(tensor([*ROW, *changed(4, None)], [2, 30])), 400, "row 1, V4: is null"),
    "true": (v2(tensor(changed(4, True))), 400, "row 0, V4: True is not a number"),
    "a text": (v2(tensor(changed(4, "1"))), 400, "row 0, V4: '1' is not a number"),
    "a negative Amount": (v2(tensor([ROW, changed(29, -5)], [2, 30])), 400, "row 1, Amount: -5 is negative"),
    "a fraction in INT32": (v2(tensor(ROW, datatype="INT32")), 400, "row 0, Time: 3600.0 is not INT32"),
    "a number too large for INT8": (
        v2(tensor([[1] * 30, [1] * 29 + [128]], [2, 30], datatype="INT8")),
        400,
        "row 1, Amount: 128 is not INT8",
    ),
    "a negative number in UINT64": (
        v2(tensor([*[1, -1] * 14, 1, 1], datatype="UINT64")),
        400,
        "row 0, V1: -1 is not UINT64",
    ),
    "a boolean in INT64": (v2(tensor([True] * 30, datatype="INT64")), 400, "row 0, Time: True is not a number"),
    "a fraction in a column": (
        v2(*columns(TWO, V3=tensor([1, 0.5], [2], "V3", "INT16"))),
        400,
        "row 1, V3: 0.5 is not INT16",
    ),
    "a column missing": (v2(*columns(TWO)[:-1]), 400, "Amount: is missing"),
    "one column alone": (v2(columns(TWO)[0]), 400, "V1: is missing"),
    "a column unknown": (v2(*columns(TWO)[:-1], tensor([1, 2], [2], "amount")), 400, "amount: is not an input"),
    "a column too many": (v2(*columns(TWO, Class=tensor([0, 0], [2], "Class"))), 400, "Class: is not an input"),
    "two tensors": (v2(tensor(ROW), tensor(ROW, name="more")), 400, "Time: is missing"),
    "a tensor twice": (v2(tensor(ROW), tensor(ROW)), 400, "two tensors have the same name"),
    "a column of other length": (
        v2(*columns(TWO, V3=tensor([1], [1], "V3"))),
        400,
        "V3: has shape [1], must be [2] or [2, 1]",
    ),
    "a wide column": (v2(*columns(TWO, V3=tensor(ROW, [2, 15], "V3"))), 400, "V3: has shape [2, 15]"),
    "null in a column": (v2(*columns(TWO, V3=tensor([1, None], [2], "V3"))), 400, "row 1, V3: is null"),
    "ids alone": (v2(tensor(["a"], [1], "id", "BYTES")), 400, "Time: is missing"),
    "ids of another type": (v2(tensor(ROW), tensor([1], [1], "id", "INT64")), 400, "id: has datatype INT64"),
    "an id that is a number": (v2(tensor(ROW), tensor([1], [1], "id", "BYTES")), 400, "row 0, id: must be a text"),
    "too few ids": (v2(tensor(ROW), tensor([], [0], "id", "BYTES")), 400, "id: has shape [0], must be [1]"),
    "an id twice": (
        v2(tensor([*ROW, *ROW], [2, 30]), tensor(["a", "a"], [2], "id", "BYTES")),
        400,
        "row 1, id: is that of row 0 too",
    ),
    "an unknown output": (v2(tensor(ROW), outputs=[{"name": "proba"}]), 400, "outputs.0.name: Input should be"),
    "an output that is a text": (v2(tensor(ROW), outputs=["label"]), 400, "outputs.0: Input should be"),
    "data twice": (
        json.dumps(v2(tensor(ROW))).replace('"data"', '"data": [], "data"').encode(),
        400,
        "data: is given more than once",
    ),
    "a request id that is a list": (v2(tensor(ROW), id=["x"]), 400, "id: Input should be a valid string"),
}
MISTAKES = [
    pytest.param(path, *mistake, id=f"{path[1:3]}, {name}")
    for path, mistakes in ((PREDICT, V1_MISTAKES), (INFER, V2_MISTAKES))
    for name, mistake in mistakes.items()
]


@pytest.mark.parametrize(("path", "body", "status", "message"), MISTAKES)
def test_a_clients_mistake_is_named_in_a_4xx(
    client: httpx.Client, path: str, body: Any, status: int, message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(path, content=content, headers=JSON)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]
    assert len(response.text) < 1000


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        ("GET", PREDICT, {}, 405, "takes POST alone"),
        ("PUT", INFER, {}, 405, "takes POST alone"),
        ("POST", "/v1/models/fraud", JSON, 405, "takes GET alone"),
        ("POST", "/v1/models/other:predict", JSON, 404, "the model here is fraud"),
        ("POST", "/v1/models/fraud:train", JSON, 404, "the model here is fraud"),
        ("GET", "/v1/models/other", {}, 404, "the model here is fraud"),
        ("POST", "/v2/models/other/infer", JSON, 404, "the model here is fraud"),
        ("POST", "/v2/models/fraud/versions/1/infer", JSON, 404, "the model here is fraud"),
        ("POST", "/v2/repository/models/fraud/unload", {}, 403, "repository is closed"),
        ("POST", "/v2/repository/models/fraud/load", {}, 403, "repository is closed"),
        ("POST", "/v2/repository/index", {}, 403, "repository is closed"),
        ("POST", PREDICT, {"content-type": "text/csv"}, 415, "must be application/json"),
        ("POST", INFER, {"content-type": "application/octet-stream"}, 415, "must be application/json"),
        ("POST", PREDICT, JSON | {"content-encoding": "br"}, 415, "Content-Encoding: must be gzip"),
        ("POST", PREDICT, JSON | {"content-encoding": "gzip"}, 400, "the body is not gzip"),
        ("POST", PREDICT, JSON | {"ce-id": "x" * 257}, 400, "Ce-Id: has 257 characters"),
    ],
)
def test_a_request_that_http_has_a_status_for_gets_it(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int, message: str
) -> None:
    content = None if method == "GET" else json.dumps({"instances": [ROW]}).encode()
    response = client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    assert message in response.json()["error"]
    if status == 405:
        assert response.headers["allow"] == message.split()[1]


@pytest.mark.parametrize(
    "headers", [{}, JSON, {"content-type": "Application/JSON; charset=utf-8"}, JSON | {"x-any": "1"}]
)
def test_json_is_taken_with_a_charset_and_without_a_type(client: httpx.Client, headers: dict[str, str]) -> None:
    content = json.dumps({"instances": [ROW]}).encode()
    assert client.post(PREDICT, content=content, headers=headers).status_code == 200


def test_a_gzip_body_is_scored_like_its_content(client: httpx.Client) -> None:
    content = json.dumps({"id": "z", "instances": [ROW]}).encode()
    packed = client.post(PREDICT, content=gzip.compress(content), headers=JSON | {"content-encoding": "gzip"})
    assert packed.json() == client.post(PREDICT, content=content, headers=JSON).json()


@pytest.mark.parametrize("change", [lambda packed: packed[:-9], lambda packed: packed + b"x"])
def test_a_gzip_body_that_is_not_whole_is_refused(client: httpx.Client, change: Any) -> None:
    content = change(gzip.compress(json.dumps({"instances": [ROW]}).encode()))
    response = client.post(PREDICT, content=content, headers=JSON | {"content-encoding": "gzip"})
    assert (response.status_code, "cut off" in response.json()["error"]) == (400, True)


def test_a_body_is_bounded_by_its_header_on_its_way_and_after_inflation(
    client: httpx.Client, server: Server
) -> None:
    streamed = client.post(PREDICT, content=iter([b" " * MEBIBYTE] * 17), headers=JSON)
    bomb = gzip.compress(b" " * (64 * MEBIBYTE))
    inflated = client.post(PREDICT, content=bomb, headers=JSON | {"content-encoding": "gzip"})
    with socket.create_connection((server.host, server.port), 10) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n".encode())
        announced = ""
        while not announced.endswith("}"):
            announced += connection.recv(4096).decode()
    for status, text in [
        (streamed.status_code, streamed.text),
        (inflated.status_code, inflated.text),
        (int(announced.split()[1]), announced),
    ]:
        assert status == 413
        assert "more than 16,777,216 bytes" in text


def test_the_largest_request_is_scored_in_full(client: httpx.Client, bundle: Bundle) -> None:
    rows = transactions(10_000, seed=3)
    predictions = client.post(PREDICT, json={"instances": rows.tolist()}).json()["predictions"]
    served = [prediction["probability"] for prediction in predictions]
    np.testing.assert_allclose(served, bundle.scorer.probabilities(rows), rtol=1e-12)


def test_readiness_metadata_and_kserves_own_paths_answer(client: httpx.Client, bundle: Bundle) -> None:
    ready = {"name": "fraud", "ready": True, "model_version": bundle.version}
    versioned = f"/v2/models/fraud/versions/{bundle.version}"
    for path in ("/v1/models/fraud", "/v2/models/fraud/ready", "/v2/health/ready", f"{versioned}/ready"):
        assert client.get(path).json() == ready
    metadata = client.get("/v2/models/fraud").json()
    assert metadata == client.get(versioned).json()
    assert (metadata["name"], metadata["versions"]) == ("fraud", [bundle.version])
    assert metadata["inputs"][0] == {"name": "transactions", "datatype": "FP64", "shape": [-1, 30]}
    assert metadata["parameters"]["columns"].split(",") == list(INPUTS)
    assert client.get("/v1/models").json() == {"models": ["fraud"]}
    assert client.get("/v2/models").json() == {"models": ["fraud"]}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2").json()["name"] == "kserve"
    assert client.get("/openapi.json").status_code == 200


def test_every_answer_of_the_model_names_its_version(client: httpx.Client, bundle: Bundle) -> None:
    for response in (client.get("/v1/models/fraud"), client.post(PREDICT, json={}), client.get(INFER)):
        assert response.headers["x-model-version"] == bundle.version


def test_kserves_metrics_count_the_requests_that_were_scored(client: httpx.Client) -> None:
    def scored() -> float:
        lines = client.get("/metrics").text.splitlines()
        name = 'request_predict_seconds_count{model_name="fraud"} '
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = scored()
    client.post(PREDICT, json={"instances": [ROW]})
    client.post(PREDICT, json={"instances": []})
    assert scored() == before + 1


def test_headers_of_a_request_are_never_echoed(client: httpx.Client) -> None:
    secret = {"authorization": "Bearer s3cret", "x-request-id": "s3cret"}
    for path, document in ((EXPLAIN, {"instances": [ROW]}), (PREDICT, {}), (INFER, v2(tensor(ROW)))):
        response = client.post(path, json=document, headers=secret)
        assert "s3cret" not in response.text + str(response.headers)


def test_kserves_own_client_talks_v1_to_it(server: Server, bundle: Bundle) -> None:
    async def talk() -> tuple[bool, dict[str, Any], dict[str, Any]]:
        async with InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V1)) as kserve:
            document = {"instances": [ROW]}
            return (
                await kserve.is_model_ready(server.url, "fraud"),
                await kserve.infer(server.url, document, model_name="fraud"),
                await kserve.explain(server.url, "fraud", document),
            )

    ready, answer, explained = asyncio.run(talk())
    assert ready
    assert answer["model_version"] == bundle.version
    assert len(explained["predictions"][0]["reasons"]) == 30


def test_kserves_own_client_talks_v2_to_it(server: Server, bundle: Bundle) -> None:
    rows = transactions(4)
    tensor = InferInput("transactions", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows, binary_data=False)

    async def talk() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V2)) as kserve:
            assert await kserve.is_server_live(server.url)
            assert await kserve.is_server_ready(server.url)
            assert await kserve.is_model_ready(server.url, "fraud")
            return await kserve.infer(server.url, InferRequest("fraud", [tensor], "mine"), "fraud")

    answer = asyncio.run(talk())
    outputs = {output.name: output.data for output in answer.outputs}
    np.testing.assert_allclose(outputs["probability"], bundle.scorer.probabilities(rows), rtol=1e-12)
    assert outputs["id"] == [f"mine-{row}" for row in range(4)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_an_answer_with_one_line(server: Server) -> None:
    data = json.dumps({"id": "tx", "instances": [ROW]})
    line = ["curl", "-sf", "-d", data, server.url + PREDICT]
    answer = json.loads(subprocess.run(line, check=True, capture_output=True, timeout=30).stdout)
    assert answer["predictions"][0]["id"] == "tx-0"


def test_the_server_listens_on_loopback_and_logs_nothing_but_its_start(server: Server) -> None:
    lines = [json.loads(line) for line in server.stderr.read_text().splitlines()]
    assert [(line["event"], line["host"]) for line in lines] == [("predictor started", "127.0.0.1")]


def test_sigterm_lets_a_request_that_has_begun_finish(bundle: Bundle, tmp_path: Path) -> None:
    server = start(bundle.path, tmp_path, "--model_name", "fraud", "--workers", "1", "--enable_grpc", "false")
    body = json.dumps({"instances": [ROW]}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((server.host, server.port), 30) as connection:
        connection.sendall(head + body[:20])
        time.sleep(0.3)
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(body[20:])
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 200")
    assert server.process.wait(30) == 0
    events = [json.loads(line)["event"] for line in server.stderr.read_text().splitlines()]
    assert events == ["predictor started", "predictor stopped"]


def refusal(directory: Path, *options: str) -> tuple[int, str]:
    """The exit code and the one line of a predictor that does not start."""
    done = subprocess.run(command(directory, *options), capture_output=True, text=True, timeout=60)
    [line] = done.stderr.splitlines()
    return done.returncode, line


def test_a_damaged_bundle_is_not_served(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    with (copy / "scorer.json").open("a") as file:
        file.write(" ")
    code, line = refusal(copy)
    assert code == 1
    assert line == f"predictor: {copy}: scorer.json is not what the manifest says; do not use this bundle"


def test_an_address_that_is_taken_is_said_in_one_line(bundle: Bundle, server: Server) -> None:
    code, line = refusal(bundle.path, "--http_port", str(server.port))
    assert code == 1
    assert line.startswith(f"predictor: cannot listen on 127.0.0.1, port {server.port}: ")


def test_more_than_one_worker_is_refused_as_wrong_use(bundle: Bundle) -> None:
    assert refusal(bundle.path, "--workers", "2") == (
        2,
        "predictor: --workers: this server has one worker; run more replicas instead",
    )


def test_serving_a_request_imports_no_scikit_learn(bundle: Bundle) -> None:
    program = f"""
import asyncio, pathlib, sys
import httpx
import serving.predictor.__main__
from fraudkit import bundle
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor, kserve_app
from serving.predictor.model import FraudModel

async def main():
    model = FraudModel(bundle.load(pathlib.Path({str(bundle.path)!r})))
    app = Predictor(model, kserve_app(model), ServingSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.post({EXPLAIN!r}, json={{"instances": [{ROW}]}})).status_code == 200
        assert (await client.get("/v1/models")).json() == {{"models": ["fraud"]}}

asyncio.run(main())
print([name for name in ("sklearn", "scipy", "skops", "mlflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_model_that_is_not_ready_says_so_with_503(bundle: Bundle) -> None:
    model = FraudModel(bundle)
    app = Predictor(model, Starlette(), ServingSettings())
    model.stop()
    assert call(app, PREDICT, json.dumps({"instances": [ROW]}).encode())[0] == 503


def test_an_unexpected_error_tells_the_log_and_not_the_client(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(FraudModel):
        def score(self, rows: FloatArray, *, explain: bool) -> Any:
            raise RuntimeError(f"inner secret of {len(rows)} rows, {explain}")

    app = Predictor(Broken(bundle), Starlette(), ServingSettings())
    status, answer = call(app, PREDICT, json.dumps({"instances": [ROW]}).encode())
    assert (status, answer["error"], answer.keys()) == (500, "internal error", {"error", "id"})
    logged = capsys.readouterr().out
    assert answer["id"] in logged
    assert "inner secret" in logged


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.sampled_from(["id", "FP64", "INT8", "BYTES", "V1", "Time", *OUTPUTS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "name", "data", "shape", "V1", "instances", "inputs", "x"]), inner
        )
    ),
    max_leaves=20,
)


@st.composite
def damaged(draw: st.DrawFn, documents: list[dict[str, Any]]) -> Any:
    """A sound request in which some parts are replaced, removed or repeated."""
    document = json.loads(json.dumps(draw(st.sampled_from(documents))))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = draw(VALUES)
            else:
                del place[key]
            break
    return document


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SOUND = [*v1_requests(TWO).values(), *v2_requests(TWO).values()]
SOUND += [{"instances": [NAMED | {"id": "a"}, ROW], "id": "b"}]
SOUND += [v2(tensor([1] * 30, datatype="UINT8"), tensor(["a"], [1], "id", "BYTES"), outputs=[{"name": "id"}])]


def check_answer(status: int, answer: dict[str, Any]) -> None:
    assert status in (200, 400, 413)
    assert answer.keys() == {"error"} if status != 200 else "error" not in answer
    for prediction in answer.get("predictions", ()):
        assert 0 <= prediction["probability"] <= 1


@FUZZ
@given(document=damaged(SOUND) | VALUES, path=st.sampled_from([PREDICT, EXPLAIN, INFER]))
def test_no_json_gives_a_server_error(app: Predictor, document: Any, path: str) -> None:
    check_answer(*call(app, path, json.dumps(document).encode()))


@FUZZ
@given(body=st.binary(max_size=200), path=st.sampled_from([PREDICT, INFER]))
def test_no_bytes_give_a_server_error(app: Predictor, body: bytes, path: str) -> None:
    check_answer(*call(app, path, body))


def test_a_large_request_is_answered_in_a_thread_and_like_a_small_one(app: Predictor, bundle: Bundle) -> None:
    rows = transactions(400, seed=4)
    body = json.dumps({"instances": rows.tolist()}).encode()
    assert len(body) > INLINE_BYTES
    status, answer = call(app, PREDICT, body)
    assert status == 200
    served = [prediction["probability"] for prediction in answer["predictions"]]
    np.testing.assert_allclose(served, bundle.scorer.probabilities(rows), rtol=1e-12)


def test_an_explanation_has_a_bound_of_its_own(client: httpx.Client) -> None:
    rows = [ROW] * 1_001
    refused = client.post(EXPLAIN, json={"instances": rows})
    assert (refused.status_code, refused.json()["error"]) == (
        413,
        "instances: has 1,001 rows, at most 1,000 fit in one request",
    )
    tensor = {"name": "t", "shape": [1_001, 30], "datatype": "FP64", "data": rows}
    asked = client.post(INFER, json={"inputs": [tensor], "outputs": [{"name": "reasons"}]})
    assert asked.status_code == 413
    assert client.post(EXPLAIN, json={"instances": rows[:1_000]}).status_code == 200
    assert client.post(PREDICT, json={"instances": rows}).status_code == 200


def test_a_ce_id_that_is_not_utf_8_is_refused(client: httpx.Client) -> None:
    answer = client.post(PREDICT, json={"instances": [ROW]}, headers={b"Ce-Id": b"\xff\xfe"})
    assert (answer.status_code, answer.json()["error"]) == (400, "Ce-Id: must be UTF-8")


def test_a_body_that_does_not_arrive_is_cut_off(bundle: Bundle) -> None:
    async def never() -> Any:
        await asyncio.sleep(3_600)

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        limits = ServingSettings(read_seconds=0.05)
        app = Predictor(FraudModel(bundle, "fraud"), unused, limits)
        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [(b"content-length", b"100")]}
        await app(scope, never, send)
        return sent

    async def unused(*_: Any) -> None:
        raise AssertionError("the request is the model's own")

    start, body = asyncio.run(ask())
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["error"] == "the body did not arrive within 0.05 s"
