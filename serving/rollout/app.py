"""The controller's HTTP side."""

from __future__ import annotations

from typing import Annotated

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fraudkit.api import Api, body_of, document, only, parsed
from fraudkit.errors import BundleError, InvalidInput, TemporaryError
from fraudkit.events import Version
from serving.rollout.controller import Controller
from serving.rollout.engine import ACTIONS, Asked, Busy
from serving.rollout.state import Rollout

log = structlog.get_logger()

_Text = Annotated[str, Field(min_length=1, max_length=1_000)]
_OK, _NEW = 200, 201


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
        template: What services are made from at the moment.
    """

    def __init__(self, controller: Controller, template: str = "") -> None:
        self._controller = controller
        self._template = template

    def app(self) -> Api:
        """The app."""
        routes = [
            Route("/v1/rollouts", self._ask, methods=["POST"]),
            Route("/v1/rollouts", self._all),
            Route("/v1/rollouts/{id}", self._one),
            Route("/v1/rollouts/{id}/{action}", self._act, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        return Api(routes)

    async def _ask(self, request: Request) -> Response:
        asked = parsed(RolloutRequest, await body_of(request))
        known = self._controller.state.get(asked.key)
        wanted = Asked(asked.version, asked.key, asked.by, asked.reason, self._template)
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

    async def _answered(self, action: object) -> Rollout:
        try:
            return await run_in_threadpool(action)  # type: ignore[arg-type]
        except Busy as error:
            raise HTTPException(409, str(error)) from None
        except BundleError as error:
            raise InvalidInput(f"version: {error}") from error
        except TemporaryError as error:
            raise HTTPException(503, str(error), {"retry-after": "5"}) from error

    def _all(self, request: Request) -> Response:
        only(request)
        rollouts = reversed(self._controller.state.rollouts)
        return document({"rollouts": [one.model_dump() for one in rollouts]})

    def _one(self, request: Request) -> Response:
        only(request)
        found = self._controller.state.get(request.path_params["id"])
        if found is None:
            raise HTTPException(404, f"there is no roll-out {request.path_params['id']!r}")
        return document(found.model_dump())

    def _models(self, request: Request) -> Response:
        only(request)
        state = self._controller.state
        going_on = state.going_on
        models = {one.version: str(one.status) for one in state.rollouts}
        return document(
            {
                "champion": state.champion,
                "challenger": going_on.version if going_on and going_on.champion else None,
                "models": [{"version": version, "status": status} for version, status in models.items()],
            }
        )

    async def _health(self, _: Request) -> Response:
        return document({"ready": True, "champion": self._controller.state.champion})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
