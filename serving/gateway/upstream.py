"""Asks another server what a caller asked, and takes its answer as it is.

aiohttp, because httpx costs a millisecond of CPU time a request more, and each request here makes three.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

import aiohttp
from multidict import CIMultiDict
from starlette.types import Scope
from yarl import URL

from fraudkit.http import Field

CONNECT_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 2.0
"""How long an unused connection is kept; less than the 5 s after which uvicorn closes it."""
MOST_HEAD: Final = 64 * 1024
_HOP: Final = frozenset({
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
})  # fmt: skip
_OWN: Final = frozenset({"content-length", "expect", "host"})
"""Fields of a request that each connection says for itself."""
_AUTOMATIC: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_WARNED_BYTES: Final = 1024 * 1024
"""aiohttp warns of longer bodies, unless they are read from a file."""

FAILURES: Final = (aiohttp.ClientError, TimeoutError)
"""What is raised when a server gives no answer, or only a part of one."""


class Asked(NamedTuple):
    """A request, without what concerned its own connection alone.

    Attributes:
        method: GET, POST, …
        target: Path and query as they came.
        headers: Its fields.
        body: Its body.
    """

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


class Answer(NamedTuple):
    """What a server said, likewise."""

    status: int
    headers: list[Field]
    body: bytes


def session(read_seconds: float) -> aiohttp.ClientSession:
    """A client that adds nothing of its own, keeps no cookies and looks for no proxy; made in an event loop.

    Args:
        read_seconds: Longest time without a byte of an answer.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC,
        max_line_size=MOST_HEAD,
        max_field_size=MOST_HEAD,
    )


def asked(scope: Scope, body: bytes) -> Asked:
    """The request of an ASGI scope.

    Raises:
        ValueError: A field is not UTF-8; it is named.
    """
    target = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    headers = CIMultiDict(_text(name, value) for name, value in end_to_end(scope["headers"]))
    for name in _OWN & {name.lower() for name in headers}:
        del headers[name]
    return Asked(scope["method"], target, headers, body)


def send(
    client: aiohttp.ClientSession, url: str, request: Asked
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Ask the server at `url`; the answer's body is still to be read."""
    body = io.BytesIO(request.body) if len(request.body) > _WARNED_BYTES else request.body or None
    return client.request(
        request.method,
        URL(url + request.target, encoded=True),
        headers=request.headers,
        data=body,
        allow_redirects=False,
    )


async def ask(client: aiohttp.ClientSession, url: str, request: Asked) -> Answer:
    """Ask the server at `url`, and wait for all of its answer.

    Raises:
        aiohttp.ClientError: It cannot be reached, or went away.
        TimeoutError: It does not answer.
    """
    async with send(client, url, request) as response:
        return Answer(response.status, end_to_end(response.raw_headers), await response.read())


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """The fields that are not for one connection alone; what `Connection` names is."""
    given = [(name, value, name.lower()) for name, value in fields]
    hop: set[bytes] = set()
    for _, value, lower in given:
        if lower == b"connection":
            hop.update(token.strip().lower() for token in value.split(b","))
    return [(name, value) for name, value, lower in given if lower not in _HOP and lower not in hop]


def _text(name: bytes, value: bytes) -> tuple[str, str]:
    try:
        return name.decode("ascii"), value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name.decode('latin-1')}: must be UTF-8") from None
