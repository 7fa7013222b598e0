"""Outcomes of transactions: reported ones, read from JSON or CSV each by itself, and when one has matured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import orjson

from fraudkit.errors import InvalidInput

MAX_LABELS: Final = 100_000
"""Most labels of a request."""
MAX_ID: Final = 300
MAX_TEXT: Final = 200
FIELDS: Final = ("id", "label", "source", "by", "at")
SILENCE: Final = "silence"
"""The source of an outcome that nobody reported."""
_LABELS: Final = {"0": 0, "1": 1, "false": 0, "true": 1, "legitimate": 0, "fraud": 1}
_LATEST: Final = 253_402_300_799.0


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome of a transaction.

    Attributes:
        id: Of the transaction.
        label: 1 for a fraud.
        source: Where it is known from: `review`, `chargeback`, …
        by: Who says so.
        at: When it was found out [s, UTC]; None where that is not said.
    """

    id: str
    label: int
    source: str
    by: str
    at: float | None


@dataclass(frozen=True, slots=True)
class Mistake:
    """A label that cannot be used: which, and what is wrong with which field."""

    row: int
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction.

    Attributes:
        label: 1 for a fraud.
        source: Where it is known from.
        at: Since when it is [s, UTC].
        by: Who says so; nobody where nothing was reported.
    """

    label: int
    source: str
    at: float
    by: str = ""


class TooManyLabels(InvalidInput):
    """More labels than one request may have."""


def mature(time: float, reported: Outcome | None, as_of: float, silence: float) -> Outcome | None:
    """The outcome that a transaction has at `as_of`; None while it has not matured.

    Args:
        time: Of the transaction [s, UTC].
        reported: The label that counts, if there is one.
        as_of: The moment [s, UTC]; what was found out later is not known yet.
        silence: How long nothing must have been reported for the transaction to be legitimate [s].
    """
    if reported and reported.at <= as_of:
        return reported
    if is_silent(time, as_of, silence):
        return Outcome(0, SILENCE, time + silence)
    return None


def is_silent(time: float, as_of: float, silence: float) -> bool:
    """Whether so long has passed since `time` that hearing nothing is an outcome."""
    return time <= as_of - silence


def read_json(body: bytes) -> Iterator[Label | Mistake]:
    """The labels of a JSON object, of a list of them, or of the list in a member `labels`.

    Raises:
        InvalidInput: The body is not that; TooManyLabels where it has too many.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    if isinstance(document, dict) and "labels" in document:
        document = document["labels"]
    rows = [document] if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise InvalidInput("the body must be an object with id and label, or a list of such objects")
    _bounded(len(rows))
    return (_label(row, number) for number, row in enumerate(rows))


def read_csv(body: bytes) -> Iterator[Label | Mistake]:
    """The labels of a CSV with a header; rows are numbered from 0, without the header.

    Raises:
        InvalidInput: The body is not that; TooManyLabels where it has too many.
    """
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if not {"id", "label"} <= set(names):
            raise InvalidInput("the CSV must have a header with id and label")
        rows = list(islice(reader, MAX_LABELS + 1))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the body is not CSV: {error}") from error
    _bounded(len(rows))
    return (_csv_label(row, number) for number, row in enumerate(rows))


def _bounded(count: int) -> None:
    if count > MAX_LABELS:
        raise TooManyLabels(f"one request has at most {MAX_LABELS:,} labels; send them in several")


def _csv_label(row: dict[str | None, Any], number: int) -> Label | Mistake:
    if None in row:
        return Mistake(number, "", "has more values than the header has names")
    return _label({name: text for name, text in row.items() if text}, number)


def _label(row: Any, number: int) -> Label | Mistake:
    if not isinstance(row, Mapping):
        return Mistake(number, "", "must be an object with id and label")
    unknown = sorted(str(name) for name in set(row) - set(FIELDS))
    if unknown:
        return Mistake(number, unknown[0][:MAX_TEXT], f"is not one of {', '.join(FIELDS)}")
    if not _text(row.get("id"), MAX_ID):
        return Mistake(number, "id", f"must be a text of 1 to {MAX_ID} printable characters")
    label = row.get("label")
    value = _LABELS.get(label.strip().lower()) if isinstance(label, str) else label
    if not isinstance(value, int | float) or value not in (0, 1):
        return Mistake(number, "label", "must be 0 or 1")
    source, by = row.get("source", "api"), row.get("by", "api")
    for name, text in (("source", source), ("by", by)):
        if not _text(text, MAX_TEXT):
            return Mistake(number, name, f"must be a text of 1 to {MAX_TEXT} printable characters")
    at = _time(row["at"]) if "at" in row else None
    if at is None and "at" in row:
        return Mistake(number, "at", "must be a time: RFC 3339 with an offset, or seconds UTC")
    return Label(row["id"], int(value), source, by, at)


def _text(value: Any, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable()


def _time(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return None
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= _LATEST else None
