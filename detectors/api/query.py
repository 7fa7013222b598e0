"""Query parameters, and answers."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from fraudkit.errors import InvalidInput

LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""


def seconds(request: Request, name: str) -> float | None:
    """A time [s, UTC] that is given as RFC 3339, or in seconds."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        try:
            given = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidInput(f"{name}: {text!r} is no time; give RFC 3339 or seconds UTC") from error
        value = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value) or abs(value) > LATEST:
        raise InvalidInput(f"{name}: {text!r} is no time; give RFC 3339 or seconds UTC")
    return value


def printable(name: str, text: str) -> str:
    """A text that a database can hold: PostgreSQL takes no NUL."""
    if not text.isprintable():
        raise InvalidInput(f"{name}: {text!r} is not printable")
    return text


def limit(request: Request, usual: int, most: int) -> int:
    """How many are wanted."""
    text = request.query_params.get("limit")
    if text is None:
        return usual
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise InvalidInput(f"limit: {text!r} must be a number from 1 to {most:,}")
    return int(text)


def only(request: Request, *names: str) -> None:
    """Raise InvalidInput for a parameter that is not known; a misspelled one would answer another question."""
    unknown = sorted(set(request.query_params) - set(names))
    if unknown:
        known = f"known are {', '.join(names)}" if names else "there are none"
        raise InvalidInput(f"{unknown[0]} is not a parameter; {known}")


def answer(record: BaseModel, status: int = 200) -> Response:
    """A record as JSON."""
    return Response(record.model_dump_json(), status, media_type="application/json")


def document(content: object, status: int = 200) -> Response:
    """Anything that orjson writes."""
    return Response(orjson.dumps(content), status, media_type="application/json")
