"""Twenty thousand made requests: none is a server's error, and what is scored has a probability for each row.

They are made in this process and handed to the app and the service as their servers would. Each example of
hypothesis is a change, which is made to all sound requests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import grpc
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from predictors import (
    BINARY,
    CONTENTS,
    EXPLAIN,
    INFER,
    JSON,
    LENGTH,
    NAMED,
    PREDICT,
    ROW,
    TWO,
    Outputs,
    Reply,
    ask,
    binary,
    columns,
    grpc_ask,
    ids,
    in_process,
    infer_message,
    matrix,
    read_message,
    read_v1,
    read_v2,
    tensor,
    transactions,
    v1_requests,
    v2,
    v2_requests,
)

from fraudkit import logs
from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS
from fraudkit.scoring import ALERTS
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor
from serving.predictor.documents import SHORT
from serving.predictor.grpc_service import GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.request import OUTPUTS
from serving.predictor.work import INLINE_BYTES, LargeWork

pytestmark = pytest.mark.slow

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
MANY = transactions(33, seed=3)
IDS = ids("a", "b")
V1_SOUND = [
    *v1_requests(TWO).values(),
    {"instances": [ROW]},
    {"instances": [ROW], "id": "a"},
    {"instances": [NAMED | {"id": "a"}, ROW], "id": "b"},
    {"instances": [ROW], "parameters": {"x": [1, "[:]"]}},
    {"instances": MANY.tolist()},
]
V2_SOUND = [
    *v2_requests(TWO).values(),
    v2(tensor(ROW)),
    v2(tensor(ROW, datatype="FP32"), id="b"),
    v2(tensor([1] * 30, datatype="UINT8"), ids("a"), outputs=[{"name": "id"}, {"name": "reasons"}]),
    v2(IDS, matrix(TWO), id="c", parameters={"binary_data_output": True}),
    v2(matrix(MANY)),
]
DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    *((PREDICT, document) for document in V1_SOUND),
    *((EXPLAIN, document) for document in [*V1_SOUND[:3], {"instances": [list(range(30))]}]),
    *((INFER, document) for document in V2_SOUND),
]
BINARIES = [
    binary(matrix(TWO)),
    binary(tensor(ROW), parameters={"binary_data_output": True}),
    binary(tensor(ROW, datatype="FP32"), parameters={"binary_data_output": True}),
    binary(*columns(TWO)),
    binary(IDS, matrix(TWO), id="d"),
    binary(matrix(TWO, "FP32"), parameters={"binary_data_output": True}),
    binary(tensor([[1] * 30] * 2, [2, 30], datatype="INT8"), IDS | {"json": True}, outputs=[{"name": "label"}]),
]
MESSAGES = [
    infer_message(matrix(TWO)),
    infer_message(matrix(TWO), raw=True),
    infer_message(tensor(ROW)),
    infer_message(tensor(ROW), raw=True),
    infer_message(*columns(TWO)),
    infer_message(*columns(TWO, "FP32"), raw=True),
    infer_message(IDS, matrix(TWO), outputs=["reasons", "id"], id="e"),
    infer_message(IDS, tensor([[1] * 30] * 2, [2, 30], datatype="INT8"), raw=True),
]
TEXTS = [*INPUTS[:3], *OUTPUTS, "FP64", "FP32", "INT8", "UINT64", "BYTES", "x", "", "[", ":", "\ud800", "é\0"]
NAMES = ["id", "name", "data", "shape", "datatype", "parameters", "instances", "inputs", "outputs", "V1", "x"]
NUMBERS = st.sampled_from([0, 1, -1, 2, 30, 127, 128, 2**31, 2**53 + 1, 2**63, 2**64, 10**12, 10**400, 0.5, -0.0])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.integers()
    | st.floats()
    | st.sampled_from(TEXTS)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


class Edit(NamedTuple):
    """A change of a document: at each step from the root, which member; then what happens there."""

    steps: list[int]
    what: str
    value: Any


PLACES = st.lists(st.integers(0, 60), min_size=2, max_size=5) | st.lists(st.integers(0, 4), min_size=1, max_size=5)
KINDS_OF_EDIT = ["replace", "replace", "remove", "repeat", "wrap", "add"]
EDITS = st.lists(st.builds(Edit, PLACES, st.sampled_from(KINDS_OF_EDIT), NUMBERS | VALUES), min_size=1, max_size=2)
EDITS |= st.builds(lambda value: [Edit([0], "add", value)], VALUES)
"""In the last case only a member is added that nobody looks at."""


class Splice(NamedTuple):
    """A change of bytes: at which share of them, what is put there, and how many are dropped (None: as many)."""

    place: float
    put: bytes
    dropped: int | None


TOKENS = [b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"[", b"]", b"{", b"}", b",", b":", b'"', b"9" * 30]
TOKENS += [
    b"\\u0056",
    b"\xff",
    b"\0",
    b'"V1":1,',
    b'"id":"a",',
    b"\xed\xa0\x80",
    b"-",
    b"1.",
    b" ",
    b"1",
    b"0",
    b"e5",
]
SPLICES = st.lists(
    st.builds(
        Splice,
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(TOKENS) | st.binary(max_size=8),
        st.sampled_from([None, None, None, 0, 0, 1, 2, 8, 100]),
    ),
    min_size=1,
    max_size=3,
)


def edited(document: dict[str, Any], edits: list[Edit]) -> bytes:
    """The document as JSON, after changes that are made wherever their steps end."""
    changed = json.loads(json.dumps(document))
    for edit in edits:
        inner, places = changed, []
        for step in edit.steps:
            if isinstance(inner, dict | list) and inner:
                at = list(inner)[step % len(inner)] if isinstance(inner, dict) else step % len(inner)
                places.append((inner, at))
                inner = inner[at]
        if places:
            change(*places[-1], edit)
    return json.dumps(changed).encode()


def change(place: Any, at: Any, edit: Edit) -> None:
    value = deepcopy(edit.value)
    if edit.what == "remove":
        del place[at]
    elif edit.what == "wrap":
        place[at] = [place[at]]
    elif edit.what == "replace":
        place[at] = value
    elif isinstance(place, dict):
        place["x"] = value
    else:
        place.append(value if edit.what == "add" else deepcopy(place[at]))


def spliced(content: bytes, splices: list[Splice]) -> bytes:
    for splice in splices:
        place = int(splice.place * (len(content) + 1))
        dropped = len(splice.put) if splice.dropped is None else splice.dropped
        content = content[:place] + splice.put + content[place + dropped :]
    return content


class Target:
    """The predictor in this process, over HTTP and gRPC."""

    def __init__(self, bundle: Bundle, runner: asyncio.Runner) -> None:
        model = FraudModel(bundle.path, Metrics())
        self.app: Predictor = in_process(model)
        self.service = GrpcService(model, ServingSettings(), Metrics(), LargeWork())
        self.runner = runner

    def post(self, path: str, body: bytes, headers: dict[str, str] = JSON, *, whole: bool = True) -> Reply:
        return self.runner.run(ask(self.app, path, body, headers, whole=whole))

    def call(self, content: bytes) -> tuple[grpc.StatusCode, bytes]:
        return self.runner.run(grpc_ask(self.service, content))


@pytest.fixture(scope="module")
def target(bundle: Bundle) -> Iterator[Target]:
    before = structlog.get_config()
    logs.configure("json")  # a failure is found by many examples, and drawing each with its locals takes minutes
    with asyncio.Runner() as runner:
        yield Target(bundle, runner)
    structlog.configure(**before)


def check(reply: Reply, path: str, body: bytes) -> Outputs:
    """The outputs of an answer that is sound, none where it is a refusal; anything else is a failure."""
    if reply.status != 200:
        assert reply.status in (400, 413), (body, reply)
        assert reply.json().keys() == {"error"}
        assert len(reply.content) < 2_000
        return {}
    outputs = read_v2(reply.content, reply.headers) if path == INFER else read_v1(reply.json())
    check_outputs(outputs)
    check_count(outputs, path, body)
    return outputs


def check_outputs(outputs: Outputs) -> None:
    assert len({len(values) for values in outputs.values()}) == 1
    assert all(0.0 <= probability <= 1.0 for probability in outputs.get("probability", ()))
    assert set(outputs.get("alert", ())) <= set(ALERTS)
    assert len(set(outputs.get("id", ()))) == len(outputs.get("id", ()))


def check_count(outputs: Outputs, path: str, body: bytes) -> None:
    """Raise unless there is an output for each row that a JSON body has."""
    document = json.loads(body)
    if path == INFER:
        count = next(given["shape"][0] for given in document["inputs"] if given["name"] != "id")
    else:
        count = len(document["instances"])
    assert {len(values) for values in outputs.values()} == {count}, body


def fuzz(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz(450)
@given(edits=EDITS)
def test_no_change_of_a_json_request_gives_a_server_error(target: Target, edits: list[Edit]) -> None:
    for path, document in DOCUMENTS:
        body = edited(document, edits)
        check(target.post(path, body), path, body)


@fuzz(200)
@given(splices=SPLICES)
def test_no_change_of_a_json_requests_bytes_gives_a_server_error(target: Target, splices: list[Splice]) -> None:
    for path, document in DOCUMENTS:
        body = spliced(json.dumps(document).encode(), splices)
        check(target.post(path, body), path, body)


@fuzz(400)
@given(document=VALUES | st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_json_gives_a_server_error(target: Target, document: Any) -> None:
    for path in (PREDICT, INFER):
        body = json.dumps(document).encode()
        check(target.post(path, body), path, body)


@fuzz(400)
@given(body=st.binary(max_size=200))
def test_no_bytes_give_a_server_error(target: Target, body: bytes) -> None:
    for path in (PREDICT, INFER):
        check(target.post(path, body), path, body)
    half = len(body) // 2
    check(target.post(INFER, body, BINARY | {LENGTH: str(half)}), INFER, body[:half])
    check_call(target, body)


@fuzz(500)
@given(splices=SPLICES, shift=st.sampled_from([0, 0, 0, 1, -1, 8]))
def test_no_change_of_a_request_with_bytes_gives_a_server_error(
    target: Target, splices: list[Splice], shift: int
) -> None:
    """Anywhere; in the bytes alone; and in both parts, with a header that mostly says where the JSON ends."""
    for body, headers in BINARIES:
        size = int(headers[LENGTH])
        check(target.post(INFER, spliced(body, splices), headers), INFER, spliced(body, splices)[:size])
        tail = spliced(body[size:], splices)
        whole = target.post(INFER, body[:size] + tail, headers)
        check(whole, INFER, body[:size])
        assert target.post(INFER, body[:size] + tail, headers, whole=False).status == whole.status
        head = spliced(body[:size], splices[1:])
        moved = max(0, len(head) + shift)
        check(target.post(INFER, head + tail, headers | {LENGTH: str(moved)}), INFER, (head + tail)[:moved])


def check_call(target: Target, content: bytes) -> None:
    """Raise unless a message is refused, or has an output for each row."""
    code, answer = target.call(content)
    if code is not grpc.StatusCode.OK:
        assert code in (INVALID, NOT_FOUND, EXHAUSTED), (content, answer)
        assert 0 < len(answer) < 2_000
        return
    outputs = read_message(pb.ModelInferResponse.FromString(answer))
    check_outputs(outputs)
    asked = pb.ModelInferRequest.FromString(content)
    count = next(given.shape[0] for given in asked.inputs if given.name != "id")
    assert {len(values) for values in outputs.values()} == {count}, content


@fuzz(350)
@given(splices=SPLICES)
def test_no_change_of_a_messages_bytes_gives_an_internal_error(target: Target, splices: list[Splice]) -> None:
    for message in MESSAGES:
        check_call(target, spliced(message.SerializeToString(), splices))


SIZES = st.sampled_from([-1, 0, 1, 2, 30, 31, 60, 2**31, 2**62])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(0, 127) | st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(0, 1_000) | st.integers(-(2**63), 2**63 - 1),
    "uint": st.integers(0, 127) | st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 1_000) | st.integers(0, 2**64 - 1),
    "fp32": st.floats(0, 2**30, width=32) | st.floats(width=32),
    "fp64": st.floats(0, 1e12) | st.floats(),
    "bytes": st.text(max_size=3).map(str.encode) | st.binary(max_size=3),
}
WIDTHS = {"FP64": 8, "FP32": 4, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "UINT64": 8}
KINDS = [*WIDTHS, "FP64", "FP32", "FP16", "BOOL", "BYTES", ""]
TENSORS = [["t"], ["t"], ["id", "t"], ["t", "id"], ["V1"], ["t", "x"], [], ["id"], [""]]


@st.composite
def messages(draw: st.DrawFn) -> Any:
    """A message with tensors of any name, type, shape and contents, most of which fit together."""
    message = pb.ModelInferRequest(model_name="fraud", id=draw(st.sampled_from(["", "", "a", "é", "\0"])))
    count, raw = draw(st.sampled_from([1, 1, 2, 3, 40])), draw(st.booleans())
    for name in draw(st.sampled_from(TENSORS)):
        width = 1 if name in ("id", "V1") else 30
        kind = "BYTES" if name == "id" else draw(st.sampled_from(KINDS))
        shape = draw(
            st.sampled_from([[count, width]] * 5 + [[count]] * (width == 1)) | st.lists(SIZES, max_size=3)
        )
        added = message.inputs.add(name=name, datatype=kind, shape=shape)
        size = draw(st.sampled_from([count * width] * 5 + [0, 1, 59]))
        if raw:
            item = draw(st.binary(min_size=4, max_size=4)) if name == "id" else bytes(WIDTHS.get(kind, 1))
            message.raw_input_contents.append(draw(st.sampled_from([item * size] * 5 + [b"\x7f" * 240])))
        else:
            field = draw(st.sampled_from([CONTENTS.get(kind, "bool")] * 7 + sorted(FIELDS)))
            values = draw(st.lists(FIELDS[field], min_size=min(size, 2), max_size=2))
            getattr(added.contents, f"{field}_contents").extend((values * size)[:size])
    for name in draw(st.lists(st.sampled_from([*OUTPUTS] * 3 + ["x"]), max_size=2)):
        message.outputs.add(name=name)
    return message


@fuzz(1_500)
@given(message=messages())
def test_no_message_gives_an_internal_error(target: Target, message: Any) -> None:
    check_call(target, message.SerializeToString())


@fuzz(300)
@given(edits=EDITS, before=st.booleans(), size=st.sampled_from([SHORT, SHORT, SHORT, INLINE_BYTES]))
def test_a_long_body_is_read_like_a_short_one(target: Target, edits: list[Edit], before: bool, size: int) -> None:
    for path, document in DOCUMENTS:
        agree(target, path, edited(document, edits), b" " * size, before=before)


@fuzz(150)
@given(splices=SPLICES, before=st.booleans())
def test_a_long_body_with_changed_bytes_is_read_like_a_short_one(
    target: Target, splices: list[Splice], before: bool
) -> None:
    for path, document in DOCUMENTS:
        agree(target, path, spliced(json.dumps(document).encode(), splices), b"\n" * SHORT, before=before)


def agree(target: Target, path: str, body: bytes, padding: bytes, *, before: bool) -> None:
    """Raise unless a body comes to the same as a whole, in pieces, and before or after white space."""
    replies = [target.post(path, body), target.post(path, body, whole=False)]
    replies.append(target.post(path, padding + body if before else body + padding))
    assert len({reply.status for reply in replies}) == 1, (body, [reply.content for reply in replies])
    one, *others = [check(reply, path, body) for reply in replies]
    for other in others:
        assert one.keys() == other.keys()
        for name in one.keys() - {"id", "probability"}:
            assert one[name] == other[name]
        assert one.get("probability", []) == pytest.approx(other.get("probability", []), rel=1e-12)
