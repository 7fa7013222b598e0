"""What the HTTP APIs of all parts share: query parameters, bodies, answers, and how errors are told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from fraudkit.errors import InvalidInput
from fraudkit.http import Field

MAX_BYTES: Final = 1024 * 1024
"""Most bytes of a body of an API that takes no data."""
READ_SECONDS: Final = 30.0
_Model = TypeVar("_Model", bound=BaseModel)
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


async def body_of(request: Request) -> bytes:
    """The body of a request, which is short and comes in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise HTTPException(413, f"a body has at most {MAX_BYTES:,} bytes", {"connection": "close"})
    except TimeoutError:
        late = f"the body did not arrive within {READ_SECONDS:g} seconds"
        raise HTTPException(408, late, {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the caller went away") from None
    return bytes(body)


def parsed(kind: type[_Model], body: bytes) -> _Model:
    """A JSON body as what it must be.

    Raises:
        InvalidInput: Naming the first member that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first.get("ctx", {}).get("error", first["msg"])
        raise InvalidInput(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {said}") from None


class Api:
    """An ASGI 3 app of routes, whose errors say what to do; it answers nothing at once.

    Args:
        routes: The paths.
        handlers: What becomes of other errors than a caller's.
    """

    at_once: frozenset[bytes] = frozenset()

    def __init__(self, routes: Sequence[BaseRoute], handlers: Mapping[Any, Any] | None = None) -> None:
        own: dict[Any, Any] = {InvalidInput: _invalid, HTTPException: _http}
        self._app = Starlette(routes=list(routes), exception_handlers=own | dict(handlers or {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> None:
        """Nothing is answered at once."""


async def _invalid(_: Request, error: InvalidInput) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _http(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
