"""Drift: the verdict now and over time, why, and what happened because of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fraudkit.settings import MODEL_NAME
from serving.console import charts
from serving.console.context import Console
from serving.console.course import COLUMNS, LISTED, Course, course_of
from serving.console.page import page
from serving.console.peers import PeerError, attempt, together
from serving.console.records import RolloutsRecord, RunsRecord
from serving.console.verdicts import (
    CHANNELS,
    STATISTICS,
    STATUSES,
    DriftRecord,
    EvidenceRecord,
    HistogramRecord,
    HistoryRecord,
    WindowRecord,
    happenings,
)

SPANS: Final = (48, 96, 192, 384)
"""Windows that can be looked at together; the second is usual: a day of quarter hours."""
_DRIFT: Final = f"/v1/models/{MODEL_NAME}/drift"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one wants to look at."""

    last: int = SPANS[1]
    window: str = ""
    feature: str = ""

    @classmethod
    def of(cls, query: QueryParams) -> Asked:
        """Of the parameters of a page; what is not known is as if it were not asked for."""
        last, feature = query.get("last", ""), query.get("feature", "")
        return cls(
            int(last) if last in map(str, SPANS) else SPANS[1],
            query.get("window", ""),
            feature if feature in COLUMNS else "",
        )

    def href(self, window: str, feature: str = "") -> str:
        """The page of a window."""
        feature = feature or self.feature
        given = {"last": self.last, "window": window} | ({"feature": feature} if feature else {})
        return f"/drift?{urlencode(given)}#window"


@dataclass(frozen=True, slots=True)
class Beside:
    """A column of a window beside the reference: its chart, D, and what chance alone makes of D."""

    column: str
    chart: str
    gap: float
    chance: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """The window that is looked at."""

    window: WindowRecord
    beside: Beside | None
    traces: str
    influence: str


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""
    detector = console.peers.detector

    async def show(request: Request) -> Response:
        asked = Asked.of(request.query_params)
        now, history, runs, rollouts = await together(
            detector.get(_DRIFT, DriftRecord),
            detector.get(f"{_DRIFT}/history", HistoryRecord, limit=asked.last),
            console.peers.launcher.get("/v1/runs", RunsRecord, trigger="drift", last=LISTED),
            console.peers.controller.get("/v1/rollouts", RolloutsRecord),
        )
        course: Course | PeerError = history
        chosen: Chosen | PeerError | None = None
        if isinstance(history, HistoryRecord):
            wanted = asked.window or (history.windows[0].id if history.windows else "")
            if wanted:
                path = f"/v1/windows/{quote(wanted, safe='')}"
                chosen = _chosen(await attempt(detector.get(path, EvidenceRecord)), asked)
            happened = happenings(
                history,
                RunsRecord(runs=()) if isinstance(runs, PeerError) else runs,
                RolloutsRecord(rollouts=()) if isinstance(rollouts, PeerError) else rollouts,
            )
            course = course_of(history.windows[::-1], happened, asked.href, wanted)
        return page(
            request,
            "drift.html",
            asked=asked,
            spans=SPANS,
            columns=COLUMNS,
            course=course,
            chosen=chosen,
            others=[one for one in (runs, rollouts) if isinstance(one, PeerError)],
            channels=CHANNELS,
            statistics=STATISTICS,
            **_now(now),
        )

    async def live(request: Request) -> Response:
        return page(request, "drift_now.html", **_now(await attempt(detector.get(_DRIFT, DriftRecord))))

    return [Route("/drift", show), Route("/drift/now", live)]


def _now(now: DriftRecord | PeerError) -> dict[str, Any]:
    meaning, advice = ("", "") if isinstance(now, PeerError) else STATUSES.get(now.status, ("", ""))
    return {"now": now, "meaning": meaning, "advice": advice}


def _chosen(evidence: EvidenceRecord | PeerError, asked: Asked) -> Chosen | PeerError:
    if isinstance(evidence, PeerError):
        return evidence
    window = evidence.window
    influence = [(one.feature, one.mean_change, one.spread_change) for one in window.verdict.influence]
    wanted = asked.feature or next((one.subject for one in window.statistics("inputs") if one.beyond), "")
    found = {one.column: one for one in evidence.histograms}
    histogram = found.get(wanted or (influence[0][0] if influence else COLUMNS[0]))
    return Chosen(
        window=window,
        beside=beside(histogram, window.rows - window.verdict.untested) if histogram else None,
        traces=_traces(evidence),
        influence=charts.pairs(influence, _in_words(influence)) if influence else "",
    )


def beside(histogram: HistogramRecord, rows: int) -> Beside:
    """A column of a window of so many tested rows beside the reference."""
    gaps = accumulate(seen - wanted for seen, wanted in zip(histogram.observed, histogram.expected, strict=True))
    edges = histogram.edges
    ticks = [(i / (len(edges) - 1), f"{edges[i]:.3g}") for i in range(0, len(edges), 10)]
    label = f"{histogram.column}: shares of {len(histogram.observed)} bins in this window, and in the reference"
    chart = charts.overlay(histogram.observed, histogram.expected, ticks, label)
    return Beside(histogram.column, chart, max(map(abs, gaps)), 1.36 / math.sqrt(max(rows, 1)))


def _traces(evidence: EvidenceRecord) -> str:
    series = [(one.name.removeprefix("suspicious_"), one.values) for one in evidence.traces if one.values]
    if not series:
        return ""
    limit = evidence.traces[0].threshold
    ticks = [(0.0, "first row"), (1.0, "last row")]
    return charts.steps(
        series, limit, ticks, f"Suspicious scores: the sums in the course of the window, threshold {limit:g}"
    )


def _in_words(influence: Sequence[tuple[str, float, float]]) -> str:
    told = [f"{name} mean {mean:+.2g}, spread {spread:+.2g}" for name, mean, spread in influence]
    return f"Change of what each input adds to the log odds: {'; '.join(told)}"
