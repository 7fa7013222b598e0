"""The Open Inference Protocol over gRPC: KServe's messages, typed and raw contents, the same rules as over HTTP.

Messages are parsed here and not by gRPC, so that bytes which are no message are the client's mistake, and large
ones are parsed beside the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from time import perf_counter
from typing import Any, Final

import grpc
import numpy as np
import orjson
import structlog
from google.protobuf.message import DecodeError, Message
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.scoring import ALERTS
from fraudkit.settings import ServingSettings
from serving.predictor.documents import ARRAY, short
from serving.predictor.metrics import Metrics, Operation, Series
from serving.predictor.model import FraudModel, Loaded, TensorInfo, server_info
from serving.predictor.request import (
    DEFAULT_OUTPUTS,
    OUTPUTS,
    Refused,
    Request,
    Scores,
    check_count,
    check_id,
    fresh_id,
)
from serving.predictor.tensors import Tensor, pack, rows_and_names
from serving.predictor.work import INLINE_BYTES, LargeWork, may_explain

log = structlog.get_logger()

SERVICE: Final = "inference.GRPCInferenceService"
CONCURRENT: Final = 100
"""Calls at a time. gRPC holds their messages in full before anybody here sees one."""
MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Most bytes of a message: 10,000 rows have 2.4 MB, and as much again with long ids."""
AGE_SECONDS: Final = 300.0
"""How long a connection lasts: a call that never brings its message would else be counted for ever."""
AGE_GRACE_SECONDS: Final = 30.0
"""For the calls of a connection that ends; clients send new ones over another, and notice nothing."""
_CODES: Final = {
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_REFUSED: Final = frozenset(("classification", "shared_memory_region"))
"""Parameters that would change what is read or answered."""
_CONTENTS: Final = {
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents that a datatype's values are in."""


class Answered:
    """What a method made of a message, and what of it is counted and logged."""

    def __init__(
        self, message: Message, scores: Scores | None = None, request_id: str = "", version: str = ""
    ) -> None:
        self.content = message.SerializeToString()
        self.scores = scores
        self.id = request_id
        self.version = version


class GrpcService:
    """The methods of the service, for `grpc.aio`."""

    def __init__(self, model: FraudModel, settings: ServingSettings, metrics: Metrics, large: LargeWork) -> None:
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._large = large

    def server(
        self, host: str, port: int, age_seconds: float = AGE_SECONDS, grace_seconds: float = AGE_GRACE_SECONDS
    ) -> tuple[grpc.aio.Server, int]:
        """A server that listens once it is started, and its port. Call it in the event loop.

        Raises:
            PermanentError: The address cannot be listened on.
        """
        limit = min(self._settings.max_bytes, MESSAGE_BYTES)
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_age_ms", int(age_seconds * 1e3)),
            ("grpc.max_connection_age_grace_ms", int(grace_seconds * 1e3)),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a replica
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CONCURRENT)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, self._handlers())])
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            return server, server.add_insecure_port(address)
        except RuntimeError as error:
            raise PermanentError(f"cannot listen on {host}, port {port} for gRPC: {error}") from error

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        methods: dict[str, tuple[str, Callable[[bytes, str], Answered]]] = {
            "ServerLive": ("live", lambda *_: Answered(pb.ServerLiveResponse(live=True))),
            "ServerReady": ("ready", lambda *_: Answered(pb.ServerReadyResponse(ready=self._model.ready))),
            "ServerMetadata": ("metadata", self._server_metadata),
            "ModelReady": ("ready", self._model_ready),
            "ModelMetadata": ("metadata", self._model_metadata),
            "ModelInfer": ("infer", self._infer),
            "RepositoryModelLoad": ("repository", _closed),
            "RepositoryModelUnload": ("repository", _closed),
        }
        return {name: self._handler(name, *method) for name, method in methods.items()}

    def _handler(
        self, name: str, verb: str, method: Callable[[bytes, str], Answered]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        series = self._metrics.series(Operation("grpc", verb))

        async def answer(content: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            began = perf_counter()
            answered, code, problem = None, grpc.StatusCode.OK, ""
            try:
                caller = check_id(_caller(context), "ce-id")
                if len(content) <= INLINE_BYTES and not may_explain(content):
                    answered = method(content, caller)
                else:
                    answered = await self._large.run(method, content, caller)
            except InvalidInput as error:
                status = error.status if isinstance(error, Refused) else 400
                code, problem = _CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT), str(error)
            except Exception:
                failure = fresh_id()
                log.exception("request failed", id=failure, method=name)
                code, problem = grpc.StatusCode.INTERNAL, f"internal error, id {failure}"
            self._count(series, name, code, perf_counter() - began, answered)
            if answered is None:
                # gRPC cuts long messages; a message may quote half of a surrogate pair, which is no UTF-8.
                await context.abort(code, problem.encode(errors="backslashreplace").decode())
                raise AssertionError  # abort never returns
            return answered.content

        return grpc.unary_unary_rpc_method_handler(answer)

    def _count(
        self, series: Series, name: str, code: grpc.StatusCode, seconds: float, answered: Answered | None
    ) -> None:
        scores = answered.scores if answered else None
        self._metrics.request(series, code.name, seconds, scores)
        if self._settings.request_log:
            log.info(
                "request",
                path=f"/{SERVICE}/{name}",
                status=code.name,
                rows=len(scores.levels) if scores else 0,
                milliseconds=round(seconds * 1e3, 3),
                id=answered.id if answered else "",
                model_version=(answered and answered.version) or self._model.current.version,
            )

    def _server_metadata(self, _: bytes, __: str) -> Answered:
        info = server_info()
        return Answered(
            pb.ServerMetadataResponse(name=info.name, version=info.version, extensions=info.extensions)
        )

    def _model_ready(self, content: bytes, _: str) -> Answered:
        asked = _parsed(pb.ModelReadyRequest, content)
        _named(self._model.current, asked.name, asked.version)
        return Answered(pb.ModelReadyResponse(ready=self._model.ready))

    def _model_metadata(self, content: bytes, _: str) -> Answered:
        asked = _parsed(pb.ModelMetadataRequest, content)
        model = self._model.current
        _named(model, asked.name, asked.version)
        info = model.info()
        return Answered(
            pb.ModelMetadataResponse(
                name=info.name,
                versions=info.versions,
                platform=info.platform,
                inputs=_infos(info.inputs),
                outputs=_infos(info.outputs),
            )
        )

    def _infer(self, content: bytes, caller: str) -> Answered:
        asked = _parsed(pb.ModelInferRequest, content)
        model = self._model.current
        _named(model, asked.model_name, asked.model_version)
        if not self._model.ready:
            raise Refused(503, f"the model {model.name} is not ready")
        request = self._request(asked, caller)
        scores = model.score(request, explain="reasons" in request.outputs)
        return Answered(_answer(request, scores, model), scores, request.names.request, model.version)

    def _request(self, asked: Any, caller: str) -> Request:
        own_id = check_id(asked.id, "id")
        request_id = caller or own_id or fresh_id()
        outputs = tuple(dict.fromkeys(output.name for output in asked.outputs)) or DEFAULT_OUTPUTS
        for output in outputs:
            if output not in OUTPUTS:
                raise InvalidInput(f"outputs: {short(output)} is not an output, must be {', '.join(OUTPUTS)}")
        for given in (*asked.inputs, *asked.outputs):
            if unknown := _REFUSED & set(given.parameters):
                raise InvalidInput(f"{short(given.name)}: {', '.join(sorted(unknown))} is not supported")
        rows, names = rows_and_names(_tensors(asked), request_id, self._settings.max_rows)
        if "reasons" in outputs:
            check_count(names.rows, "inputs", self._settings.max_explained)
        binary = frozenset(outputs if asked.raw_input_contents else ())
        return Request(rows, names, own_id or request_id, outputs, binary)


def _closed(_: bytes, __: str) -> Answered:
    raise Refused(403, "the model repository is closed: models change by roll-outs alone")


def _caller(context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == "ce-id":
            return value if isinstance(value, str) else value.decode(errors="replace")
    return None


def _parsed(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {kind.DESCRIPTOR.full_name}: {error}") from error


def _named(model: Loaded, name: str, version: str) -> None:
    if name != model.name or version not in ("", model.version):
        wanted = f"{short(name)}, version {short(version)}" if version else short(name) or "without a name"
        raise Refused(404, f"there is no model {wanted}; the model here is {model.name}, version {model.version}")


def _infos(tensors: Sequence[TensorInfo]) -> list[Any]:
    kind = pb.ModelMetadataResponse.TensorMetadata
    return [kind(**dict(zip(("name", "datatype", "shape"), astuple(tensor), strict=True))) for tensor in tensors]


def _tensors(asked: Any) -> list[Tensor]:
    raw = asked.raw_input_contents
    if not asked.inputs:
        raise InvalidInput("inputs: there are none; send one tensor [n, 30], or thirty")
    if raw and len(raw) != len(asked.inputs):
        raise InvalidInput(f"raw_input_contents: has {len(raw)} items, there are {len(asked.inputs)} inputs")
    tensors = []
    for place, given in enumerate(asked.inputs):
        name = short(given.name)
        if not given.name:
            raise InvalidInput(f"inputs.{place}: has no name")
        if not 1 <= len(given.shape) <= 2:
            raise InvalidInput(f"{name}: has a shape of {len(given.shape)} dimensions, must have one or two")
        fields = [field.name for field, _ in given.contents.ListFields()]
        if raw and fields:
            raise InvalidInput(f"{name}: has {fields[0]} beside raw_input_contents; give one of them")
        data = raw[place] if raw else _typed(given, fields)
        tensors.append(Tensor(given.name, given.datatype, list(given.shape), data))
    return tensors


def _typed(given: Any, fields: list[str]) -> Any:
    """The values of typed contents."""
    wanted = _CONTENTS.get(given.datatype.upper())
    if wanted is None:
        return []  # the datatype is refused by whoever knows what the tensor is for
    if other := [field for field in fields if field != wanted]:
        raise InvalidInput(f"{short(given.name)}: has {other[0]}, {given.datatype} needs {wanted}")
    values = getattr(given.contents, wanted)
    if len(values) < ARRAY or wanted == "bytes_contents":
        return list(values)
    return np.array(values, np.float64)


def _answer(request: Request, scores: Scores, model: Loaded) -> Any:
    answer = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    reasons = [orjson.dumps(reason) for reason in scores.reasons or ()]
    for name in request.outputs:
        output = answer.outputs.add(name=name, datatype=OUTPUTS[name], shape=[request.names.rows])
        if name in request.binary:
            answer.raw_output_contents.append(pack(name, scores, request.names, reasons))
        elif name == "probability":
            output.contents.fp64_contents.extend(scores.probabilities)
        elif name == "label":
            output.contents.int64_contents.extend((scores.levels > 0).astype(int).tolist())
        elif name == "alert":
            output.contents.bytes_contents.extend(ALERTS[level].encode() for level in scores.levels.tolist())
        elif name == "id":
            output.contents.bytes_contents.extend(text.encode() for text in request.names.texts())
        else:
            output.contents.bytes_contents.extend(reasons)
    return answer
