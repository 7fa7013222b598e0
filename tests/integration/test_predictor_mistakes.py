"""What a client can do wrong, in every protocol: each is a 4xx that says where, and nothing is scored."""

from __future__ import annotations

import gzip
import json
import math
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import orjson
import pytest
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
    TWO,
    Server,
    Tensor,
    binary,
    call,
    columns,
    counts,
    grpc_call,
    grpc_refusal,
    ids,
    in_process,
    infer_message,
    matrix,
    moved,
    packed,
    tensor,
    v2,
)

from fraudkit.bundle import Bundle
from fraudkit.schema import INPUTS
from fraudkit.settings import ServingSettings
from serving.predictor.app import Predictor
from serving.predictor.grpc_service import GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.work import LargeWork

ROWS = 10_000
PLACE = 9_000
"""The row with the mistake in a large request."""


@pytest.fixture(autouse=True)
def _nothing_is_scored(client: httpx.Client) -> Iterator[None]:
    before = counts(client)
    yield
    found = moved(before, counts(client))
    assert {name.partition("{")[0] for name in found} <= {"fraud_requests_total"}
    assert not [name for name in found if 'code="5' in name or 'code="200"' in name or "INTERNAL" in name]


class Mistake(NamedTuple):
    body: Any
    message: str
    status: int = 400


def content_of(mistake: Mistake) -> bytes:
    return mistake.body if isinstance(mistake.body, bytes) else json.dumps(mistake.body).encode()


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Predictor:
    return in_process(FraudModel(bundle.path, Metrics()))


def check(response: httpx.Response, message: str, status: int = 400) -> None:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]
    assert len(response.text) < 1_000


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in NAMED.items() if name not in names}


def changed(position: int, value: Any) -> list[Any]:
    row: list[Any] = [*ROW]
    row[position] = value
    return row


def raw_row(position: int, text: str) -> bytes:
    values = [repr(value) for value in ROW]
    values[position] = text
    return f'{{"instances": [[{", ".join(values)}]]}}'.encode()


def twice(document: Any, name: str, more: str) -> bytes:
    """`document` with another value for `name`, before the one that it has."""
    return json.dumps(document).replace(f'"{name}":', f'"{name}": {more}, "{name}":', 1).encode()


V1: dict[str, Mistake] = {
    "an empty body": Mistake(b"", "the body is not JSON"),
    "a cut-off body": Mistake(b'{"instances": [[1, 2', "the body is not JSON"),
    "invalid UTF-8": Mistake(b'{"id": "\xff"}', "the body is not JSON"),
    "UTF-16": Mistake(json.dumps({"instances": [ROW]}).encode("utf-16"), "the body is not JSON"),
    "half of a surrogate pair": Mistake(rb'{"id": "\ud800", "instances": []}', "instances: has no rows"),
    "a comma too many": Mistake(raw_row(1, "1")[:-3] + b",]]}", "the body is not JSON"),
    "a comment": Mistake(raw_row(1, "1 /* one */"), "the body is not JSON"),
    "two documents": Mistake(raw_row(1, "1") * 2, "the body is not JSON"),
    "single quotes": Mistake(b"{'instances': []}", "the body is not JSON"),
    "NaN": Mistake(raw_row(3, "NaN"), "row 0, V3: nan is not a finite number"),
    "Infinity": Mistake(raw_row(3, "-Infinity"), "row 0, V3: -inf is not a finite number"),
    "a number beyond double": Mistake(raw_row(3, "1e999"), "row 0, V3: inf is not a finite number"),
    "a number with a leading zero": Mistake(raw_row(3, "01"), "the body is not JSON"),
    "hexadecimal": Mistake(raw_row(3, "0x10"), "the body is not JSON"),
    "a list as body": Mistake([ROW], "the body must be a JSON object"),
    "null as body": Mistake(b"null", "the body must be a JSON object"),
    "a number as body": Mistake(b"7", "the body must be a JSON object"),
    "a text as body": Mistake(b'"instances"', "the body must be a JSON object"),
    "no instances": Mistake({"rows": [ROW]}, "instances: is missing"),
    "an empty object": Mistake({}, "instances: is missing"),
    "instances not a list": Mistake({"instances": NAMED}, "instances: must be a list of transactions"),
    "instances null": Mistake({"instances": None}, "instances: must be a list of transactions"),
    "a V2 request": Mistake(v2(tensor(ROW)), "instances: is missing"),
    "no rows": Mistake({"instances": []}, "instances: has no rows"),
    "a row without values": Mistake({"instances": [ROW, []]}, "row 1: has 0 values, must have 30"),
    "rows without values": Mistake({"instances": [[], []]}, "row 0: has 0 values, must have 30"),
    "a row too short": Mistake({"instances": [ROW, ROW[1:]]}, "row 1: has 29 values, must have 30"),
    "a row too long": Mistake({"instances": [[*ROW, 1]]}, "row 0: has 31 values, must have 30"),
    "rows too long": Mistake({"instances": [[*ROW, 1]] * 40}, "row 0: has 31 values, must have 30"),
    "numbers as rows": Mistake({"instances": ROW * 2}, "must be a list of 30 numbers"),
    "a number as row": Mistake({"instances": [ROW, 5]}, "row 1: 5 must be a list of 30 numbers"),
    "a text as row": Mistake({"instances": ["x" * 30]}, "must be a list of 30 numbers"),
    "null as row": Mistake({"instances": [None]}, "row 0: None must be a list of 30 numbers"),
    "a row in a list of its own": Mistake({"instances": [[ROW]]}, "row 0: has 1 values, must have 30"),
    "null": Mistake({"instances": [ROW, changed(5, None)]}, "row 1, V5: is null"),
    "true": Mistake({"instances": [changed(5, True)]}, "row 0, V5: True is not a number"),
    "a number as text": Mistake({"instances": [changed(29, "12.5")]}, "row 0, Amount: '12.5' is not a number"),
    "a list as value": Mistake({"instances": [changed(1, [1])]}, "row 0, V1: [1] is not a number"),
    "lists as values": Mistake({"instances": [[[1]] * 30] * 2}, "row 0, Time: [1] is not a number"),
    "an object as value": Mistake({"instances": [changed(1, {"V1": 1})]}, "row 0, V1: {'V1': 1} is not a number"),
    "a deep value": Mistake(raw_row(2, "[" * 200 + "]" * 200), "row 0, V2: "),
    "too deep a value": Mistake(raw_row(2, "[" * 2_000 + "]" * 2_000), "nested too deeply"),
    "an endless value": Mistake(raw_row(2, "[" * 100_000), "more than 100,000 lists"),
    "a huge integer": Mistake(raw_row(4, "9" * 300), "row 0, V4: 1e+300 is beyond the limit"),
    "an integer beyond double": Mistake(raw_row(4, "9" * 400), "row 0, V4: inf is not a finite number"),
    "a large number": Mistake({"instances": [changed(4, -1e13)]}, "row 0, V4: -1e+13 is beyond the limit"),
    "a negative Amount": Mistake({"instances": [changed(29, -0.01)]}, "row 0, Amount: -0.01 is negative"),
    "a negative Time": Mistake({"instances": [ROW, changed(0, -1)]}, "row 1, Time: -1 is negative"),
    "two mistakes": Mistake({"instances": [changed(1, None), changed(2, "x")]}, "V1: is null; row 1, V2: 'x' is"),
    "thirty mistakes": Mistake({"instances": [[None] * 30]}, "row 0, V2: is null (and 27 more)"),
    "a name missing": Mistake({"instances": [NAMED, without("V7")]}, "row 1, V7: is missing"),
    "all names missing": Mistake({"instances": [{}]}, "row 0, Time: is missing"),
    "a name unknown": Mistake({"instances": [NAMED | {"V29": 1}]}, "row 0, 'V29': is not an input"),
    "the label": Mistake({"instances": [NAMED | {"Class": 1}]}, "row 0, 'Class': is not an input"),
    "another case": Mistake({"instances": [without("Amount") | {"amount": 1}]}, "row 0, Amount: is missing"),
    "null by name": Mistake({"instances": [NAMED | {"V7": None}]}, "row 0, V7: is null"),
    "NaN by name": Mistake({"instances": [NAMED | {"V7": math.nan}]}, "row 0, V7: nan is not a finite number"),
    "a name twice": Mistake(twice({"instances": [NAMED]}, "V7", "9"), "row 0, V7: given more than once"),
    "a name twice, once escaped": Mistake(
        twice({"instances": [NAMED]}, "V7", "9").replace(b'"V7"', rb'"\u00567"', 1),
        "row 0, V7: given more than once",
    ),
    "an id twice in one row": Mistake(twice({"instances": [NAMED | {"id": "a"}]}, "id", '"b"'), "row 0, id: "),
    "instances twice": Mistake(raw_row(1, "1")[:-1] + b', "instances": []}', "instances: "),
    "a request id twice": Mistake(twice({"id": "a", "instances": [ROW]}, "id", '"b"'), "id: "),
    "a name twice where nobody looks": Mistake(
        twice({"instances": [ROW], "x": {"a": [{"b": 1}]}}, "b", "2"), "b: is given more than once in one object"
    ),
    "an id that is a number": Mistake({"instances": [ROW, NAMED | {"id": 7}]}, "row 1, id: must be a text"),
    "an id that is null": Mistake({"instances": [NAMED | {"id": None}]}, "row 0, id: must be a text"),
    "an empty id": Mistake({"instances": [NAMED | {"id": ""}]}, "row 0, id: has 0 characters"),
    "too long an id": Mistake({"instances": [NAMED | {"id": "x" * 257}]}, "row 0, id: has 257 characters"),
    "an id with a NUL": Mistake({"instances": [NAMED | {"id": "a\0"}]}, "row 0, id: has characters that"),
    "an id with a line end": Mistake({"instances": [NAMED | {"id": "a\n"}]}, "row 0, id: has characters that"),
    "an id twice": Mistake({"instances": [NAMED | {"id": "a"}] * 2}, "row 1, id: is that of row 0 too"),
    "an id like a given one": Mistake(
        {"id": "a", "instances": [NAMED | {"id": "a-1"}, ROW]}, "row 1, id: is that of row 0 too"
    ),
    "a request id that is a number": Mistake({"id": 7, "instances": [ROW]}, "id: must be a text"),
    "a request id that is zero": Mistake({"id": 0, "instances": [ROW]}, "id: must be a text"),
    "a request id that is false": Mistake({"id": False, "instances": [ROW]}, "id: must be a text"),
    "a request id that is a list": Mistake({"id": ["x"], "instances": [ROW]}, "id: must be a text"),
    "a request id that is an empty list": Mistake({"id": [], "instances": [ROW]}, "id: must be a text"),
    "a request id that is an empty object": Mistake({"id": {}, "instances": [ROW]}, "id: must be a text"),
    "too long a request id": Mistake({"id": "x" * 257, "instances": [ROW]}, "id: has 257 characters"),
    "a request id with a tab": Mistake({"id": "a\tb", "instances": [ROW]}, "id: has characters that"),
    "too many rows": Mistake({"instances": [[0]] * 10_001}, "instances: has 10,001 rows, at most 10,000", 413),
    "too many numbers": Mistake({"instances": [0] * 10_001}, "instances: has 10,001 rows, at most 10,000", 413),
}
SHM = {"shared_memory_region": "r", "shared_memory_byte_size": 240}
V2: dict[str, Mistake] = {
    "an empty body": Mistake(b"", "the body is not JSON"),
    "NaN": Mistake(v2(tensor(changed(4, math.nan))), "row 0, V4: nan is not a finite number"),
    "Infinity in a row of two": Mistake(
        v2(matrix(np.array([ROW, changed(4, math.inf)]))), "row 1, V4: inf is not"
    ),
    "a number beyond double": Mistake(
        json.dumps(v2(tensor(ROW))).replace("12.5", "1e999").encode(), "row 0, Amount: inf is not a finite number"
    ),
    "no inputs": Mistake({"id": "x"}, "inputs: Field required"),
    "inputs empty": Mistake(v2(), "inputs: List should have at least 1 item"),
    "inputs null": Mistake({"inputs": None}, "inputs: Input should be a valid list"),
    "an input that is no object": Mistake({"inputs": [ROW]}, "inputs"),
    "inputs that are numbers": Mistake({"inputs": ROW * 2}, "inputs"),
    "too many inputs": Mistake(
        v2(*[tensor(ROW, name=f"t{i}") for i in range(32)]), "inputs: List should have at most"
    ),
    "a V1 request": Mistake({"instances": [ROW]}, "inputs: Field required"),
    "no name": Mistake(v2({"shape": [1, 30], "datatype": "FP64", "data": ROW}), "inputs.0.name: Field required"),
    "an empty name": Mistake(v2(tensor(ROW, name="")), "inputs.0.name: String should have at least 1"),
    "too long a name": Mistake(v2(tensor(ROW, name="x" * 257)), "inputs.0.name: String should have at most 256"),
    "a name that is a number": Mistake(v2(tensor(ROW, name=7)), "inputs.0.name: Input should be a valid string"),
    "no shape": Mistake(v2({"name": "x", "datatype": "FP64", "data": ROW}), "inputs.0.shape: Field required"),
    "no datatype": Mistake(v2({"name": "x", "shape": [1, 30], "data": ROW}), "inputs.0.datatype: Field required"),
    "no data": Mistake(v2({"name": "x", "shape": [1, 30], "datatype": "FP64"}), "x: its data must be a list"),
    "data null": Mistake(v2(tensor(None)), "transactions: its data must be a list"),
    "data that are an object": Mistake(v2(tensor(NAMED)), "transactions: its data must be a list"),
    "data that are a text": Mistake(v2(tensor("0" * 30)), "transactions: its data must be a list"),
    "a shape of three": Mistake(v2(tensor(ROW, [1, 1, 30])), "inputs.0.shape: List should have at most 2"),
    "no dimensions": Mistake(
        v2({"name": "x", "shape": [], "datatype": "FP64", "data": ROW}),
        "inputs.0.shape: List should have at least 1",
    ),
    "a shape of texts": Mistake(v2(tensor(ROW, ["1", "30"])), "inputs.0.shape.0: Input should be a valid integer"),
    "a shape of booleans": Mistake(v2(tensor(ROW, [True, 30])), "inputs.0.shape.0: Input should be a valid int"),
    "a shape of fractions": Mistake(v2(tensor(ROW, [1.5, 30])), "inputs.0.shape.0: Input should be a valid int"),
    "a shape that is a number": Mistake(v2(tensor(ROW, 30)), "inputs.0.shape: Input should be a valid list"),
    "a shape of forty": Mistake(v2(tensor(ROW, [1] * 40)), "inputs.0.shape: "),
    "a shape of one": Mistake(v2(tensor(ROW, [30])), "transactions: has shape [30], must be [n, 30]"),
    "a narrow shape": Mistake(v2(tensor(ROW[1:], [1, 29])), "transactions: has shape [1, 29], must be [n, 30]"),
    "a turned shape": Mistake(v2(tensor(ROW, [30, 1])), "transactions: has shape [30, 1], must be [n, 30]"),
    "a negative shape": Mistake(v2(tensor(ROW, [-1, 30])), "transactions: has no rows"),
    "no rows": Mistake(v2(tensor([], [0, 30])), "transactions: has no rows"),
    "fewer data than the shape": Mistake(v2(tensor(ROW, [2, 30])), "has 30 values, its shape says 60"),
    "more data than the shape": Mistake(v2(tensor(ROW * 2)), "has 60 values, its shape says 30"),
    "no data at all": Mistake(v2(tensor([])), "has 0 values, its shape says 30"),
    "fewer rows than the shape": Mistake(v2(tensor([ROW], [2, 30])), "has 30 values, its shape says 60"),
    "a ragged tensor": Mistake(v2(tensor([ROW, ROW[1:]], [2, 30])), "row 1, transactions: must be a list of 30"),
    "a wide tensor": Mistake(v2(tensor([[*ROW, 1]] * 2, [2, 30])), "row 0, transactions: must be a list of 30"),
    "a turned tensor": Mistake(v2(tensor([[x] for x in ROW])), "row 0, transactions: must be a list of 30"),
    "an object among lists": Mistake(v2(tensor([ROW, NAMED], [2, 30])), "row 1, transactions: must be a list of"),
    "objects": Mistake(v2(tensor([NAMED], [1, 30])), "has 1 values, its shape says 30"),
    "too deep a tensor": Mistake(v2(tensor([[ROW]], [1, 30])), "transactions: "),
    "a list in flat data": Mistake(v2(tensor(changed(4, [0.5]))), "row 0, V4: [0.5] is not a number"),
    "a huge shape": Mistake(v2(tensor(ROW, [2**62, 30])), "rows, at most 10,000", 413),
    "an overflowing shape": Mistake(v2(tensor(ROW, [1, 2**63])), "must be [n, 30]"),
    "a shape beyond 64 bits": Mistake(v2(tensor(ROW, [2**64, 30])), "inputs.0.shape.0: Input should be a valid"),
    "too many rows": Mistake(v2(tensor([0], [10_001, 30])), "transactions: has 10,001 rows, at most 10,000", 413),
    "booleans": Mistake(v2(tensor(ROW, datatype="BOOL")), "transactions: has datatype BOOL, must be FP64"),
    "texts": Mistake(v2(tensor(ROW, datatype="BYTES")), "transactions: has datatype BYTES, must be FP64"),
    "half precision": Mistake(v2(tensor(ROW, datatype="FP16")), "transactions: has datatype FP16"),
    "an unknown datatype": Mistake(
        v2(tensor(ROW, datatype="float64")), "transactions: has datatype float64, must"
    ),
    "a datatype that is a number": Mistake(v2(tensor(ROW, datatype=64)), "inputs.0.datatype: Input should be"),
    "null": Mistake(v2(tensor([*ROW, *changed(4, None)], [2, 30])), "row 1, V4: is null"),
    "true": Mistake(v2(tensor(changed(4, True))), "row 0, V4: True is not a number"),
    "a text": Mistake(v2(tensor(changed(4, "1"))), "row 0, V4: '1' is not a number"),
    "a negative Amount": Mistake(v2(tensor([ROW, changed(29, -5)], [2, 30])), "row 1, Amount: -5 is negative"),
    "a fraction in INT32": Mistake(v2(tensor(ROW, datatype="INT32")), "row 0, V1: 0.5 is not INT32"),
    "a number too large for INT8": Mistake(
        v2(tensor([[1] * 30, [1] * 29 + [128]], [2, 30], datatype="INT8")), "row 1, Amount: 128 is not INT8"
    ),
    "a number too small for INT8": Mistake(
        v2(tensor([1, -129, *[1] * 28], datatype="INT8")), "row 0, V1: -129 is not INT8"
    ),
    "a negative number in UINT64": Mistake(
        v2(tensor([*[1, -1] * 14, 1, 1], datatype="UINT64")), "row 0, V1: -1 is not UINT64"
    ),
    "a boolean in INT64": Mistake(v2(tensor([True] * 30, datatype="INT64")), "row 0, Time: True is not a number"),
    "a fraction in a column": Mistake(
        v2(*columns(TWO, V3=tensor([1, 0.5], [2], "V3", "INT16"))), "row 1, V3: 0.5 is not INT16"
    ),
    "a column missing": Mistake(v2(*columns(TWO)[:-1]), "Amount: is missing"),
    "one column alone": Mistake(v2(columns(TWO)[0]), "V1: is missing"),
    "a column unknown": Mistake(v2(*columns(TWO)[:-1], tensor([1, 2], [2], "amount")), "amount: is not an input"),
    "a column too many": Mistake(v2(*columns(TWO, Class=tensor([0, 0], [2], "Class"))), "Class: is not an input"),
    "two tensors": Mistake(v2(tensor(ROW), tensor(ROW, name="more")), "Time: is missing"),
    "a tensor twice": Mistake(v2(tensor(ROW), tensor(ROW)), "two tensors have the same name"),
    "a column of other length": Mistake(
        v2(*columns(TWO, V3=tensor([1], [1], "V3"))), "V3: has shape [1], must be [2] or [2, 1]"
    ),
    "a column with fewer data": Mistake(
        v2(*columns(TWO, V3=tensor([1], [2], "V3"))), "V3: has 1 values, its shape says 2"
    ),
    "a wide column": Mistake(v2(*columns(TWO, V3=tensor(ROW, [2, 15], "V3"))), "V3: has shape [2, 15]"),
    "null in a column": Mistake(v2(*columns(TWO, V3=tensor([1, None], [2], "V3"))), "row 1, V3: is null"),
    "a text in a column of one": Mistake(
        v2(*columns(TWO, V3=tensor([[1], ["x"]], [2, 1], "V3"))), "row 1, V3: 'x' is not a number"
    ),
    "ids alone": Mistake(v2(ids("a")), "Time: is missing"),
    "ids of another type": Mistake(v2(tensor(ROW), tensor([1], [1], "id", "INT64")), "id: has datatype INT64"),
    "an id that is a number": Mistake(
        v2(tensor(ROW), tensor([1], [1], "id", "BYTES")), "row 0, id: must be a text"
    ),
    "ids that are numbers": Mistake(
        v2(matrix(np.array([ROW] * 40)), tensor(list(range(40)), [40], "id", "BYTES")), "row 0, id: must be a text"
    ),
    "an id that is null": Mistake(
        v2(tensor(ROW), tensor([None], [1], "id", "BYTES")), "row 0, id: must be a text"
    ),
    "an empty id": Mistake(v2(tensor(ROW), ids("")), "row 0, id: has 0 characters"),
    "too few ids": Mistake(v2(tensor(ROW), tensor([], [0], "id", "BYTES")), "id: has shape [0], must be [1]"),
    "an id twice": Mistake(v2(matrix(TWO), ids("a", "a")), "row 1, id: is that of row 0 too"),
    "an unknown output": Mistake(v2(tensor(ROW), outputs=[{"name": "proba"}]), "outputs.0.name: Input should be"),
    "an output without a name": Mistake(v2(tensor(ROW), outputs=[{}]), "outputs.0.name: Field required"),
    "an output that is a text": Mistake(v2(tensor(ROW), outputs=["label"]), "outputs.0: Input should be"),
    "outputs that are a text": Mistake(v2(tensor(ROW), outputs="label"), "outputs: Input should be a valid list"),
    "an input in shared memory": Mistake(
        v2({"name": "x", "shape": [1, 30], "datatype": "FP64", "parameters": SHM}),
        "inputs.0.parameters.shared_memory",
    ),
    "an output in shared memory": Mistake(
        v2(tensor(ROW), outputs=[{"name": "label", "parameters": SHM}]),
        "outputs.0.parameters.shared_memory_region",
    ),
    "a classification": Mistake(
        v2(tensor(ROW), outputs=[{"name": "label", "parameters": {"classification": 1}}]),
        "outputs.0.parameters.classification",
    ),
    "a binary output that is a text": Mistake(
        v2(tensor(ROW), outputs=[{"name": "label", "parameters": {"binary_data": "yes"}}]),
        "outputs.0.parameters.binary_data: Input should be a valid boolean",
    ),
    "binary outputs that are a number": Mistake(
        v2(tensor(ROW), parameters={"binary_data_output": 1}),
        "parameters.binary_data_output: Input should be a valid",
    ),
    "parameters that are a list": Mistake(v2(tensor(ROW), parameters=[]), "parameters: Input should be"),
    "bytes that do not follow": Mistake(
        v2({"name": "x", "shape": [1, 30], "datatype": "FP64", "parameters": {"binary_data_size": 240}}),
        "binary_data_size add up to 240, after the JSON are 0 bytes",
    ),
    "data twice": Mistake(twice(v2(tensor(ROW)), "data", "[]"), "data: is given more than once"),
    "a name of a tensor twice": Mistake(
        twice(v2(tensor(ROW)), "name", '"b"'), "inputs.0.name: is given more than once in one object"
    ),
    "inputs twice": Mistake(twice(v2(tensor(ROW)), "inputs", "[]"), "inputs: is given more than once"),
    "a request id that is a list": Mistake(v2(tensor(ROW), id=["x"]), "id: Input should be a valid string"),
    "a request id that is zero": Mistake(v2(tensor(ROW), id=0), "id: Input should be a valid string"),
    "a request id that is an empty list": Mistake(v2(tensor(ROW), id=[]), "id: Input should be a valid string"),
    "a request id that is an empty object": Mistake(v2(tensor(ROW), id={}), "id: Input should be a valid string"),
    "parameters that are a number": Mistake(
        v2(tensor(ROW) | {"parameters": 1}), "inputs.0.parameters: Input should"
    ),
    "parameters that are true": Mistake(v2(tensor(ROW), parameters=True), "parameters: Input should be"),
    "an output's parameters that are a number": Mistake(
        v2(tensor(ROW), outputs=[{"name": "id", "parameters": 1}]), "outputs.0.parameters: Input should be"
    ),
    "no inputs, and parameters that are a number": Mistake(
        {"inputs": None, "outputs": [{"parameters": 1}, {"name": "id"}]}, "inputs: Input should be a valid list"
    ),
    "a request id that cannot be printed": Mistake(v2(tensor(ROW), id="\x7f"), "id: has characters that cannot"),
}
JSON_MISTAKES = [
    pytest.param(path, mistake, id=f"{path[1:3]}, {name}")
    for path, mistakes in ((PREDICT, V1), (INFER, V2))
    for name, mistake in mistakes.items()
]


@pytest.mark.parametrize("padding", [0, 2_048], ids=["as it is", "padded"])
@pytest.mark.parametrize(("path", "mistake"), JSON_MISTAKES)
def test_a_mistake_in_json_is_named_in_a_4xx_also_where_a_body_is_long(
    client: httpx.Client, path: str, mistake: Mistake, padding: int
) -> None:
    response = client.post(path, content=content_of(mistake) + b" " * padding, headers=JSON)
    check(response, mistake.message, mistake.status)


@pytest.mark.parametrize(("path", "mistake"), JSON_MISTAKES)
def test_a_mistake_in_json_is_named_where_the_body_arrives_with_its_head(
    app: Predictor, path: str, mistake: Mistake
) -> None:
    """Over a socket it may or may not, and there is a short path for one row that does."""
    reply = call(app, path, content_of(mistake))
    assert (reply.status, reply.json().keys()) == (mistake.status, {"error"})
    assert mistake.message in reply.json()["error"]


@pytest.mark.parametrize("mistake", V1.values(), ids=V1.keys())
def test_a_mistake_is_the_same_where_reasons_are_wanted(client: httpx.Client, mistake: Mistake) -> None:
    response = client.post(EXPLAIN, content=content_of(mistake), headers=JSON)
    check(response, mistake.message.replace("10,000", "1,000"), mistake.status)


HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n".encode()
NO_HTTP: dict[str, bytes] = {
    "a length that is no number": HEAD + b"Content-Length: abc\r\n\r\n{}",
    "a length below zero": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "an empty length": HEAD + b"Content-Length: \r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks of no length": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "another transfer encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "a header that is no token": HEAD + b"X-\xff: a\r\nContent-Length: 2\r\n\r\n{}",
    "another version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_http_is_refused_and_the_connection_closed(predictor: Server, sent: bytes) -> None:
    with socket.create_connection((predictor.host, predictor.port), 10) as connection:
        connection.sendall(sent)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")


# One mistake in a large request


VALUES: dict[str, tuple[str, str]] = {
    "null": ("null", "is null"),
    "NaN": ("NaN", "nan is not a finite number"),
    "Infinity": ("Infinity", "inf is not a finite number"),
    "minus Infinity": ("-Infinity", "-inf is not a finite number"),
    "a number beyond double": ("1e999", "inf is not a finite number"),
    "an integer beyond double": ("9" * 400, "inf is not a finite number"),
    "an integer beyond 64 bits": ("9" * 30, "1e+30 is beyond the limit of ±1e+12"),
    "a large number": ("-1e13", "-1e+13 is beyond the limit of ±1e+12"),
    "a text": ('"1.5"', "'1.5' is not a number"),
    "a text with a bracket": ('"["', "'[' is not a number"),
    "true": ("true", "True is not a number"),
    "a list": ("[1]", "[1] is not a number"),
    "an empty list": ("[]", ""),
    "an object": ("{}", "{} is not a number"),
    "a negative number": ("-1", "-1 is negative, must be ≥ 0"),
}
TEXTS = [repr(value) for value in ROW]
WHOLE = f"[{','.join(TEXTS)}]"


def with_text(place: int, text: str) -> list[str]:
    return [*TEXTS[:place], text, *TEXTS[place + 1 :]]


def as_lists(row: str) -> bytes:
    """A V1 body of lists, with `row` in its place."""
    rows = [WHOLE] * ROWS
    rows[PLACE] = row
    return f'{{"instances":[{",".join(rows)}]}}'.encode()


def as_tensor(data: str) -> bytes:
    return f'{{"inputs":[{{"name":"x","shape":[{ROWS},30],"datatype":"FP64","data":{data}}}]}}'.encode()


def as_matrix(row: str) -> bytes:
    """A V2 body of one list per row, with `row` in its place."""
    rows = [WHOLE] * ROWS
    rows[PLACE] = row
    return as_tensor(f"[{','.join(rows)}]")


def by_name(place: int, text: str) -> str:
    members = zip(INPUTS, with_text(place, text), strict=True)
    return "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"


def of_lists(place: int, text: str) -> bytes:
    return as_lists(f"[{','.join(with_text(place, text))}]")


def of_objects(place: int, text: str) -> bytes:
    rows = [by_name(0, TEXTS[0])] * ROWS
    rows[PLACE] = by_name(place, text)
    return f'{{"instances":[{",".join(rows)}]}}'.encode()


def of_an_object_among_lists(place: int, text: str) -> bytes:
    return as_lists(by_name(place, text))


def of_a_matrix(place: int, text: str) -> bytes:
    return as_matrix(f"[{','.join(with_text(place, text))}]")


def of_flat_data(place: int, text: str) -> bytes:
    flat = TEXTS * ROWS
    flat[30 * PLACE + place] = text
    return as_tensor(f"[{','.join(flat)}]")


def of_columns(place: int, text: str) -> bytes:
    tensors = []
    for i, name in enumerate(INPUTS):
        values = [TEXTS[i]] * ROWS
        if i == place:
            values[PLACE] = text
        tensors.append(f'{{"name":"{name}","shape":[{ROWS}],"datatype":"FP64","data":[{",".join(values)}]}}')
    return f'{{"inputs":[{",".join(tensors)}]}}'.encode()


def of_columns_of_one(place: int, text: str) -> bytes:
    plain, column = of_columns(0, TEXTS[0]), [f"[{TEXTS[place]}]"] * ROWS
    column[PLACE] = f"[{text}]"
    start = plain.index(f'"{INPUTS[place]}"'.encode())
    data = plain.index(b'"data":', start)
    return plain[:data] + f'"data":[{",".join(column)}]'.encode() + plain[plain.index(b"]", data) + 1 :]


LARGE = [
    (PREDICT, of_lists),
    (PREDICT, of_objects),
    (PREDICT, of_an_object_among_lists),
    (INFER, of_a_matrix),
    (INFER, of_flat_data),
    (INFER, of_columns),
    (INFER, of_columns_of_one),
]


@pytest.mark.parametrize(("text", "problem"), VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize(("path", "make"), LARGE, ids=lambda value: getattr(value, "__name__", ""))
def test_one_wrong_value_among_300_000_is_named(
    client: httpx.Client, path: str, make: Callable[[int, str], bytes], text: str, problem: str
) -> None:
    place = 29 if text == "-1" else 5
    response = client.post(path, content=make(place, text), headers=JSON)
    check(response, f"row {PLACE}, {INPUTS[place]}: {problem}")


LISTS: dict[str, tuple[str, str, str]] = {
    "too narrow": (
        f"[{','.join(TEXTS[1:])}]",
        "row 9000: has 29 values, must have 30",
        "must be a list of 30 values",
    ),
    "too wide": (f"[{','.join(TEXTS)},1]", "row 9000: has 31 values, must have 30", "must be a list of 30 values"),
    "empty": ("[]", "row 9000: has 0 values, must have 30", "must be a list of 30 values"),
    "a row in a list": (f"[{WHOLE}]", "row 9000: has 1 values, must have 30", "must be a list of 30 values"),
    "a number": ("7", "row 9000: 7 must be a list of 30 numbers", "must be a list of 30 values"),
    "a text": ('"row"', "row 9000: 'row' must be a list of 30 numbers", "must be a list of 30 values"),
    "null": ("null", "row 9000: None must be a list of 30 numbers", "must be a list of 30 values"),
}


@pytest.mark.parametrize(("row", "v1_message", "v2_message"), LISTS.values(), ids=LISTS.keys())
def test_one_wrong_row_among_10_000_is_named(
    client: httpx.Client, row: str, v1_message: str, v2_message: str
) -> None:
    check(client.post(PREDICT, content=as_lists(row), headers=JSON), v1_message)
    check(client.post(INFER, content=as_matrix(row), headers=JSON), f"row 9000, x: {v2_message}")


OBJECTS: dict[str, tuple[str, str]] = {
    "a name missing": (by_name(0, "1").replace('"V7":0.5,', ""), "row 9000, V7: is missing"),
    "a name unknown": (by_name(0, '1,"V29":1'), "row 9000, 'V29': is not an input"),
    "a name twice": (by_name(7, '0.5,"V7":9'), "row 9000, V7: given more than once"),
    "a name twice, once escaped": (by_name(7, r'0.5,"\u0056\u0037":9'), "row 9000, V7: given more than once"),
    "an id twice in one row": (by_name(7, '0.5,"id":"a","id":"b"'), "row 9000, id: "),
    "an id that is null": (by_name(7, '0.5,"id":null'), "row 9000, id: must be a text"),
    "an id of another row": (by_name(7, '0.5,"id":"r-17"'), "row 9000, id: is that of row 17 too"),
}


@pytest.mark.parametrize(("row", "message"), OBJECTS.values(), ids=OBJECTS.keys())
def test_one_wrong_object_among_10_000_is_named(client: httpx.Client, row: str, message: str) -> None:
    others = by_name(0, TEXTS[0])
    for plain in (WHOLE, others):
        rows = [plain] * ROWS
        rows[PLACE] = row
        content = f'{{"id":"r","instances":[{",".join(rows)}]}}'
        check(client.post(PREDICT, content=content, headers=JSON), message)


@pytest.mark.parametrize("make", [make for _, make in LARGE], ids=lambda make: make.__name__)
def test_a_large_body_that_is_cut_off_or_goes_on_is_not_json(
    client: httpx.Client, make: Callable[[int, str], bytes]
) -> None:
    path, content = next(path for path, other in LARGE if other is make), make(5, "0.5")
    for broken in (
        content[: len(content) * 9 // 10],
        content[:-1],
        content + b"}",
        content.replace(b"]", b",]", 1),
    ):
        check(client.post(path, content=broken, headers=JSON), "the body is not JSON")


@pytest.mark.parametrize("rows", [20_000, 11_000])
def test_too_many_rows_are_counted_before_they_are_looked_at(client: httpx.Client, rows: int) -> None:
    said = f"has {rows:,} rows, at most 10,000 fit in one request"
    many = ",".join([WHOLE] * rows)
    check(client.post(PREDICT, content=f'{{"instances":[{many}]}}', headers=JSON), said, 413)
    document = f'{{"inputs":[{{"name":"x","shape":[{rows},30],"datatype":"FP64","data":[{many}]}}]}}'
    check(client.post(INFER, content=document, headers=JSON), said, 413)
    body, headers = binary(matrix(np.array([ROW] * rows)))
    check(client.post(INFER, content=body, headers=headers), said, 413)


# V2 with bytes


def sized(header: object) -> tuple[bytes, dict[str, str]]:
    """A sound body of which the header says something else."""
    return binary(tensor(ROW), header=header)


def rows_with(position: int, value: float, datatype: str = "FP64") -> Tensor:
    rows = np.array([ROW, ROW] if "FP" in datatype else [[1.0] * 30] * 2)
    rows[1, position] = value
    return tensor(rows, [2, 30], datatype=datatype)


def with_bytes(
    content: bytes, datatype: str = "FP64", shape: Any = None, **members: Any
) -> tuple[bytes, dict[str, str]]:
    return binary(tensor(content, shape, datatype=datatype), **members)


def with_ids(content: bytes, count: int = 2) -> tuple[bytes, dict[str, str]]:
    return binary(tensor(content, [count], "id", "BYTES"), matrix(TWO))


def told(**parameters: Any) -> tuple[bytes, dict[str, str]]:
    """A sound body with other parameters of its tensor."""
    return binary(tensor(ROW) | {"parameters": parameters})


def piece(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(4, "little") + text


NUMBERS = packed(tensor(ROW))
SOUND, OCTETS = binary(tensor(ROW))
COLUMN_BYTES = columns(TWO, V3=tensor(NUMBERS[:8], [2], "V3"))


class Bytes(NamedTuple):
    request: tuple[bytes, dict[str, str]]
    message: str
    status: int = 400


BINARIES: dict[str, Bytes] = {
    "no header of a length": Bytes((SOUND, BINARY), "with Inference-Header-Content-Length", 415),
    "no header of a length, as JSON": Bytes((SOUND, JSON), "the body is not JSON"),
    "a negative length": Bytes(sized(-1), "Inference-Header-Content-Length: must be a whole number"),
    "a length with a sign": Bytes(sized("+10"), "Inference-Header-Content-Length: must be a whole number"),
    "a length that is no number": Bytes(sized("many"), "Inference-Header-Content-Length: must be a whole number"),
    "a length with a fraction": Bytes(sized("1.5"), "Inference-Header-Content-Length: must be a whole number"),
    "an empty length": Bytes(sized(""), "Inference-Header-Content-Length: must be a whole number"),
    "an endless length": Bytes(sized("9" * 5_000), "Inference-Header-Content-Length: must be a whole number"),
    "a length beyond the body": Bytes(sized(100_000), f"is 100,000, the body has {len(SOUND)} bytes"),
    "a length of zero": Bytes(sized(0), "the body is not JSON"),
    "a length too short by one": Bytes(sized(int(OCTETS[LENGTH]) - 1), "the body is not JSON"),
    "a length too long by one": Bytes(sized(int(OCTETS[LENGTH]) + 1), "the body is not JSON"),
    "a length of the whole body": Bytes(sized(len(SOUND)), "the body is not JSON"),
    "an empty body": Bytes((b"", BINARY | {LENGTH: "0"}), "the body is not JSON"),
    "a broken JSON part": Bytes((b'{"inputs": [' + NUMBERS, BINARY | {LENGTH: "12"}), "the body is not JSON"),
    "a JSON part that is a list": Bytes((b"[]" + NUMBERS, BINARY | {LENGTH: "2"}), "must be a JSON object"),
    "a V1 request": Bytes((b'{"instances":[]}' + NUMBERS, BINARY | {LENGTH: "16"}), "inputs: Field required"),
    "a size too large": Bytes(binary(tensor(ROW), size=248), "add up to 248, after the JSON are 240 bytes"),
    "a size too small": Bytes(binary(tensor(ROW), size=232), "add up to 232, after the JSON are 240 bytes"),
    "a size beyond all": Bytes(binary(tensor(ROW), size=2**62), "after the JSON are 240 bytes"),
    "bytes too many": Bytes((SOUND + b"\0", OCTETS), "add up to 240, after the JSON are 241 bytes"),
    "bytes too few": Bytes((SOUND[:-1], OCTETS), "add up to 240, after the JSON are 239 bytes"),
    "no bytes": Bytes(with_bytes(b""), "transactions: has 0 bytes, its shape and datatype say 240"),
    "fewer bytes than the shape": Bytes(
        with_bytes(NUMBERS, shape=[2, 30]), "has 240 bytes, its shape and datatype say 480"
    ),
    "more bytes than the shape": Bytes(with_bytes(NUMBERS * 2), "has 480 bytes, its shape and datatype say 240"),
    "FP32 said, FP64 sent": Bytes(with_bytes(NUMBERS, "FP32"), "has 240 bytes, its shape and datatype say 120"),
    "INT8 said, FP64 sent": Bytes(with_bytes(NUMBERS, "INT8"), "has 240 bytes, its shape and datatype say 30"),
    "a column with too few bytes": Bytes(binary(*COLUMN_BYTES), "V3: has 8 bytes, its shape and datatype say 16"),
    "a column missing": Bytes(binary(*columns(TWO)[:-1]), "Amount: is missing"),
    "no rows": Bytes(with_bytes(b"", shape=[0, 30]), "transactions: has no rows"),
    "a negative shape": Bytes(with_bytes(NUMBERS, shape=[-1, 30]), "transactions: has no rows"),
    "a shape of three": Bytes(with_bytes(NUMBERS, shape=[1, 1, 30]), "inputs.0.shape: List should have at most 2"),
    "too many rows": Bytes(with_bytes(NUMBERS, shape=[10_001, 30]), "has 10,001 rows, at most 10,000", 413),
    "NaN": Bytes(binary(rows_with(5, math.nan)), "row 1, V5: nan is not a finite number"),
    "NaN in FP32": Bytes(binary(rows_with(5, math.nan, "FP32")), "row 1, V5: nan is not a finite number"),
    "infinity": Bytes(binary(rows_with(0, math.inf)), "row 1, Time: inf is not a finite number"),
    "a large number": Bytes(binary(rows_with(28, -1e300)), "row 1, V28: -1e+300 is beyond the limit"),
    "a large integer": Bytes(
        binary(rows_with(28, 2.0**62, "INT64")), "row 1, V28: 4.61169e+18 is beyond the limit"
    ),
    "a negative Amount": Bytes(binary(rows_with(29, -0.01)), "row 1, Amount: -0.01 is negative, must be ≥ 0"),
    "a negative integer Time": Bytes(
        binary(rows_with(0, -3, "INT16")), "row 1, Time: -3 is negative, must be ≥ 0"
    ),
    "NaN in a single row": Bytes(binary(tensor(changed(5, math.nan))), "row 0, V5: nan is not a finite number"),
    "NaN in a column": Bytes(
        binary(*columns(TWO, V3=tensor([1, math.nan], [2], "V3"))), "row 1, V3: nan is not a finite number"
    ),
    "half precision": Bytes(with_bytes(NUMBERS[:60], "FP16"), "transactions: has datatype FP16, must be FP64"),
    "booleans": Bytes(with_bytes(b"\1" * 30, "BOOL"), "transactions: has datatype BOOL, must be FP64"),
    "texts": Bytes(with_bytes(piece(b"1") * 30, "BYTES"), "transactions: has datatype BYTES, must be FP64"),
    "an unknown datatype": Bytes(with_bytes(NUMBERS, "FP128"), "transactions: has datatype FP128, must be FP64"),
    "an id whose text is cut off": Bytes(
        with_ids(piece(b"a") + piece(b"b", 9)), "row 1, id: its bytes end before"
    ),
    "an id whose length is cut off": Bytes(with_ids(piece(b"a") + b"\1\0\0"), "row 1, id: its bytes end before"),
    "an id of four gigabytes": Bytes(with_ids(piece(b"a", 2**32 - 1)), "row 0, id: its bytes end before"),
    "fewer ids than rows": Bytes(with_ids(piece(b"a")), "id: has 1 values, its shape says 2"),
    "more ids than rows": Bytes(with_ids(piece(b"a") * 3), "id: has 3 values, its shape says 2"),
    "no ids": Bytes(with_ids(b""), "id: has 0 values, its shape says 2"),
    "an id for one of two rows": Bytes(with_ids(piece(b"a"), 1), "id: has shape [1], must be [2]"),
    "an id that is not UTF-8": Bytes(with_ids(piece(b"a") + piece(b"\xff")), "row 1, id: must be UTF-8"),
    "an empty id": Bytes(with_ids(piece(b"a") + piece(b"")), "row 1, id: has 0 characters"),
    "an id with a NUL": Bytes(with_ids(piece(b"\0") + piece(b"a")), "row 0, id: has characters that cannot"),
    "an id twice": Bytes(with_ids(piece(b"a") * 2), "row 1, id: is that of row 0 too"),
    "ids alone": Bytes(binary(ids("a")), "Time: is missing"),
    "data and a size": Bytes(
        binary(tensor(ROW, name="x") | {"json": True, "parameters": {"binary_data_size": 240}}),
        "x: has data and a binary_data_size; give one of them",
    ),
    "neither data nor a size": Bytes(
        binary(tensor(None) | {"json": True}), "transactions: its data must be a list, or follow as bytes"
    ),
    "a size below zero": Bytes(told(binary_data_size=-1), "inputs.0.parameters.binary_data_size: Input should be"),
    "a size with a fraction": Bytes(told(binary_data_size=240.5), "inputs.0.parameters.binary_data_size: Input"),
    "a size that is a text": Bytes(told(binary_data_size="240"), "inputs.0.parameters.binary_data_size: Input"),
    "a size that is a boolean": Bytes(told(binary_data_size=True), "inputs.0.parameters.binary_data_size: Input"),
    "shared memory": Bytes(told(**SHM), "inputs.0.parameters.shared_memory_region: Input should be None"),
    "a classification": Bytes(
        binary(tensor(ROW), outputs=[{"name": "label", "parameters": {"classification": 3}}]),
        "outputs.0.parameters.classification: Input should be None",
    ),
    "an unknown output": Bytes(
        binary(tensor(ROW), outputs=[{"name": "score"}]), "outputs.0.name: Input should be"
    ),
    "a name twice": Bytes(
        (
            (content := SOUND.replace(b'"shape":', b'"shape":[1],"shape":')),
            BINARY | {LENGTH: str(len(content) - 240)},
        ),
        "shape: ",
    ),
}


@pytest.mark.parametrize("mistake", BINARIES.values(), ids=BINARIES.keys())
def test_a_mistake_in_a_body_with_bytes_is_named_in_a_4xx(
    client: httpx.Client, app: Predictor, mistake: Bytes
) -> None:
    body, headers = mistake.request
    check(client.post(INFER, content=body, headers=headers), mistake.message, mistake.status)
    reply = call(app, INFER, body, **headers)
    assert reply.status == mistake.status
    assert mistake.message in reply.json()["error"]


@pytest.mark.parametrize(
    ("position", "value", "problem"), [(5, math.nan, "nan is not"), (29, -2.5, "-2.5 is negative")]
)
def test_one_wrong_number_in_many_bytes_is_named(
    client: httpx.Client, channel: grpc.Channel, position: int, value: float, problem: str
) -> None:
    rows = np.array([ROW] * ROWS)
    rows[PLACE, position] = value
    message = f"row {PLACE}, {INPUTS[position]}: {problem}"
    for tensors in ([matrix(rows)], columns(rows)):
        body, headers = binary(*tensors)
        check(client.post(INFER, content=body, headers=headers), message)
        for raw in (True, False):
            code, said = grpc_refusal(channel, infer_message(*tensors, raw=raw))
            assert (code, message in said) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("raw", [b"\x01\x00\x80\x7f", b"\x01\x00\x80\xff"])
def test_a_nan_that_signals_is_refused_like_any_other(bundle: Bundle, raw: bytes) -> None:
    """numpy warns of it: here that is an error, and in the predictor's process a line in the log."""
    model, data = FraudModel(bundle.path, Metrics()), np.array(ROW, "<f4").tobytes()
    given = tensor(data[:20] + raw + data[24:], datatype="FP32")
    body, headers = binary(given)
    reply = call(in_process(model), INFER, body, **headers)
    assert (reply.status, reply.json()["error"]) == (400, "row 0, V5: nan is not a finite number")
    service = GrpcService(model, ServingSettings(), Metrics(), LargeWork())
    code, said = grpc_call(service, infer_message(given, raw=True).SerializeToString())
    assert (code, said.decode()) == (grpc.StatusCode.INVALID_ARGUMENT, "row 0, V5: nan is not a finite number")


# gRPC


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED, DENIED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.PERMISSION_DENIED


class Call(NamedTuple):
    message: Any
    problem: str
    code: grpc.StatusCode = INVALID
    method: str = "ModelInfer"


def altered(change: Callable[[Any], object], *tensors: Tensor, **members: Any) -> Any:
    """A request that is sound but for `change`."""
    message = infer_message(*(tensors or [tensor(ROW)]), **members)
    change(message)
    return message


def given(name: str, value: Any, place: int = 0) -> Callable[[Any], object]:
    return lambda message: setattr(message.inputs[place], name, value)


def shaped(*shape: int, **members: Any) -> Any:
    def change(message: Any) -> None:
        message.inputs[0].shape[:] = shape

    return altered(change, **members)


def put(parameters: Any, name: str, value: int | str) -> None:
    setattr(parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)


def integers(datatype: str, *values: int) -> Any:
    return infer_message(tensor([*values, *[1] * (30 - len(values))], datatype=datatype))


WIDE_IDS = tensor([b"a", b"\xff"], [2], "id", "BYTES")
CALLS: dict[str, Call] = {
    "no inputs": Call(infer_message(), "inputs: there are none; send one tensor"),
    "an empty message": Call(b"", "there is no model without a name", NOT_FOUND),
    "an unknown model": Call(
        infer_message(tensor(ROW), model="other"), "there is no model other; the model", NOT_FOUND
    ),
    "no model": Call(infer_message(tensor(ROW), model=""), "there is no model without a name", NOT_FOUND),
    "an unknown version": Call(
        infer_message(tensor(ROW), version="1"), "there is no model fraud, version 1; the model here is", NOT_FOUND
    ),
    "bytes that are no message": Call(b"\xff\xff\xff", "the message is not a inference.ModelInferRequest"),
    "JSON": Call(orjson.dumps(v2(tensor(ROW))), "the message is not a inference.ModelInferRequest"),
    "a message that is cut off": Call(
        infer_message(tensor(ROW)).SerializeToString()[:-3], "the message is not a inference.ModelInferRequest"
    ),
    "a name that is not UTF-8": Call(
        infer_message(tensor(ROW)).SerializeToString().replace(b"fraud", b"fra\xffd"), "the message is not a"
    ),
    "contents of FP32 in FP64": Call(
        altered(given("datatype", "FP64"), tensor(ROW, datatype="FP32")),
        "transactions: has fp32_contents, FP64 needs fp64_contents",
    ),
    "contents of FP64 in INT32": Call(
        altered(given("datatype", "INT32")), "has fp64_contents, INT32 needs int_contents"
    ),
    "contents of INT64 in INT32": Call(
        altered(given("datatype", "INT32"), tensor([1] * 30, datatype="INT64")),
        "has int64_contents, INT32 needs int_contents",
    ),
    "contents of two fields": Call(
        altered(lambda message: message.inputs[0].contents.fp32_contents.extend(ROW)),
        "transactions: has fp32_contents, FP64 needs fp64_contents",
    ),
    "no contents": Call(infer_message(tensor([])), "transactions: has 0 values, its shape says 30"),
    "raw and typed contents": Call(
        altered(lambda message: message.raw_input_contents.append(NUMBERS)),
        "transactions: has fp64_contents beside raw_input_contents; give one of them",
    ),
    "raw contents too few": Call(
        altered(lambda message: message.raw_input_contents.pop(), *columns(TWO), raw=True),
        "raw_input_contents: has 29 items, there are 30 inputs",
    ),
    "raw contents too many": Call(
        altered(lambda message: message.raw_input_contents.append(b""), raw=True),
        "raw_input_contents: has 2 items, there are 1 inputs",
    ),
    "raw contents too short": Call(
        infer_message(tensor(NUMBERS[:-1]), raw=True),
        "transactions: has 239 bytes, its shape and datatype say 240",
    ),
    "raw contents too long": Call(
        infer_message(tensor(NUMBERS + b"\0"), raw=True),
        "transactions: has 241 bytes, its shape and datatype say 240",
    ),
    "empty raw contents": Call(
        infer_message(tensor(b""), raw=True), "has 0 bytes, its shape and datatype say 240"
    ),
    "FP32 said, FP64 sent": Call(
        infer_message(tensor(NUMBERS, datatype="FP32"), raw=True), "has 240 bytes, its shape and datatype say 120"
    ),
    "fewer values than the shape": Call(shaped(2, 30), "transactions: has 30 values, its shape says 60"),
    "more values than the shape": Call(
        infer_message(tensor(ROW * 2)), "transactions: has 60 values, its shape says 30"
    ),
    "a value missing in the last row": Call(
        infer_message(tensor((ROW * 2)[:-1], [2, 30])), "transactions: has 59 values, its shape says 60"
    ),
    "NaN": Call(infer_message(rows_with(5, math.nan)), "row 1, V5: nan is not a finite number"),
    "NaN in FP32": Call(infer_message(rows_with(5, math.nan, "FP32")), "row 1, V5: nan is not a finite number"),
    "NaN in raw contents": Call(infer_message(rows_with(5, math.nan), raw=True), "row 1, V5: nan is not a finite"),
    "infinity in a single row": Call(
        infer_message(tensor(changed(0, math.inf))), "row 0, Time: inf is not a finite"
    ),
    "a large number": Call(infer_message(rows_with(3, 1e13)), "row 1, V3: 1e+13 is beyond the limit"),
    "a negative Amount": Call(infer_message(rows_with(29, -5)), "row 1, Amount: -5 is negative, must be ≥ 0"),
    "a negative Time in raw contents": Call(
        infer_message(rows_with(0, -5, "INT8"), raw=True), "row 1, Time: -5 is negative, must be ≥ 0"
    ),
    "INT8 out of range": Call(integers("INT8", 1, 300), "row 0, V1: 300 is not INT8"),
    "INT16 out of range": Call(integers("INT16", 1, -40_000), "row 0, V1: -40000 is not INT16"),
    "UINT8 out of range": Call(integers("UINT8", 256), "row 0, Time: 256 is not UINT8"),
    "a large integer": Call(integers("INT64", 1, 2**62), "row 0, V1: 4.61169e+18 is beyond the limit"),
    "a shape of three": Call(shaped(1, 1, 30), "transactions: has a shape of 3 dimensions, must have one or two"),
    "no shape": Call(shaped(), "transactions: has a shape of 0 dimensions, must have one or two"),
    "a negative shape": Call(shaped(-1, 30), "transactions: has no rows, must have at least one"),
    "no rows": Call(shaped(0, 30), "transactions: has no rows, must have at least one"),
    "a shape of one": Call(shaped(30), "transactions: has shape [30], must be [n, 30]"),
    "a narrow shape": Call(shaped(1, 29), "transactions: has shape [1, 29], must be [n, 30]"),
    "a huge shape": Call(shaped(2**62, 30), "rows, at most 10,000 fit in one request", EXHAUSTED),
    "a huge raw shape": Call(shaped(2**62, 30, raw=True), "rows, at most 10,000 fit in one request", EXHAUSTED),
    "no name": Call(altered(given("name", "")), "inputs.0: has no name"),
    "no name of the second": Call(altered(given("name", "", 1), tensor(ROW), ids("a")), "inputs.1: has no name"),
    "no datatype": Call(altered(given("datatype", "")), "transactions: has datatype , must be FP64"),
    "an unknown datatype": Call(altered(given("datatype", "FP128")), "transactions: has datatype FP128, must be"),
    "half precision": Call(
        infer_message(tensor(NUMBERS[:60], datatype="FP16"), raw=True),
        "transactions: has datatype FP16, must be FP64",
    ),
    "booleans": Call(
        infer_message(tensor(b"\1" * 30, datatype="BOOL"), raw=True),
        "transactions: has datatype BOOL, must be FP64",
    ),
    "texts": Call(
        infer_message(tensor(["1"] * 30, datatype="BYTES")), "transactions: has datatype BYTES, must be FP64"
    ),
    "an unknown output": Call(
        infer_message(tensor(ROW), outputs=["proba"]),
        "outputs: proba is not an output, must be probability, label",
    ),
    "an output without a name": Call(infer_message(tensor(ROW), outputs=[""]), "outputs:  is not an output"),
    "too many rows": Call(
        infer_message(tensor(b"\0" * 30 * 10_001, [10_001, 30], datatype="INT8"), raw=True),
        "transactions: has 10,001 rows, at most 10,000 fit in one request",
        EXHAUSTED,
    ),
    "too many rows with reasons": Call(
        infer_message(tensor(b"\0" * 30 * 1_001, [1_001, 30], datatype="INT8"), raw=True, outputs=["reasons"]),
        "inputs: has 1,001 rows, at most 1,000 fit in one request",
        EXHAUSTED,
    ),
    "too large a message": Call(
        infer_message(tensor(b"\0" * 17 * MEBIBYTE), raw=True), "Received message larger than max", EXHAUSTED
    ),
    "a tensor twice": Call(infer_message(tensor(ROW), tensor(ROW)), "inputs: two tensors have the same name"),
    "two tensors": Call(infer_message(tensor(ROW), tensor(ROW, name="more")), "Time: is missing"),
    "a column missing": Call(infer_message(*columns(TWO)[:-1]), "Amount: is missing"),
    "a column unknown": Call(
        infer_message(*columns(TWO, Class=tensor([0, 0], [2], "Class"))), "Class: is not an input"
    ),
    "a column of other length": Call(
        infer_message(*columns(TWO, V3=tensor([1.0], [1], "V3"))), "V3: has shape [1], must be [2] or [2, 1]"
    ),
    "NaN in a column": Call(
        infer_message(*columns(TWO, V3=tensor([1.0, math.nan], [2], "V3"))), "row 1, V3: nan is not a finite"
    ),
    "ids alone": Call(infer_message(ids("a")), "Time: is missing"),
    "ids of numbers": Call(
        infer_message(tensor(ROW), tensor([1], [1], "id", "INT64")), "id: has datatype INT64, must be BYTES"
    ),
    "ids without contents": Call(
        infer_message(tensor(ROW), tensor([], [1], "id", "BYTES")), "id: has 0 values, its shape says 1"
    ),
    "an empty id": Call(infer_message(matrix(TWO), ids("a", "")), "row 1, id: has 0 characters"),
    "an id that is not UTF-8": Call(infer_message(matrix(TWO), WIDE_IDS), "row 1, id: must be UTF-8"),
    "a raw id that is not UTF-8": Call(infer_message(matrix(TWO), WIDE_IDS, raw=True), "row 1, id: must be UTF-8"),
    "a raw id that is cut off": Call(
        infer_message(tensor(ROW), tensor(piece(b"a", 7), [1], "id", "BYTES"), raw=True),
        "row 0, id: its bytes end before its text does",
    ),
    "an id twice": Call(infer_message(matrix(TWO), ids("a", "a")), "row 1, id: is that of row 0 too"),
    "too long a request id": Call(infer_message(tensor(ROW), id="x" * 257), "id: has 257 characters"),
    "a request id with a NUL": Call(
        infer_message(tensor(ROW), id="a\0"), "id: has characters that cannot be printed"
    ),
    "an input in shared memory": Call(
        altered(lambda message: put(message.inputs[0].parameters, "shared_memory_region", "r"), tensor([])),
        "transactions: ",
    ),
    "an output in shared memory": Call(
        altered(
            lambda message: put(message.outputs[0].parameters, "shared_memory_region", "r"), outputs=["label"]
        ),
        "shared_memory_region",
    ),
    "a classification": Call(
        altered(lambda message: put(message.outputs[0].parameters, "classification", 1), outputs=["label"]),
        "classification",
    ),
    "the readiness of another model": Call(b"\n\x01x", "there is no model x", NOT_FOUND, "ModelReady"),
    "the metadata of another version": Call(
        b"\n\x05fraud\x12\x011", "there is no model fraud, version 1", NOT_FOUND, "ModelMetadata"
    ),
    "metadata of garbage": Call(
        b"\xff", "the message is not a inference.ModelMetadataRequest", INVALID, "ModelMetadata"
    ),
    "loading a model": Call(b"\x12\x05fraud", "the model repository is closed", DENIED, "RepositoryModelLoad"),
    "unloading a model": Call(b"\x12\x05fraud", "the model repository is closed", DENIED, "RepositoryModelUnload"),
    "a repository's garbage": Call(b"\xff", "the model repository is closed", DENIED, "RepositoryModelLoad"),
}


@pytest.mark.parametrize("mistake", CALLS.values(), ids=CALLS.keys())
def test_a_mistake_over_grpc_is_named_with_its_code(
    client: httpx.Client, channel: grpc.Channel, mistake: Call
) -> None:
    code, said = grpc_refusal(channel, mistake.message, mistake.method)
    assert code is mistake.code, said
    assert mistake.problem in said
    assert len(said) < 1_000


def test_a_ce_id_over_grpc_is_checked_like_a_header(channel: grpc.Channel) -> None:
    code, said = grpc_refusal(channel, infer_message(tensor(ROW)), metadata=[("ce-id", "x" * 257)])
    assert (code, said) == (INVALID, "ce-id: has 257 characters, must have 1 to 256")


def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.Channel) -> None:
    code, _ = grpc_refusal(channel, b"", "ModelStreamInfer")
    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("size", ["-51", "+137", "1_37", "1e2", "1 37", "9" * 13])
def test_a_size_of_json_that_is_no_plain_number_is_refused_on_every_path(client: httpx.Client, size: str) -> None:
    body, headers = binary(matrix(np.array([ROW])), parameters={"binary_data_output": True})
    for content in (body, b" " + b"\0" * 50):
        answer = client.post(INFER, content=content, headers=headers | {LENGTH: size})
        assert (answer.status_code, answer.json().keys()) == (400, {"error"})


def test_a_body_of_nothing_but_lists_holds_nobody_up(client: httpx.Client) -> None:
    bomb = gzip.compress(b'{"instances": [NaN' + b",[]" * 5_000_000 + b"]}")
    answer = client.post(PREDICT, content=bomb, headers=JSON | {"content-encoding": "gzip"})
    assert (answer.status_code, "more than 100,000 lists" in answer.json()["error"]) == (400, True)


def test_a_nan_in_the_json_of_a_body_with_bytes_is_named_by_its_row(client: httpx.Client) -> None:
    rows = [[*ROW], [*ROW[:3], float("nan"), *ROW[4:]]]
    head = json.dumps(v2(tensor(rows, [2, 30]))).encode()
    answer = client.post(INFER, content=head, headers=JSON | {LENGTH: str(len(head))})
    assert (answer.status_code, "row 1, V3: nan is not a finite number" in answer.json()["error"]) == (400, True)
