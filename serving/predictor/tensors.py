"""What the tensors of V2 mean, whether JSON, bytes or protobuf brought them.

One tensor [n, 30] of any name (`transactions` in the metadata), or thirty tensors [n] or [n, 1] named like the
inputs, and an optional BYTES tensor `id` [n]. Data are flat or one list per row. Numbers in JSON are taken as
written, in double precision, whichever float type is declared.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from fraudkit.errors import InvalidInput, InvalidRows, Violation
from fraudkit.schema import (
    INPUTS,
    MAX_REPORTED,
    FloatArray,
    check_rows,
    rows_from_instances,
)
from fraudkit.scoring import ALERTS
from serving.predictor.documents import short
from serving.predictor.request import Names, Scores, by_level, check_count, each, named, numbers

DTYPES: Final = {"FP64": "<f8", "FP32": "<f4"} | {
    f"{sign}INT{bits}": f"<{kind}{bits // 8}" for sign, kind in (("", "i"), ("U", "u")) for bits in (8, 16, 32, 64)
}
"""The numeric datatypes that are taken, and how numpy reads their bytes."""
_RANGES: Final = {name: np.iinfo(code) for name, code in DTYPES.items() if "INT" in name}
_WIDTH: Final = len(INPUTS)
_INPUTS: Final = frozenset(INPUTS)
_ALERTS: Final = by_level(*(struct.pack("<I", len(alert)) + alert.encode() for alert in ALERTS))


Bytes = bytes | memoryview


class Tensor(NamedTuple):
    """An input tensor whose data are not yet looked at: a list, an array, or the bytes of the datatype."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[Any] | FloatArray | Bytes


def rows_and_names(tensors: Sequence[Tensor], request_id: str, most: int) -> tuple[FloatArray, Names]:
    """The checked rows in `tensors`, and what they are called.

    Raises:
        InvalidInput: Naming tensor, row and input of what is wrong.
        Refused: 413, more than `most` rows.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) < len(tensors):
        raise InvalidInput("inputs: two tensors have the same name")
    texts = by_name.pop("id", None)
    first = next(iter(by_name.values()), tensors[0])
    count = first.shape[0]
    check_count(count, short(first.name), most)
    own = dict(enumerate(_texts(texts, count))) if texts else {}
    return _rows(by_name, count), named(request_id, count, own)


def pack(output: str, scores: Scores, names: Names, reasons: Sequence[bytes]) -> bytes:
    """The bytes of an output tensor, little-endian; a text has its length before it, in four bytes."""
    if output == "probability":
        return scores.probabilities.astype("<f8", copy=False).tobytes()
    if output == "label":
        return (scores.levels > 0).astype("<i8").tobytes()
    if output == "alert":
        return b"".join(each(_ALERTS, scores.levels))
    if output == "id":
        return _packed_names(names)
    return b"".join(pack_text(text) for text in reasons)


def pack_text(text: bytes) -> bytes:
    """A text with its length before it."""
    return struct.pack("<I", len(text)) + text


def _packed_names(names: Names) -> bytes:
    if names.own:
        return b"".join([pack_text(text.encode()) for text in names.texts()])
    head = names.request.encode() + b"-"
    packed = b""
    for digits, rows in enumerate(_by_digits(names.rows), start=1):
        start = struct.pack("<I", len(head) + digits) + head
        packed += start + start.join(rows)
    return packed


@lru_cache(maxsize=8)
def _by_digits(count: int) -> list[list[bytes]]:
    """The numbers of `count` rows, those of one digit, of two digits, and so on."""
    return [list(same) for _, same in groupby(numbers(count), len)]


def _rows(tensors: Mapping[str, Tensor], count: int) -> FloatArray:
    """The checked rows of the one tensor, or of the thirty columns."""
    matrix = next(iter(tensors.values()), None)
    if len(tensors) == 1 and matrix and matrix.name not in _INPUTS:
        rows = _matrix(_values(matrix, count, _WIDTH), count)
        _check_integers(matrix, rows, INPUTS)
        return rows
    problems = [Violation("is missing", column=name) for name in INPUTS if name not in tensors]
    problems += [Violation("is not an input", column=short(name)) for name in tensors if name not in _INPUTS]
    if problems:
        raise InvalidRows(problems[:MAX_REPORTED], total=len(problems))
    columns = [_values(tensors[name], count, 1) for name in INPUTS]
    if all(isinstance(column, np.ndarray) for column in columns):
        rows = _matrix(np.column_stack([np.ravel(column) for column in columns]), count)
    else:
        lists = [np.ravel(column).tolist() if isinstance(column, np.ndarray) else column for column in columns]
        rows = rows_from_instances(list(zip(*lists, strict=True)))
    for name in INPUTS:
        _check_integers(tensors[name], rows, (name,))
    return rows


def _matrix(values: Sequence[Any] | FloatArray, count: int) -> FloatArray:
    """The checked rows of `count` · 30 values."""
    if not isinstance(values, np.ndarray):
        return rows_from_instances([values[i : i + _WIDTH] for i in range(0, len(values), _WIDTH)])
    rows = values.reshape(count, _WIDTH)
    check_rows(rows)
    return rows


def _values(tensor: Tensor, count: int, width: int) -> Sequence[Any] | FloatArray:
    """The `count` · `width` values of a tensor of numbers, row by row."""
    name, data = short(tensor.name), tensor.data
    _check_shape(tensor, count, width)
    dtype = DTYPES.get(tensor.datatype.upper())
    if dtype is None:
        raise InvalidInput(f"{name}: has datatype {short(tensor.datatype)}, must be {', '.join(DTYPES)}")
    if isinstance(data, (bytes, memoryview)):
        wanted = count * width * int(dtype[-1])
        if len(data) != wanted:
            raise InvalidInput(f"{name}: has {len(data):,} bytes, its shape and datatype say {wanted:,}")
        return _doubles(data, dtype)
    return _flat(name, data, count, width)


def _doubles(data: Bytes, dtype: str) -> FloatArray:
    """The numbers in bytes, copied: numpy is slow where numbers do not begin at a multiple of 8."""
    if dtype == "<f8":
        return np.array(np.frombuffer(data, dtype))
    with np.errstate(invalid="ignore"):  # a NaN that signals is refused like any other
        return np.frombuffer(data, dtype).astype(np.float64)


def _flat(name: str, data: Sequence[Any] | FloatArray, count: int, width: int) -> Sequence[Any] | FloatArray:
    """The values of a list or an array, which may have one list per row."""
    if isinstance(data, np.ndarray) and data.shape in ((count, width), (count * width,)):
        return data
    if isinstance(data, np.ndarray):
        data = data.tolist()
    if data and isinstance(data[0], list):
        for row, values in enumerate(data):
            if not isinstance(values, list) or len(values) != width:
                raise InvalidRows([Violation(f"must be a list of {width} values", row=row, column=name)])
        data = [value for values in data for value in values]
    if len(data) != count * width:
        raise InvalidInput(f"{name}: has {len(data):,} values, its shape says {count * width:,}")
    return data


def _check_shape(tensor: Tensor, count: int, width: int) -> None:
    shape = list(tensor.shape)
    if shape != [count, width] and (width > 1 or shape != [count]):
        wanted = f"[n, {width}]" if width > 1 else f"[{count}] or [{count}, 1]"
        raise InvalidInput(f"{short(tensor.name)}: has shape {shape}, must be {wanted}")


def _check_integers(tensor: Tensor, rows: FloatArray, columns: Sequence[str]) -> None:
    """Raise InvalidRows where a tensor of an integer type has a number that is not of that type."""
    datatype = tensor.datatype.upper()
    if datatype not in _RANGES or isinstance(tensor.data, (bytes, memoryview)):
        return
    bounds = _RANGES[datatype]
    values = rows[:, [INPUTS.index(name) for name in columns]]
    bad = np.argwhere((values != np.floor(values)) | (values < bounds.min) | (values > bounds.max))
    if bad.size:
        places = [(int(row), int(place)) for row, place in bad[:MAX_REPORTED]]
        violations = [
            Violation(f"is not {datatype}", row, columns[place], f"{values[row, place]:g}")
            for row, place in places
        ]
        raise InvalidRows(violations, total=len(bad))


def _texts(tensor: Tensor, count: int) -> list[Any]:
    """The `count` values of a BYTES tensor."""
    name, data = short(tensor.name), tensor.data
    _check_shape(tensor, count, 1)
    if tensor.datatype.upper() != "BYTES":
        raise InvalidInput(f"{name}: has datatype {short(tensor.datatype)}, must be BYTES")
    if isinstance(data, (bytes, memoryview)):
        data = _unpacked(name, bytes(data))
    return [_text(value, row) for row, value in enumerate(_flat(name, data, count, 1))]


def _text(value: Any, row: int) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise InvalidRows([Violation("must be UTF-8", row=row, column="id")]) from error


def _unpacked(name: str, content: bytes) -> list[bytes]:
    """The texts in the bytes of a BYTES tensor, each with its length before it, in four bytes."""
    texts: list[bytes] = []
    place = 0
    while place < len(content):
        start = place + 4
        place = start + int.from_bytes(content[place:start], "little")
        if place > len(content) or start > len(content):
            raise InvalidRows([Violation("its bytes end before its text does", row=len(texts), column=name)])
        texts.append(content[start:place])
    return texts
