"""A version's page: where it came from, how good it is, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fraudkit.bundle import CARD, VERSION, Bundle
from fraudkit.errors import BundleError, FraudError
from serving.console import comparing, story
from serving.console.context import Console
from serving.console.page import page
from serving.console.peers import PeerError, together
from serving.console.records import RolloutRecord, RolloutsRecord, RunsRecord, ServingRecord
from serving.console.views.models import RUNS
from serving.console.views.runs import elsewhere


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""

    async def show(request: Request) -> Response:
        version = request.path_params["version"]
        if not VERSION.fullmatch(version):
            raise HTTPException(404)
        serving, rollouts, runs = await together(
            console.peers.controller.get("/v1/models", ServingRecord),
            console.peers.controller.get("/v1/rollouts", RolloutsRecord),
            console.peers.launcher.get("/v1/runs", RunsRecord, limit=RUNS),
        )
        found, card = await run_in_threadpool(_sealed, console, version)
        own: list[RolloutRecord] = []
        if not isinstance(rollouts, PeerError):
            own = [one for one in rollouts.rollouts if one.version == version]
        trained = () if isinstance(runs, PeerError) else [one for one in runs.runs if one.version == version]
        run = trained[0] if trained else None
        parent = None if isinstance(found, FraudError) else found.manifest.parent
        beside = [one.champion for one in own if one.champion not in (None, version)]
        other = beside[0] if beside else parent
        compared = None
        if not isinstance(found, FraudError):
            compared = await run_in_threadpool(comparing.compared, console.bundles, version, other)
        unknown = isinstance(found, FraudError) and not own and run is None
        return page(
            request,
            "version.html",
            404 if unknown else 200,
            version=version,
            serves=not isinstance(serving, PeerError) and serving.champion == version,
            away=[one for one in (rollouts, runs) if isinstance(one, PeerError)],
            found=None if isinstance(found, FraudError) else found,
            card=card,
            missing=str(found) if isinstance(found, FraudError) else "",
            run=run,
            chapters=[story.chapter(one, run) for one in own],
            compared=compared,
            links=elsewhere(console, run),
        )

    return [Route("/models/{version}", show)]


def _sealed(console: Console, version: str) -> tuple[Bundle | FraudError, str]:
    try:
        found = comparing.sealed(console.bundles, version)
        return found, (found.path / CARD).read_text(encoding="utf-8")
    except OSError as error:
        return BundleError(f"{CARD} of {version} cannot be read: {error.strerror}"), ""
    except FraudError as error:
        return error, ""
