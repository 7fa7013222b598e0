"""What a request comes to, whatever protocol brought it: sound rows, and the names of its rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput, InvalidRows, Violation
from fraudkit.http import Field
from fraudkit.schema import MAX_REPORTED, FloatArray
from fraudkit.scoring import Reason

MAX_ID: Final = 256
"""Most characters of an id."""
OUTPUTS: Final = {"probability": "FP64", "label": "INT64", "alert": "BYTES", "id": "BYTES", "reasons": "BYTES"}
"""The output tensors [n] of V2 and their datatypes; `reasons` only when a request asks for it."""
DEFAULT_OUTPUTS: Final = ("probability", "label", "alert", "id")

_FRESH: Final[list[str]] = []
_NUMBERS: Final = [b"%d" % row for row in range(1_000)]


class Refused(InvalidInput):
    """A request that HTTP has a `status` of its own for, and `headers` that belong to it."""

    def __init__(self, status: int, message: str, *headers: Field) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Limits(NamedTuple):
    """Most rows of a request, and of one that asks for reasons."""

    rows: int
    explained: int


class Parts(NamedTuple):
    """Texts that begin and end alike, as `items` between `head` and `tail`: to be joined, not added one by one."""

    head: bytes
    items: list[bytes]
    tail: bytes


class Names(NamedTuple):
    """The ids of `rows` rows: `own` by row number, else the request's and the row number."""

    request: str
    rows: int
    own: Mapping[int, str] = {}

    def texts(self) -> list[str]:
        """The ids, in the order of the rows."""
        return [self.own.get(row, f"{self.request}-{row}") for row in range(self.rows)]

    def quoted(self) -> Parts:
        """The ids as JSON texts."""
        if self.own:
            return Parts(b"", list(map(orjson.dumps, self.texts())), b"")
        return Parts(orjson.dumps(self.request)[:-1] + b"-", numbers(self.rows), b'"')


class Request(NamedTuple):
    """A sound request.

    Attributes:
        rows: The checked rows [n, 30].
        names: The ids of the rows.
        id: The request's own id, which V2 answers repeat.
        outputs: The V2 outputs that are wanted.
        binary: Those of them that are wanted as bytes after the JSON, or as raw contents.
    """

    rows: FloatArray
    names: Names
    id: str
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    binary: frozenset[str] = frozenset()


class Scores(NamedTuple):
    """What the model says of n rows: probabilities [n], levels that index `ALERTS`, and reasons when asked for."""

    probabilities: FloatArray
    levels: NDArray[np.int64]
    reasons: list[list[Reason]] | None = None


class Reply(NamedTuple):
    """An answer over HTTP, and what of it is counted and logged."""

    body: bytes
    status: int = 200
    headers: tuple[Field, ...] = ()
    media: bytes = b"application/json"
    scores: Scores | None = None
    id: str = ""


def each(texts: NDArray[np.object_], levels: NDArray[np.int64]) -> list[bytes]:
    """The text of each level. numpy picks them twice as fast as a comprehension."""
    picked: list[bytes] = texts[levels].tolist()
    return picked


def by_level(*texts: bytes) -> NDArray[np.object_]:
    """Texts to pick from, by level."""
    return np.array(texts, dtype=object)


def fresh_id() -> str:
    """A new UUID of version 4. They are made in lots, with one call for random bytes."""
    try:
        return _FRESH.pop()
    except IndexError:
        lot = _uuids(256)
        mine = lot.pop()
        _FRESH.extend(lot)
        return mine


def _uuids(count: int) -> list[str]:
    digits = os.urandom(16 * count).hex()
    starts = range(0, len(digits), 32)
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-4{digits[i + 13 : i + 16]}-"
        f"8{digits[i + 17 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in starts
    ]


def numbers(count: int) -> list[bytes]:
    """The numbers of `count` rows in digits; kept, up to those of the largest request yet."""
    if count > len(_NUMBERS):
        _NUMBERS.extend([b"%d" % row for row in range(len(_NUMBERS), count)])
    return _NUMBERS[:count]


def check_id(value: str | None, where: str) -> str:
    """`value` as a request's id; empty and absent are the same. InvalidInput says what is wrong with it."""
    problem = id_problem(value) if value else ""
    if problem:
        raise InvalidInput(f"{where}: {problem}")
    return value or ""


def check_count(count: int, where: str, most: int) -> None:
    """Refuse no rows, and more than `most`."""
    if count < 1:
        raise InvalidInput(f"{where}: has no rows, must have at least one")
    if count > most:
        raise Refused(413, f"{where}: has {count:,} rows, at most {most:,} fit in one request")


def named(request_id: str, count: int, own: Mapping[int, object]) -> Names:
    """The names of `count` rows of which `own` have an id of their own.

    Raises:
        InvalidRows: An id is not a short printable text, or two rows have the same.
    """
    if not own:
        return Names(request_id, count)
    violations = [
        Violation(problem, row=row, column="id") for row, value in own.items() if (problem := id_problem(value))
    ]
    if not violations:
        names = Names(request_id, count, {row: str(value) for row, value in own.items()})
        first: dict[str, int] = {}
        for row, text in enumerate(names.texts()):
            if first.setdefault(text, row) != row:
                violations.append(Violation(f"is that of row {first[text]} too", row=row, column="id"))
    if violations:
        raise InvalidRows(violations[:MAX_REPORTED], total=len(violations))
    return names


def id_problem(value: object) -> str:
    """What is wrong with a value as an id, or nothing."""
    if not isinstance(value, str):
        return "must be a text"
    if not 0 < len(value) <= MAX_ID:
        return f"has {len(value):,} characters, must have 1 to {MAX_ID}"
    return "" if value.isprintable() else "has characters that cannot be printed"
