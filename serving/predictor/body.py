"""The body of an HTTP request: its media type, its arrival in time and within bounds, its inflation."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.types import Receive

from fraudkit.errors import InvalidInput
from serving.predictor.request import Refused

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
INFERENCE_HEADER: Final = b"inference-header-content-length"
HELD_BODIES: Final = 8
"""Bodies of the largest size that are held at a time; beyond, 503."""
_FORM: Final = b"application/x-www-form-urlencoded"
"""What `curl -d` says of any body; it is read as JSON."""
_CLOSE: Final = (b"connection", b"close")

Headers = Mapping[bytes, bytes]


class Bodies:
    """Reads bodies of at most `limit` bytes that arrive within `seconds`."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._most = HELD_BODIES * limit
        self._seconds = seconds
        self.held = 0

    def admit(self, headers: Headers) -> None:
        """Raise Refused when a body with these headers will not be taken: 413 or 415."""
        media = headers.get(b"content-type", JSON)
        if media != JSON:
            _check_media(media, binary=INFERENCE_HEADER in headers)
        self.check(int(headers.get(b"content-length", b"0")))

    async def read(self, receive: Receive) -> bytes:
        """A body.

        Raises:
            Refused: 408, 413, or 503 when too many bytes are held already.
        """
        if has_arrived(receive):
            body: bytes = (await receive())["body"]
            self.check(len(body))
            return body
        try:
            async with asyncio.timeout(self._seconds):
                return await self._chunks(receive)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self._seconds:g} s", _CLOSE) from None

    def check(self, size: int) -> None:
        """Raise Refused when a body of this size is too large."""
        if size > self._limit:
            most = f"{self._limit:,} bytes, the most that fit in one request"
            raise Refused(413, f"the body has more than {most}")

    def inflate(self, body: bytes, headers: Headers) -> bytes:
        """The content of a `body` in gzip or deflate; never more than the limit, whatever it says."""
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding == b"identity":
            return body
        if encoding not in (b"gzip", b"deflate"):
            accepted = (b"accept-encoding", b"gzip, deflate")
            raise Refused(415, "Content-Encoding: must be gzip or deflate, or left out", accepted)
        name = encoding.decode()
        inflater = zlib.decompressobj(wbits=(16 if encoding == b"gzip" else 0) + zlib.MAX_WBITS)
        try:
            content = inflater.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise InvalidInput(f"the body is not {name}, though Content-Encoding says so") from error
        self.check(len(content))
        if not inflater.eof or inflater.unused_data:
            raise InvalidInput(f"the {name} body is cut off, or something follows it")
        return content

    async def _chunks(self, receive: Receive) -> bytes:
        chunks, size, more = [], 0, True
        try:
            while more:
                message = await receive()
                chunk = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                self.held += len(chunk)
                if size > self._limit or self.held > self._most:
                    self.check(size)
                    busy = "too many large requests at a time; try again later"
                    raise Refused(503, busy, (b"retry-after", b"1"))
                # A client that left (http.disconnect) leaves a body that is cut off; nobody reads that answer.
                more = message.get("more_body", False)
            return b"".join(chunks)
        finally:
            self.held -= size


def has_arrived(receive: Receive) -> bool:
    """Whether all of the body is here, as nearly always; waiting takes a timer. uvicorn's `receive` knows."""
    try:
        return not receive.__self__.more_body  # type: ignore[attr-defined]
    except AttributeError:
        return False


def json_size(headers: Headers) -> int | None:
    """How many bytes of a body are JSON, when those of tensors follow."""
    given = headers.get(INFERENCE_HEADER)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise InvalidInput("Inference-Header-Content-Length: must be a whole number of bytes")
    return int(given)


def _check_media(given: bytes, *, binary: bool) -> None:
    media = given.partition(b";")[0].strip().lower()
    if media in (JSON, _FORM) or (binary and media == BINARY):
        return
    wanted = "application/json, or application/octet-stream with Inference-Header-Content-Length"
    raise Refused(415, f"Content-Type: must be {wanted}")
