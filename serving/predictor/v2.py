"""V2 of the protocol (Open Inference Protocol) over HTTP: JSON, and the binary tensor data extension. No I/O here.

With the extension a body is JSON of a length that a header gives, and after it the bytes of those tensors that
have a `binary_data_size`; an answer likewise. Members of a request that are not named here are ignored, as KServe
does; what would change the answer (classification, shared memory) is refused.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache, partial
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS
from fraudkit.scoring import ALERTS
from serving.predictor import documents
from serving.predictor.documents import TWICE, Document, Doubtful, Twice, short
from serving.predictor.request import (
    DEFAULT_OUTPUTS,
    MAX_ID,
    OUTPUTS,
    Limits,
    Request,
    Scores,
    by_level,
    check_count,
    check_id,
    each,
    fresh_id,
)
from serving.predictor.tensors import Bytes, Tensor, pack, rows_and_names

_LONGEST_KNOWN: Final = 4_096
"""Bytes up to which the JSON before bytes is remembered."""
_HEADS: Final = {
    name: b'{"name":"%s","datatype":"%s"' % (name.encode(), datatype.encode())
    for name, datatype in OUTPUTS.items()
}
_ALL: Final = frozenset(OUTPUTS)
_NONE: Final[frozenset[str]] = frozenset()
_ALERTS: Final = by_level(*(b'"%s"' % alert.encode() for alert in ALERTS))


class Written(NamedTuple):
    """An answer; `json_size` is the length of its JSON when bytes of tensors follow it, else 0."""

    body: bytes
    json_size: int


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class InputParameters(_Strict):
    """What a request says of an input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    shared_memory_region: None = None


class _Input(_Strict):
    name: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    datatype: str
    shape: Annotated[list[int], Field(min_length=1, max_length=2)]
    data: Any = None
    parameters: InputParameters | None = None


class _OutputParameters(_Strict):
    binary_data: bool | None = None
    classification: None = None
    shared_memory_region: None = None


class _Output(_Strict):
    name: Literal["probability", "label", "alert", "id", "reasons"]
    parameters: _OutputParameters | None = None


class RequestParameters(_Strict):
    """What a request says of itself."""

    binary_data_output: bool = False


class Asked(_Strict):
    """The JSON of a request."""

    id: str | None = None
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=len(INPUTS) + 1)]
    outputs: Annotated[list[_Output], Field(max_length=len(OUTPUTS))] | None = None
    parameters: RequestParameters | None = None


def read(body: bytes, header_id: str, limits: Limits, json_size: int | None = None) -> Request:
    """The request in a V2 `body`, whose JSON has `json_size` bytes when those of tensors follow it.

    Raises:
        InvalidInput: Naming tensor, row and input of what is wrong.
        Refused: 413, more rows than `limits` allow.
    """
    if json_size is None:
        return documents.read(body, partial(_interpret, header_id=header_id, limits=limits, rest=b""))
    if json_size > len(body):
        raise InvalidInput(f"Inference-Header-Content-Length: is {json_size:,}, the body has {len(body):,} bytes")
    head, rest = body[:json_size], memoryview(body)[json_size:]
    if json_size <= _LONGEST_KNOWN:
        with suppress(Doubtful):  # then its rows can be named below
            return _request(known(head), header_id, limits, rest)
    return documents.read(head, partial(_interpret, header_id=header_id, limits=limits, rest=rest))


def write(request: Request, scores: Scores, name: str, version: str) -> Written:
    """The V2 answer with the outputs that `request` asks for; `reasons` are JSON text, one per row."""
    reasons = [orjson.dumps(reason) for reason in scores.reasons or ()]
    outputs, tail = [], []
    shape = b',"shape":[%d],' % request.names.rows
    for output in request.outputs:
        if output in request.binary:
            tail.append(pack(output, scores, request.names, reasons))
            data = b'"parameters":{"binary_data_size":%d}' % len(tail[-1])
        else:
            data = b'"data":' + _data(output, request, scores, reasons)
        outputs.append(_HEADS[output] + shape + data + b"}")
    head = orjson.dumps({"model_name": name, "model_version": version, "id": request.id})
    content = b'%s,"outputs":[%s]}' % (head[:-1], b",".join(outputs))
    return Written(b"".join((content, *tail)), len(content)) if tail else Written(content, 0)


def _data(output: str, request: Request, scores: Scores, reasons: list[bytes]) -> bytes:
    """The data of an output tensor as JSON."""
    if output == "probability":
        return orjson.dumps(scores.probabilities, option=orjson.OPT_SERIALIZE_NUMPY)
    if output == "label":
        digits = np.full(2 * len(scores.levels) - 1, ord(","), np.uint8)
        digits[::2] = ord("0") + (scores.levels > 0)
        return b"[%s]" % digits.tobytes()
    if output == "alert":
        items = each(_ALERTS, scores.levels)
    elif output == "id":
        names = request.names.quoted()
        separator = names.tail + b"," + names.head
        return b"[%s%s%s]" % (names.head, separator.join(names.items), names.tail)
    else:
        items = [orjson.dumps(reason.decode()) for reason in reasons]
    return b"[%s]" % b",".join(items)


@lru_cache(maxsize=256)
def known(head: bytes) -> Asked:
    """What the JSON before bytes asks for; clients send the same again and again."""
    return documents.read(head, _asked)


def _interpret(document: Document, header_id: str, limits: Limits, rest: Bytes) -> Request:
    return _request(_asked(document), header_id, limits, rest)


def _asked(document: Document) -> Asked:
    try:
        return Asked.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        said = TWICE if isinstance(problem["input"], Twice) else problem["msg"]
        raise InvalidInput(f"{'.'.join(map(str, problem['loc']))}: {said}") from error


def _request(asked: Asked, header_id: str, limits: Limits, rest: Bytes) -> Request:
    tensors = _tensors(asked.inputs, rest)
    binary = _ALL if asked.parameters is not None and asked.parameters.binary_data_output else _NONE
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    if asked.outputs:
        outputs = tuple(dict.fromkeys(output.name for output in asked.outputs))
        binary = frozenset(output.name for output in asked.outputs if _binary(output, otherwise=bool(binary)))
    own_id = check_id(asked.id, "id")
    request_id = header_id or own_id or fresh_id()
    rows, names = rows_and_names(tensors, request_id, limits.rows)
    if "reasons" in outputs:
        check_count(names.rows, "inputs", limits.explained)
    return Request(rows, names, own_id or request_id, outputs, binary)


def _binary(output: _Output, *, otherwise: bool) -> bool:
    """Whether the output is wanted as bytes; `otherwise` where it does not say."""
    said = output.parameters.binary_data if output.parameters else None
    return otherwise if said is None else said


def _tensors(inputs: list[_Input], rest: Bytes) -> list[Tensor]:
    tensors: list[Tensor] = []
    place = 0
    for given in inputs:
        name = short(given.name)
        size = given.parameters.binary_data_size if given.parameters else None
        if size is None:
            if isinstance(given.data, Twice):
                raise InvalidInput(f"{name}: its data: {TWICE}")
            if not isinstance(given.data, (list, np.ndarray)):
                raise InvalidInput(f"{name}: its data must be a list, or follow as bytes (binary_data_size)")
            data: Any = given.data
        elif given.data is not None:
            raise InvalidInput(f"{name}: has data and a binary_data_size; give one of them")
        else:
            data = rest[place : place + size]
            place += size
        tensors.append(Tensor(given.name, given.datatype, given.shape, data))
    if place != len(rest):
        raise InvalidInput(
            f"the tensors' binary_data_size add up to {place:,}, after the JSON are {len(rest):,} bytes"
        )
    return tensors
