"""What the payload logger's events come to, held against the predictor's own reader and writer."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictors import NAMED, ROW, binary, columns, ids, matrix, objects, tensor, transactions, v1_requests, v2

from detectors.events import (
    MAX_BYTES,
    REQUEST,
    RESPONSE,
    Event,
    Ignored,
    IgnoredReason,
    LoggedRequest,
    LoggedResponse,
    Rejected,
    RejectedReason,
    read,
)
from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS
from serving.predictor import v1
from serving.predictor import v2 as protocol_v2
from serving.predictor.request import Limits, Scores

LIMITS = Limits(rows=10_000, explained=1_000)
TIME = "2024-05-06T07:08:09.123456789Z"
SECONDS = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC).timestamp()
ONE = orjson.dumps({"instances": [ROW]})
ANSWER = (
    b'{"predictions":[{"id":"e-1-0","probability":0.25,"label":1,"alert":"review"}],"model_version":"fraud-1a2b"}'
)
ERROR = b'{"error":"row 0, V7: is missing"}'


def headers(kind: str = REQUEST, **changes: str | None) -> dict[str, str]:
    """Those of the logger in binary mode; `changes` with underscores, None to leave one out."""
    given = {
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-id": "e-1",
        "ce-time": TIME,
        "ce-source": "http://localhost:9081/",
        "ce-endpoint": "",
        "ce-inferenceservicename": "fraud",
        "content-type": "application/json",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in given.items() if value is not None}


def structured(kind: str = REQUEST, **members: Any) -> bytes:
    frame = {"specversion": "1.0", "type": kind, "id": "e-1", "time": TIME, "inferenceservicename": "fraud"}
    return orjson.dumps(frame | members)


CLOUD_EVENT = {"content-type": "application/cloudevents+json; charset=utf-8"}


def request(body: bytes | dict[str, Any], **changes: str | None) -> LoggedRequest:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    event = read(headers(**changes), content, "fraud")
    assert isinstance(event, LoggedRequest), event
    return event


def response(body: bytes, **changes: str | None) -> LoggedResponse:
    event = read(headers(RESPONSE, **changes), body, "fraud")
    assert isinstance(event, LoggedResponse), event
    return event


def rejected(body: bytes | dict[str, Any], kind: str = REQUEST, **changes: str | None) -> Rejected:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    event = read(headers(kind, **changes), content, "fraud")
    assert isinstance(event, Rejected), event
    assert event.detail
    assert event.detail.isprintable()
    return event


def packed(*tensors: dict[str, Any], **members: Any) -> bytes:
    return binary(*tensors, **members)[0]


def in_every_protocol(rows: Any) -> dict[str, bytes]:
    plain = {name: orjson.dumps(document) for name, document in v1_requests(rows).items()}
    plain |= {"V2": orjson.dumps(v2(matrix(rows))), "V2 columns": orjson.dumps(v2(*columns(rows)))}
    flat = tensor(rows.ravel().tolist(), list(rows.shape))
    return plain | {
        "V2 flat": orjson.dumps(v2(flat)),
        "V2 bytes": packed(matrix(rows)),
        "V2 columns in bytes": packed(*columns(rows)),
        "V2 some in bytes": packed(*columns(rows, V3=columns(rows)[3] | {"json": True})),
    }


# Requests


@pytest.mark.parametrize("count", [1, 7])
def test_a_request_has_the_same_rows_and_digest_in_every_protocol(count: int) -> None:
    rows = transactions(count)
    events = [request(body) for body in in_every_protocol(rows).values()]
    assert all(np.array_equal(event.rows, rows) and event.rows.dtype == np.float64 for event in events)
    assert len({event.digest for event in events}) == 1
    assert len(events[0].digest) == 8
    assert {event.row_ids for event in events} == {None}


def test_a_request_has_the_events_id_its_time_and_the_model() -> None:
    event = request(ONE)
    assert (event.id, event.model) == ("e-1", "fraud")
    assert event.time == pytest.approx(SECONDS, abs=1e-6)


def test_own_ids_are_the_same_in_every_protocol_and_are_part_of_the_digest() -> None:
    rows = transactions(2)
    named = {"instances": [row | {"id": name} for row, name in zip(objects(rows), ("é-1", "b"), strict=True)]}
    texts = ids("é-1", "b")
    bodies = [orjson.dumps(named), orjson.dumps(v2(matrix(rows), texts)), packed(matrix(rows), texts)]
    events = [request(body) for body in [*bodies, packed(texts | {"json": True}, matrix(rows))]]
    assert {event.row_ids for event in events} == {("é-1", "b")}
    assert len({event.digest for event in events}) == 1
    assert events[0].digest != request({"instances": rows.tolist()}).digest


def test_rows_without_an_own_id_are_named_as_the_predictor_names_them() -> None:
    document = {"id": "of the body", "instances": [NAMED | {"id": "a"}, ROW, NAMED]}
    theirs = v1.read(orjson.dumps(document), "e-1", 10).names.texts()
    assert request(document).row_ids == tuple(theirs) == ("a", "e-1-1", "e-1-2")


def test_rows_and_digest_tell_requests_apart() -> None:
    other = [*ROW[:5], 0.75, *ROW[6:]]
    assert request({"instances": [ROW]}).digest != request({"instances": [other]}).digest


def test_bytes_are_found_without_the_length_of_the_json_and_with_it() -> None:
    rows = transactions(3)
    body, given = binary(matrix(rows), ids('{"', '\\"}', "日本"), id="é{")
    for changes in ({}, {"inference_header_content_length": given["inference-header-content-length"]}):
        assert np.array_equal(request(body, content_type="application/octet-stream", **changes).rows, rows)


def test_json_may_be_padded_before_the_bytes() -> None:
    rows = transactions(2)
    body = packed(matrix(rows))
    place = len(body) - rows.nbytes
    assert np.array_equal(request(b" \n" + body[:place] + b"  \n" + body[place:]).rows, rows)


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "UINT8"])
def test_numbers_of_other_types_are_read(datatype: str) -> None:
    rows = np.full((2, 30), 7.0)
    assert np.array_equal(request(packed(matrix(rows, datatype))).rows, rows)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_body_is_read_whatever_the_headers_say(compress: Any) -> None:
    assert request(compress(ONE)).digest == request(ONE).digest
    assert request(compress(ONE), content_encoding="gzip").digest == request(ONE).digest
    assert response(compress(ANSWER)).version == "fraud-1a2b"


def test_a_structured_event_is_the_same_as_a_binary_one() -> None:
    rows = transactions(2)
    bodies = [
        structured(data={"instances": rows.tolist()}),
        structured(data=orjson.dumps({"instances": rows.tolist()}).decode()),
        structured(data_base64=base64.b64encode(packed(matrix(rows))).decode()),
        structured(data_base64=base64.b64encode(gzip.compress(packed(matrix(rows)))).decode()),
        gzip.compress(structured(data={"instances": rows.tolist()})),
    ]
    for body in bodies:
        event = read(CLOUD_EVENT, body, "fraud")
        assert isinstance(event, LoggedRequest), event
        assert (event.id, event.digest) == ("e-1", request({"instances": rows.tolist()}).digest)
        assert event.time == pytest.approx(SECONDS, abs=1e-6)


def test_a_structured_answer_is_read() -> None:
    event = read(CLOUD_EVENT, structured(RESPONSE, data=json.loads(ANSWER)), "fraud")
    assert isinstance(event, LoggedResponse)
    assert event.row_ids == ("e-1-0",)


def test_a_binary_event_stays_one_whatever_content_type_a_client_has_sent() -> None:
    assert request(ONE, content_type="application/cloudevents+json").row_ids is None


# Answers


@pytest.mark.parametrize("count", [1, 3, 250])
def test_the_predictors_own_answers_give_back_its_scores(bundle: Bundle, count: int) -> None:
    rows = transactions(count, seed=3)
    scorer = bundle.scorer
    probabilities = scorer.probabilities(rows)
    scores = Scores(probabilities, scorer.alerts(probabilities))
    asked = v1.read(orjson.dumps({"instances": rows.tolist()}), "e-1", count)
    answers = [v1.write(asked, scores, bundle.version)]
    for outputs_as_bytes in (False, True):
        body = v2(matrix(rows), parameters={"binary_data_output": outputs_as_bytes})
        wanted = protocol_v2.read(orjson.dumps(body), "e-1", LIMITS)
        answers.append(protocol_v2.write(wanted, scores, "fraud", bundle.version).body)
    for answer in answers:
        event = response(answer, content_type="application/octet-stream")
        assert np.array_equal(event.probabilities, probabilities)
        assert np.array_equal(event.alerts, scores.levels)
        assert event.alerts.dtype == np.int8
        assert (event.id, event.version) == ("e-1", bundle.version)
        assert event.row_ids == tuple(f"e-1-{row}" for row in range(count))


def test_own_ids_come_back_from_the_predictors_answers(bundle: Bundle) -> None:
    wanted = [
        {"name": name, "parameters": {"binary_data": name != "alert"}} for name in ("id", "alert", "probability")
    ]
    body = orjson.dumps(v2(matrix(np.array([ROW, ROW])), ids("é", '\\"{'), outputs=wanted))
    asked = protocol_v2.read(body, "e-1", LIMITS)
    probabilities = bundle.scorer.probabilities(asked.rows)
    scores = Scores(probabilities, bundle.scorer.alerts(probabilities))
    for answer in (
        protocol_v2.write(asked, scores, "fraud", bundle.version).body,
        v1.write(asked, scores, bundle.version),
    ):
        assert response(answer).row_ids == ("é", '\\"{')


def test_an_answer_with_reasons_is_read(bundle: Bundle) -> None:
    asked = v1.read(ONE, "e-1", 1)
    probabilities = bundle.scorer.probabilities(asked.rows)
    scores = Scores(probabilities, bundle.scorer.alerts(probabilities), bundle.scorer.reasons(asked.rows))
    assert response(v1.write(asked, scores, bundle.version)).probabilities[0] == probabilities[0]


def test_an_answer_of_which_the_client_wanted_a_part_is_incomplete(bundle: Bundle) -> None:
    asked = protocol_v2.read(
        orjson.dumps(v2(matrix(np.array([ROW])), outputs=[{"name": "probability"}])), "e-1", LIMITS
    )
    scores = Scores(np.array([0.5]), np.array([1]))
    answer = protocol_v2.write(asked, scores, "fraud", bundle.version).body
    assert rejected(answer, RESPONSE).reason is RejectedReason.INCOMPLETE_ANSWER


def _answer(**changes: Any) -> dict[str, Any]:
    return {"predictions": [{"id": "a", "probability": 0.5, "label": 1, "alert": "block"} | changes]}


def _outputs(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "id": tensor(["a"], [1], "id", "BYTES"),
        "probability": tensor([0.5], [1], "probability", "FP64"),
        "alert": tensor(["block"], [1], "alert", "BYTES"),
    }
    return {"model_version": "v", "outputs": list((given | changes).values())}


@pytest.mark.parametrize(
    "document",
    [
        json.loads(ERROR),
        _answer(),
        {"model_version": "v"},
        {"model_version": 1} | _answer(),
        {"model_version": "v", "predictions": []},
        {"model_version": "v", "predictions": [[1]]},
        {"model_version": "v"} | _answer(alert="red"),
        {"model_version": "v"} | _answer(alert=[]),
        {"model_version": "v"} | _answer(id=1),
        {"model_version": "v"} | _answer(id=""),
        {"model_version": "v"} | _answer(probability=1.5),
        {"model_version": "v"} | _answer(probability=True),
        {"model_version": "v"} | _answer(probability=None),
        {"model_version": "v", "predictions": _answer()["predictions"] * 2},
        _outputs(alert=tensor(["block"] * 2, [2], "alert", "BYTES")),
        _outputs(alert=tensor(["block"] * 2, [1], "alert", "BYTES")),
        _outputs(probability=tensor(["x"], [1], "probability", "FP64")),
        _outputs(id=tensor([7], [1], "id", "BYTES")),
    ],
)
def test_an_answer_that_is_an_error_or_not_whole_is_unreadable(document: dict[str, Any]) -> None:
    assert rejected(document, RESPONSE).reason is RejectedReason.UNREADABLE_ANSWER


def test_a_probability_of_nan_is_unreadable() -> None:
    nan = tensor([float("nan")], [1], "probability")
    texts = [name | {"json": True} for name in _outputs()["outputs"] if name["name"] != "probability"]
    body = packed(nan, *texts, model_version="v").replace(b'"inputs"', b'"outputs"')
    assert rejected(body, RESPONSE).reason is RejectedReason.UNREADABLE_ANSWER


# What is not for the log


def test_an_empty_body_is_ignored() -> None:
    assert read(headers(), b"", "fraud") == Ignored(IgnoredReason.EMPTY_BODY)
    assert read(CLOUD_EVENT, structured(), "fraud") == Ignored(IgnoredReason.EMPTY_BODY)


def test_events_of_another_model_and_another_type_are_ignored() -> None:
    assert read(headers(), ONE, "other") == Ignored(IgnoredReason.OTHER_MODEL)
    assert read(CLOUD_EVENT, structured(data={}), "other") == Ignored(IgnoredReason.OTHER_MODEL)
    assert read(headers("org.example.other"), ONE, "fraud") == Ignored(IgnoredReason.OTHER_TYPE)


def test_an_event_that_names_no_model_is_read() -> None:
    assert request(ONE, ce_inferenceservicename=None).model == "fraud"


# Frames


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ce_type": None}, RejectedReason.BAD_TYPE),
        ({"ce_id": None}, RejectedReason.BAD_ID),
        ({"ce_id": ""}, RejectedReason.BAD_ID),
        ({"ce_id": "x" * 257}, RejectedReason.BAD_ID),
        ({"ce_id": "a\nb"}, RejectedReason.BAD_ID),
        ({"ce_time": None}, RejectedReason.BAD_TIME),
        ({"ce_time": "yesterday"}, RejectedReason.BAD_TIME),
        ({"ce_time": "2024-05-06T07:08:09"}, RejectedReason.BAD_TIME),
        ({"ce_time": "2024-13-06T07:08:09Z"}, RejectedReason.BAD_TIME),
    ],
)
def test_a_frame_that_lacks_something_is_rejected_by_name(
    changes: dict[str, str | None], reason: RejectedReason
) -> None:
    assert rejected(ONE, **changes).reason is reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01t00:00:10z", 10.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T00:00:10.123456789Z", 10.123456),
        ("1970-01-01T01:00:10.25+01:00", 10.25),
        ("1969-12-31T16:00:10-08:00", 10.0),
    ],
)
def test_times_of_rfc_3339_are_read(text: str, seconds: float) -> None:
    assert request(ONE, ce_time=text).time == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        structured(data=[1]),
        structured(data=3),
        structured(data_base64="?"),
        structured(data_base64="é"),
        structured(data_base64=1),
    ],
)
def test_a_structured_event_that_is_none_is_rejected(body: bytes) -> None:
    event = read(CLOUD_EVENT, body, "fraud")
    assert isinstance(event, Rejected)
    assert event.reason is RejectedReason.BAD_ENVELOPE


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"type": 1}, RejectedReason.BAD_TYPE),
        ({"id": ["a"]}, RejectedReason.BAD_ID),
        ({"time": 7}, RejectedReason.BAD_TIME),
        ({"data": {}}, RejectedReason.UNKNOWN_PROTOCOL),
    ],
)
def test_values_of_a_structured_event_may_be_of_any_type(members: dict[str, Any], reason: RejectedReason) -> None:
    event = read(CLOUD_EVENT, structured(**members), "fraud")
    assert isinstance(event, Rejected)
    assert event.reason is reason


# Bodies


@pytest.mark.parametrize("cut", [2, 5, 20, -1])
def test_a_gzip_that_is_cut_short_is_rejected(cut: int) -> None:
    assert rejected(gzip.compress(ONE)[:cut]).reason is RejectedReason.BAD_COMPRESSION


def test_bytes_after_a_gzip_are_rejected() -> None:
    assert rejected(gzip.compress(ONE) + b"more").reason is RejectedReason.BAD_COMPRESSION


def test_a_bomb_is_not_inflated() -> None:
    assert rejected(gzip.compress(b" " * (MAX_BYTES + 1))).reason is RejectedReason.TOO_LARGE


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'\xef\xbb\xbf{"instances":[]}',
        b'{"instances":' + b"[" * 100_000,
        b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000,
        ONE + b"\x00",
        ONE + ONE,
        ONE[:-1] + b',"id":"\\ud800"}',
        ONE[:-1] + b',"x":NaN}',
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(body: bytes) -> None:
    assert rejected(body).reason is RejectedReason.NOT_JSON


def test_a_request_of_no_known_protocol_is_rejected() -> None:
    assert rejected({"rows": [ROW]}).reason is RejectedReason.UNKNOWN_PROTOCOL


# Rows


def _with(value: Any, column: int = 7) -> list[Any]:
    return [*ROW[:column], value, *ROW[column + 1 :]]


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (_with(None), RejectedReason.NULL),
        (_with("1.5"), RejectedReason.NOT_A_NUMBER),
        (_with(True), RejectedReason.NOT_A_NUMBER),
        (_with([1.0]), RejectedReason.NOT_A_NUMBER),
        (_with(float("nan")), RejectedReason.NOT_A_NUMBER),
        (_with(float("inf")), RejectedReason.OUT_OF_RANGE),
        (_with(-1.1e12), RejectedReason.OUT_OF_RANGE),
        (_with(10**40), RejectedReason.OUT_OF_RANGE),
        (_with(-0.5, 0), RejectedReason.NEGATIVE),
        (_with(-0.5, 29), RejectedReason.NEGATIVE),
        (ROW[:-1], RejectedReason.WRONG_WIDTH),
        ([*ROW, 1.0], RejectedReason.WRONG_WIDTH),
        ([], RejectedReason.WRONG_WIDTH),
        ({name: NAMED[name] for name in INPUTS[1:]}, RejectedReason.MISSING_INPUT),
        (NAMED | {"Class": 1}, RejectedReason.UNKNOWN_INPUT),
        (NAMED | {"V3": None}, RejectedReason.NULL),
        (NAMED | {"id": 7}, RejectedReason.BAD_ROW_ID),
        (NAMED | {"id": None}, RejectedReason.BAD_ROW_ID),
        (NAMED | {"id": "x" * 257}, RejectedReason.BAD_ROW_ID),
        ("text", RejectedReason.NOT_A_ROW),
        (None, RejectedReason.NOT_A_ROW),
        (3, RejectedReason.NOT_A_ROW),
    ],
)
def test_an_unsound_row_rejects_its_whole_request_by_kind(instance: Any, reason: RejectedReason) -> None:
    for instances in ([instance], [ROW, instance, ROW]):
        event = rejected(json.dumps({"instances": instances}).encode())
        assert (event.reason, event.rows) == (reason, len(instances))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), RejectedReason.NOT_A_NUMBER),
        (float("inf"), RejectedReason.OUT_OF_RANGE),
        (2e12, RejectedReason.OUT_OF_RANGE),
        (1e300, RejectedReason.OUT_OF_RANGE),
    ],
)
def test_unsound_rows_of_tensors_are_rejected_by_kind(value: float, reason: RejectedReason) -> None:
    rows = np.array([ROW, _with(value)])
    json_too = json.dumps(v2(matrix(rows))).encode()
    for body in (packed(matrix(rows)), packed(*columns(rows)), json_too, json.dumps(v2(*columns(rows))).encode()):
        event = rejected(body)
        assert (event.reason, event.rows) == (reason, 2)


def test_two_rows_of_one_id_are_rejected() -> None:
    event = rejected({"instances": [NAMED | {"id": "a"}, NAMED | {"id": "a"}]})
    assert (event.reason, event.rows) == (RejectedReason.BAD_ROW_ID, 2)


@pytest.mark.parametrize("document", [{"instances": []}, {"instances": None}, {"instances": {"a": 1}}])
def test_a_request_without_rows_is_rejected(document: dict[str, Any]) -> None:
    event = rejected(document)
    assert (event.reason, event.rows) == (RejectedReason.NO_ROWS, 1)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        {},
        [1],
        [tensor(ROW), tensor(ROW)],
        [tensor(ROW, [2, 30])],
        [tensor(ROW, [10**18, 30])],
        [tensor(ROW, [-1, 30])],
        [tensor(ROW, [1.0, 30])],
        [tensor(ROW, [[1], 30])],
        [tensor(ROW, [1, 30, 1])],
        [tensor(ROW, datatype="BOOL")],
        [tensor(ROW, name=3)],
        [tensor("text")],
        [ids("a")],
        [tensor(ROW), ids("a", "b")],
        [tensor(ROW), tensor([1], [1], "id", "INT64")],
        [tensor(ROW) | {"parameters": {"binary_data_size": 240}}],
        [tensor(None) | {"parameters": {"binary_data_size": 240}}],
        [tensor(None) | {"parameters": {"binary_data_size": -1}}],
        [tensor(None) | {"parameters": {"binary_data_size": True}}],
        [tensor(None) | {"parameters": [1]}],
    ],
)
def test_tensors_that_contradict_themselves_are_rejected(inputs: Any) -> None:
    assert rejected({"inputs": inputs}).reason is RejectedReason.BAD_TENSOR


def test_bytes_that_do_not_add_up_are_rejected() -> None:
    body = packed(matrix(np.array([ROW])))
    for wrong in (body[:-1], body + b"x", packed(matrix(np.array([ROW])), size=232)):
        assert rejected(wrong).reason is RejectedReason.BAD_TENSOR


def test_texts_that_end_too_soon_or_are_not_utf_8_are_rejected() -> None:
    for data in (b"\x05\x00\x00\x00ab", b"\x05\x00", b"\x01\x00\x00\x00\xff"):
        body = packed(matrix(np.array([ROW])), tensor(data, [1], "id", "BYTES"))
        assert rejected(body).reason is RejectedReason.BAD_TENSOR


def test_a_tensor_of_another_width_or_without_a_column_is_rejected() -> None:
    assert rejected(v2(tensor(ROW[:29], [1, 29]))).reason is RejectedReason.WRONG_WIDTH
    assert rejected(v2(*columns(np.array([ROW]))[1:])).reason is RejectedReason.MISSING_INPUT
    extra = tensor([1.0], [1], "Class")
    assert rejected(v2(*columns(np.array([ROW])), extra)).reason is RejectedReason.UNKNOWN_INPUT


@pytest.mark.parametrize("instance", [b"1", b"[]", b"null", b"{}"])
def test_a_million_unsound_rows_are_not_explained_one_by_one(instance: bytes) -> None:
    event = rejected(b'{"instances":[%s]}' % b",".join([instance] * 1_000_000))
    assert event.rows == 1_000_000
    assert event.detail.startswith("row 0")


# Whatever comes


def check(given_headers: Mapping[str, str], body: bytes) -> None:
    event: Event = read(given_headers, body, "fraud")
    assert isinstance(event, LoggedRequest | LoggedResponse | Ignored | Rejected)
    if isinstance(event, Rejected):
        assert event.detail.isprintable()
        assert len(event.detail) < 1_000
        assert event.rows >= 1
    if isinstance(event, LoggedRequest):
        assert event.rows.shape[1] == 30
        assert np.isfinite(event.rows).all()
        assert event.row_ids is None or len(event.row_ids) == len(event.rows)
    if isinstance(event, LoggedResponse):
        assert len(event.probabilities) == len(event.alerts) == len(event.row_ids)


GOOD = [
    *in_every_protocol(transactions(2)).values(),
    packed(matrix(transactions(2)), ids("é", "b")),
    orjson.dumps({"instances": [NAMED | {"id": "a"}, ROW]}),
    ANSWER,
    orjson.dumps(_outputs()),
    ERROR,
    structured(data={"instances": [ROW]}),
    structured(RESPONSE, data=json.loads(ANSWER)),
]
KINDS = st.sampled_from([REQUEST, RESPONSE])
SCRAPS = st.sampled_from(
    [
        b"null",
        b"NaN",
        b"1e999",
        b"9" * 5_000,
        b"-",
        b'"',
        b"{",
        b"[",
        b"]",
        b"}",
        b'"id":1,',
        b"\xff",
        b'"\\ud800"',
        b"",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body)))
        scrap = draw(SCRAPS | st.binary(max_size=4))
        body = body[:place] + scrap + body[place + draw(st.integers(0, 12)) :]
    return body


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["instances", "inputs", "outputs", "predictions", "data", "shape", "name", "id", *INPUTS[:2]]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["instances", "inputs", "outputs", "predictions", "model_version"]), JSON_VALUES, min_size=1
)


@given(KINDS, st.binary(max_size=300), st.sampled_from([b"", b"{", b'{"inputs":[', b"\x1f\x8b\x08", b"x\x9c"]))
def test_any_bytes_give_a_result(kind: str, body: bytes, start: bytes) -> None:
    check(headers(kind), start + body)
    check(CLOUD_EVENT, start + body)


@given(KINDS, mutated())
def test_bodies_with_mistakes_give_a_result(kind: str, body: bytes) -> None:
    check(headers(kind), body)
    check(CLOUD_EVENT, body)


@given(KINDS, MEMBERS)
def test_any_json_gives_a_result(kind: str, members: dict[str, Any]) -> None:
    body = json.dumps(members).encode()
    check(headers(kind), body)
    check(CLOUD_EVENT, b'{"type":"%s","id":"a","time":"%s","data":%s}' % (kind.encode(), TIME.encode(), body))


@given(st.sampled_from(GOOD), st.data())
def test_any_part_of_a_gzip_gives_a_result(body: bytes, data: st.DataObject) -> None:
    packed_body = gzip.compress(body)
    place = data.draw(st.integers(0, len(packed_body)))
    check(headers(), packed_body[:place])
    check(headers(), packed_body[:place] + data.draw(st.binary(max_size=3)) + packed_body[place + 1 :])


@given(
    st.dictionaries(st.sampled_from(sorted(headers())), st.text(max_size=40) | st.sampled_from([REQUEST, TIME])),
    st.sampled_from(GOOD),
)
def test_any_headers_give_a_result(given_headers: dict[str, str], body: bytes) -> None:
    check(given_headers, body)
    check(headers() | given_headers, body)
