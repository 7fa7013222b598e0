"""Clients that people have already, as they come: KServe's, Triton's and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.constants.constants import PredictorProtocol
from kserve.protocol.infer_type import RequestedOutput
from predictors import EXPLAIN, PREDICT, ROW, Server, exactly, transactions

from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS
from serving.predictor.request import OUTPUTS

ROWS = transactions(64, seed=21)
SCRIPT = Path(__file__).parents[1] / "support" / "triton_clients.py"


def values(answer: Any) -> dict[str, list[Any]]:
    """The outputs of KServe's answer as lists."""
    found = {}
    for output in answer.outputs:
        data = output.as_numpy().ravel().tolist()
        found[output.name] = [value.decode() if isinstance(value, bytes) else value for value in data]
    return found


def check(found: dict[str, list[Any]], bundle: Bundle, rows: FloatArray = ROWS, name: str = "mine") -> None:
    expected = bundle.scorer.probabilities(rows)
    exactly(found["probability"], expected)
    assert found["alert"] == [ALERTS[level] for level in bundle.scorer.alerts(expected)]
    assert found["label"] == [int(alert != "normal") for alert in found["alert"]]
    assert found["id"] == [f"{name}-{row}" for row in range(len(rows))]


# KServe's


def talk_rest(protocol: PredictorProtocol, talk: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def connected() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await talk(client)

    return asyncio.run(connected())


def test_kserves_client_talks_v1(predictor: Server, bundle: Bundle) -> None:
    document = {"instances": ROWS.tolist(), "id": "mine"}

    async def talk(client: InferenceRESTClient) -> Any:
        return (
            await client.is_server_live(predictor.url),
            await client.is_model_ready(predictor.url, "fraud"),
            await client.infer(predictor.url, document, model_name="fraud"),
            await client.explain(predictor.url, "fraud", document),
        )

    live, ready, answer, explained = talk_rest(PredictorProtocol.REST_V1, talk)
    assert live
    assert ready
    for said in (answer, explained):
        assert said["model_version"] == bundle.version
        found = {name: [row[name] for row in said["predictions"]] for name in said["predictions"][0]}
        check(found, bundle)
    assert [len(row["reasons"]) for row in explained["predictions"]] == [30] * 64


def kserve_inputs(rows: FloatArray, datatype: str = "FP64", *, binary: bool) -> list[Any]:
    tensor = InferInput("transactions", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows.astype({"FP64": "f8", "FP32": "f4"}[datatype]), binary_data=binary)
    return [tensor]


def kserve_columns(rows: FloatArray, *, binary: bool) -> list[Any]:
    tensors = [InferInput(name, [len(rows)], "FP64") for name in INPUTS]
    for tensor, column in zip(tensors, rows.T, strict=True):
        tensor.set_data_from_numpy(np.ascontiguousarray(column), binary_data=binary)
    return tensors


def kserve_ids(rows: FloatArray, *, binary: bool) -> list[Any]:
    tensor = InferInput("id", [len(rows)], "BYTES")
    texts = np.array([f"mine-{row}" for row in range(len(rows))], dtype=object)
    tensor.set_data_from_numpy(texts, binary_data=binary)
    return [tensor, *kserve_inputs(rows, binary=binary)]


def wanted(binary: bool | None) -> list[RequestedOutput]:
    parameters = {} if binary is None else {"binary_data": binary}
    return [RequestedOutput(name, parameters) for name in ("probability", "label", "alert", "id")]


KSERVE: dict[str, dict[str, Any]] = {
    "JSON": {"infer_inputs": kserve_inputs(ROWS, binary=False)},
    "JSON columns": {"infer_inputs": kserve_columns(ROWS, binary=False)},
    "JSON ids": {"infer_inputs": kserve_ids(ROWS, binary=False)},
    "bytes": {"infer_inputs": kserve_inputs(ROWS, binary=True)},
    "bytes in columns": {"infer_inputs": kserve_columns(ROWS, binary=True)},
    "ids in bytes": {"infer_inputs": kserve_ids(ROWS, binary=True)},
    "bytes, outputs in JSON": {"infer_inputs": kserve_inputs(ROWS, binary=True), "request_outputs": wanted(False)},
    "bytes, outputs in bytes": {"infer_inputs": kserve_inputs(ROWS, binary=True), "request_outputs": wanted(True)},
    "JSON, outputs in bytes": {"infer_inputs": kserve_inputs(ROWS, binary=False), "request_outputs": wanted(True)},
    "all outputs in bytes": {
        "infer_inputs": kserve_inputs(ROWS, binary=True),
        "parameters": {"binary_data_output": True},
    },
}


@pytest.mark.parametrize("members", KSERVE.values(), ids=KSERVE.keys())
def test_kserves_client_talks_v2(predictor: Server, bundle: Bundle, members: dict[str, Any]) -> None:
    async def talk(client: InferenceRESTClient) -> Any:
        assert await client.is_server_live(predictor.url)
        assert await client.is_server_ready(predictor.url)
        assert await client.is_model_ready(predictor.url, "fraud")
        assert not await client.is_model_ready(predictor.url, "other")
        request = InferRequest(model_name="fraud", request_id="mine", **members)
        return await client.infer(predictor.url, request, model_name="fraud", response_headers=headers)

    headers: dict[str, str] = {}
    answer = talk_rest(PredictorProtocol.REST_V2, talk)
    assert (answer.model_name, answer.id) == ("fraud", "mine")
    assert headers["x-model-version"] == bundle.version  # KServe's client leaves out the version in the body
    check(values(answer), bundle)


def test_kserves_client_reads_a_refusal(predictor: Server) -> None:
    wrong = ROWS.copy()
    wrong[3, 5] = np.nan
    request = InferRequest("fraud", kserve_inputs(wrong, binary=True))

    async def talk(client: InferenceRESTClient) -> Any:
        with pytest.raises(httpx.HTTPStatusError, match="row 3, V5: nan is not a finite number"):
            await client.infer(predictor.url, request, model_name="fraud")

    talk_rest(PredictorProtocol.REST_V2, talk)


GRPC: dict[str, dict[str, Any]] = {
    "typed": {"infer_inputs": kserve_inputs(ROWS, binary=False)},
    "typed columns": {"infer_inputs": kserve_columns(ROWS, binary=False)},
    "typed ids": {"infer_inputs": kserve_ids(ROWS, binary=False)},
    "raw": {"infer_inputs": kserve_inputs(ROWS, binary=True)},
    "raw columns": {"infer_inputs": kserve_columns(ROWS, binary=True)},
    "raw ids": {"infer_inputs": kserve_ids(ROWS, binary=True)},
    "raw, outputs chosen": {"infer_inputs": kserve_inputs(ROWS, binary=True), "request_outputs": wanted(None)},
}


@pytest.mark.parametrize("members", GRPC.values(), ids=GRPC.keys())
def test_kserves_client_talks_grpc(predictor: Server, bundle: Bundle, members: dict[str, Any]) -> None:
    async def talk() -> Any:
        async with InferenceGRPCClient(predictor.target) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("fraud")
            return await client.infer(InferRequest(model_name="fraud", request_id="mine", **members))

    answer = asyncio.run(talk())
    assert (answer.model_name, answer.model_version, answer.id) == ("fraud", bundle.version, "mine")
    check(values(answer), bundle)


def test_kserves_grpc_client_reads_a_refusal(predictor: Server) -> None:
    async def talk() -> None:
        async with InferenceGRPCClient(predictor.target) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.is_model_ready("other")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(talk())


# Triton's


@pytest.fixture(scope="module")
def triton(predictor: Server) -> dict[str, Any]:
    """What Triton's clients got, by the way that they asked."""
    line = [sys.executable, "-W", "error", str(SCRIPT), f"{predictor.host}:{predictor.port}", predictor.target]
    done = subprocess.run(line, input=json.dumps(ROWS.tolist()), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


HTTP_WAYS = (
    "binary",
    "FP32",
    "binary, outputs chosen",
    "JSON",
    "JSON in, binary out",
    "binary in, JSON out",
    "columns",
    "gzip",
    "deflate",
    "gzip wanted",
    "version",
)
GRPC_WAYS = ("raw", "FP32", "columns", "gzip", "version")


@pytest.mark.parametrize("way", [f"http {way}" for way in HTTP_WAYS] + [f"grpc {way}" for way in GRPC_WAYS])
def test_tritons_clients_get_the_scorers_answers(triton: dict[str, Any], bundle: Bundle, way: str) -> None:
    rows = ROWS.astype(np.float32).astype(float) if "FP32" in way else ROWS
    check(triton[way], bundle, rows, "triton")
    assert triton[way]["version"] == bundle.version


@pytest.mark.parametrize("way", ["http ids", "http ids as JSON", "grpc ids"])
def test_tritons_clients_name_rows(triton: dict[str, Any], bundle: Bundle, way: str) -> None:
    check(triton[way], bundle, name="tx")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_clients_get_reasons_where_they_ask_for_them(
    triton: dict[str, Any], client: httpx.Client, protocol: str
) -> None:
    explained = client.post(EXPLAIN, json={"instances": ROWS.tolist()}).json()["predictions"]
    found = triton[f"{protocol} reasons"]
    assert found.keys() == {"reasons", "probability", "version"}
    assert [json.loads(reasons) for reasons in found["reasons"]] == [row["reasons"] for row in explained]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_clients_see_a_server_and_a_model_that_are_ready(
    triton: dict[str, Any], bundle: Bundle, protocol: str
) -> None:
    for name in ("live", "ready", "model ready", "version ready"):
        assert triton[f"{protocol} {name}"] is True
    assert not triton["http other model ready"]
    server, metadata = triton[f"{protocol} server metadata"], triton[f"{protocol} metadata"]
    assert (server["name"], server["extensions"]) == ("fraud-platform", ["binary_tensor_data"])
    assert (metadata["name"], metadata["versions"]) == ("fraud", [bundle.version])
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["transactions", "id"]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]} == OUTPUTS


def test_tritons_clients_read_a_refusal(triton: dict[str, Any]) -> None:
    assert triton["http refused"] == ["400", "row 3, V5: nan is not a finite number"]
    code, message = triton["grpc refused"]
    assert (code, message) == ("StatusCode.INVALID_ARGUMENT", "row 3, V5: nan is not a finite number")


def test_tritons_client_may_ask_for_many_rows_at_once(triton: dict[str, Any], bundle: Bundle) -> None:
    exactly(triton["http sixty-four at once"], bundle.scorer.probabilities(ROWS))


# curl


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("options", [["-d"], ["--compressed", "--json"], ["-H", "Expect: 100-continue", "-d"]])
def test_curl_gets_an_answer_with_one_line(predictor: Server, bundle: Bundle, options: list[str]) -> None:
    data = json.dumps({"id": "tx", "instances": [ROW]})
    line = ["curl", "-sf", *options, data, predictor.url + PREDICT]
    answer = json.loads(subprocess.run(line, check=True, capture_output=True, timeout=30).stdout)
    assert answer["predictions"][0]["id"] == "tx-0"
    exactly([answer["predictions"][0]["probability"]], bundle.scorer.probabilities(np.array([ROW])))
