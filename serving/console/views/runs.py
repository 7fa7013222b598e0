"""Runs: what asked for each, and what became of it; one may be started by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fraudkit.errors import InvalidInput
from fraudkit.settings import MODEL_NAME
from serving.console.access import Role, Visitor
from serving.console.change import change
from serving.console.context import Console
from serving.console.form import fields_of, reason_of
from serving.console.page import page
from serving.console.peers import PeerError, attempt
from serving.console.records import Read, RunRecord, RunsRecord

SHOWN: Final = 50
MANUAL: Final = "manual-"
BECAME: Final = {
    "run": "A run was asked for.",
    "coalesced": "Another run goes on: this one is recorded, and does not run.",
    "duplicate": "This key was asked for before: nothing new was started.",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


class LaunchedRecord(Read):
    """What the launcher says to `POST /v1/runs`."""

    key: str
    state: str


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""
    launcher = console.peers.launcher

    async def shown(request: Request, fields: Mapping[str, str], problem: str = "") -> Response:
        runs = await attempt(launcher.get("/v1/runs", RunsRecord, limit=SHOWN))
        more = {"runs": runs, "fields": fields, "problem": problem, "manual": MANUAL}
        engineer = request.state.visitor.role >= Role.ENGINEER
        return page(request, "runs.html", 422 if problem else 200, engineer=engineer, **more)

    async def show(request: Request) -> Response:
        return await shown(request, {"name": f"{datetime.now(UTC):%Y%m%d-%H%M%S}"})

    async def table(request: Request) -> Response:
        return page(request, "runs_table.html", runs=await launcher.get("/v1/runs", RunsRecord, limit=SHOWN))

    async def launch(request: Request) -> Response:
        fields = await fields_of(request)

        async def ask(visitor: Visitor) -> LaunchedRecord:
            body = launch_body(fields, visitor.name, reason_of(fields))
            return launcher.read(await launcher.send("POST", "/v1/runs", json=body), LaunchedRecord)

        target, reason = f"{MANUAL}{fields.get('name', '').strip()}", fields.get("reason", "")
        try:
            run = await change(request, Role.ENGINEER, "launch", target, ask, reason=reason)
        except (InvalidInput, PeerError) as error:
            return await shown(request, fields, str(error))
        return RedirectResponse(f"/runs/{quote(run.key, safe='')}?became={run.state}", 303)

    async def one(request: Request) -> Response:
        key = request.path_params["key"]
        run = await attempt(_run(console, key))
        said = BECAME.get(request.query_params.get("became", ""), "")
        status = 404 if isinstance(run, PeerError) and run.status == 404 else 200
        return page(request, "run.html", status, key=key, said=said, **_shown(console, run))

    async def now(request: Request) -> Response:
        return page(request, "run_now.html", **_shown(console, await _run(console, request.path_params["key"])))

    return [
        Route("/runs", show),
        Route("/runs", launch, methods=["POST"]),
        Route("/runs/table", table),
        Route("/runs/{key}", one),
        Route("/runs/{key}/now", now),
    ]


def launch_body(fields: Mapping[str, str], by: str, reason: str) -> dict[str, str]:
    """The body of `POST /v1/runs` for a form.

    Raises:
        InvalidInput: The name is none.
    """
    name = fields.get("name", "").strip().removeprefix(MANUAL)
    if not _NAME.fullmatch(name):
        raise InvalidInput("name: letters, digits, dots, - and _, beginning with a letter or a digit, 150 at most")
    body = {"key": f"{MANUAL}{name}", "by": by, "reason": reason}
    data = fields.get("data_uri", "").strip()
    return body | ({"data_uri": data} if data else {})


def elsewhere(console: Console, run: RunRecord | None) -> list[tuple[str, str]]:
    """Links to where a run is told of too: their names and addresses."""
    own, links = console.settings.console, []
    if own.mlflow:
        links.append(("MLflow: the model's versions", f"{own.mlflow.rstrip('/')}/#/models/{MODEL_NAME}"))
    if own.kfp and run and run.handle and console.settings.launcher.backend == "kfp":
        links.append(
            ("Kubeflow Pipelines: this run", f"{own.kfp.rstrip('/')}/#/runs/details/{quote(run.handle, safe='')}")
        )
    return links


async def _run(console: Console, key: str) -> RunRecord:
    return await console.peers.launcher.get(f"/v1/runs/{quote(key, safe='')}", RunRecord)


def _shown(console: Console, run: RunRecord | PeerError) -> dict[str, Any]:
    return {"run": run, "links": elsewhere(console, None if isinstance(run, PeerError) else run)}
