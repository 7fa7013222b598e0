"""One event of KServe's payload logger, as rows or as scores. No I/O here.

The logger posts a CloudEvent for each request to the predictor and one for each answer; the two have the same id.
Its headers say little of the body: the content type of an answer's event is that of the request, and V2 with bytes
comes without the length of its JSON. So the body alone tells V1 from V2, and where its JSON ends. Any event gives
one of four results, and none an error.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from itertools import chain
from math import isfinite
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from fraudkit.errors import InvalidRows
from fraudkit.schema import INPUTS, LIMIT, NONNEGATIVE, FloatArray, check_rows, number, rows_from_instances
from fraudkit.scoring import ALERTS

REQUEST: Final = "org.kubeflow.serving.inference.request"
"""The CloudEvent type of a request to the predictor."""
RESPONSE: Final = "org.kubeflow.serving.inference.response"
"""The CloudEvent type of its answer."""
MAX_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of a body that was compressed; twice what the predictor takes unless told otherwise."""
MAX_ID: Final = 256
"""Most characters of an id."""

_MAX_ROW_ID: Final = MAX_ID + 21
"""An id of a request, a hyphen and the number of a row."""
_MAX_HEAD: Final = 4 * 1024 * 1024
"""Most bytes of JSON that only Python's reader, which is slow, takes: before bytes, or with NaN."""
_STRUCTURED: Final = "application/cloudevents+json"
_COMPRESSED: Final = (b"\x1f\x8b", b"x")
"""How gzip and deflate begin, and JSON never does."""
_INT_DIGITS: Final = 20
_SPACE: Final = b" \t\r\n"

_WIDTH: Final = len(INPUTS)
_INPUTS: Final = frozenset(INPUTS)
_BY_NAME: Final = itemgetter(*INPUTS)
_PLAIN: Final = frozenset({float, int})
_LEVELS: Final = {alert: level for level, alert in enumerate(ALERTS)}
_DTYPES: Final = {"FP64": "<f8", "FP32": "<f4"} | {
    f"{sign}INT{bits}": f"<{kind}{bits // 8}" for sign, kind in (("", "i"), ("U", "u")) for bits in (8, 16, 32, 64)
}

Levels = NDArray[np.int8]
"""Indices into `ALERTS`."""


class IgnoredReason(StrEnum):
    """Why a sound event is not for the log."""

    EMPTY_BODY = "empty_body"
    OTHER_MODEL = "other_model"
    OTHER_TYPE = "other_type"


class RejectedReason(StrEnum):
    """What is wrong with an event: first its frame, then its body, then the rows of a request, then an answer."""

    BAD_ENVELOPE = "bad_envelope"
    BAD_TYPE = "bad_type"
    BAD_ID = "bad_id"
    BAD_TIME = "bad_time"
    BAD_COMPRESSION = "bad_compression"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    UNKNOWN_PROTOCOL = "unknown_protocol"
    NO_ROWS = "no_rows"
    BAD_TENSOR = "bad_tensor"
    BAD_ROW_ID = "bad_row_id"
    NOT_A_ROW = "not_a_row"
    WRONG_WIDTH = "wrong_width"
    MISSING_INPUT = "missing_input"
    UNKNOWN_INPUT = "unknown_input"
    NULL = "null"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    NEGATIVE = "negative"
    UNREADABLE_ANSWER = "unreadable_answer"
    INCOMPLETE_ANSWER = "incomplete_answer"


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRequest:
    """A request to the predictor.

    Attributes:
        id: The event's, which its answer has too.
        time: When the logger saw it [s, UTC].
        model: The model that was asked.
        rows: The checked rows [n, 30], in the order of `INPUTS`.
        row_ids: The ids of the rows when one has an id of its own; otherwise they are `id` + "-" + row number.
        digest: Eight bytes that tell rows and own ids from others, whatever the protocol.
    """

    id: str
    time: float
    model: str
    rows: FloatArray
    row_ids: tuple[str, ...] | None
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class LoggedResponse:
    """An answer of the predictor.

    Attributes:
        id: The event's, which its request has too.
        time: When the logger saw it [s, UTC].
        model: The model that answered.
        version: The version of the model.
        probabilities: Of fraud, by row [n].
        alerts: Index into `ALERTS`, by row [n].
        row_ids: The ids of the rows, as answered.
    """

    id: str
    time: float
    model: str
    version: str
    probabilities: FloatArray
    alerts: Levels
    row_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A sound event that is not for the log."""

    reason: IgnoredReason


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that cannot be used.

    Attributes:
        reason: What is wrong, for a machine.
        detail: The same for a person, in one line.
        rows: How many rows of a request are lost with it; 1 where that is not known.
        id: The event's, if it is a request whose id and time could be read.
        time: When the logger saw it [s, UTC], likewise.
    """

    reason: RejectedReason
    detail: str
    rows: int = 1
    id: str | None = None
    time: float | None = None


Event = LoggedRequest | LoggedResponse | Ignored | Rejected


def read(headers: Mapping[str, str], body: bytes, model: str) -> Event:
    """The event in one POST of the logger.

    Args:
        headers: By lower-case name.
        body: As it came, compressed or not.
        model: The model (InferenceService) whose events are wanted.
    """
    try:
        if "ce-type" in headers or not headers.get("content-type", "").lower().startswith(_STRUCTURED):
            return _read(_binary_mode(headers), body, model)
        return _read(*_structured_mode(body), model)
    except _RejectedError as error:
        return Rejected(error.reason, error.detail, error.rows)


class _RejectedError(Exception):
    def __init__(self, reason: RejectedReason, detail: str, rows: int = 1) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.rows = reason, detail, max(rows, 1)


class _Frame(NamedTuple):
    """What a CloudEvent says of itself; in structured mode its values may be of any type."""

    type: Any
    id: Any
    time: Any
    service: Any


class _Document(NamedTuple):
    """A body: its JSON object, and the bytes after that. One that is not `sound` can only tell what is wrong."""

    members: dict[str, Any]
    rest: bytes = b""
    sound: bool = True


def _integer(text: str) -> float:
    # Nobody shall have Python make an integer of a million digits.
    return int(text) if len(text) <= _INT_DIGITS else float(text)


_DECODER: Final = json.JSONDecoder(parse_int=_integer)


# The frame


def _binary_mode(headers: Mapping[str, str]) -> _Frame:
    get = headers.get
    return _Frame(get("ce-type"), get("ce-id"), get("ce-time"), get("ce-inferenceservicename"))


def _structured_mode(body: bytes) -> tuple[_Frame, bytes | dict[str, Any]]:
    try:
        envelope = orjson.loads(_inflated(body))
    except orjson.JSONDecodeError as error:
        raise _RejectedError(RejectedReason.BAD_ENVELOPE, f"the event is not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise _RejectedError(RejectedReason.BAD_ENVELOPE, "the event must be a JSON object")
    get = envelope.get
    return _Frame(get("type"), get("id"), get("time"), get("inferenceservicename")), _data(envelope)


def _data(envelope: dict[str, Any]) -> bytes | dict[str, Any]:
    data, encoded = envelope.get("data"), envelope.get("data_base64")
    if isinstance(data, dict):
        return data
    if isinstance(data, str):
        return data.encode()
    if data is not None:
        raise _RejectedError(RejectedReason.BAD_ENVELOPE, "data: must be a JSON object or a text")
    if encoded is None:
        return b""
    if not isinstance(encoded, str):
        raise _RejectedError(RejectedReason.BAD_ENVELOPE, "data_base64: must be a text")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise _RejectedError(RejectedReason.BAD_ENVELOPE, f"data_base64: {error}") from error


def _read(frame: _Frame, content: bytes | dict[str, Any], model: str) -> Event:
    if not isinstance(frame.type, str) or not frame.type:
        raise _RejectedError(RejectedReason.BAD_TYPE, "the event has no type")
    if frame.type not in (REQUEST, RESPONSE):
        return Ignored(IgnoredReason.OTHER_TYPE)
    if frame.service and frame.service != model:
        return Ignored(IgnoredReason.OTHER_MODEL)
    event_id, time = _id(frame.id), _time(frame.time)
    if content == b"":  # of a GET, which the logger posts too
        return Ignored(IgnoredReason.EMPTY_BODY)
    if frame.type == RESPONSE:
        return _response(event_id, time, model, _body(content))
    try:
        return _request(event_id, time, model, _body(content))
    except _RejectedError as error:
        return Rejected(error.reason, error.detail, error.rows, event_id, time)


def _body(content: bytes | dict[str, Any]) -> _Document:
    return _Document(content) if isinstance(content, dict) else _document(_inflated(content))


def _id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or not value.isprintable():
        raise _RejectedError(RejectedReason.BAD_ID, f"the event's id must have 1 to {MAX_ID} printable characters")
    return value


def _time(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value.upper())  # which cuts a fraction to six digits
    except (ValueError, AttributeError) as error:
        raise _RejectedError(RejectedReason.BAD_TIME, "the event's time must be of RFC 3339") from error
    if moment.tzinfo is None:
        raise _RejectedError(RejectedReason.BAD_TIME, "the event's time has no offset from UTC")
    return moment.timestamp()


# The body


def _inflated(body: bytes) -> bytes:
    """The body itself, or what is compressed in it. The bytes tell: the logger passes no Content-Encoding on."""
    if not body.startswith(_COMPRESSED):
        return body
    inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip or deflate
    try:
        content = inflater.decompress(body, MAX_BYTES + 1)
    except zlib.error as error:
        raise _RejectedError(RejectedReason.BAD_COMPRESSION, f"the body cannot be inflated: {error}") from error
    if len(content) > MAX_BYTES:
        raise _RejectedError(RejectedReason.TOO_LARGE, f"the body inflates to more than {MAX_BYTES:,} bytes")
    if not inflater.eof or inflater.unused_data:
        problem = "has bytes after its end" if inflater.eof else "is cut short"
        raise _RejectedError(RejectedReason.BAD_COMPRESSION, f"the compressed body {problem}")
    return content


def _document(body: bytes) -> _Document:
    try:
        members, rest, sound = orjson.loads(body), b"", True
    except orjson.JSONDecodeError:
        members, rest, sound = _unusual(body)
    if not isinstance(members, dict):
        raise _RejectedError(RejectedReason.NOT_JSON, "the body must be a JSON object")
    return _Document(members, rest, sound)


def _unusual(body: bytes) -> tuple[Any, bytes, bool]:
    """JSON with bytes after it, or with what is no JSON, such as NaN, so that the input can be named.

    In Latin-1 a character is a byte, and whatever ends a text or an object is the same as in UTF-8.
    """
    text = body[:_MAX_HEAD].decode("latin-1")
    try:
        _, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_SPACE.decode())))
        head = body[:end]
        try:
            return orjson.loads(head), body[end:], True
        except orjson.JSONDecodeError:
            return _DECODER.decode(head.decode()), body[end:], False
    except (ValueError, RecursionError) as error:
        detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _RejectedError(RejectedReason.NOT_JSON, f"the body is not JSON: {detail}") from error


# Requests


def _request(event_id: str, time: float, model: str, document: _Document) -> LoggedRequest:
    members = document.members
    if "instances" in members:
        _check_nothing_follows(document)
        rows, row_ids = _v1_request(members["instances"], event_id)
    elif "inputs" in members:
        rows, row_ids = _v2_request(_tensors(members["inputs"], document.rest), event_id)
    else:
        raise _RejectedError(RejectedReason.UNKNOWN_PROTOCOL, "the request has neither instances nor inputs")
    if not document.sound:
        raise _RejectedError(RejectedReason.NOT_JSON, "the body is not JSON", len(rows))
    return LoggedRequest(event_id, time, model, rows, row_ids, _digest(rows, row_ids))


def _check_nothing_follows(document: _Document) -> None:
    if document.rest.strip(_SPACE):
        raise _RejectedError(RejectedReason.NOT_JSON, "the body is not JSON: bytes follow the object of V1")


def _digest(rows: FloatArray, row_ids: tuple[str, ...] | None) -> bytes:
    hashed = blake2b(rows.data, digest_size=8)
    if row_ids is not None:
        hashed.update("\n".join(row_ids).encode())  # they are printable: none has a line of its own
    return hashed.digest()


def _v1_request(instances: Any, event_id: str) -> tuple[FloatArray, tuple[str, ...] | None]:
    if not isinstance(instances, list) or not instances:
        raise _RejectedError(RejectedReason.NO_ROWS, "instances: must be a list of transactions")
    if len(instances) == 1 and type(instances[0]) is list and _is_sound(instances[0]):
        return np.array(instances, dtype=np.float64), None
    own = {
        row: instance.pop("id")
        for row, instance in enumerate(instances)
        if isinstance(instance, dict) and "id" in instance
    }
    rows = _checked(instances)
    return rows, _row_ids(own, event_id, len(rows))


def _is_sound(values: Sequence[Any]) -> bool:
    """Whether the values are a sound row; many times faster than numpy with one."""
    return (
        len(values) == _WIDTH
        and _PLAIN.issuperset(map(type, values))
        and isfinite(sum(values))  # no NaN, with which what follows could be true
        and min(values) >= -LIMIT
        and max(values) <= LIMIT
        and values[0] >= 0
        and values[-1] >= 0
    )


def _row_ids(own: Mapping[int, Any], event_id: str, count: int) -> tuple[str, ...] | None:
    """The ids of rows of which some have an `own` one, as the predictor names them."""
    if not own:
        return None
    for row, value in own.items():
        if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or not value.isprintable():
            detail = f"row {row}, id: must be a text of 1 to {MAX_ID} printable characters"
            raise _RejectedError(RejectedReason.BAD_ROW_ID, detail, count)
    row_ids = tuple(own.get(row, f"{event_id}-{row}") for row in range(count))
    if len(set(row_ids)) < count:
        raise _RejectedError(RejectedReason.BAD_ROW_ID, "two rows have the same id", count)
    return row_ids


def _checked(instances: Sequence[Any]) -> FloatArray:
    """The rows of instances. The first unsound one ends it: few bytes, inflated, may be millions of them."""
    rows = []
    for row, instance in enumerate(instances):
        values = instance
        if type(instance) is dict and instance.keys() == _INPUTS:
            values = _BY_NAME(instance)
        if type(values) not in (list, tuple) or not _is_sound(values):
            reason = _instance_problem(instance) or RejectedReason.NOT_A_ROW
            raise _RejectedError(reason, _explained(instance, row), len(instances))
        rows.append(values)
    return np.array(rows, dtype=np.float64)


def _explained(instance: Any, row: int) -> str:
    """What the one validator says of an unsound instance."""
    try:
        rows_from_instances([instance], first_row=row)
    except InvalidRows as error:
        return str(error)
    return f"row {row}: is not a sound row"


def _checked_array(rows: FloatArray) -> FloatArray:
    try:
        check_rows(rows)
    except InvalidRows as error:
        reasons = filter(None, map(_instance_problem, rows.tolist()))
        raise _RejectedError(next(reasons, RejectedReason.NOT_A_ROW), str(error), len(rows)) from error
    return rows


def _instance_problem(instance: Any) -> RejectedReason | None:
    """The kind of the first thing wrong with an instance."""
    if isinstance(instance, Mapping):
        if not instance.keys() >= _INPUTS:
            return RejectedReason.MISSING_INPUT
        if len(instance) > _WIDTH:
            return RejectedReason.UNKNOWN_INPUT
        instance = [instance[name] for name in INPUTS]
    if not isinstance(instance, list | tuple):
        return RejectedReason.NOT_A_ROW
    if len(instance) != _WIDTH:
        return RejectedReason.WRONG_WIDTH
    problems = (_value_problem(name, value) for name, value in zip(INPUTS, instance, strict=True))
    return next(filter(None, problems), None)


def _value_problem(name: str, value: Any) -> RejectedReason | None:
    if value is None:
        return RejectedReason.NULL
    parsed = number(value)
    if parsed is None or parsed != parsed:
        return RejectedReason.NOT_A_NUMBER
    if abs(parsed) > LIMIT:
        return RejectedReason.OUT_OF_RANGE
    return RejectedReason.NEGATIVE if parsed < 0 and name in NONNEGATIVE else None


# Tensors of V2


class _Tensor(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | bytes


def _bad_tensor(detail: str) -> _RejectedError:
    return _RejectedError(RejectedReason.BAD_TENSOR, detail)


def _tensors(given: Any, rest: bytes) -> dict[str, _Tensor]:
    """The tensors by name. Those with bytes have theirs in `rest`, one after another, up to its end."""
    if not isinstance(given, list) or not given:
        raise _bad_tensor("the list of tensors is missing or empty")
    sizes = [_binary_size(tensor) for tensor in given]
    place = len(rest) - sum(size or 0 for size in sizes)
    if place < 0 or rest[:place].strip(_SPACE):  # a client may pad its JSON
        raise _bad_tensor("the tensors' binary_data_size do not add up to the bytes after the JSON")
    tensors: dict[str, _Tensor] = {}
    for tensor, size in zip(given, sizes, strict=True):
        data = tensor.get("data") if size is None else rest[place : place + size]
        place += size or 0
        read = _tensor(tensor, data)
        tensors[read.name] = read
    if len(tensors) < len(given):
        raise _bad_tensor("two tensors have the same name")
    return tensors


def _binary_size(tensor: Any) -> int | None:
    if not isinstance(tensor, dict):
        raise _bad_tensor("a tensor must be an object")
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0 or tensor.get("data") is not None):
        raise _bad_tensor("binary_data_size: must be a number of bytes, where there are no data")
    return size


def _tensor(given: dict[str, Any], data: Any) -> _Tensor:
    name, datatype, shape = given.get("name"), given.get("datatype"), given.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(data, list | bytes):
        raise _bad_tensor("a tensor has no name, no datatype or no data")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or {*map(type, shape)} != {int} or shape[0] < 1:
        raise _bad_tensor("the shape of a tensor must be [n] or [n, m], with n at least 1")
    return _Tensor(name, datatype.upper(), shape, data)


def _v2_request(tensors: dict[str, _Tensor], event_id: str) -> tuple[FloatArray, tuple[str, ...] | None]:
    texts = tensors.pop("id", None)
    if not tensors:
        raise _bad_tensor("the inputs have no rows")
    rows = _rows(tensors)
    own = dict(enumerate(_texts(texts, len(rows)))) if texts else {}
    return rows, _row_ids(own, event_id, len(rows))


def _rows(tensors: dict[str, _Tensor]) -> FloatArray:
    first = next(iter(tensors.values()))
    count = first.shape[0]
    if len(tensors) == 1 and first.name not in _INPUTS:
        if len(first.shape) != 2 or first.shape[1] != _WIDTH:
            raise _RejectedError(RejectedReason.WRONG_WIDTH, f"the tensor must have shape [n, {_WIDTH}]")
        values = _numbers(first, count, _WIDTH)
        if isinstance(values, list):
            return _checked([values[i : i + _WIDTH] for i in range(0, len(values), _WIDTH)])
        return _checked_array(values.reshape(count, _WIDTH))
    if tensors.keys() != _INPUTS:
        missing = _INPUTS - tensors.keys()
        reason = RejectedReason.MISSING_INPUT if missing else RejectedReason.UNKNOWN_INPUT
        raise _RejectedError(reason, f"of the thirty columns, {len(missing)} are missing, or there are others")
    columns = [_numbers(tensors[name], count, 1) for name in INPUTS]
    if all(isinstance(column, np.ndarray) for column in columns):
        return _checked_array(np.column_stack(columns))
    lists = [column if isinstance(column, list) else column.tolist() for column in columns]
    return _checked(list(zip(*lists, strict=True)))


def _numbers(tensor: _Tensor, count: int, width: int) -> list[Any] | FloatArray:
    """The `count` · `width` numbers of a tensor, row by row: unchecked as a list, or as an array."""
    _check_shape(tensor, count, width)
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _bad_tensor(f"a tensor of numbers must have one of the datatypes {', '.join(_DTYPES)}")
    if isinstance(tensor.data, list):
        return _flat(tensor.data, count, width)
    if len(tensor.data) != count * width * int(dtype[-1]):
        raise _bad_tensor("a tensor has other bytes than its shape and datatype say")
    with np.errstate(invalid="ignore"):  # a NaN that signals is refused like any other
        return np.frombuffer(tensor.data, dtype).astype(np.float64)


def _check_shape(tensor: _Tensor, count: int, width: int) -> None:
    if tensor.shape != [count, width] and (width > 1 or tensor.shape != [count]):
        raise _bad_tensor("the tensors have not the same number of rows, or another width")


def _flat(data: list[Any], count: int, width: int) -> list[Any]:
    """The values of a list, which may have one list per row."""
    if data and isinstance(data[0], list):
        if any(not isinstance(values, list) or len(values) != width for values in data):
            raise _RejectedError(RejectedReason.WRONG_WIDTH, f"each row must have {width} values", len(data))
        data = list(chain.from_iterable(data))
    if len(data) != count * width:
        raise _bad_tensor(f"a tensor has {len(data):,} values, other than its shape says")
    return data


def _texts(tensor: _Tensor, count: int) -> list[Any]:
    """The `count` values of a BYTES tensor."""
    _check_shape(tensor, count, 1)
    if tensor.datatype != "BYTES":
        raise _bad_tensor("a tensor of texts must have datatype BYTES")
    return _flat(tensor.data if isinstance(tensor.data, list) else _unpacked(tensor.data), count, 1)


def _unpacked(content: bytes) -> list[Any]:
    """The texts in bytes, each with its length before it, in four bytes."""
    texts: list[Any] = []
    place = 0
    while place < len(content):
        start = place + 4
        place = start + int.from_bytes(content[place:start], "little")
        if place > len(content):
            raise _bad_tensor("the bytes of a tensor end before its text does")
        try:
            texts.append(content[start:place].decode())
        except UnicodeDecodeError as error:
            raise _bad_tensor("a text is not UTF-8") from error
    return texts


# Answers


class _Answer(NamedTuple):
    """The three values of each row, as yet unchecked."""

    row_ids: Sequence[Any]
    probabilities: list[Any]
    alerts: list[Any]


def _unreadable(detail: str) -> _RejectedError:
    return _RejectedError(RejectedReason.UNREADABLE_ANSWER, detail)


def _response(event_id: str, time: float, model: str, document: _Document) -> LoggedResponse:
    members = document.members
    version = members.get("model_version")
    if not isinstance(version, str) or not 0 < len(version) <= MAX_ID or not version.isprintable():
        raise _unreadable("the answer has no model_version: an error, or of another server")
    if "predictions" in members:
        _check_nothing_follows(document)
        answer = _v1_answer(members["predictions"])
    else:
        answer = _v2_answer(members.get("outputs"), document.rest)
    if not document.sound:
        raise _RejectedError(RejectedReason.NOT_JSON, "the body is not JSON")
    _check_row_ids(answer.row_ids)
    probabilities, alerts = _probabilities(answer.probabilities), _alerts(answer.alerts)
    return LoggedResponse(event_id, time, model, version, probabilities, alerts, tuple(answer.row_ids))


def _v1_answer(predictions: Any) -> _Answer:
    if not isinstance(predictions, list) or not predictions:
        raise _unreadable("predictions: must be a list with one object per row")
    try:
        return _Answer(
            [prediction["id"] for prediction in predictions],
            [prediction["probability"] for prediction in predictions],
            [prediction["alert"] for prediction in predictions],
        )
    except (KeyError, TypeError) as error:
        raise _unreadable("a prediction has no id, no probability or no alert") from error


def _v2_answer(outputs: Any, rest: bytes) -> _Answer:
    try:
        tensors = _tensors(outputs, rest)
    except _RejectedError as error:
        raise _unreadable(error.detail) from error
    row_ids, probability, alert = (tensors.get(name) for name in ("id", "probability", "alert"))
    if row_ids is None or probability is None or alert is None:
        detail = "the request did not ask for all of id, probability and alert"
        raise _RejectedError(RejectedReason.INCOMPLETE_ANSWER, detail)
    try:
        count = probability.shape[0]
        values = _numbers(probability, count, 1)
        numbers = values if isinstance(values, list) else values.tolist()
        return _Answer(_texts(row_ids, count), numbers, _texts(alert, count))
    except _RejectedError as error:
        raise _unreadable(error.detail) from error


def _check_row_ids(row_ids: Sequence[Any]) -> None:
    texts = all(type(row_id) is str for row_id in row_ids)
    if not texts or not all(0 < len(row_id) <= _MAX_ROW_ID and row_id.isprintable() for row_id in row_ids):
        raise _unreadable("an id is not a short printable text")
    if len(set(row_ids)) < len(row_ids):
        raise _unreadable("two rows have the same id")


def _probabilities(values: list[Any]) -> FloatArray:
    if not _PLAIN.issuperset(map(type, values)) or not all(0.0 <= value <= 1.0 for value in values):
        raise _unreadable("a probability is not a number from 0 to 1")
    return np.array(values, dtype=np.float64)


def _alerts(values: list[Any]) -> Levels:
    try:
        return np.array([_LEVELS[value] for value in values], dtype=np.int8)
    except (KeyError, TypeError) as error:
        raise _unreadable(f"an alert is not one of {', '.join(ALERTS)}") from error
