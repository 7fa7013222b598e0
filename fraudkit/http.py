"""uvicorn's HTTP protocol with bounds that it lacks, and a shorter way for requests that are all here.

uvicorn makes a task, an event and some dictionaries for a request as soon as its head is read, and stops reading
after 64 KiB of its body. Here a request to the model waits for its body first, if that is not long: most are
answered at once (`Answers`), without any of these, and the rest is given to uvicorn whole.
"""

from __future__ import annotations

import socket
from collections.abc import Container
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fraudkit.errors import PermanentError

MOST_HEAD_BYTES: Final = 64 * 1024
"""Most bytes of a request's head."""
MOST_HELD_BYTES: Final = 1024 * 1024
"""Bytes up to which a body is waited for."""
MOST_HELD_TOGETHER: Final = 32 * 1024 * 1024
"""The same for all connections together."""
HELD_SECONDS: Final = 1.0
"""How long a body is waited for."""
COPIED_BYTES: Final = 16 * 1024
"""Bytes of an answer up to which copying it behind its head is less work than a second write."""
Field = tuple[bytes, bytes]
"""A field of an HTTP head."""
MOST_CONNECTIONS: Final = 1_000
"""Beyond, 503."""
_HOP: Final = (b"connection", b"upgrade", b"http2-settings")


class Answers(Protocol):
    """Who may answer a request without waiting for anything."""

    @property
    def at_once(self) -> Container[bytes]:
        """The targets that `answer` may be asked for."""

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> tuple[int, bytes, bytes] | None:
        """Status, head and body of the answer to a POST; None leaves the request to the ASGI app.

        The head is all that follows the status line and uvicorn's own fields, up to the empty line.
        """


class Held:
    """How many bytes are held by requests that are waited for."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        answers: Who is asked before the ASGI app.
        held: Shared by all connections.
        most_bytes: Most bytes of a request, with those that are read on after it was refused.
        arguments: uvicorn's.
    """

    def __init__(self, answers: Answers, held: Held, most_bytes: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._answers = answers
        self._held = held
        self._most_bytes = most_bytes
        self._waits = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._in_head = True
        self._another = False
        self._arrived = 0
        self._since: float | None = monotonic()

    def tick(self, now: float, seconds: float) -> None:
        """Once a second: let a request go that does not come to its end within `seconds`."""
        waited = 0.0 if self._since is None else now - self._since
        if self._waits:
            if waited > HELD_SECONDS:
                self._pass_on()  # the app says 408 in time
        elif waited > seconds and not self._answering():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._unset_keepalive_if_required()
        if self._since is None:
            self._since = monotonic()
        self._another = False
        rest = memoryview(data)
        try:
            while rest:
                rest = self._feed(rest)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        self._arrived = 0 if self._another else self._arrived + len(data)
        if self._arrived > (MOST_HEAD_BYTES if self._in_head else self._most_bytes):
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins. uvicorn's scope is made when it is wanted."""
        self._unset_keepalive_if_required()
        self._since = monotonic()
        self._another = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head. Those that may follow a body are nobody's."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        if self.parser.should_upgrade():
            return  # the parser leaves the body out, and raises
        self._in_head = False
        self._waits = True
        if (
            self.url not in self._answers.at_once
            or self.parser.get_method() != b"POST"
            or self._answering()
            or self.expect_100_continue
            or (self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency)
        ):
            self._pass_on()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if not self._waits:
            super().on_body(body)
            return
        self._chunks.append(body)
        self._size += len(body)
        self._held.size += len(body)
        if self._size > MOST_HELD_BYTES or self._held.size > MOST_HELD_TOGETHER:
            self._pass_on()

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._in_head:
            return  # the parser raises
        self._in_head = self._another = True
        if self._waits:
            body = self._take()
            if self._answered(body):
                return
            self._pass_on(body)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written."""
        self._since = None
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._take()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer the request that has begun, and close."""
        if self._waits:
            self._pass_on()
        super().shutdown()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _answered(self, body: bytes) -> bool:
        """Whether the request that has waited could be answered at once."""
        parser = self.parser
        if self.flow.write_paused or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return False
        answer = self._answers.answer(self.url, self.headers, body)
        if answer is None:
            return False
        status, head, content = answer
        own = [b"%s: %s\r\n" % field for field in self.server_state.default_headers]
        if len(content) > COPIED_BYTES:
            self.transport.write(b"".join((STATUS_LINE[status], *own, head)))
            self.transport.write(content)  # uvloop sends both at once
        else:
            self.transport.write(b"".join((STATUS_LINE[status], *own, head, content)))
        self.on_response_complete()
        return True

    def _pass_on(self, body: bytes | None = None) -> None:
        """Have uvicorn and the ASGI app answer the request, of which `body` is here."""
        begun = self._take() if body is None else body
        target, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = target, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()
        self.cycle.body = begun  # type: ignore[assignment]  # uvicorn's own copies what it appends to

    def _take(self) -> bytes:
        """What is here of the request that waits; it waits no longer."""
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._held.size -= self._size
        self._waits, self._chunks, self._size = False, [], 0
        return body

    def _feed(self, data: memoryview) -> memoryview:
        """Have `data` parsed; returns what follows a head that wishes for another protocol, else nothing."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline()
            return data[upgrade.args[0] :]
        return data[:0]

    def _decline(self) -> None:
        """Stay with HTTP/1.1. The parser has left the body out, so another one takes the head without the wish."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("no proxy")
        fields = [field for field in self.headers if field[0] not in _HOP]
        if not self.parser.should_keep_alive():
            fields.append((b"connection", b"close"))
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, head))


class Server(uvicorn.Server):
    """uvicorn's server, which also looks after its connections.

    Args:
        config: uvicorn's, with `BoundedProtocol` as its protocol.
        request_seconds: Longest time that a request may take to arrive; uvicorn alone would wait for ever.
    """

    def __init__(self, config: uvicorn.Config, request_seconds: float) -> None:
        super().__init__(config)
        self._request_seconds = request_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: uvicorn's own upkeep, and once a second ours."""
        if counter % 10 == 0:
            now = monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.tick(now, self._request_seconds)
        return await super().on_tick(counter)


class AnsweringApp(Answers, Protocol):
    """An ASGI 3 app that may answer some requests at once."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""


def config(app: AnsweringApp, most_bytes: int, grace_seconds: int, **options: Any) -> uvicorn.Config:
    """How an app is served: HTTP alone, nothing logged, bounded; `options` are uvicorn's.

    Args:
        app: The app.
        most_bytes: Most bytes of a request.
        grace_seconds: For requests to finish after a signal.
        options: What is not the same for all.
    """
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=partial(BoundedProtocol, app, Held(), most_bytes),  # type: ignore[arg-type]  # uvicorn only calls it
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=grace_seconds,
        **options,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        PermanentError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise PermanentError(f"cannot listen on {host}, port {port}: {error}") from error
    # asyncio's own loop leaves it off for sockets that it did not make: an answer in two writes would then wait
    # 40 ms for the caller's acknowledgement of the first. Accepted connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
