"""The KServe inference protocol: what the bytes of a request mean, and the bytes of an answer. No I/O here.

V1 takes `{"instances": [...]}`: lists of thirty numbers in the order of `INPUTS`, or objects by name, which
may have an `id` of their own. V2 takes one tensor [n, 30] of any name (`transactions` in the metadata), or
thirty tensors [n] or [n, 1] named like the inputs, and an optional BYTES tensor `id`; data are flat or one
list per row. Numbers in JSON are taken as written, in double precision, whichever float type is declared.
Members of a request that are not named here are ignored, as KServe does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraudkit.errors import InvalidInput, InvalidRows, Violation
from fraudkit.schema import INPUTS, MAX_REPORTED, FloatArray, rows_from_instances
from fraudkit.scoring import Reason

MAX_ID: Final = 256
"""Most characters of an id."""
OUTPUTS: Final = {"probability": "FP64", "label": "INT64", "alert": "BYTES", "id": "BYTES", "reasons": "BYTES"}
"""The output tensors [n] of V2 and their datatypes; `reasons` only when a request asks for it."""
DEFAULT_OUTPUTS: Final = ("probability", "label", "alert", "id")
_WIDTH: Final = len(INPUTS)
_RANGES: Final = {f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)} | {
    f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)
}


class Refused(InvalidInput):
    """A request that HTTP has a `status` of its own for, and `headers` that belong to it."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """A sound request: checked `rows` [n, 30], one id per row, the request's own id, and the V2 outputs."""

    rows: FloatArray
    row_ids: list[str]
    id: str
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of n rows, one entry per row; reasons only when they were asked for."""

    probabilities: list[float]
    labels: list[int]
    alerts: list[str]
    reasons: list[list[Reason]] | None = None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _V1(_Strict):
    id: str | None = None
    instances: list[Any]


class Tensor(_Strict):
    """An input tensor of V2 whose data are not yet looked at."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    datatype: str
    shape: Annotated[list[int], Field(min_length=1, max_length=2)]
    data: list[Any]


class Output(_Strict):
    """A wanted output of V2."""

    name: Literal["probability", "label", "alert", "id", "reasons"]


class _V2(_Strict):
    id: str | None = None
    inputs: Annotated[list[Tensor], Field(min_length=1, max_length=_WIDTH + 1)]
    outputs: Annotated[list[Output], Field(max_length=len(OUTPUTS))] | None = None


_Document = TypeVar("_Document", _V1, _V2)


def read_v1(body: bytes, header_id: str, fresh_id: str, max_rows: int) -> Request:
    """The request in a V1 `body`; `header_id` (or empty) goes before its own id, `fresh_id` stands in for both.

    Raises:
        InvalidInput: Naming row and field of what is wrong.
        Refused: 413, more than `max_rows` rows.
    """
    document, names = _decode(body, _V1)
    rows = document.instances
    check_count(len(rows), "instances", max_rows)
    objects = {row: instance for row, instance in enumerate(rows) if isinstance(instance, dict)}
    _reject_repeated_names(body, names + sum(map(len, objects.values())))
    own = {row: instance.pop("id") for row, instance in objects.items() if "id" in instance}
    own_id = check_id(document.id, "id")
    row_ids = _row_ids(own, header_id or own_id or fresh_id, len(rows))
    return Request(rows_from_instances(rows), row_ids, own_id or header_id or fresh_id)


def read_v2(body: bytes, header_id: str, fresh_id: str, max_rows: int) -> Request:
    """The request in a V2 `body`; ids as in V1.

    Raises:
        InvalidInput: Naming tensor, row and input of what is wrong.
        Refused: 413, more than `max_rows` rows.
    """
    document, names = _decode(body, _V2)
    tensors = {tensor.name: tensor for tensor in document.inputs}
    if len(tensors) < len(document.inputs):
        raise InvalidInput("inputs: two tensors have the same name")
    _reject_repeated_names(body, names + 4 * len(tensors) + len(document.outputs or ()))
    texts = tensors.pop("id", None)
    first = next(iter(tensors.values()), document.inputs[0])
    count = first.shape[0]
    check_count(count, _short(first.name), max_rows)
    own = dict(enumerate(_values(texts, count, 1))) if texts else {}
    own_id = check_id(document.id, "id")
    row_ids = _row_ids(own, header_id or own_id or fresh_id, count)
    outputs = tuple(dict.fromkeys(output.name for output in document.outputs or ())) or DEFAULT_OUTPUTS
    return Request(_rows(tensors, count), row_ids, own_id or header_id or fresh_id, outputs)


def write_v1(request: Request, scores: Scores, version: str) -> bytes:
    """The V1 answer, with reasons where `scores` has them."""
    columns = {
        "id": request.row_ids,
        "probability": scores.probabilities,
        "label": scores.labels,
        "alert": scores.alerts,
    }
    if scores.reasons is not None:
        columns["reasons"] = scores.reasons
    predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return orjson.dumps({"predictions": predictions, "model_version": version})


def write_v2(request: Request, scores: Scores, name: str, version: str) -> bytes:
    """The V2 answer with the outputs that `request` asks for; `reasons` are JSON text, one per row."""
    columns = {
        "probability": scores.probabilities,
        "label": scores.labels,
        "alert": scores.alerts,
        "id": request.row_ids,
        "reasons": [orjson.dumps(reasons).decode() for reasons in scores.reasons or ()],
    }
    outputs = [
        {"name": output, "shape": [len(request.rows)], "datatype": OUTPUTS[output], "data": columns[output]}
        for output in request.outputs
    ]
    return orjson.dumps({"model_name": name, "model_version": version, "id": request.id, "outputs": outputs})


def check_id(value: str | None, where: str) -> str:
    """`value` as a request's id; empty and absent are the same. InvalidInput says what is wrong with it."""
    problem = _id_problem(value) if value else ""
    if problem:
        raise InvalidInput(f"{where}: {problem}")
    return value or ""


def _decode(body: bytes, form: type[_Document]) -> tuple[_Document, int]:
    """The document in `body`, and how many names its outermost object has."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object")
    try:
        return form.model_validate(document), len(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidInput(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def _reject_repeated_names(body: bytes, names: int) -> None:
    """Refuse an object that gives a name twice: orjson keeps the last of them without a word.

    Each name has a colon; only a body with more colons than `names` is looked at by the slower parser.
    """
    if body.count(b":") > names:
        try:
            json.loads(body, object_pairs_hook=_unique)
        except RecursionError as error:
            raise InvalidInput("the body is nested too deeply") from error


def _unique(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidInput(f"{_short(name)}: is given more than once in one object")
        seen.add(name)


def check_count(count: int, where: str, max_rows: int) -> None:
    """Refuse no rows, and more than `max_rows`."""
    if count < 1:
        raise InvalidInput(f"{where}: has no rows, must have at least one")
    if count > max_rows:
        raise Refused(413, f"{where}: has {count:,} rows, at most {max_rows:,} fit in one request")


def _row_ids(own: Mapping[int, object], request_id: str, count: int) -> list[str]:
    """The ids of `count` rows: `own` by row number, else the request's and the row number."""
    ids: dict[str, int] = {}
    violations = []
    for row in range(count):
        row_id: Any = own.get(row, f"{request_id}-{row}")
        problem = _id_problem(row_id) if row in own else ""
        if not problem and ids.setdefault(row_id, row) != row:
            problem = f"is that of row {ids[row_id]} too"
        if problem:
            violations.append(Violation(problem, row=row, column="id"))
    if violations:
        raise InvalidRows(violations[:MAX_REPORTED], total=len(violations))
    return list(ids)


def _id_problem(value: object) -> str:
    if not isinstance(value, str):
        return "must be a text"
    if not 0 < len(value) <= MAX_ID:
        return f"has {len(value):,} characters, must have 1 to {MAX_ID}"
    return "" if value.isprintable() else "has characters that cannot be printed"


def _rows(tensors: Mapping[str, Tensor], count: int) -> FloatArray:
    """The checked matrix [n, 30] of the one tensor, or of the thirty columns."""
    if len(tensors) == 1 and not tensors.keys() & set(INPUTS):
        matrix = next(iter(tensors.values()))
        flat = _values(matrix, count, _WIDTH)
        rows = rows_from_instances([flat[i : i + _WIDTH] for i in range(0, len(flat), _WIDTH)])
        _check_integers(matrix, flat, INPUTS)
        return rows
    problems = [Violation("is missing", column=name) for name in INPUTS if name not in tensors]
    problems += [Violation("is not an input", column=_short(name)) for name in tensors if name not in INPUTS]
    if problems:
        raise InvalidRows(problems[:MAX_REPORTED], total=len(problems))
    columns = [_values(tensors[name], count, 1) for name in INPUTS]
    rows = rows_from_instances(list(zip(*columns, strict=True)))
    for name, values in zip(INPUTS, columns, strict=True):
        _check_integers(tensors[name], values, (name,))
    return rows


def _values(tensor: Tensor, count: int, width: int) -> Sequence[Any]:
    """The `count` · `width` values of a tensor, row by row."""
    name, datatype, data = _short(tensor.name), tensor.datatype.upper(), tensor.data
    if tensor.shape != [count, width] and (width > 1 or tensor.shape != [count]):
        wanted = f"[n, {width}]" if width > 1 else f"[{count}] or [{count}, 1]"
        raise InvalidInput(f"{name}: has shape {tensor.shape}, must be {wanted}")
    allowed = ("BYTES",) if name == "id" else ("FP64", "FP32", *_RANGES)
    if datatype not in allowed:
        raise InvalidInput(f"{name}: has datatype {_short(datatype)}, must be {', '.join(allowed)}")
    if data and isinstance(data[0], list):
        for row, values in enumerate(data):
            if not isinstance(values, list) or len(values) != width:
                raise InvalidRows([Violation(f"must be a list of {width} values", row=row, column=name)])
        data = [value for values in data for value in values]
    if len(data) != count * width:
        raise InvalidInput(f"{name}: has {len(data):,} values, its shape says {count * width:,}")
    return data


def _check_integers(tensor: Tensor, values: Sequence[Any], columns: Sequence[str]) -> None:
    """Raise InvalidRows where a tensor of an integer type has a number that is not of that type."""
    if (datatype := tensor.datatype.upper()) not in _RANGES:
        return
    low, high = _RANGES[datatype]
    for place, value in enumerate(values):
        if not isinstance(value, int) or not low <= value <= high:
            row, column = divmod(place, len(columns))
            raise InvalidRows([Violation(f"is not {datatype}", row, columns[column], repr(value))])


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "…"
