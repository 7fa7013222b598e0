"""The ASGI app: answers the model's own paths, and leaves KServe's listings and metrics to KServe's app.

It stands in front of that app because there a request has no bound, many of a client's mistakes are a 500,
and the plumbing costs several times the scoring.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple, cast

import kserve.model_server
import orjson
import structlog
from kserve.protocol.rest.server import RESTServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraudkit.errors import InvalidInput
from fraudkit.http import Field
from fraudkit.settings import ServingSettings
from serving.predictor import openapi, v1, v2
from serving.predictor.body import BINARY, INFERENCE_HEADER, JSON, Bodies, Headers, json_size
from serving.predictor.documents import SHORT
from serving.predictor.metrics import Metrics, Operation, Series
from serving.predictor.model import FraudModel, Loaded, server_info
from serving.predictor.request import Limits, Refused, Reply, check_id, fresh_id
from serving.predictor.single import Plain, Single
from serving.predictor.work import INLINE_BYTES, INLINE_EXPLAINED_BYTES, LargeWork, may_explain

log = structlog.get_logger()

_LOGGED_PATH: Final = 256
"""Characters of a path that are logged."""
_KSERVE: Final = ("/", "/v1/models", "/v2/models", "/v2/health/live", "/metrics")

Post = Callable[[bytes, str, Headers], Reply]
"""Answers a body, given the caller's id and the headers."""


class Endpoint(NamedTuple):
    """What happens at a path.

    Attributes:
        series: Where its requests are counted.
        get: Answers GET and HEAD.
        post: Answers POST.
        inline: Bytes of a body beyond which it is worked on beside the event loop.
        outputs: Whether a body names the outputs that it wants, reasons perhaps among them.
        plain: Answers a plain request of one row, given a body and the headers; None when it is not plain.
        rest: Whether KServe's app answers GET and HEAD.
    """

    series: Series
    get: Callable[[], bytes] | None = None
    post: Post | None = None
    inline: int = INLINE_BYTES
    outputs: bool = False
    plain: Callable[[bytes, Headers], Plain | None] | None = None
    rest: bool = False


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
        rest: KServe's app, for its listings and metrics.
        settings: The bounds of a request.
        metrics: Where requests are counted.
        large: Where large bodies are worked on.
    """

    def __init__(
        self, model: FraudModel, rest: ASGIApp, settings: ServingSettings, metrics: Metrics, large: LargeWork
    ) -> None:
        self._model = model
        self._rest = rest
        self._settings = settings
        self._request_log = settings.request_log
        self._metrics = metrics
        self._large = large
        self._bodies = Bodies(settings.max_bytes, settings.read_seconds)
        self._elsewhere = Endpoint(metrics.series(Operation("http", "other")))
        self.refresh()

    def refresh(self) -> None:
        """Answer with what the model is now."""
        self._loaded = self._model.current
        self._endpoints = self._paths(self._loaded)
        self._version = (b"x-model-version", self._loaded.version.encode())
        self.at_once = {path.encode(): endpoint for path, endpoint in self._endpoints.items() if endpoint.post}
        fields = b"content-length: %%d\r\nx-model-version: %s\r\n\r\n" % self._version[1].replace(b"%", b"%%")
        self._json_head = b"content-type: %s\r\n%s" % (JSON, fields)
        self._binary_head = b"content-type: %s\r\n%s: %%d\r\n%s" % (BINARY, INFERENCE_HEADER, fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. As uvicorn is configured here, it asks for nothing but HTTP."""
        began = perf_counter()
        version = self._version  # which may change while this request is answered
        path, method = scope["path"], scope["method"]
        endpoint = self._endpoints.get(path, self._elsewhere)
        if endpoint.rest and method in ("GET", "HEAD"):
            await self._rest({**scope, "method": "GET"}, receive, partial(_send_versioned, version, send))
            return
        try:
            if method == "POST" and endpoint.post is not None:
                reply = await self._post(endpoint.post, endpoint, dict(scope["headers"]), receive)
            else:
                reply = self._get(endpoint, path, method)
        except Exception as error:  # noqa: BLE001  # the client is told
            reply = _failed(error, path)
        await send({"type": "http.response.start", "status": reply.status, "headers": _fields(reply, version)})
        await send({"type": "http.response.body", "body": reply.body})
        self._count(endpoint, path, version, perf_counter() - began, reply)

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> tuple[int, bytes, bytes] | None:
        """The answer to a POST that is all here: status, head and body. None when it has to wait."""
        began = perf_counter()
        endpoint, given = self.at_once.get(target), dict(headers)
        if endpoint is None:  # it was there when the head came; now another version is served
            return None
        plain = (
            endpoint.plain(body, given) if len(body) <= SHORT and endpoint.plain and self._model.ready else None
        )
        if plain is not None:
            text, probability, level, request_id, size = plain
            head = self._binary_head % (size, len(text)) if size else self._json_head % len(text)
            seconds = perf_counter() - began
            self._metrics.single(endpoint.series, seconds, probability, level)
            if self._request_log:
                self._log(target.decode(), self._version, 200, 1, seconds, request_id)
            return 200, head, text
        post, path = cast("Post", endpoint.post), target.decode()
        try:
            self._admit(given)
            if self._is_long(endpoint, given, body):
                return None
            reply = post(body, _caller(given), given)
        except Exception as error:  # noqa: BLE001  # the client is told
            reply = _failed(error, path)
        fields = b"".join(b"%s: %s\r\n" % field for field in _fields(reply, self._version))
        self._count(endpoint, path, self._version, perf_counter() - began, reply)
        return reply.status, fields + b"\r\n", reply.body

    def _count(self, endpoint: Endpoint, path: str, version: Field, seconds: float, reply: Reply) -> None:
        self._metrics.request(endpoint.series, reply.status, seconds, reply.scores)
        if self._request_log:
            rows = len(reply.scores.levels) if reply.scores else 0
            self._log(path, version, reply.status, rows, seconds, reply.id)

    def _log(self, path: str, version: Field, status: int, rows: int, seconds: float, request_id: str) -> None:
        log.info(
            "request",
            path=path[:_LOGGED_PATH],
            status=status,
            rows=rows,
            milliseconds=round(seconds * 1e3, 3),
            id=request_id,
            model_version=version[1].decode(),
        )

    async def _post(self, post: Post, endpoint: Endpoint, headers: Headers, receive: Receive) -> Reply:
        self._admit(headers)
        body = await self._bodies.read(receive)
        if not self._is_long(endpoint, headers, body):
            return post(body, _caller(headers), headers)
        self._bodies.held += len(body)
        try:
            return await self._large.run(self._post_large, post, body, _caller(headers), headers)
        finally:
            self._bodies.held -= len(body)

    def _admit(self, headers: Headers) -> None:
        self._check_ready()
        self._bodies.admit(headers)

    def _is_long(self, endpoint: Endpoint, headers: Headers, body: bytes) -> bool:
        """Whether the body is to be worked on beside the event loop."""
        return (
            len(body) > endpoint.inline
            or b"content-encoding" in headers
            or (endpoint.outputs and may_explain(body, json_size(headers)))
        )

    def _get(self, endpoint: Endpoint, path: str, method: str) -> Reply:
        if path.startswith("/v2/repository"):
            raise Refused(403, "the model repository is closed: models change by roll-outs alone")
        if endpoint is self._elsewhere:
            name, version = self._loaded.name, self._loaded.version
            raise Refused(404, f"there is no such path; the model here is {name}, version {version}")
        if endpoint.get is None or method not in ("GET", "HEAD"):
            allowed = "POST" if endpoint.post else "GET, HEAD"
            raise Refused(405, f"{path} takes {allowed} alone", (b"allow", allowed.encode()))
        return Reply(endpoint.get())

    def _paths(self, model: Loaded) -> dict[str, Endpoint]:
        """What is answered here, by path."""
        counted = self._metrics.series
        single = Single(model.name, model.version, model.scorer)
        info, server = orjson.dumps(model.info()), orjson.dumps(server_info())
        v1_path, v2_path = f"/v1/models/{model.name}", f"/v2/models/{model.name}"
        ready = partial(self._ready, model)
        v2_ready = Endpoint(counted(Operation("v2", "ready")), ready)
        metadata = Endpoint(counted(Operation("v2", "metadata")), lambda: info)
        infer = Endpoint(
            counted(Operation("v2", "infer")),
            post=partial(self._infer, model),
            outputs=True,
            plain=single.v2,
        )
        paths = {path: Endpoint(counted(Operation("http", "kserve")), rest=True) for path in _KSERVE}
        paths |= {
            "/openapi.json": Endpoint(counted(Operation("http", "openapi")), partial(self._openapi, model)),
            "/v2": metadata._replace(get=lambda: server),
            "/v2/health/ready": v2_ready,
            v1_path: Endpoint(counted(Operation("v1", "ready")), ready),
            f"{v1_path}:predict": Endpoint(
                counted(Operation("v1", "predict")),
                post=partial(self._predict, model),
                plain=single.v1,
            ),
            f"{v1_path}:explain": Endpoint(
                counted(Operation("v1", "explain")),
                post=partial(self._explain, model),
                inline=INLINE_EXPLAINED_BYTES,
            ),
        }
        for path in (v2_path, f"{v2_path}/versions/{model.version}"):
            paths |= {path: metadata, f"{path}/ready": v2_ready, f"{path}/infer": infer}
        return paths

    def _post_large(self, post: Post, body: bytes, caller: str, headers: Headers) -> Reply:
        return post(self._bodies.inflate(body, headers), caller, headers)

    def _predict(self, model: Loaded, body: bytes, caller: str, _: Headers) -> Reply:
        request = v1.read(body, caller, self._settings.max_rows)
        scores = model.score(request, explain=False)
        return Reply(v1.write(request, scores, model.version), scores=scores, id=request.names.request)

    def _explain(self, model: Loaded, body: bytes, caller: str, _: Headers) -> Reply:
        request = v1.read(body, caller, self._settings.max_explained)
        scores = model.score(request, explain=True)
        return Reply(v1.write(request, scores, model.version), scores=scores, id=request.names.request)

    def _infer(self, model: Loaded, body: bytes, caller: str, headers: Headers) -> Reply:
        limits = Limits(self._settings.max_rows, self._settings.max_explained)
        request = v2.read(body, caller, limits, json_size(headers))
        scores = model.score(request, explain="reasons" in request.outputs)
        written = v2.write(request, scores, model.name, model.version)
        if not written.json_size:
            return Reply(written.body, scores=scores, id=request.names.request)
        size = (INFERENCE_HEADER, b"%d" % written.json_size)
        return Reply(written.body, 200, (size,), BINARY, scores, request.names.request)

    def _ready(self, model: Loaded) -> bytes:
        self._check_ready()
        return orjson.dumps({"name": model.name, "ready": True, "model_version": model.version})

    def _openapi(self, model: Loaded) -> bytes:
        return orjson.dumps(openapi.document(model.name, model.version, self._settings))

    def _check_ready(self) -> None:
        if not self._model.ready:
            raise Refused(503, f"the model {self._model.name} is not ready")


def _failed(error: Exception, path: str) -> Reply:
    """What a client is told of an error."""
    if isinstance(error, InvalidInput):
        # A message may quote half of a surrogate pair, which is no UTF-8.
        text = str(error).encode(errors="backslashreplace").decode()
        status, headers = (error.status, error.headers) if isinstance(error, Refused) else (400, ())
        return Reply(orjson.dumps({"error": text}), status, headers)
    failure = fresh_id()
    log.error("request failed", id=failure, path=path, exc_info=error)
    return Reply(orjson.dumps({"error": f"internal error, id {failure}"}), 500, id=failure)


def _fields(reply: Reply, version: Field) -> list[Field]:
    length = (b"content-length", b"%d" % len(reply.body))
    return [(b"content-type", reply.media), length, version, *reply.headers]


async def _send_versioned(version: Field, send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], version]
    await send(message)


def _caller(headers: Headers) -> str:
    """The id of a request in its header, or nothing."""
    try:
        return check_id(headers.get(b"ce-id", b"").decode(), "Ce-Id")
    except UnicodeDecodeError:
        raise InvalidInput("Ce-Id: must be UTF-8") from None
