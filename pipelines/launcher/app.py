"""The launcher's HTTP side: events at `/`, and the API that people and the detector ask."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fraudkit.api import Api, body_of, document, limit, only, parsed
from fraudkit.database import error_handlers
from fraudkit.errors import InvalidInput
from fraudkit.events import RetrainRequested, Version, event_type
from pipelines.launcher import moves
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import LONGEST_MESSAGE, Result
from pipelines.launcher.store import RunRecord, RunStore
from pipelines.launcher.triggers import Kind, LaunchRequest, of_event

log = structlog.get_logger()

_NEW: Final = 201
_OK: Final = 200
_NO_NUL: Final = r"^[^\x00]*$"


class ResultRequest(BaseModel):
    """The body of `PUT /v1/runs/{key}/result`: how an attempt ended.

    Attributes:
        attempt: Its number.
        outcome: What became of the run.
        reason: Name of the check that decided.
        message: One sentence for a person.
        version: The model that it trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Annotated[int, Field(ge=1, le=1_000)]
    outcome: Literal["promoted", "challenger", "no_gain", "rejected", "rolled_back"]
    reason: Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_NUL)]
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE, pattern=_NO_NUL)]
    version: Version | None = None

    def to_result(self) -> Result:
        """Without the attempt."""
        return Result(**self.model_dump(exclude={"attempt"}))


class LauncherApi:
    """The routes, and what they need.

    Args:
        store: The records.
        asking: Where runs are asked for.
        mirrors: Whether MLflow is to show what is promoted and rolled back.
    """

    def __init__(self, store: RunStore, asking: Asking, *, mirrors: bool = False) -> None:
        self._store = store
        self._asking = asking
        self._mirrors = mirrors

    def app(self) -> Api:
        """The app."""
        routes = [
            Route("/", self._event, methods=["POST"]),
            Route("/v1/runs", self._ask, methods=["POST"]),
            Route("/v1/runs", self._runs),
            Route("/v1/runs/{key}", self._run),
            Route("/v1/runs/{key}/result", self._result, methods=["PUT"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        return Api(routes, error_handlers("launcher"))

    async def _event(self, request: Request) -> Response:
        """Start a run for `retrain.requested`, keep what happened to models for MLflow; all else informs.

        A broker takes an answer with a body for a failure.
        """
        body = await body_of(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        kind = event_type(headers, body)
        if kind is None:
            raise InvalidInput("this is no CloudEvent: it has no type")
        if kind == RetrainRequested.type:
            await run_in_threadpool(self._asking.ask, of_event(headers, body))
        else:
            if kind in moves.TYPES and self._mirrors:
                await run_in_threadpool(self._store.moved, moves.move_of(kind, headers, body))
            log.info("event heard", type=kind)
        return Response(status_code=_OK)

    async def _ask(self, request: Request) -> Response:
        asked = parsed(LaunchRequest, await body_of(request))
        told, record = await run_in_threadpool(self._asking.ask, asked.to_trigger())
        answer = {"key": record.key, "state": told, "run": record.model_dump()}
        return document(answer, _NEW if told == "run" else _OK)

    def _runs(self, request: Request) -> Response:
        only(request, "active", "last", "trigger", "limit")
        trigger = request.query_params.get("trigger")
        if trigger is not None and trigger not in set(Kind):
            raise InvalidInput(f"trigger: {trigger!r} must be one of {', '.join(Kind)}")
        active, last = request.query_params.get("active"), request.query_params.get("last")
        if active not in (None, "true"):
            raise InvalidInput(f"active: {active!r} must be true, or be left out")
        if active:
            found = self._store.active()
            return _listed(() if found is None else (found,))
        if last is not None:
            if not last.isascii() or not last.isdigit() or not 1 <= int(last[:9]) <= 1_000:
                raise InvalidInput(f"last: {last!r} must be a number from 1 to 1,000")
            return _listed(self._store.last(int(last), trigger, ended=True))
        return _listed(self._store.last(limit(request, 100, 1_000), trigger))

    def _run(self, request: Request) -> Response:
        only(request)
        return document(self._record(request).model_dump())

    async def _result(self, request: Request) -> Response:
        told = parsed(ResultRequest, await body_of(request))
        return await run_in_threadpool(self._keep_result, request, told)

    def _keep_result(self, request: Request, told: ResultRequest) -> Response:
        """Keep how the attempt that goes on ended; the same again is as good, also after the run has ended."""
        key, result = self._record(request).key, told.to_result()
        kept = self._store.report(key, told.attempt, result)
        run = self._record(request)
        if kept:
            log.info("run told how it ended", key=key, **told.model_dump())
        elif (run.status, run.attempt, run.reported) != ("ended", told.attempt, result):
            with_what = f" with {run.outcome}" if run.outcome else ""
            said = (
                f"attempt {told.attempt} of {key} does not go on: attempt {run.attempt} is {run.status}{with_what}"
            )
            raise HTTPException(409, said)
        return document(run.model_dump())

    def _record(self, request: Request) -> RunRecord:
        key = request.path_params["key"]
        found = self._store.get(key) if key.isprintable() else None
        if found is None:
            raise HTTPException(404, f"nobody asked for a run {key!r}")
        return found

    async def _health(self, _: Request) -> Response:
        return document({"ready": True})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _listed(runs: tuple[RunRecord, ...]) -> Response:
    return Response(orjson.dumps({"runs": [run.model_dump() for run in runs]}), media_type="application/json")
