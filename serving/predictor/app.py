"""The ASGI app: answers the model's own paths, closes KServe's repository, leaves the rest to KServe's app.

It stands in front of that app because there a request has no bound, many of a client's mistakes are a 500,
and the plumbing costs several times the scoring.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import warnings
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import kserve.model_server
import orjson
import structlog
from kserve.protocol.rest.server import RESTServer
from starlette.types import ASGIApp, Receive, Scope, Send

from fraudkit.errors import InvalidInput
from fraudkit.settings import ServingSettings
from serving.predictor.model import FraudModel
from serving.predictor.protocol import Refused, check_count, check_id, read_v1, read_v2, write_v1, write_v2

log = structlog.get_logger()

INLINE_BYTES: Final = 64 * 1024
"""Larger bodies are answered in a thread, so that small ones do not wait behind them."""
LARGE_AT_ONCE: Final = 2
"""Large bodies that are worked on at a time; the others wait their turn."""
_CLOSE: Final = (b"connection", b"close")
_OWN: Final = ("/v1/models/", "/v2/models/", "/v2/repository", "/v2/health/ready")
"""What happens at and below these paths is decided here alone: KServe's app sees none of it."""

_JSON: Final = (b"application/json", b"application/x-www-form-urlencoded")
"""The second is what `curl -d` says of any body; it is read as JSON too."""

Headers = Mapping[bytes, bytes]


def kserve_app(model: FraudModel) -> ASGIApp:
    """KServe's FastAPI app with `model` in its repository. KServe has one per process: call this once."""
    server = kserve.ModelServer(enable_grpc=False, enable_latency_logging=False)
    for name in ("kserve", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # KServe 0.20 answers its listings with a class that FastAPI would rather see replaced.
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")
    server.registered_models.update(model)
    plane, extension = server.dataplane, server.model_repository_extension
    RESTServer("kserve.model_server:app", plane, extension, server.http_port).create_application()
    app: ASGIApp = kserve.model_server.app
    return app


class Predictor:
    """The predictor as an ASGI 3 app (tell uvicorn: `interface="asgi3"`).

    Args:
        model: The model to serve, under its own name.
        rest: KServe's app, for every path that is not the model's.
        limits: The bounds of a request.
    """

    def __init__(self, model: FraudModel, rest: ASGIApp, limits: ServingSettings) -> None:
        self._model = model
        self._rest = rest
        self._limits = limits
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        v1, v2 = f"/v1/models/{model.name}", f"/v2/models/{model.name}"
        self._gets: dict[str, Callable[[], dict[str, Any]]] = {v1: self._ready, "/v2/health/ready": self._ready}
        self._posts: dict[str, Callable[[bytes, str, str], bytes]] = {
            f"{v1}:predict": partial(self._predict, explain=False),
            f"{v1}:explain": partial(self._predict, explain=True),
        }
        for path in (v2, f"{v2}/versions/{model.version}"):
            self._gets |= {path: model.metadata, f"{path}/ready": self._ready}
            self._posts[f"{path}/infer"] = self._infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_OWN):
            await self._rest(scope, receive, send)
            return
        fresh_id = str(uuid.uuid4())
        version = self._model.version.encode()
        status, headers = 200, [(b"content-type", b"application/json"), (b"x-model-version", version)]
        try:
            body = await self._answer(scope, receive, fresh_id)
        except InvalidInput as error:
            status, body = 400, orjson.dumps({"error": str(error)})
            if isinstance(error, Refused):
                status = error.status
                headers += error.headers
        except Exception:
            log.exception("request failed", id=fresh_id, method=scope["method"], path=scope["path"])
            status, body = 500, orjson.dumps({"error": "internal error", "id": fresh_id})
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, fresh_id: str) -> bytes:
        path, headers = scope["path"], dict(scope["headers"])
        method = "GET" if path in self._gets else "POST"
        if path.startswith("/v2/repository"):
            raise Refused(403, "the model repository is closed: models change by roll-outs alone")
        if path not in self._gets and path not in self._posts:
            name, version = self._model.name, self._model.version
            raise Refused(404, f"there is no such path; the model here is {name}, version {version}")
        if scope["method"] != method:
            raise Refused(405, f"{path} takes {method} alone", (b"allow", method.encode()))
        if method == "GET":
            return orjson.dumps(self._gets[path]())
        self._ready()
        header_id = check_id(_text(headers.get(b"ce-id", b""), "Ce-Id"), "Ce-Id")
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                body = await _read(headers, receive, self._limits.max_bytes)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self._limits.read_seconds:g} s", _CLOSE) from None
        if len(body) <= INLINE_BYTES:
            return self._posts[path](body, header_id, fresh_id)
        async with self._large:
            return await asyncio.to_thread(self._posts[path], body, header_id, fresh_id)

    def _predict(self, body: bytes, header_id: str, fresh_id: str, *, explain: bool) -> bytes:
        most = self._limits.max_explained if explain else self._limits.max_rows
        request = read_v1(body, header_id, fresh_id, most)
        return write_v1(request, self._model.score(request.rows, explain=explain), self._model.version)

    def _infer(self, body: bytes, header_id: str, fresh_id: str) -> bytes:
        request = read_v2(body, header_id, fresh_id, self._limits.max_rows)
        explain = "reasons" in request.outputs
        if explain:
            check_count(len(request.rows), "inputs", self._limits.max_explained)
        scores = self._model.score(request.rows, explain=explain)
        return write_v2(request, scores, self._model.name, self._model.version)

    def _ready(self) -> dict[str, Any]:
        if not self._model.ready:
            raise Refused(503, f"the model {self._model.name} is not ready")
        return {"name": self._model.name, "ready": True, "model_version": self._model.version}


async def _read(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The body of a request, inflated; refused as soon as it is clear that it is larger than `limit`."""
    media = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if media not in _JSON:
        raise Refused(415, "Content-Type: must be application/json")
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip"):
        raise Refused(415, "Content-Encoding: must be gzip, or left out", (b"accept-encoding", b"gzip"))
    _check_size(int(headers.get(b"content-length", b"0")), limit)
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        _check_size(size, limit)
        # A client that left (http.disconnect) leaves a body that is cut off; nobody reads that answer.
        more = message.get("more_body", False)
    body = b"".join(chunks)
    return _inflate(body, limit) if encoding == b"gzip" else body


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Refused(413, f"the body has more than {limit:,} bytes, the most that fit in one request", _CLOSE)


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{where}: must be UTF-8") from None


def _inflate(body: bytes, limit: int) -> bytes:
    """The content of a gzip `body`; never more than `limit` bytes of it, whatever it says."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput("the body is not gzip, though Content-Encoding says so") from error
    _check_size(len(content), limit)
    if not inflater.eof or inflater.unused_data:
        raise InvalidInput("the gzip body is cut off, or something follows it")
    return content
