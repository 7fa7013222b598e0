"""Models and roll-outs: who serves, a roll-out as it happens and who steers it, and the story of versions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fraudkit.bundle import SCORER, Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import FraudError, InvalidInput
from serving.console import comparing, story
from serving.console.access import Role, Visitor
from serving.console.change import change
from serving.console.context import Console
from serving.console.form import fields_of, reason_of
from serving.console.page import page, percent
from serving.console.peers import PeerError, attempt, together
from serving.console.records import (
    CheckRecord,
    ChecksRecord,
    RolloutRecord,
    RolloutsRecord,
    RunRecord,
    RunsRecord,
    ServingRecord,
)
from serving.console.views.runs import elsewhere

RUNS: Final = 200
"""Runs of which the story is told."""
DONE: Final = {
    "pause": "The roll-out is paused: the canary keeps its share, and nothing is judged.",
    "resume": "The roll-out goes on.",
    "promote": "Promoted: all traffic goes to the new model.",
    "rollback": "Rolled back: all traffic goes to the former champion.",
    "accept": "The reference is accepted: its roll-out has begun.",
}
_TRIED: Final = (("promote", "Promote now"), ("rollback", "Roll back"))
ACTIONS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "running": (("pause", "Pause"), *_TRIED),
    "paused": (("resume", "Resume"), *_TRIED),
    "stopped": (("resume", "Resume"), *_TRIED),
    "provisional": (("promote", "Confirm for good"), ("rollback", "Take it back")),
}
"""What a person may do to a roll-out in a state, and what the button says."""
CHECKS: Final = {
    "ready": "The canary is ready",
    "requests": "Requests answered in this step",
    "bake_seconds": "Seconds with this share",
    "scores": "Rows scored live and offline",
    "errors": "Errors",
    "latency": "Latency",
    "latency_50": "Latency, median",
    "latency_95": "Latency, 95 % of requests within",
    "skew": "Live and offline scores differ by",
    "recall": "Share of labelled frauds caught",
    "false_alarms": "Legitimate ones alerted",
    "frauds": "Labelled frauds to confirm it",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A check as it is shown: `value` of `most` is a progress; otherwise numbers are compared."""

    name: str
    outcome: str
    canary: str
    stable: str
    limit: str
    value: float | None
    most: float | None
    message: str


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""
    controller = console.peers.controller

    async def shown(request: Request, reason: str = "", problem: str = "") -> Response:
        serving, rollouts, runs = await together(
            controller.get("/v1/models", ServingRecord),
            controller.get("/v1/rollouts", RolloutsRecord),
            console.peers.launcher.get("/v1/runs", RunsRecord, limit=RUNS),
        )
        records = () if isinstance(rollouts, PeerError) else rollouts.rollouts
        known: Mapping[str, RunRecord] = {} if isinstance(runs, PeerError) else {run.key: run for run in runs.runs}
        champion = None if isinstance(serving, PeerError) else serving.champion
        more, (offers, unread), compared = await asyncio.gather(
            _look(console, rollouts),
            run_in_threadpool(offered, console.bundles, champion, [one.version for one in records]),
            run_in_threadpool(comparing.compared, console.bundles, *_versions(records)),
        )
        return page(
            request,
            "models.html",
            422 if problem else 200,
            serving=serving,
            runs=runs,
            chapters=[story.chapter(one, known.get(one.key)) for one in records],
            offers=offers,
            unread=unread,
            compared=compared,
            engineer=request.state.visitor.role >= Role.ENGINEER,
            links=elsewhere(console, None),
            reason=reason,
            problem=problem,
            said=DONE.get(request.query_params.get("did", ""), ""),
            **more,
        )

    async def steer(request: Request) -> Response:
        name, action = request.path_params["id"], request.path_params["action"]
        if action not in ("pause", "resume", "promote", "rollback"):
            raise HTTPException(404)
        path = f"/v1/rollouts/{quote(name, safe='')}/{action}"
        return await _changed(request, action, name, path)

    async def accept(request: Request) -> Response:
        version = request.path_params["version"]
        return await _changed(request, "accept", version, f"/v1/bundles/{quote(version, safe='')}/reference")

    async def _changed(request: Request, action: str, target: str, path: str) -> Response:
        async def ask(visitor: Visitor) -> None:
            body = {"by": visitor.name, "reason": reason_of(fields)}
            await controller.send("POST", path, 30.0, json=body)

        fields = await fields_of(request)
        reason = fields.get("reason", "")
        try:
            await change(request, Role.ENGINEER, action, target, ask, reason=reason)
        except (InvalidInput, PeerError) as error:
            return await shown(request, reason, str(error))
        return RedirectResponse(f"/models?did={action}", 303)

    async def now(request: Request) -> Response:
        more = await _look(console, await controller.get("/v1/rollouts", RolloutsRecord))
        serving = await controller.get("/v1/models", ServingRecord)
        return page(request, "models_now.html", serving=serving, links=elsewhere(console, None), **more)

    async def buttons(request: Request) -> Response:
        more = await _look(console, await controller.get("/v1/rollouts", RolloutsRecord), checks=False)
        return page(request, "models_buttons.html", **more)

    return [
        Route("/models", shown),
        Route("/models/now", now),
        Route("/models/buttons", buttons),
        Route("/models/rollouts/{id}/{action}", steer, methods=["POST"]),
        Route("/models/{version}/reference", accept, methods=["POST"]),
    ]


def current_of(rollouts: Sequence[RolloutRecord]) -> RolloutRecord | None:
    """The roll-out that goes on, or else the promotion that labels have not confirmed."""
    going_on = next((one for one in rollouts if one.goes_on), None)
    return going_on or next((one for one in rollouts if one.status == "provisional"), None)


def row(check: CheckRecord) -> Row:
    """A check in words and numbers."""
    if check.at_least:
        there, needed = check.canary or 0.0, check.limit or 0.0
        told = (f"{there:,.0f}", "", f"{needed:,.0f}")
        return Row(
            CHECKS.get(check.name, check.name), check.outcome, *told, min(there, needed), needed, check.message
        )
    told = (_number(check, check.canary), _number(check, check.stable), _number(check, check.limit))
    return Row(CHECKS.get(check.name, check.name), check.outcome, *told, None, None, check.message)


def offered(bundles: BundleStore, champion: str | None, tried: Sequence[str]) -> tuple[list[Bundle], str]:
    """The champion with a new reference, as runs offer it where a drift's new model brought no gain.

    Returns:
        What is offered; and what cannot be read, in words.
    """
    if champion is None:
        return [], ""
    try:
        scorer = comparing.sealed(bundles, champion).manifest.files[SCORER]
        found = [comparing.sealed(bundles, version) for version in bundles.versions() if version not in tried]
    except FraudError as error:
        return [], f"whether a new reference is offered cannot be said: {error}"
    same = [one for one in found if one.manifest.files[SCORER] == scorer]
    return [one for one in same if one.manifest.parent == champion], ""


async def _look(console: Console, found: RolloutsRecord | PeerError, checks: bool = True) -> dict[str, Any]:
    """The roll-out that is looked at, with its checks."""
    if isinstance(found, PeerError):
        return {"away": found, "rollout": None, "checks": (), "steps": (), "actions": ()}
    rollout, told = current_of(found.rollouts), None
    if rollout and checks:
        path = f"/v1/rollouts/{quote(rollout.id, safe='')}/checks"
        told = await attempt(console.peers.controller.get(path, ChecksRecord))
    failed = isinstance(told, PeerError)
    return {
        "away": told if failed else None,
        "rollout": rollout,
        "checks": [row(check) for check in told.checks] if isinstance(told, ChecksRecord) else [],
        "steps": told.steps
        if isinstance(told, ChecksRecord)
        else [one.percent for one in rollout.steps]
        if rollout
        else (),
        "actions": ACTIONS.get(rollout.status, ()) if rollout else (),
    }


def _number(check: CheckRecord, value: float | None) -> str:
    if value is None:
        return ""
    if check.name.startswith("latency"):
        return f"{1e3 * value:.3g} ms"
    if check.name in ("errors", "recall"):
        return percent(value, 2 if check.name == "errors" else 1)
    return f"{value:.1e}" if check.name == "skew" and value else f"{value:,.0f}"


def _versions(rollouts: Sequence[RolloutRecord]) -> tuple[str | None, str | None]:
    """The challenger that is tried, or was tried last, and who was champion then."""
    found = next((one for one in rollouts if one.champion not in (None, one.version)), None)
    return (found.version, found.champion) if found else (None, None)
