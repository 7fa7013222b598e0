"""The controller's HTTP side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fraudkit.api import Api, body_of, document, only, parsed
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError, FraudError, InvalidInput
from fraudkit.events import Version
from serving.rollout.bundles import AcceptRequest, Children, ThresholdsRequest
from serving.rollout.controller import Controller
from serving.rollout.engine import ACTIONS, Asked, Busy
from serving.rollout.state import Rollout

log = structlog.get_logger()

_Text = Annotated[str, Field(min_length=1, max_length=1_000)]
_OK, _NEW = 200, 201
RETRY_SECONDS: Final = "5"
_Answer = TypeVar("_Answer")


class RolloutRequest(BaseModel):
    """The body of `POST /v1/rollouts`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    by: _Text
    reason: _Text


class HandRequest(BaseModel):
    """The body of what a person asks of a roll-out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: _Text
    reason: _Text


class RolloutApi:
    """The routes.

    Args:
        controller: Who is asked.
        bundles: The store of bundles.
    """

    def __init__(self, controller: Controller, bundles: BundleStore) -> None:
        self._controller = controller
        self._children = Children(controller, bundles)

    def app(self) -> Api:
        """The app."""
        routes = [
            Route("/v1/rollouts", self._ask, methods=["POST"]),
            Route("/v1/rollouts", self._all),
            Route("/v1/rollouts/{id}", self._one),
            Route("/v1/rollouts/{id}/checks", self._checks),
            Route("/v1/rollouts/{id}/{action}", self._act, methods=["POST"]),
            Route("/v1/bundles/{version}/thresholds", self._thresholds, methods=["POST"]),
            Route("/v1/bundles/{version}/reference", self._reference, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        return Api(routes, {FraudError: _away})

    async def _ask(self, request: Request) -> Response:
        asked = parsed(RolloutRequest, await body_of(request))
        known = self._controller.state.get(asked.key)
        wanted = Asked(asked.version, asked.key, asked.by, asked.reason)
        rollout = await self._answered(lambda: self._controller.ask(wanted))
        return document(rollout.model_dump(), _OK if known else _NEW)

    async def _act(self, request: Request) -> Response:
        name, action = request.path_params["id"], request.path_params["action"]
        if action not in ACTIONS:
            raise HTTPException(404, f"there is no {action}; one can {', '.join(ACTIONS)}")
        hand = parsed(HandRequest, await body_of(request))
        if self._controller.state.get(name) is None:
            raise HTTPException(404, f"there is no roll-out {name!r}")
        rollout = await self._answered(lambda: self._controller.act(name, action, hand.by, hand.reason))
        return document(rollout.model_dump())

    async def _thresholds(self, request: Request) -> Response:
        version, asked = request.path_params["version"], parsed(ThresholdsRequest, await body_of(request))
        new, rollout = await self._answered(lambda: self._children.thresholds(version, asked))
        return document(rollout.model_dump(), _NEW if new else _OK)

    async def _reference(self, request: Request) -> Response:
        version, asked = request.path_params["version"], parsed(AcceptRequest, await body_of(request))
        new, rollout = await self._answered(lambda: self._children.reference(version, asked))
        return document(rollout.model_dump(), _NEW if new else _OK)

    async def _answered(self, action: Callable[[], _Answer]) -> _Answer:
        try:
            return await run_in_threadpool(action)
        except Busy as error:
            raise HTTPException(409, str(error)) from None
        except BundleError as error:
            raise InvalidInput(f"version: {error}") from error

    def _all(self, request: Request) -> Response:
        only(request)
        rollouts = reversed(self._controller.state.rollouts)
        return document({"rollouts": [one.model_dump() for one in rollouts]})

    def _one(self, request: Request) -> Response:
        return document(self._found(request).model_dump())

    def _checks(self, request: Request) -> Response:
        found = self._found(request)
        shares = [step.percent for step in self._controller.rules.steps]
        return document({"status": found.status, "steps": shares, "checks": self._controller.checks(found)})

    def _found(self, request: Request) -> Rollout:
        only(request)
        found = self._controller.state.get(request.path_params["id"])
        if found is None:
            raise HTTPException(404, f"there is no roll-out {request.path_params['id']!r}")
        return found

    def _models(self, request: Request) -> Response:
        only(request)
        state = self._controller.state
        going_on = state.going_on
        models = {one.version: str(one.status) for one in state.rollouts if not one.same_version}
        tried = going_on is not None and going_on.champion is not None and not going_on.same_version
        return document(
            {
                "champion": state.champion,
                "challenger": going_on.version if going_on and tried else None,
                "models": [{"version": version, "status": status} for version, status in models.items()],
            }
        )

    async def _health(self, _: Request) -> Response:
        """Ready whoever is away; what is wrong stands in `status`."""
        known, wrong = self._controller.known, self._controller.troubles.now
        status = "; ".join(f"{of}: {reason}" for of, reason in wrong.items()) or "well"
        return document({"ready": True, "champion": known and known.champion, "status": status})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


async def _away(_: Request, error: FraudError) -> Response:
    """What has to wait, has to: a peer is away, or a person has to mend something."""
    return JSONResponse({"error": str(error)}, 503, {"retry-after": RETRY_SECONDS})
