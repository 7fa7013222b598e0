"""The short path of a request with one row and nothing unusual, which is most of them.

It answers what the general path (`v1`, `v2`) would answer, or None when anything is not plain: then the general
path has its say. So a rule that is not obviously kept here need not be known here.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Any, Final

import orjson

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS, LIMIT
from fraudkit.scoring import ALERTS, Scorer
from serving.predictor import v2
from serving.predictor.body import BINARY, INFERENCE_HEADER, JSON, Headers, json_size
from serving.predictor.documents import SHORT
from serving.predictor.request import fresh_id
from serving.predictor.tensors import pack_text

_WIDTH: Final = len(INPUTS)
_RESERVED: Final = frozenset((*INPUTS, "id", ""))
_SHAPE: Final = [1, _WIDTH]
_FORMATS: Final = {"FP64": struct.Struct(f"<{_WIDTH}d"), "FP32": struct.Struct(f"<{_WIDTH}f")}
_MEMBERS: Final = 2
_TENSOR_NAMES: Final = 4
_LARGE: Final = 1e3
"""Components beyond this are left to numpy: the order in which terms are added could show in the twelfth digit."""
_LONGEST_NAME: Final = 256
_BEGIN: Final = len('{"inputs":')
_NUMBERS: Final = frozenset((int, float))
_NOT_PLAIN: Final = (ValueError, TypeError, KeyError, IndexError, InvalidInput)
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_.:/@-]{1,256}").fullmatch


Plain = tuple[bytes, float, int, str, int]
"""An answer, its row's probability and level, the request's id, and the length of JSON that bytes follow, or 0."""


class Single:
    """Answers for one version of the model."""

    def __init__(self, name: str, version: str, scorer: Scorer) -> None:
        self._scorer = scorer
        labels = [int(level > 0) for level in range(len(ALERTS))]
        verdicts = list(zip(labels, ALERTS, strict=True))
        self._v1_ends = [
            f',"label":{label},"alert":"{alert}"}}],"model_version":"{version}"}}' for label, alert in verdicts
        ]
        model = orjson.dumps({"model_name": name, "model_version": version})[:-1].decode()
        self._v2_head = f'{model},"id":"'
        output = '{{"name":"{}","datatype":"{}","shape":[1],'.format
        label_head, alert_head, id_head = output("label", "INT64"), output("alert", "BYTES"), output("id", "BYTES")
        self._v2_probability = f'","outputs":[{output("probability", "FP64")}"data":['
        self._v2_ends = [
            f']}},{label_head}"data":[{label}]}},{alert_head}"data":["{alert}"]}},{id_head}"data":["'
            for label, alert in verdicts
        ]
        size = '"parameters":{{"binary_data_size":{}}}'.format
        self._binary_outputs = [
            f'","outputs":[{output("probability", "FP64")}{size(8)}}},{label_head}{size(8)}}},'
            f'{alert_head}{size(4 + len(alert))}}},{id_head}"parameters":{{"binary_data_size":'
            for alert in ALERTS
        ]
        self._packed = [struct.pack("<q", label) + pack_text(alert.encode()) for label, alert in verdicts]

    def v1(self, body: bytes, headers: Headers) -> Plain | None:
        """The answer to a V1 `body`, a list of one list of numbers."""
        try:
            caller = _caller(body, headers)
            document = orjson.loads(body)
            [row] = document["instances"]
            own_id = _own_id(document) if len(document) > 1 else ""
            if body.count(b":") != len(document) or not _no_booleans(body, row):
                return None
            probability, level = self._score(row)
        except _NOT_PLAIN:
            return None
        name = caller or own_id or fresh_id()
        text = f'{{"predictions":[{{"id":"{name}-0","probability":{probability!r}{self._v1_ends[level]}'
        return text.encode(), probability, level, name, 0

    def v2(self, body: bytes, headers: Headers) -> Plain | None:
        """The answer to a V2 `body`, one tensor [1, 30] of floats."""
        if INFERENCE_HEADER in headers:
            return self._binary(body, headers)
        try:
            caller = _caller(body, headers)
            document = orjson.loads(body)
            [tensor] = document["inputs"]
            own_id = _own_id(document) if len(document) > 1 else ""
            shape, name = tensor["shape"], tensor["name"]
            if (
                shape != _SHAPE
                or not type(shape[0]) is type(shape[1]) is int
                or tensor["datatype"] not in _FORMATS
                or name in _RESERVED
                or len(name) > _LONGEST_NAME
                or len(tensor) > _TENSOR_NAMES
                or body.count(b":") != len(document) + _TENSOR_NAMES  # a name twice: each has a colon
                or not _no_booleans(body, tensor["data"])
            ):
                return None
            probability, level = self._score(tensor["data"])
        except _NOT_PLAIN:
            return None
        name = caller or own_id or fresh_id()
        own_id = own_id or name
        text = f'{self._v2_head}{own_id}{self._v2_probability}{probability!r}{self._v2_ends[level]}{name}-0"]}}]}}'
        return text.encode(), probability, level, name, 0

    def _binary(self, body: bytes, headers: Headers) -> Plain | None:
        try:
            caller = _caller(body, headers)
            size = json_size(headers) or 0
            row_format = _binary_format(body[:size])
            if row_format is None or len(body) != size + row_format.size:
                return None
            probability, level = self._score(row_format.unpack_from(body, size))
        except _NOT_PLAIN:
            return None
        name = caller or fresh_id()
        row_id = pack_text(f"{name}-0".encode())
        head = f"{self._v2_head}{name}{self._binary_outputs[level]}{len(row_id)}}}}}]}}".encode()
        tail = struct.pack("<d", probability) + self._packed[level] + row_id
        return head + tail, probability, level, name, len(head)

    def _score(self, row: Any) -> tuple[float, int]:
        """Probability and alert of thirty numbers; ValueError or TypeError when they are not plainly a row."""
        time, components, amount = row[0], row[1:29], row[29]
        if len(row) != _WIDTH or not (0.0 <= time <= LIMIT and 0.0 <= amount <= LIMIT):
            raise ValueError
        if min(components) < -_LARGE or max(components) > _LARGE:
            raise ValueError
        scored = self._scorer.score_row(time, components, amount)
        if scored[0] != scored[0]:  # min and max may pass over NaN; the score does not
            raise ValueError
        return scored


def _own_id(document: Any) -> str:
    """The id of a request that has another member; ValueError when that is not a plain id."""
    own_id = document["id"]
    if len(document) > _MEMBERS or not (own_id is None or own_id == "" or _PLAIN_ID(own_id)):
        raise ValueError
    return own_id or ""


def _no_booleans(body: bytes, row: Any) -> bool:
    """Whether a row in JSON has neither true nor false, which to Python are numbers.

    They have a u or an l, as names may have; but most bodies have none after the name `inputs`.
    """
    return (body.find(b"u", _BEGIN) < 0 and body.find(b"l", _BEGIN) < 0) or _NUMBERS.issuperset(map(type, row))


def _caller(body: bytes, headers: Headers) -> str:
    """The id in the header, or nothing; ValueError when that, the body or another header is not plain."""
    media = headers.get(b"content-type")
    if media != JSON and not (media == BINARY and INFERENCE_HEADER in headers):
        raise ValueError
    if len(body) > SHORT or b"content-encoding" in headers:
        raise ValueError
    caller = headers.get(b"ce-id")
    if caller is None:
        return ""
    text: str = caller.decode()
    if not _PLAIN_ID(text):
        raise ValueError
    return text


@lru_cache(maxsize=256)
def _binary_format(head: bytes) -> struct.Struct | None:
    """How to read the bytes after a plain `head`, sent again and again; None when it is not plain."""
    try:
        asked = v2.known(head)
    except InvalidInput:
        return None
    tensor = asked.inputs[0]
    row = _FORMATS.get(tensor.datatype)
    plain = (
        row
        and len(asked.inputs) == 1
        and tensor.shape == _SHAPE
        and tensor.name not in _RESERVED
        and tensor.data is None
        and tensor.parameters == v2.InputParameters(binary_data_size=row.size)
        and asked.parameters == v2.RequestParameters(binary_data_output=True)
        and not asked.outputs
        and not asked.id
    )
    return row if plain else None
