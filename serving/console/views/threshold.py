"""Where alerts begin: what other thresholds would mean on the holdout, and asking for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fraudkit.errors import BundleError, FraudError, InvalidInput
from fraudkit.estimate import Estimate
from fraudkit.scoring import Thresholds
from fraudkit.settings import MODEL_NAME, AlertSettings
from serving.console import charts
from serving.console.access import RefusedError, Role, Visitor
from serving.console.change import change
from serving.console.context import Console
from serving.console.form import fields_of, reason_of
from serving.console.holdout import Holdout, Live, Point, ScoreHistogram, holdout_of, logit, places, point
from serving.console.page import page
from serving.console.peers import PeerError, attempt, together
from serving.console.records import Read, RolloutRecord, ServingRecord

DAY: Final = 86_400
ENOUGH: Final = 200
"""Transactions of the last day that the champion must have answered to tell of live traffic."""
ASKED: Final = 4
"""Most versions whose traffic is counted: a day rarely sees more."""
ROLLOUT_SECONDS: Final = 60.0
"""Making a child copies its parent."""
_TICKS: Final = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)


class EvidenceRecord(Read):
    """What a version has answered."""

    rows: int
    score_histogram: ScoreHistogram


@dataclass(frozen=True, slots=True)
class Told:
    """A point in words, for the page and for its sliders; `x` is its place in the charts."""

    value: str
    text: str
    recall: str
    precision: str
    rate: str
    daily: str
    review: float
    block: float
    x: float


class Chosen(NamedTuple):
    """Two thresholds in words, and what they cost per 1,000 transactions."""

    review: Told
    block: Told

    @property
    def cost(self) -> str:
        """As text."""
        return f"{self.review.review + self.block.block:,.1f}"


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""
    controller = console.peers.controller

    async def shown(
        request: Request, given: Mapping[str, str], problem: str = "", status: int = 200, began: object = None
    ) -> Response:
        visitor: Visitor = request.state.visitor
        serving = await attempt(controller.get("/v1/models", ServingRecord))
        context = {"serving": serving, "given": given, "problem": problem, "began": began, "sight": None}
        context |= {"may_apply": visitor.role >= Role.ENGINEER, "costs": console.settings.alerts}
        if isinstance(serving, ServingRecord) and serving.champion:
            try:
                holdout = await run_in_threadpool(holdout_of, console.bundles, serving.champion)
            except FraudError as error:
                return page(request, "threshold.html", 500, **context | {"problem": str(error)})
            chosen = holdout.thresholds
            try:
                chosen = wanted(given, holdout.thresholds)
            except InvalidInput as error:
                context["problem"], status = problem or str(error), max(status, 422)
            live = await _live(console, serving)
            context["sight"] = await run_in_threadpool(sight, holdout, chosen, console.settings.alerts, live)
        return page(request, "threshold.html", status, **context)

    async def show(request: Request) -> Response:
        name, began = request.query_params.get("rollout"), None
        if name:
            began = await attempt(controller.get(f"/v1/rollouts/{quote(name, safe='')}", RolloutRecord))
        return await shown(request, request.query_params, began=began)

    async def apply(request: Request) -> Response:
        given: Mapping[str, str] = {}
        try:
            given = await fields_of(request)
            rollout = await _apply(console, request, given)
        except (RefusedError, FraudError, PeerError) as error:
            return await shown(request, given, str(error), getattr(error, "status", 422) or 502)
        return RedirectResponse(f"/threshold?rollout={quote(rollout.id, safe='')}", 303)

    return [Route("/threshold", show), Route("/threshold", apply, methods=["POST"])]


def wanted(given: Mapping[str, str], present: Thresholds) -> Thresholds:
    """The thresholds that somebody chose; where nothing is said the present ones.

    Raises:
        InvalidInput: They are none.
    """
    try:
        review, block = (float(given.get(name) or getattr(present, name)) for name in ("review", "block"))
    except ValueError as error:
        raise InvalidInput("review and block are probabilities, such as 0.05 and 0.75") from error
    try:
        return Thresholds(review, block)
    except BundleError as error:
        raise InvalidInput(str(error)) from error


@dataclass(frozen=True, slots=True)
class Sight:
    """What the page shows of a model.

    Attributes:
        now: Its thresholds.
        chosen: Those that are looked at.
        points: Where the sliders can stand, as the script reads them.
        at: Where they stand.
        cheapest: Address with the thresholds that cost least here.
        curves: Precision and recall.
        costs: Costs.
        rows: Of the holdout.
        frauds: Of these.
        live: Transactions of the last day; None where that is not known.
    """

    now: Chosen
    chosen: Chosen
    points: list[dict[str, str | float]]
    at: tuple[int, int]
    cheapest: str
    curves: Markup
    costs: Markup
    rows: int
    frauds: int
    live: int | None


def sight(holdout: Holdout, chosen: Thresholds, costs: AlertSettings, live: Live | None) -> Sight:
    """What the page shows."""
    now = holdout.thresholds
    grid = places(now.review, now.block, chosen.review, chosen.block)
    points = [point(holdout, costs, threshold) for threshold in grid]
    along = dict(zip(grid, _along(grid), strict=True))
    told = {one.threshold: _told(one, live, along[one.threshold]) for one in points}
    names = ("review", "block")
    review, block = (min(points, key=lambda one: getattr(one, name)).threshold for name in names)
    marks = [(name, along[getattr(chosen, name)], along[getattr(now, name)]) for name in names]
    ticks = [
        (float(np.interp(logit(value), [logit(grid[0]), logit(grid[-1])], [0, 1])), f"{100 * value:g}%")
        for value in _TICKS
    ]
    return Sight(
        now=Chosen(told[now.review], told[now.block]),
        chosen=Chosen(told[chosen.review], told[chosen.block]),
        points=[asdict(one) for one in told.values()],
        at=(grid.index(chosen.review), grid.index(chosen.block)),
        cheapest=urlencode({"review": review, "block": block}) if review < block else "",
        curves=_curves(points, along, marks, ticks),
        costs=_costs(points, along, now, marks, ticks),
        rows=holdout.frauds.size + holdout.legitimate.size,
        frauds=holdout.frauds.size,
        live=live.rows if live else None,
    )


def _along(grid: Sequence[float]) -> list[float]:
    """Shares of the way from the first threshold to the last, in log odds."""
    odds = np.array([logit(threshold) for threshold in grid])
    return [float(share) for share in (odds - odds[0]) / (odds[-1] - odds[0])]


def _told(one: Point, live: Live | None, along: float) -> Told:
    return Told(
        value=f"{one.threshold:.12g}",
        text=f"{100 * one.threshold:.4g}%",
        recall=_share(one.recall),
        precision=_share(one.precision) if one.rate else "no such transaction",
        rate=f"{1000 * one.rate:,.3g}",
        daily=f"{live.beyond(one.threshold):,.0f}" if live else "–",
        review=one.review,
        block=one.block,
        x=charts.place(along),
    )


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _curves(
    points: Sequence[Point],
    along: Mapping[float, float],
    marks: Sequence[charts.Marked],
    ticks: Sequence[charts.Tick],
) -> Markup:
    recall = [(along[one.threshold], one.recall.value) for one in points]
    precision = [(along[one.threshold], one.precision.value) for one in points if one.rate]
    lines = [("recall", "line", recall), ("precision", "line other", precision)]
    return charts.curves(
        lines, marks, ticks, [(0, "0%"), (0.5, "50%"), (1, "100%")], "Recall and precision by threshold"
    )


def _costs(
    points: Sequence[Point],
    along: Mapping[float, float],
    now: Thresholds,
    marks: Sequence[charts.Marked],
    ticks: Sequence[charts.Tick],
) -> Markup:
    """Costs as one threshold moves and the other stays; the chart ends where it costs far more than no alert."""
    own = {one.threshold: one for one in points}
    review, block = own[now.review], own[now.block]
    by_review = [(one.threshold, one.review + block.block) for one in points if one.threshold < now.block]
    by_block = [(one.threshold, review.review + one.block) for one in points if one.threshold > now.review]
    top = float(f"{1.3 * max(points[-1].review, review.review + block.block):.2g}")
    lines = [
        (name, cls, [(along[at], cost / top) for at, cost in given if cost <= top])
        for name, cls, given in (("review moves", "line", by_review), ("block moves", "line other", by_block))
    ]
    heights = [(0.0, "0"), (0.5, f"{top / 2:g}"), (1.0, f"{top:g}")]
    return charts.curves(lines, marks, ticks, heights, "Costs per 1,000 transactions by threshold")


async def _live(console: Console, serving: ServingRecord) -> Live | None:
    """Traffic of the last day; None where the detector is away, or too little is known."""
    since = int(time.time()) - DAY
    known = [one.version for one in serving.models if one.version != serving.champion][1 - ASKED :]
    answers = await together(
        *(
            console.peers.detector.get(
                f"/v1/models/{MODEL_NAME}/versions/{version}/evidence", EvidenceRecord, since=since, labelled="no"
            )
            for version in (serving.champion, *known)
        )
    )
    if any(isinstance(one, PeerError) for one in answers) or answers[0].rows < ENOUGH:
        return None
    return Live(sum(one.rows for one in answers), answers[0].score_histogram)


async def _apply(console: Console, request: Request, given: Mapping[str, str]) -> RolloutRecord:
    """Ask for a child with other thresholds, and its roll-out.

    Raises:
        RefusedError: Who asks may not.
        InvalidInput: The form lacks something, or is of a model that is champion no longer.
        PeerError: The controller is away, or refuses.
    """
    version, controller = given.get("version", ""), console.peers.controller

    async def ask(visitor: Visitor) -> RolloutRecord:
        serving = await controller.get("/v1/models", ServingRecord)
        if version != serving.champion:
            raise InvalidInput(f"the champion is {serving.champion} now, and not {version}: look at it again")
        holdout = await run_in_threadpool(holdout_of, console.bundles, version)
        asked = asdict(wanted(given, holdout.thresholds)) | {"by": visitor.name, "reason": reason_of(given)}
        path = f"/v1/bundles/{version}/thresholds"
        return controller.read(await controller.send("POST", path, ROLLOUT_SECONDS, json=asked), RolloutRecord)

    def noted(rollout: RolloutRecord) -> dict[str, str]:
        return {"outcome": "done", "rollout": rollout.id}

    told = {name: given.get(name, "") for name in ("review", "block", "reason")}
    return await change(request, Role.ENGINEER, "set thresholds", version, ask, noted, **told)
