"""A server that takes and gives what the API server of Kubeflow Pipelines 2.17 does, in a thread of this process.

Requests must be what KFP's own client makes of its own models, and answers are made of these. What it does to a
filter (it unquotes it once more, and compares without regard to case, as MySQL does), to a page token, to
experiments and to namespaces is what `backend/src/apiserver` does.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote_plus
from uuid import uuid4

import kfp_server_api
import uvicorn
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

API: Final = "/apis/v2beta1"
_TYPES: Final = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool}
_STATUS: Final = {3: 400, 5: 404, 6: 409, 7: 403, 10: 409, 13: 500, 14: 503, 16: 401}


class Refused(Exception):
    """An error of gRPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Broken(Response):
    """An answer that ends before its end."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"run_id"', "more_body": False})


class KfpStandIn:
    """What it was told, and what it is to do wrong.

    Attributes:
        url: Where it answers.
        multi_user: Whether it is an installation with profiles.
        runs: The runs as KFP's JSON, the oldest first.
        experiments: The experiments likewise.
        requests: Method and path of every request.
        queries: What stood behind the paths.
        tokens: The `authorization` of every request.
        page_size: Of the lists.
        token: The only one that is accepted; None accepts whoever comes.
        forbidden: What nobody may do, as (verb, resource).
        answers: Given instead of the next ones.
        lost: The answers to this many POSTs of runs get lost after the run was made.
        hold: A POST of a run waits for it before the run is made.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self, multi_user: bool = False) -> None:
        """As if it had just been installed."""
        self.multi_user = multi_user
        self.runs: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.page_size = 20
        self.token: str | None = None
        self.forbidden: set[tuple[str, str]] = set()
        self.answers: list[Response] = []
        self.lost = 0
        self.hold: threading.Event | None = None

    def posts(self, what: str = "runs") -> int:
        return self.requests.count(("POST", f"{API}/{what}"))

    def add_run(self, name: str, **fields: Any) -> dict[str, Any]:
        now = datetime.now(UTC)
        epoch = datetime.fromtimestamp(0, UTC)
        made = kfp_server_api.V2beta1Run(
            run_id=str(uuid4()),
            display_name=name,
            state="PENDING",
            storage_state="AVAILABLE",
            created_at=now,
            scheduled_at=now,
            finished_at=epoch,
        )
        self.runs.append(_json(made) | fields)
        return self.runs[-1]

    def set_state(self, state: str, **fields: Any) -> None:
        """Of the last run; what it says is checked to be what a run can say."""
        assert state in kfp_server_api.V2beta1RuntimeState.allowable_values
        self.runs[-1].update({"state": state} | fields)
        _checked(self.runs[-1], "V2beta1Run")

    def answer(self, status: int, body: str, **headers: str) -> None:
        self.answers.append(PlainTextResponse(body, status, headers))

    # Requests

    def respond(self, request: Request, body: bytes) -> Response:
        self.requests.append((request.method, request.url.path))
        self.queries.append(dict(request.query_params))
        self.tokens.append(request.headers.get("authorization"))
        if self.answers:
            return self.answers.pop(0)
        try:
            return self._respond(request, body)
        except Refused as refused:
            details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": refused.code}]
            document = {"code": refused.code, "message": str(refused), "details": details}
            return _answer(document, _STATUS[refused.code])

    def _respond(self, request: Request, body: bytes) -> Response:
        path = request.url.path
        if not path.startswith(f"{API}/"):
            raise Refused(5, "Not Found")
        what, _, item = path.removeprefix(f"{API}/").partition("/")
        if what == "healthz":
            return _answer({"multi_user": self.multi_user})
        verb = "create" if request.method == "POST" else "get" if item else "list"
        self._authorize(request, verb, what)
        if verb == "list":
            return _answer(self._list(what, request))
        if verb == "get":
            return _answer(self._get(item))
        if what == "experiments":
            return _answer(self._create_experiment(_checked(json.loads(body), "V2beta1Experiment")))
        made = self._create_run(_checked(json.loads(body), "V2beta1Run"))
        if self.lost:
            self.lost -= 1
            return Broken()
        return _answer(made)

    def _authorize(self, request: Request, verb: str, what: str) -> None:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(16, "Failed to check authorization. User identity is empty in the request header")
        if (verb, what) in self.forbidden:
            raise Refused(7, "User 'somebody' is not authorized with reason:  (request: &ResourceAttributes{…})")

    def _list(self, what: str, request: Request) -> dict[str, Any]:
        query = request.query_params
        if self.multi_user and not query.get("namespace"):
            raise Refused(3, f"A {what[:-1]} cannot have an empty namespace in multi-user mode")
        first, wanted = 0, query.get("filter", "")
        if token := query.get("page_token"):
            stored = json.loads(base64.b64decode(token))
            if wanted and wanted != stored["filter"]:
                raise Refused(3, "page token does not match the supplied sort by and/or filtering criteria")
            first, wanted = stored["first"], stored["filter"]
        name = _filtered_name(wanted).casefold()
        stored_ones = self.runs if what == "runs" else self.experiments
        found = [one for one in stored_ones if self._seen(one, query.get("namespace")) and _is_named(one, name)]
        last = first + self.page_size
        document: dict[str, Any] = {what: found[first:last], "total_size": len(found)}
        if last < len(found):
            following = json.dumps({"first": last, "filter": wanted})
            document["next_page_token"] = base64.b64encode(following.encode()).decode()
        # protojson leaves out what is empty.
        return {key: value for key, value in document.items() if value}

    def _seen(self, one: dict[str, Any], namespace: str | None) -> bool:
        return not self.multi_user or self._namespace(one) == namespace

    def _namespace(self, one: dict[str, Any]) -> str | None:
        if "run_id" not in one:
            return one.get("namespace")
        experiment = one.get("experiment_id")
        return next((e.get("namespace") for e in self.experiments if e["experiment_id"] == experiment), None)

    def _get(self, item: str) -> dict[str, Any]:
        for run in self.runs:
            if run["run_id"] == item:
                return run
        raise Refused(5, f"Failed to get a run: ResourceNotFoundError: Run {item} not found.")

    def _create_experiment(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.multi_user and not body.get("namespace"):
            raise Refused(3, "Failed to create a experiment: Namespace cannot be empty")
        if any(one["display_name"].casefold() == body["display_name"].casefold() for one in self.experiments):
            raise Refused(6, f"Failed to create a new experiment. The name {body['display_name']} already exists")
        self.experiments.append({"experiment_id": str(uuid4()), "storage_state": "AVAILABLE"} | body)
        return self.experiments[-1]

    def _create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("display_name"):
            raise Refused(3, "The run name is empty. Please specify a valid name")
        if self.multi_user and not body.get("experiment_id"):
            raise Refused(3, "Experiment id can not be empty in multi-user mode")
        known = [experiment["experiment_id"] for experiment in self.experiments]
        if body.get("experiment_id", "") not in ("", *known):
            raise Refused(5, f"ResourceNotFoundError: Experiment {body['experiment_id']} not found.")
        _check_parameters(_check_spec(body["pipeline_spec"]), body["runtime_config"]["parameters"])
        if self.hold is not None:
            assert self.hold.wait(30)
        return self.add_run(**{"name": body["display_name"]} | body)


@contextmanager
def running() -> Iterator[KfpStandIn]:
    """One that answers at its `url`."""
    stand_in = KfpStandIn()

    async def respond(request: Request) -> Response:
        return await run_in_threadpool(stand_in.respond, request, await request.body())

    app = Starlette(routes=[Route("/{path:path}", respond, methods=["GET", "POST"])])
    listening = socket.create_server(("127.0.0.1", 0))
    stand_in.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off", http="h11"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield stand_in
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


def _answer(document: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(document), status, media_type="application/json")


def _json(model: Any) -> dict[str, Any]:
    with kfp_server_api.ApiClient() as client:
        document: dict[str, Any] = client.sanitize_for_serialization(model)
    return document


def _checked(document: dict[str, Any], kind: str) -> dict[str, Any]:
    """What KFP's own client makes of it: nothing more may stand in it, for KFP refuses unknown fields."""
    with kfp_server_api.ApiClient() as client:
        read = client.deserialize(SimpleNamespace(data=json.dumps(document)), kind)
        understood = client.sanitize_for_serialization(read)
    if _undated(understood) != _undated(document):
        raise Refused(3, f"{kind}: unknown field in {document}, of which {understood} is understood")
    return document


def _undated(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if not key.endswith("_at")}


def _filtered_name(quoted: str) -> str:
    text = unquote_plus(quoted).replace('"stringValue":', '"string_value":')
    predicates = _checked(json.loads(text), "V2beta1Filter")["predicates"]
    if len(predicates) != 1 or predicates[0]["key"] != "display_name":
        raise Refused(3, f"no support for filtering on {predicates}")
    if predicates[0]["operation"] not in (kfp_server_api.V2beta1PredicateOperation.EQUALS, 1):
        raise Refused(3, f"this stand-in knows EQUALS only, not {predicates[0]['operation']}")
    name: str = predicates[0]["string_value"]
    return name


def _is_named(one: dict[str, Any], name: str) -> bool:
    # A run that cannot be described has its name in the database, but not in the answer.
    known: str = one.get("display_name", name)
    return known.casefold() == name


def _check_spec(inline: dict[str, Any]) -> PipelineSpec:
    spec = inline.get("pipeline_spec", inline)
    assert spec is inline or set(inline) == {"pipeline_spec", "platform_spec"}
    try:
        _check_executors(spec, inline.get("platform_spec", {}))
        return json_format.ParseDict(spec, PipelineSpec())
    except json_format.ParseError as error:
        raise Refused(3, f"unknown template format: {error}") from error


def _check_executors(spec: dict[str, Any], platform: dict[str, Any]) -> None:
    """Containers, and what Kubernetes is told of them: KFP's driver fails at what it does not understand there."""
    json_format.ParseDict(spec["deploymentSpec"], PipelineDeploymentConfig())
    told = json_format.ParseDict(platform, PlatformSpec()).platforms["kubernetes"].deployment_spec.executors
    for name, config in told.items():
        json_format.ParseDict(json_format.MessageToDict(config), KubernetesExecutorConfig())
        assert name in spec["deploymentSpec"]["executors"], f"{name} is no task's, and KFP would not say so"


def _check_parameters(spec: PipelineSpec, parameters: dict[str, Any]) -> None:
    wanted = json_format.MessageToDict(spec)["root"]["inputDefinitions"]["parameters"]
    if unknown := set(parameters) - set(wanted):
        raise Refused(3, f"parameters {unknown} are none of the pipeline's")
    for name, kind in wanted.items():
        if name not in parameters:
            if not kind.get("isOptional"):
                raise Refused(3, f"parameter {name} is missing")
        elif type(parameters[name]) is not _TYPES[kind["parameterType"]]:
            raise Refused(3, f"parameter {name} is no {kind['parameterType']}")
