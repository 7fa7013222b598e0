"""The predictor's answers over HTTP and gRPC: those of the bundle's scorer, whatever protocol asks for them."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
import socket
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from predictors import (
    BINARY,
    EXPLAIN,
    INFER,
    JSON,
    LENGTH,
    MEBIBYTE,
    NAMED,
    PREDICT,
    ROW,
    Outputs,
    Reply,
    Server,
    Tensor,
    ask,
    binary,
    call,
    columns,
    counts,
    exactly,
    grpc_call,
    grpc_refusal,
    ids,
    in_process,
    infer,
    infer_message,
    matrix,
    moved,
    read_message,
    read_v1,
    read_v2,
    tensor,
    transactions,
    unary,
    v1_requests,
    v2,
    v2_requests,
)

from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor
from serving.predictor.documents import SHORT
from serving.predictor.grpc_service import GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel, Loaded, server_info
from serving.predictor.request import DEFAULT_OUTPUTS, OUTPUTS, Request
from serving.predictor.work import INLINE_BYTES, LargeWork

COUNTS = (1, 2, 31, 32, 33, 200, 400, 10_000)


class Form(NamedTuple):
    """A way to ask: how to, and what rows become on the way."""

    ask: Callable[[httpx.Client, grpc.Channel, FloatArray], Outputs]
    cast: Callable[[FloatArray], FloatArray] | None = None


def single(rows: FloatArray) -> FloatArray:
    return rows.astype(np.float32).astype(np.float64)


def whole(rows: FloatArray) -> FloatArray:
    return np.round(rows)


def of_v1(form: str) -> Form:
    def asked(client: httpx.Client, _: grpc.Channel, rows: FloatArray) -> Outputs:
        body = orjson.dumps(v1_requests(rows)[form] | {"id": "batch"})
        return read_v1(client.post(PREDICT, content=body, headers=JSON).raise_for_status().json())

    return Form(asked)


def of_v2(make: Callable[[FloatArray], dict[str, Any]], cast: Any = None) -> Form:
    def asked(client: httpx.Client, _: grpc.Channel, rows: FloatArray) -> Outputs:
        body = orjson.dumps(make(rows) | {"id": "batch"})
        response = client.post(INFER, content=body, headers=JSON).raise_for_status()
        return read_v2(response.content, response.headers)

    return Form(asked, cast)


def of_binary(make: Callable[[FloatArray], list[Tensor]], cast: Any = None, **members: Any) -> Form:
    def asked(client: httpx.Client, _: grpc.Channel, rows: FloatArray) -> Outputs:
        body, headers = binary(*make(rows), id="batch", **members)
        response = client.post(INFER, content=body, headers=headers).raise_for_status()
        return read_v2(response.content, response.headers)

    return Form(asked, cast)


def of_grpc(make: Callable[[FloatArray], list[Tensor]], cast: Any = None, *, raw: bool) -> Form:
    def asked(_: httpx.Client, channel: grpc.Channel, rows: FloatArray) -> Outputs:
        return read_message(infer(channel, infer_message(*make(rows), raw=raw, id="batch")))

    return Form(asked, cast)


def one(rows: FloatArray) -> list[Tensor]:
    return [matrix(rows)]


def named_rows(rows: FloatArray) -> list[Tensor]:
    """Rows as bytes, and as JSON the ids that they would get anyway."""
    return [ids(*(f"batch-{row}" for row in range(len(rows)))) | {"json": True}, matrix(rows)]


def mixed_columns(rows: FloatArray) -> list[Tensor]:
    return [given | {"json": place % 2 == 0} for place, given in enumerate(columns(rows))]


def integer_columns(rows: FloatArray) -> list[Tensor]:
    time, amount = (
        tensor(rows[:, i].astype(int).tolist(), [len(rows), 1], INPUTS[i], datatype)
        for i, datatype in ((0, "UINT32"), (-1, "UINT64"))
    )
    rest = [given | {"data": list(map(int, given["data"]))} for given in columns(rows, "INT8")[1:-1]]
    return [amount, *rest, time]


def of_type(datatype: str) -> Callable[[FloatArray], list[Tensor]]:
    return lambda rows: [matrix(rows if "FP" in datatype else rows.astype(np.int64), datatype)]


ALL_BINARY: dict[str, Any] = {"parameters": {"binary_data_output": True}}
SOME_BINARY = [{"name": name, "parameters": {"binary_data": name != "label"}} for name in DEFAULT_OUTPUTS]
ONE_BINARY = [
    *({"name": name} for name in DEFAULT_OUTPUTS[:3]),
    {"name": "id", "parameters": {"binary_data": True}},
]
FORMS: dict[str, Form] = {
    **{f"v1 {form}": of_v1(form) for form in ("lists", "objects", "both")},
    **{
        f"v2 {form}": of_v2(lambda rows, form=form: v2_requests(rows)[form])  # type: ignore[misc]
        for form in ("flat", "nested", "columns", "columns of one", "named FP32")
    },
    "v2 integers": of_v2(lambda rows: v2(*of_type("INT64")(rows)), whole),
    "v2 integer columns": of_v2(lambda rows: v2(*integer_columns(rows)), whole),
    "binary": of_binary(one),
    "binary FP32": of_binary(of_type("FP32"), single),
    "binary integers": of_binary(of_type("INT32"), whole),
    "binary integer columns": of_binary(integer_columns, whole),
    "binary columns": of_binary(columns),
    "binary and JSON columns": of_binary(mixed_columns),
    "binary rows, JSON ids": of_binary(named_rows),
    "binary in, binary out": of_binary(one, None, **ALL_BINARY),
    "binary in, some binary out": of_binary(one, None, outputs=SOME_BINARY),
    "JSON in, binary out": of_v2(lambda rows: v2_requests(rows)["flat"] | ALL_BINARY),
    "JSON in, one binary out": of_v2(lambda rows: v2_requests(rows)["nested"] | {"outputs": ONE_BINARY}),
    **{
        f"grpc {kind} {name}".strip(): of_grpc(make, cast, raw=kind == "raw")
        for kind in ("typed", "raw")
        for name, make, cast in (
            ("", one, None),
            ("columns", columns, None),
            ("FP32", of_type("FP32"), single),
            ("INT32", of_type("INT32"), whole),
            ("INT64", of_type("INT64"), whole),
            ("integer columns", integer_columns, whole),
        )
    },
}
EXACT = [name for name, form in FORMS.items() if form.cast is None]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_the_bundles_scorer(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle, form: str, count: int
) -> None:
    way = FORMS[form]
    rows = transactions(count, seed=count)
    rows = way.cast(rows) if way.cast else rows
    answer = way.ask(client, channel, rows)
    expected = bundle.scorer.probabilities(rows)
    exactly(answer["probability"], expected)
    levels = bundle.scorer.alerts(expected)
    assert list(answer) == list(DEFAULT_OUTPUTS) if "v1" not in form else set(answer) == set(DEFAULT_OUTPUTS)
    assert answer["label"] == (expected >= bundle.scorer.thresholds.review).astype(int).tolist()
    assert answer["alert"] == [ALERTS[level] for level in levels]
    assert answer["id"] == [f"batch-{row}" for row in range(count)]


@pytest.mark.parametrize("form", EXACT)
def test_a_row_has_the_same_probability_in_every_protocol_and_batch(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle, form: str
) -> None:
    rows = transactions(2_049, seed=5)
    places = (0, 1, 31, 40, 1_023, 1_024, 2_048)
    expected = [float(bundle.scorer.probabilities(rows[place : place + 1])[0]) for place in places]
    for place, probability in zip(places, expected, strict=True):
        exactly(FORMS[form].ask(client, channel, rows[place : place + 1])["probability"], [probability])
    for count in (2, 33, 400, 1_025, 2_049):
        batch = FORMS[form].ask(client, channel, rows[:count])["probability"]
        inside = [place for place in places if place < count]
        exactly([batch[place] for place in inside], expected[: len(inside)])


def test_fp32_in_bytes_is_rounded_and_in_json_taken_as_written(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle
) -> None:
    rows = transactions(50, seed=6)
    rounded, written = bundle.scorer.probabilities(single(rows)), bundle.scorer.probabilities(rows)
    assert np.abs(rounded / written - 1).max() > 1e-9
    for form in ("binary FP32", "grpc raw FP32", "grpc typed FP32"):
        exactly(FORMS[form].ask(client, channel, rows)["probability"], rounded)
    exactly(FORMS["v2 named FP32"].ask(client, channel, rows)["probability"], written)


def test_no_two_probabilities_are_the_same_by_accident(bundle: Bundle) -> None:
    """Were rows or columns mixed up on the way, the tests above would see it."""
    rows = transactions(10_000, seed=10_000)
    probabilities = bundle.scorer.probabilities(rows)
    assert len(set(probabilities.tolist())) == 10_000
    assert len(set(bundle.scorer.alerts(probabilities).tolist())) == len(ALERTS)


# What an answer says


def test_every_answer_names_the_model_and_its_version_in_its_body(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle
) -> None:
    for rows in (transactions(1), transactions(3)):
        body, headers = binary(matrix(rows))
        for response in (
            client.post(PREDICT, json={"instances": rows.tolist()}),
            client.post(EXPLAIN, json={"instances": rows.tolist()}),
            client.post(INFER, json=v2(matrix(rows))),
            client.post(INFER, content=body, headers=headers),
            client.post(f"/v2/models/fraud/versions/{bundle.version}/infer", json=v2(matrix(rows))),
        ):
            assert response.headers["content-type"] == "application/json"
            assert response.json()["model_version"] == bundle.version
            assert response.json().get("model_name", "fraud") == "fraud"
        for version in ("", bundle.version):
            answer = infer(channel, infer_message(matrix(rows), version=version))
            assert (answer.model_name, answer.model_version) == ("fraud", bundle.version)


@pytest.mark.parametrize("count", [1, 3])
def test_every_answer_has_a_header_with_the_models_version(
    client: httpx.Client, bundle: Bundle, count: int
) -> None:
    rows = transactions(count)
    body, headers = binary(matrix(rows), **ALL_BINARY)
    for response in (
        client.get("/v1/models/fraud"),
        client.get("/v1/models"),
        client.get("/nowhere"),
        client.get(INFER),
        client.post(PREDICT, json={}),
        client.post(EXPLAIN, json={"instances": rows.tolist()}),
        client.post(PREDICT, json={"instances": rows.tolist()}),
        client.post(INFER, json=v2(matrix(rows))),
        client.post(INFER, content=body, headers=headers),
    ):
        assert response.headers["x-model-version"] == bundle.version


def test_a_v1_answer_has_predictions_and_a_version_and_nothing_else(client: httpx.Client) -> None:
    answer = client.post(PREDICT, json={"instances": [ROW, NAMED]}).json()
    assert answer.keys() == {"predictions", "model_version"}
    assert [list(row) for row in answer["predictions"]] == [["id", "probability", "label", "alert"]] * 2


def test_an_answer_in_bytes_says_where_its_json_ends(client: httpx.Client) -> None:
    response = client.post(INFER, json=v2(tensor(ROW), **ALL_BINARY))
    assert response.headers["content-type"] == "application/octet-stream"
    document = json.loads(response.content[: int(response.headers[LENGTH])])
    sizes = [output["parameters"]["binary_data_size"] for output in document["outputs"]]
    assert all("data" not in output for output in document["outputs"])
    assert int(response.headers[LENGTH]) + sum(sizes) == len(response.content)


IDS = [
    pytest.param("event", "body", ["event-0", "own", "event-2"], "body", id="header and body"),
    pytest.param(None, "body", ["body-0", "own", "body-2"], "body", id="body"),
    pytest.param("event", None, ["event-0", "own", "event-2"], "event", id="header"),
    pytest.param("event", "", ["event-0", "own", "event-2"], "event", id="an empty one in the body"),
    pytest.param("", "body", ["body-0", "own", "body-2"], "body", id="an empty header"),
]


@pytest.mark.parametrize(("header", "own", "expected", "_"), IDS)
@pytest.mark.parametrize("size", [0, 2_048])
def test_a_v1_row_is_named_by_itself_or_by_header_body_and_number(
    client: httpx.Client, header: str | None, own: str | None, expected: list[str], _: str, size: int
) -> None:
    document = {"instances": [NAMED, NAMED | {"id": "own"}, ROW]} | ({} if own is None else {"id": own})
    headers = JSON | ({} if header is None else {"Ce-Id": header})
    response = client.post(PREDICT, content=json.dumps(document) + " " * size, headers=headers)
    assert read_v1(response.json())["id"] == expected


@pytest.mark.parametrize(("header", "own", "expected", "repeated"), IDS)
def test_a_v2_row_is_named_by_header_body_and_number_and_the_requests_own_id_is_repeated(
    client: httpx.Client,
    channel: grpc.Channel,
    header: str | None,
    own: str | None,
    expected: list[str],
    repeated: str,
) -> None:
    rows, named = matrix(transactions(3)), [name.replace("own", f"{expected[0][:-2]}-1") for name in expected]
    members: dict[str, Any] = {} if own is None else {"id": own}
    headers = {} if header is None else {"Ce-Id": header}
    body, octets = binary(rows, **members)
    for content, media in ((json.dumps(v2(rows, **members)).encode(), JSON), (body, octets)):
        response = client.post(INFER, content=content, headers=media | headers)
        assert read_v2(response.content, response.headers)["id"] == named
        assert response.json()["id"] == repeated
    metadata = () if header is None else (("ce-id", header),)
    answer = infer(channel, infer_message(rows, **members), metadata=metadata)
    assert (read_message(answer)["id"], answer.id) == (named, repeated)


def test_v2_takes_the_ids_of_rows_in_every_form(client: httpx.Client, channel: grpc.Channel) -> None:
    rows, texts = matrix(transactions(40)), [f"tx:{row}:é" for row in range(40)]
    column = tensor([[text] for text in texts], [40, 1], "id", "BYTES")
    for tensors in ((ids(*texts), rows), (rows, ids(*texts)), (column, rows)):
        assert read_v2(client.post(INFER, json=v2(*tensors)).content, {})["id"] == texts
    for as_json in (True, False):
        body, headers = binary(ids(*texts) | {"json": as_json}, rows, **ALL_BINARY)
        response = client.post(INFER, content=body, headers=headers)
        assert read_v2(response.content, response.headers)["id"] == texts
    for raw in (True, False):
        assert read_message(infer(channel, infer_message(rows, ids(*texts), raw=raw)))["id"] == texts


def test_a_header_id_may_have_any_script(client: httpx.Client) -> None:
    headers = JSON | {"Ce-Id": "événement".encode()}
    response = client.post(PREDICT, content=json.dumps({"instances": [ROW]}), headers=headers)  # type: ignore[arg-type]
    assert read_v1(response.json())["id"] == ["événement-0"]


def test_a_ce_id_that_is_not_utf_8_is_refused(client: httpx.Client) -> None:
    answer = client.post(PREDICT, json={"instances": [ROW]}, headers={b"Ce-Id": b"\xff\xfe"})
    assert (answer.status_code, answer.json()["error"]) == (400, "Ce-Id: must be UTF-8")


def test_a_request_without_an_id_gets_a_fresh_uuid_each_time(client: httpx.Client, channel: grpc.Channel) -> None:
    found = [client.post(PREDICT, json={"instances": [ROW]}).json()["predictions"][0]["id"] for _ in range(2)]
    found += [read_v2(client.post(INFER, json=v2(tensor(ROW))).content, {})["id"][0] for _ in range(2)]
    found += [read_message(infer(channel, infer_message(tensor(ROW))))["id"][0] for _ in range(2)]
    assert len(set(found)) == 6
    for row_id in found:
        parsed = uuid.UUID(row_id.removesuffix("-0"))
        assert (parsed.version, parsed.variant, f"{parsed}-0") == (4, uuid.RFC_4122, row_id)


def test_a_request_may_name_rows_up_to_the_longest_id(client: httpx.Client) -> None:
    document = {"id": "r" * 256, "instances": [NAMED | {"id": "x" * 256}, NAMED]}
    assert read_v1(client.post(PREDICT, json=document).json())["id"] == ["x" * 256, "r" * 256 + "-1"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["label"], ["label"]),
        (["reasons", "label"], ["reasons", "label"]),
        (["id", "id", "probability"], ["id", "probability"]),
        (["probability", "label", "alert", "id", "reasons"], list(OUTPUTS)),
        ([], list(DEFAULT_OUTPUTS)),
    ],
)
def test_v2_returns_the_outputs_that_were_asked_for_in_that_order(
    client: httpx.Client, channel: grpc.Channel, asked: list[str], expected: list[str]
) -> None:
    rows, named = matrix(transactions(3)), [{"name": name} for name in asked]
    explained = read_v1(client.post(EXPLAIN, json={"instances": rows["data"], "id": "x"}).json())
    body, headers = binary(rows, id="x", outputs=named, **ALL_BINARY)
    responses = [
        client.post(INFER, json=v2(rows, id="x", outputs=named)),
        client.post(INFER, content=body, headers=headers),
    ]
    answers = [read_v2(response.content, response.headers) for response in responses]
    messages = [infer_message(rows, raw=raw, id="x", outputs=asked) for raw in (True, False)]
    answers += [read_message(infer(channel, message)) for message in messages]
    for answer in answers:
        assert list(answer) == expected
        if "reasons" in answer:
            answer["reasons"] = [json.loads(text) for text in answer["reasons"]]
        assert answer == {name: explained[name] for name in expected}


@pytest.mark.parametrize("count", [1, 3, 1_000])
def test_explain_gives_thirty_reasons_that_add_up_to_the_log_odds(
    client: httpx.Client, bundle: Bundle, count: int
) -> None:
    rows = transactions(count, seed=2)
    predictions = client.post(EXPLAIN, json={"instances": rows.tolist()}).json()["predictions"]
    typical = bundle.scorer.logits(np.array([bundle.scorer.typical]))[0]
    values = dict(zip(INPUTS, bundle.scorer.typical, strict=True))
    exactly([prediction["probability"] for prediction in predictions], bundle.scorer.probabilities(rows))
    for row, prediction in zip(rows, predictions, strict=True):
        reasons = prediction["reasons"]
        assert list(reasons[0]) == ["feature", "contribution", "value", "typical"]
        sizes = [abs(reason["contribution"]) for reason in reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert {reason["feature"]: reason["value"] for reason in reasons} == dict(zip(INPUTS, row, strict=True))
        assert {reason["feature"]: reason["typical"] for reason in reasons} == values
        logit = np.log(prediction["probability"] / (1 - prediction["probability"]))
        assert typical + sum(r["contribution"] for r in reasons) == pytest.approx(logit, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_integers_have_the_reasons_of_the_same_floats(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle, count: int
) -> None:
    rows = np.round(transactions(count, seed=22)).clip(0, 100)
    whole = rows.astype(int)
    named: dict[str, Any] = {"outputs": [{"name": "reasons"}]}
    expected = [[asdict(reason) for reason in reasons] for reasons in bundle.scorer.reasons(rows)]
    by_name = [dict(zip(INPUTS, row, strict=True)) for row in whole.tolist()]
    answers = [
        [row["reasons"] for row in client.post(EXPLAIN, json={"instances": instances}).json()["predictions"]]
        for instances in (whole.tolist(), by_name, rows.tolist())
    ]
    body, headers = binary(matrix(whole, "INT8"), **named)
    for given in (matrix(whole, "INT8"), matrix(whole), matrix(rows)):
        response = client.post(INFER, json=v2(given, **named))
        answers.append(list(map(json.loads, read_v2(response.content, {})["reasons"])))
        answer = read_message(infer(channel, infer_message(given, outputs=["reasons"])))
        answers.append(list(map(json.loads, answer["reasons"])))
    response = client.post(INFER, content=body, headers=headers)
    answers.append(list(map(json.loads, read_v2(response.content, {})["reasons"])))
    for found in answers:
        assert found == expected


def test_the_same_probability_is_predicted_and_explained(client: httpx.Client) -> None:
    rows = transactions(40, seed=9)
    for batch in (rows, rows[:1]):
        document = {"instances": batch.tolist(), "id": "x"}
        predicted, explained = (read_v1(client.post(path, json=document).json()) for path in (PREDICT, EXPLAIN))
        del explained["reasons"]
        exactly(predicted.pop("probability"), explained.pop("probability"))
        assert predicted == explained


def test_headers_of_a_request_are_never_echoed(client: httpx.Client, channel: grpc.Channel) -> None:
    secret = {"authorization": "Bearer s3cret", "x-request-id": "s3cret", "cookie": "s3cret"}
    for path, document in ((EXPLAIN, {"instances": [ROW]}), (PREDICT, {}), (INFER, v2(tensor(ROW))), ("/x", {})):
        response = client.post(path, json=document, headers=secret)
        assert "s3cret" not in response.text + str(response.headers)
    call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    content = infer_message(tensor(ROW)).SerializeToString()
    answer, made = call.with_call(
        content, metadata=[("authorization", "Bearer s3cret"), ("x-request-id", "s3cret")]
    )
    metadata = [*made.initial_metadata(), *made.trailing_metadata()]
    assert "s3cret" not in str(pb.ModelInferResponse.FromString(answer)) + str(metadata)


# Readiness, metadata and what else is at a path


def test_the_model_is_ready_at_every_path_that_says_so(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle
) -> None:
    ready = {"name": "fraud", "ready": True, "model_version": bundle.version}
    versioned = f"/v2/models/fraud/versions/{bundle.version}/ready"
    for path in ("/v1/models/fraud", "/v2/models/fraud/ready", "/v2/health/ready", versioned):
        assert client.get(path).json() == ready
    assert unary(channel, "ServerLive", b"", pb.ServerLiveResponse).live
    assert unary(channel, "ServerReady", b"", pb.ServerReadyResponse).ready
    for version in ("", bundle.version):
        asked = pb.ModelReadyRequest(name="fraud", version=version)
        assert unary(channel, "ModelReady", asked, pb.ModelReadyResponse).ready


def test_kserves_own_paths_answer(client: httpx.Client) -> None:
    assert client.get("/").json() == {"status": "alive"}
    assert client.get("/v1/models").json() == {"models": ["fraud"]}
    assert client.get("/v2/models").json() == {"models": ["fraud"]}
    assert client.get("/v2/health/live").json() == {"live": True}


def test_the_metadata_are_the_same_over_http_and_grpc(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle
) -> None:
    metadata = client.get("/v2/models/fraud").json()
    assert metadata == client.get(f"/v2/models/fraud/versions/{bundle.version}").json()
    assert metadata == {
        "name": "fraud",
        "versions": [bundle.version],
        "platform": "fraudkit_linear",
        "inputs": [
            {"name": "transactions", "datatype": "FP64", "shape": [-1, 30]},
            {"name": "id", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
    }
    for version in ("", bundle.version):
        asked = pb.ModelMetadataRequest(name="fraud", version=version)
        message = unary(channel, "ModelMetadata", asked, pb.ModelMetadataResponse)
        document = MessageToDict(message, preserving_proto_field_name=True)
        for given in document["inputs"] + document["outputs"]:
            given["shape"] = [int(size) for size in given["shape"]]
        assert document == metadata
    server = client.get("/v2").json()
    assert (server["name"], server["extensions"]) == ("fraud-platform", ["binary_tensor_data"])
    message = unary(channel, "ServerMetadata", b"", pb.ServerMetadataResponse)
    assert MessageToDict(message) == server == json.loads(orjson.dumps(server_info()))


V1_PATHS = ("/v1/models", "/v1/models/fraud")
V2_PATHS = (
    "/v2",
    "/v2/models",
    "/v2/models/fraud",
    "/v2/models/fraud/ready",
    "/v2/health/live",
    "/v2/health/ready",
)


@pytest.mark.parametrize("path", ["/", *V1_PATHS, *V2_PATHS, "/metrics", "/openapi.json"])
def test_head_is_answered_where_get_is_and_has_no_body(client: httpx.Client, path: str) -> None:
    got, asked = client.get(path), client.head(path)
    assert (got.status_code, asked.status_code, asked.content) == (200, 200, b"")
    assert asked.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":
        assert asked.headers["content-length"] == str(len(got.content))


def test_the_openapi_document_names_the_paths_of_the_model(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {PREDICT, EXPLAIN, INFER, "/v2/models/fraud"} <= document["paths"].keys()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        ("GET", PREDICT, {}, 405, "takes POST alone"),
        ("HEAD", EXPLAIN, {}, 405, ""),
        ("PUT", INFER, {}, 405, "takes POST alone"),
        ("OPTIONS", INFER, {}, 405, "takes POST alone"),
        ("POST", "/v1/models/fraud", JSON, 405, "takes GET, HEAD alone"),
        ("POST", "/v2/models/fraud", JSON, 405, "takes GET, HEAD alone"),
        ("POST", "/v2/models/fraud/ready", JSON, 405, "takes GET, HEAD alone"),
        ("POST", "/v1/models", JSON, 405, "takes GET, HEAD alone"),
        ("POST", "/metrics", JSON, 405, "takes GET, HEAD alone"),
        ("DELETE", "/", {}, 405, "takes GET, HEAD alone"),
        ("POST", "/openapi.json", JSON, 405, "takes GET, HEAD alone"),
        ("POST", "/v1/models/other:predict", JSON, 404, "the model here is fraud"),
        ("POST", "/v1/models/fraud:train", JSON, 404, "the model here is fraud"),
        ("GET", "/v1/models/other", {}, 404, "the model here is fraud"),
        ("POST", "/v2/models/other/infer", JSON, 404, "the model here is fraud"),
        ("POST", "/v2/models/fraud/versions/1/infer", JSON, 404, "the model here is fraud"),
        ("GET", "/v2/models/fraud/versions/1", {}, 404, "the model here is fraud"),
        ("GET", "/v2/models/fraud/stats", {}, 404, "the model here is fraud"),
        ("GET", "/docs", {}, 404, "there is no such path"),
        ("POST", f"{PREDICT}/", JSON, 404, "there is no such path"),
        ("POST", "/v2/repository/models/fraud/unload", {}, 403, "repository is closed"),
        ("POST", "/v2/repository/models/fraud/load", {}, 403, "repository is closed"),
        ("POST", "/v2/repository/index", {}, 403, "repository is closed"),
        ("GET", "/v2/repository/index", {}, 403, "repository is closed"),
        ("POST", PREDICT, {"content-type": "text/csv"}, 415, "must be application/json"),
        ("POST", PREDICT, BINARY, 415, "must be application/json"),
        ("POST", INFER, BINARY, 415, "must be application/json"),
        ("POST", INFER, {"content-type": "multipart/form-data; boundary=x"}, 415, "must be application/json"),
        ("POST", INFER, {"content-type": ""}, 415, "must be application/json"),
        ("POST", PREDICT, JSON | {"content-encoding": "br"}, 415, "Content-Encoding: must be gzip"),
        ("POST", PREDICT, JSON | {"content-encoding": "gzip, gzip"}, 415, "Content-Encoding: must be gzip"),
        ("POST", PREDICT, JSON | {"content-encoding": "gzip"}, 400, "the body is not gzip"),
        ("POST", PREDICT, JSON | {"content-encoding": "deflate"}, 400, "the body is not deflate"),
        ("POST", PREDICT, JSON | {"ce-id": "x" * 257}, 400, "Ce-Id: has 257 characters"),
        ("POST", INFER, JSON | {"ce-id": "a\tb"}, 400, "Ce-Id: has characters that cannot be printed"),
    ],
)
def test_a_request_that_http_has_a_status_for_gets_it(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int, message: str
) -> None:
    content = None if method in ("GET", "HEAD") else json.dumps({"instances": [ROW]}).encode()
    response = client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    if message:
        assert message in response.json()["error"]
    if status == 405:
        assert response.headers["allow"] in ("POST", "GET, HEAD")
        assert f"takes {response.headers['allow']} alone" in (response.text or "takes POST alone")


def test_the_repository_is_closed_over_grpc_too(channel: grpc.Channel) -> None:
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        code, message = grpc_refusal(channel, pb.RepositoryModelLoadRequest(model_name="fraud"), method)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "the model repository is closed" in message
    assert unary(channel, "ModelReady", pb.ModelReadyRequest(name="fraud"), pb.ModelReadyResponse).ready


# Bodies


@pytest.mark.parametrize(
    "headers",
    [
        {},
        JSON,
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/x-www-form-urlencoded"},
        JSON | {"x-any": "1"},
        JSON | {"content-encoding": "identity"},
    ],
)
def test_json_is_taken_with_a_charset_and_without_a_type(client: httpx.Client, headers: dict[str, str]) -> None:
    content = json.dumps({"instances": [ROW]}).encode()
    assert client.post(PREDICT, content=content, headers=headers).status_code == 200


PACKED = [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("deflate", zlib.compress, id="deflate")]


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
@pytest.mark.parametrize("count", [2, 40, 3_000])
def test_a_packed_body_is_scored_like_its_content(
    client: httpx.Client, encoding: str, pack: Callable[[bytes], bytes], count: int
) -> None:
    rows = transactions(count, seed=11)
    body, octets = binary(matrix(rows), id="z")
    for path, content, headers in (
        (PREDICT, orjson.dumps({"id": "z", "instances": rows.tolist()}), JSON),
        (INFER, orjson.dumps(v2(matrix(rows), id="z")), JSON),
        (INFER, body, octets),
    ):
        answer = client.post(path, content=pack(content), headers=headers | {"content-encoding": encoding})
        assert answer.raise_for_status().json() == client.post(path, content=content, headers=headers).json()


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
@pytest.mark.parametrize(
    "change", [lambda packed: packed[:-5], lambda packed: packed[:40], lambda packed: packed + b"x", lambda _: b""]
)
def test_a_packed_body_that_is_not_whole_is_refused(
    client: httpx.Client, encoding: str, pack: Callable[[bytes], bytes], change: Callable[[bytes], bytes]
) -> None:
    content = change(pack(json.dumps({"instances": [ROW]}).encode()))
    response = client.post(PREDICT, content=content, headers=JSON | {"content-encoding": encoding})
    assert (response.status_code, "cut off" in response.json()["error"]) == (400, True)


def test_a_body_may_come_in_many_pieces(client: httpx.Client, bundle: Bundle) -> None:
    rows = transactions(500, seed=12)
    content = orjson.dumps({"instances": rows.tolist()})
    pieces = (content[place : place + 1_000] for place in range(0, len(content), 1_000))
    response = client.post(PREDICT, content=pieces, headers=JSON)
    exactly(read_v1(response.json())["probability"], bundle.scorer.probabilities(rows))


# Limits


def test_a_body_is_bounded_by_its_header_on_its_way_and_after_inflation(
    client: httpx.Client, predictor: Server
) -> None:
    streamed = client.post(PREDICT, content=iter([b" " * MEBIBYTE] * 17), headers=JSON)
    answers = [(streamed.status_code, streamed.text)]
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        bomb = pack(b" " * (64 * MEBIBYTE))
        inflated = client.post(PREDICT, content=bomb, headers=JSON | {"content-encoding": encoding})
        answers.append((inflated.status_code, inflated.text))
    with socket.create_connection((predictor.host, predictor.port), 10) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n".encode())
        announced = ""
        while not announced.endswith("}"):
            announced += connection.recv(4096).decode()
    answers.append((int(announced.split()[1]), announced))
    for status, text in answers:
        assert status == 413
        assert "more than 16,777,216 bytes" in text


def test_a_body_of_exactly_the_limit_is_read(client: httpx.Client) -> None:
    content = json.dumps({"instances": [ROW]}).encode()
    for size, status in ((16 * MEBIBYTE, 200), (16 * MEBIBYTE + 1, 413)):
        padded = content + b" " * (size - len(content))
        assert client.post(PREDICT, content=padded, headers=JSON).status_code == status


def test_an_explanation_has_a_bound_of_its_own(client: httpx.Client, channel: grpc.Channel) -> None:
    rows = np.array([ROW] * 1_001)
    said = "has 1,001 rows, at most 1,000 fit in one request"
    reasons: dict[str, Any] = {"outputs": [{"name": "reasons"}]}
    body, headers = binary(matrix(rows), **reasons)
    for response in (
        client.post(EXPLAIN, json={"instances": rows.tolist()}),
        client.post(INFER, json=v2(matrix(rows), **reasons)),
        client.post(INFER, content=body, headers=headers),
    ):
        assert (response.status_code, said in response.json()["error"]) == (413, True)
    code, message = grpc_refusal(channel, infer_message(matrix(rows), raw=True, outputs=["reasons"]))
    assert (code, said in message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert client.post(EXPLAIN, json={"instances": rows[:1_000].tolist()}).status_code == 200
    assert len(infer(channel, infer_message(matrix(rows[:1_000]), outputs=["reasons"])).outputs) == 1
    assert client.post(PREDICT, json={"instances": rows.tolist()}).status_code == 200


# Metrics


def movement(code: str, verb: str, protocol: str, alerts: Mapping[str, int] | None = None) -> dict[str, float]:
    """What a request moves, but for the buckets of rows and scores."""
    rows = sum((alerts or {}).values())
    counted = {f'fraud_requests_total{{code="{code}",operation="{verb}",protocol="{protocol}"}}': 1.0}
    if rows:
        counted |= {"fraud_request_rows_count": 1, "fraud_request_rows_sum": rows, "fraud_scores_count": rows}
        counted |= {f'fraud_rows_total{{alert="{alert}"}}': n for alert, n in (alerts or {}).items() if n}
    return counted


def alerts_of(bundle: Bundle, rows: FloatArray) -> dict[str, int]:
    levels = bundle.scorer.alerts(bundle.scorer.probabilities(rows)).tolist()
    return {alert: levels.count(level) for level, alert in enumerate(ALERTS)}


def test_counts_move_by_what_was_asked_and_scored(
    client: httpx.Client, channel: grpc.Channel, bundle: Bundle
) -> None:
    rows = transactions(300, seed=13)
    alerts = alerts_of(bundle, rows)
    assert all(alerts.values())
    body, headers = binary(matrix(rows))
    large = {"instances": transactions(3_000, seed=14).tolist()}
    steps: list[tuple[Callable[[], Any], dict[str, float]]] = [
        (
            lambda: client.post(PREDICT, json={"instances": rows.tolist()}),
            movement("200", "predict", "v1", alerts),
        ),
        (
            lambda: client.post(EXPLAIN, json={"instances": rows.tolist()}),
            movement("200", "explain", "v1", alerts),
        ),
        (lambda: client.post(INFER, json=v2(matrix(rows))), movement("200", "infer", "v2", alerts)),
        (lambda: client.post(INFER, content=body, headers=headers), movement("200", "infer", "v2", alerts)),
        (lambda: infer(channel, infer_message(matrix(rows))), movement("OK", "infer", "grpc", alerts)),
        (
            lambda: client.post(PREDICT, json=large),
            movement("200", "predict", "v1", alerts_of(bundle, np.array(large["instances"]))),
        ),
        (lambda: client.post(PREDICT, json={"instances": []}), movement("400", "predict", "v1")),
        (lambda: client.post(INFER, json={}), movement("400", "infer", "v2")),
        (lambda: client.post(PREDICT, json={"instances": [[0]] * 10_001}), movement("413", "predict", "v1")),
        (lambda: client.post(PREDICT, content=b"", headers=BINARY), movement("415", "predict", "v1")),
        (lambda: client.get(PREDICT), movement("405", "predict", "v1")),
        (lambda: client.get("/nowhere"), movement("404", "other", "http")),
        (lambda: client.get("/v2/repository/index"), movement("403", "other", "http")),
        (lambda: client.get("/v1/models/fraud"), movement("200", "ready", "v1")),
        (lambda: client.head("/v2/models/fraud"), movement("200", "metadata", "v2")),
        (lambda: client.get("/openapi.json"), movement("200", "openapi", "http")),
        (lambda: grpc_refusal(channel, infer_message()), movement("INVALID_ARGUMENT", "infer", "grpc")),
        (lambda: grpc_refusal(channel, b"\xff"), movement("INVALID_ARGUMENT", "infer", "grpc")),
        (
            lambda: grpc_refusal(channel, infer_message(tensor(ROW), model="other")),
            movement("NOT_FOUND", "infer", "grpc"),
        ),
        (
            lambda: grpc_refusal(channel, b"", "RepositoryModelLoad"),
            movement("PERMISSION_DENIED", "repository", "grpc"),
        ),
        (lambda: unary(channel, "ServerReady", b""), movement("OK", "ready", "grpc")),
    ]
    for ask_it, expected in steps:
        before = counts(client)
        ask_it()
        found = moved(before, counts(client))
        assert {
            name: n for name, n in found.items() if "bucket" not in name and name != "fraud_scores_sum"
        } == expected


def test_histograms_hold_the_values_that_were_served(client: httpx.Client, bundle: Bundle) -> None:
    rows = transactions(300, seed=15)
    before = counts(client)
    client.post(PREDICT, json={"instances": rows.tolist()})
    found = moved(before, counts(client))
    served = bundle.scorer.probabilities(rows)
    assert found["fraud_scores_sum"] == pytest.approx(served.sum(), rel=1e-9)
    for le, count in buckets(found, "fraud_scores_bucket").items():
        assert count == (served <= le).sum()
    assert buckets(found, "fraud_request_rows_bucket") == dict.fromkeys((500, 1e3, 2e3, 5e3, 1e4, math.inf), 1)
    client.post(PREDICT, json={"instances": [ROW]})
    again = moved(before, counts(client))
    assert again["fraud_request_rows_count"] == buckets(again, "fraud_request_rows_bucket")[math.inf] == 2
    assert again["fraud_scores_count"] == 301


def buckets(found: Mapping[str, float], name: str, labels: str = "") -> dict[float, float]:
    """The cumulative counts of a histogram by bound."""
    pattern = re.compile(rf'{name}\{{le="([^"]+)"{re.escape(labels)}\}}')
    return {float(match[1]): count for key, count in found.items() if (match := pattern.fullmatch(key))}


def test_every_histogram_is_sound_and_agrees_with_the_counters(
    client: httpx.Client, channel: grpc.Channel
) -> None:
    client.post(PREDICT, json={"instances": [ROW]})
    infer(channel, infer_message(tensor(ROW)))
    found = counts(client)
    asked: Counter[str] = Counter()
    for name, count in found.items():
        if name.startswith("fraud_requests_total"):
            asked[name.partition(",")[2]] += int(count)
    assert {'operation="predict",protocol="v1"}', 'operation="infer",protocol="grpc"}'} <= asked.keys()
    for operation, total in asked.items():
        histogram = buckets(found, "fraud_request_seconds_bucket", f",{operation[:-1]}")
        bounds, numbers = list(histogram), list(histogram.values())
        assert bounds == sorted(bounds)
        assert (bounds[0], bounds[-1]) == (50e-6, math.inf)
        assert numbers == sorted(numbers)
        assert numbers[-1] == found[f"fraud_request_seconds_count{{{operation}"] == total
        seconds = found[f"fraud_request_seconds_sum{{{operation}"]
        least = sum(low * n for low, n in zip([0, *bounds], np.diff([0, *numbers]), strict=False))
        assert least <= seconds < 60 * total
    rows = sum(count for name, count in found.items() if name.startswith("fraud_rows_total"))
    assert rows == found["fraud_scores_count"] == found["fraud_request_rows_sum"]
    assert buckets(found, "fraud_scores_bucket")[math.inf] == rows
    assert buckets(found, "fraud_request_rows_bucket")[math.inf] == found["fraud_request_rows_count"]


def test_the_metrics_say_which_model_is_served_since_when(client: httpx.Client, bundle: Bundle) -> None:
    found = counts(client)
    models = {name: count for name, count in found.items() if name.startswith("fraud_model_info")}
    assert models == {f'fraud_model_info{{model="fraud",version="{bundle.version}"}}': 1}
    assert found['fraud_model_loads_total{outcome="loaded"}'] == 1
    assert found['fraud_model_loads_total{outcome="refused"}'] == 0
    assert 0 < found["fraud_model_load_seconds"] < 10
    assert 0 < time.time() - found["fraud_model_loaded_timestamp_seconds"] < 3_600


# In this process: what a client cannot bring about


@pytest.fixture
def model(bundle: Bundle) -> FraudModel:
    return FraudModel(bundle.path, Metrics())


SOUND = json.dumps({"instances": [ROW]}).encode()


FAST: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "v1": (PREDICT, SOUND, JSON),
    "v1 with an id": (PREDICT, json.dumps({"id": "a.b-c_d", "instances": [ROW]}).encode(), JSON),
    "v1 with another id": (PREDICT, json.dumps({"id": 'ä\u2028:"', "instances": [ROW]}).encode(), JSON),
    "v1 with an empty id": (PREDICT, json.dumps({"id": "", "instances": [ROW]}).encode(), JSON),
    "v1 without an id": (PREDICT, json.dumps({"id": None, "instances": [ROW]}).encode(), JSON),
    "v1 with integers": (PREDICT, json.dumps({"instances": [[int(value) for value in ROW]]}).encode(), JSON),
    "v1 by name": (PREDICT, json.dumps({"instances": [NAMED]}).encode(), JSON),
    "v1 with more members": (PREDICT, json.dumps({"instances": [ROW], "x": 1}).encode(), JSON),
    "v1 for the header of an id": (PREDICT, SOUND, JSON | {"ce-id": "event:7"}),
    "v1 for the header of another id": (PREDICT, SOUND, JSON | {"ce-id": "ä b"}),
    "v1 with extremes": (PREDICT, json.dumps({"instances": [[1e12, *[-1e12] * 28, 1e12]]}).encode(), JSON),
    "v1 with small numbers": (PREDICT, json.dumps({"instances": [[-0.0, *[5e-324] * 28, -0.0]]}).encode(), JSON),
    "v2": (INFER, json.dumps(v2(tensor(ROW))).encode(), JSON),
    "v2 with an id": (INFER, json.dumps(v2(tensor(ROW), id="a")).encode(), JSON),
    "v2 with both ids": (INFER, json.dumps(v2(tensor(ROW), id="a")).encode(), JSON | {"ce-id": "b"}),
    "v2 nested": (INFER, json.dumps(v2(matrix(np.array([ROW])))).encode(), JSON),
    "v2 FP32": (INFER, json.dumps(v2(tensor([0.1] * 30, datatype="FP32"))).encode(), JSON),
    "v2 INT8": (INFER, json.dumps(v2(tensor([1] * 30, datatype="INT8"))).encode(), JSON),
    "v2 with outputs": (INFER, json.dumps(v2(tensor(ROW), outputs=[{"name": "label"}])).encode(), JSON),
    "v2 for outputs in bytes": (INFER, json.dumps(v2(tensor(ROW), **ALL_BINARY)).encode(), JSON),
    "bytes": (INFER, *binary(tensor(ROW))),
    "bytes for bytes": (INFER, *binary(tensor(ROW), **ALL_BINARY)),
    "bytes for bytes with an id": (INFER, *binary(tensor(ROW), id="a", **ALL_BINARY)),
    "FP32 bytes for bytes": (INFER, *binary(tensor(ROW, datatype="FP32"), **ALL_BINARY)),
    "INT8 bytes for bytes": (INFER, *binary(tensor([1] * 30, datatype="INT8"), **ALL_BINARY)),
    "bytes for some bytes": (INFER, *binary(tensor(ROW), outputs=SOME_BINARY)),
    "bytes with a JSON content type": (INFER, binary(tensor(ROW), **ALL_BINARY)[0], {}),
    "octets that are JSON": (PREDICT, SOUND, BINARY),
    "octets that are V2 in JSON": (INFER, json.dumps(v2(tensor(ROW))).encode(), BINARY),
    "NaN in bytes": (INFER, *binary(tensor([*ROW[:5], math.nan, *ROW[6:]]), **ALL_BINARY)),
    "infinity in bytes": (INFER, *binary(tensor([*ROW[:5], math.inf, *ROW[6:]]), **ALL_BINARY)),
    "a negative Amount in bytes": (INFER, *binary(tensor([*ROW[:29], -1.0]), **ALL_BINARY)),
    "true": (PREDICT, json.dumps({"instances": [[True, *ROW[1:]]]}).encode(), JSON),
    "a negative Time": (PREDICT, json.dumps({"instances": [[-1, *ROW[1:]]]}).encode(), JSON),
    "too much": (PREDICT, json.dumps({"instances": [[*ROW[:4], 1e13, *ROW[5:]]]}).encode(), JSON),
}


@pytest.mark.parametrize(("path", "body", "headers"), FAST.values(), ids=FAST.keys())
def test_a_request_is_answered_alike_whether_it_comes_as_a_whole_or_in_pieces(
    model: FraudModel, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """As a whole a request of one row may take a short path of its own; in pieces it never does."""
    app = in_process(model)

    async def both() -> list[Reply]:
        return [await ask(app, path, body, headers, whole=whole) for whole in (True, False)]

    whole, pieces = asyncio.run(both())
    assert whole.status == pieces.status
    if whole.status != 200:
        assert whole.content == pieces.content
        return
    assert whole.headers.keys() == pieces.headers.keys()
    for name in ("content-type", LENGTH, "x-model-version"):
        assert whole.headers.get(name) == pieces.headers.get(name)
    (one, probability), (other, expected) = described(whole), described(pieces)
    assert one == other
    exactly(probability, expected)


def described(reply: Reply) -> tuple[str, list[float]]:
    """All that an answer says but for probabilities and fresh ids, and its probabilities."""
    if "outputs" in (document := json.loads(reply.content[: int(reply.headers.get(LENGTH, len(reply.content)))])):
        outputs = read_v2(reply.content, reply.headers)
        for output in document["outputs"]:
            output.pop("data", None)
    else:
        outputs = read_v1(document)
        del document["predictions"]
    probability = outputs.pop("probability", [])
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "fresh", f"{document} {outputs}"), probability


IGNORED: dict[str, str] = {
    "an integer beyond 64 bits": "9" * 30,
    "a negative integer beyond 64 bits": "-" + "9" * 30,
    "2 to the 64": str(2**64),
    "2 to the 64, less one": str(2**64 - 1),
    "integers beyond 64 bits in a list": f"[{','.join(['9' * 30] * 40)}]",
    "the smallest number": "5e-324",
    "a number below the smallest": "1e-999",
    "a list in lists": "[" * 300 + "]" * 300,
    "a list in many lists": "[" * 600 + "]" * 600,
    "a list in far too many lists": "[" * 5_000 + "]" * 5_000,
    "an object in objects": '{"a":' * 300 + "1" + "}" * 300,
    "an object in many objects": '{"a":' * 600 + "1" + "}" * 600,
    "an object in far too many objects": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "empty lists": "[[], []]",
    "a list that is not square": "[[1, 2], [3], 4]",
    "texts that look like lists": '["[[[", "]]]", ":::", "{}"]',
    "half of a surrogate pair": r'"\ud800"',
    "a surrogate pair": r'"\ud83d\ude00"',
    "a NUL": r'"\u0000"',
    "a control character": '"\t"',
    "NaN": "NaN",
    "1e999": "1e999",
    "a name twice": '{"a": 1, "a": 2}',
    "a name twice in a list": '[[1], {"a": 1, "b": {"c": 1, "c": 2}}]',
    "true": "true",
    "a long list": f"[{','.join(['1'] * 100)}]",
    "a long list with null": f"[{','.join(['1'] * 100)}, null]",
    "a comment": "1 // one",
    "a number with a plus": "+1",
}


@pytest.mark.parametrize("text", IGNORED.values(), ids=IGNORED.keys())
@pytest.mark.parametrize("path", [PREDICT, EXPLAIN, INFER])
def test_what_nobody_looks_at_is_read_alike_in_short_and_long_bodies(
    model: FraudModel, path: str, text: str
) -> None:
    """Short bodies and long ones have different readers."""
    app = in_process(model)
    asked = json.dumps(v2(tensor([1.5] * 30)) if path == INFER else {"instances": [[1.5] * 30]})
    short = f'{asked[:-1]}, "x": {text}}}'.encode()
    replies = [call(app, path, body) for body in (short, short + b" " * SHORT, short + b" " * INLINE_BYTES)]
    assert len({reply.status for reply in replies}) == 1, [reply.content for reply in replies]
    assert replies[0].status in (200, 400)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\x00", b"\xa0", b"\xc2\xa0", b"\x0b", b"\r\n\t "])
def test_a_body_may_begin_with_the_same_in_short_and_long_bodies(model: FraudModel, start: bytes) -> None:
    app = in_process(model)
    replies = [call(app, PREDICT, start + SOUND + end) for end in (b"", b" " * SHORT)]
    assert replies[0].status == replies[1].status == (200 if start.isspace() and start != b"\x0b" else 400)


def test_a_model_that_is_not_ready_says_so_with_503(model: FraudModel) -> None:
    app = in_process(model)
    service = GrpcService(model, ServingSettings(), Metrics(), LargeWork())
    model.stop()
    for path in (PREDICT, EXPLAIN, INFER):
        assert call(app, path, SOUND).status == 503
    for path in ("/v1/models/fraud", "/v2/models/fraud/ready", "/v2/health/ready"):
        assert asyncio.run(ask(app, path, b"", method="GET")).status == 503
    code, _ = grpc_call(service, infer_message(tensor(ROW)).SerializeToString())
    assert code is grpc.StatusCode.UNAVAILABLE
    code, content = grpc_call(service, b"", "ServerReady")
    assert (code, pb.ServerReadyResponse.FromString(content).ready) == (grpc.StatusCode.OK, False)


class Broken(Loaded):
    def score(self, request: Request, *, explain: bool) -> Any:
        raise RuntimeError(f"inner secret of {request.names.rows} rows, {explain}")


def test_an_unexpected_error_tells_the_log_and_not_the_client(
    model: FraudModel, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    model.current = Broken(model.name, bundle.version, bundle.scorer)
    app, service = in_process(model), GrpcService(model, ServingSettings(), Metrics(), LargeWork())
    reply = call(app, EXPLAIN, SOUND)
    assert (reply.status, reply.json().keys()) == (500, {"error"})
    code, message = grpc_call(service, infer_message(tensor(ROW)).SerializeToString())
    assert code is grpc.StatusCode.INTERNAL
    said = [reply.json()["error"], message.decode()]
    logged = capsys.readouterr().out
    for text in said:
        found = re.fullmatch(r"internal error, id (\S{36})", text)
        assert found
        assert found[1] in logged
    assert "inner secret of 1 rows, True" in logged
    assert "inner secret of 1 rows, False" in logged


def test_a_body_that_does_not_arrive_is_cut_off(model: FraudModel) -> None:
    async def never() -> Any:
        await asyncio.sleep(3_600)

    async def half() -> Any:
        pieces.append(b"{")
        return {"type": "http.request", "body": b"{", "more_body": True} if len(pieces) == 1 else await never()

    async def ask_by(receive: Any) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        app = in_process(model, read_seconds=0.05)
        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [(b"content-length", b"100")]}
        await app(scope, receive, send)
        return sent

    pieces: list[bytes] = []
    for receive in (never, half):
        start, body = asyncio.run(ask_by(receive))
        assert start["status"] == 408
        assert (b"connection", b"close") in start["headers"]
        assert json.loads(body["body"])["error"] == "the body did not arrive within 0.05 s"


async def post_slowly(app: Predictor, first: bytes, rest: asyncio.Future[bytes], path: str = PREDICT) -> Reply:
    """A request whose first piece has come, and whose rest comes later."""
    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": first, "more_body": True}])

    async def receive() -> Any:
        return next(pieces, None) or {"type": "http.request", "body": await rest}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], headers, sent[1]["body"])


def test_only_so_many_bytes_of_bodies_are_held_at_a_time(model: FraudModel) -> None:
    app = in_process(model, max_bytes=1_024)
    begun = SOUND + b" " * (1_000 - len(SOUND))

    async def crowd() -> list[Reply]:
        rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting = [asyncio.create_task(post_slowly(app, begun, rest)) for _ in range(8)]
        await asyncio.sleep(0)
        at_once: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        at_once.set_result(b" ")
        refused = await post_slowly(app, begun, at_once)
        rest.set_result(b" " * 24)
        replies = [await asked for asked in waiting]
        return [*replies, refused, await post_slowly(app, begun, at_once)]

    *replies, refused, later = asyncio.run(crowd())
    assert [reply.status for reply in [*replies, later]] == [200] * 9
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"


def test_a_small_request_does_not_wait_for_a_large_one(model: FraudModel) -> None:
    app = in_process(model)
    large = orjson.dumps({"instances": transactions(10_000).tolist()})
    assert len(large) > INLINE_BYTES

    async def both() -> list[str]:
        done: list[str] = []

        async def asked(name: str, body: bytes) -> None:
            assert (await ask(app, PREDICT, body)).status == 200
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(asked("large", large))
            group.create_task(asked("small", SOUND))
        return done

    assert asyncio.run(both()) == ["small", "large"]


def test_an_answer_and_its_line_in_the_log_name_the_version_that_made_it_where_the_model_changed_meanwhile(
    model: FraudModel, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    app = in_process(model, request_log=True)

    async def meanwhile() -> Reply:
        rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        begun = asyncio.create_task(post_slowly(app, SOUND[:10], rest))
        await asyncio.sleep(0)
        model.current = Loaded(model.name, "next", bundle.scorer)
        app.refresh()
        rest.set_result(SOUND[10:])
        return await begun

    reply = asyncio.run(meanwhile())
    assert reply.json()["model_version"] == reply.headers["x-model-version"] == bundle.version
    assert re.search(r"model_version=\S*" + bundle.version, capsys.readouterr().out)
    assert call(app, PREDICT, SOUND).json()["model_version"] == "next"
