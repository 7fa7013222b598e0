"""V1 of the protocol: `{"instances": [...]}` in, `{"predictions": [...]}` out. No I/O here.

An instance is a list of thirty numbers in the order of `INPUTS`, or an object by name, which may have an `id` of
its own. Members of a request that are not named here are ignored, as KServe does.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import orjson

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS, FloatArray, check_rows, rows_from_instances
from fraudkit.scoring import ALERTS
from serving.predictor import documents
from serving.predictor.documents import Document
from serving.predictor.request import (
    Names,
    Request,
    Scores,
    by_level,
    check_count,
    check_id,
    each,
    fresh_id,
    named,
)

_VERDICTS: Final = by_level(
    *(b',"label":%d,"alert":"%s"' % (level > 0, alert.encode()) for level, alert in enumerate(ALERTS))
)


def read(body: bytes, header_id: str, most: int) -> Request:
    """The request in a V1 `body` of at most `most` rows; `header_id` (or empty) goes before its own id.

    Raises:
        InvalidInput: Naming row and field of what is wrong.
        Refused: 413, more than `most` rows.
    """
    return documents.read(body, partial(_interpret, header_id=header_id, most=most))


def write(request: Request, scores: Scores, version: str) -> bytes:
    """The V1 answer, with reasons where `scores` has them."""
    names = request.names.quoted()
    probabilities = orjson.dumps(scores.probabilities, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    verdicts = each(_VERDICTS, scores.levels)
    if scores.reasons is not None:
        reasons = map(orjson.dumps, scores.reasons)
        verdicts = [b'%s,"reasons":%s' % pair for pair in zip(verdicts, reasons, strict=True)]
    # One join over all parts is several times faster than an object per row.
    parts = [b'},{"id":' + names.head, b"", names.tail + b',"probability":', b"", b""] * len(probabilities)
    parts[0] = b'{"predictions":[{"id":' + names.head
    parts[1::5], parts[3::5], parts[4::5] = names.items, probabilities, verdicts
    parts.append(b'}],"model_version":"%s"}' % version.encode())
    return b"".join(parts)


def _interpret(document: Document, header_id: str, most: int) -> Request:
    instances = document.get("instances")
    if not isinstance(instances, (list, np.ndarray)):
        problem = "must be a list of transactions" if "instances" in document else "is missing"
        raise InvalidInput(f"instances: {problem}")
    check_count(len(instances), "instances", most)
    own_id = document.get("id")
    if own_id is not None and not isinstance(own_id, str):
        raise InvalidInput("id: must be a text")
    own_id = check_id(own_id, "id")
    request_id = header_id or own_id or fresh_id()
    if isinstance(instances, list):
        names, rows = _instances(instances, request_id)
    else:
        names, rows = Names(request_id, len(instances)), _matrix(instances)
    return Request(rows, names, own_id or request_id)


def _instances(instances: list[Any], request_id: str) -> tuple[Names, FloatArray]:
    own = {
        row: instance.pop("id")
        for row, instance in enumerate(instances)
        if isinstance(instance, dict) and "id" in instance
    }
    names = named(request_id, len(instances), own)
    return names, rows_from_instances(instances)


def _matrix(rows: FloatArray) -> FloatArray:
    if rows.shape[1:] != (len(INPUTS),):
        return rows_from_instances(rows.tolist())
    check_rows(rows)
    return rows
