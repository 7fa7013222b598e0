"""What the detector says of drift: now, over time, and of one window."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from detectors.histograms import Histograms
from detectors.records import DriftRecord, HistogramRecord, Status, TraceRecord, WindowEvidence, moment
from detectors.reference import COLUMNS, Reference
from detectors.store.verdicts import Kept, Now, Span, VerdictStore
from fraudkit.api import answer, limit, only, printable, seconds
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import FraudError
from fraudkit.policy.drift import DriftRules
from fraudkit.settings import MODEL_NAME, DetectorSettings


@dataclass(frozen=True, slots=True)
class DriftApi:
    """The routes, and what they need.

    Attributes:
        store: What the evaluator wrote.
        settings: The width of buckets, and when a verdict is stale.
        rules: The thresholds of traces.
        bundles: Where the models are, for what is expected.
        clock: The time [s, UTC].
    """

    store: VerdictStore
    settings: DetectorSettings
    rules: DriftRules
    bundles: BundleStore
    clock: Callable[[], float] = time.time

    def routes(self) -> list[Route]:
        """For Starlette, which runs them beside its event loop."""
        drift = f"/v1/models/{MODEL_NAME}/drift"
        return [
            Route(drift, self._now),
            Route(f"{drift}/history", self._history),
            Route("/v1/windows/{id}", self._window),
        ]

    def _now(self, request: Request) -> Response:
        only(request)
        return answer(status(self.store.now(), self.settings, self.clock()))

    def _history(self, request: Request) -> Response:
        only(request, "version", "since", "until", "limit")
        version = request.query_params.get("version")
        span = Span(
            None if version is None else printable("version", version),
            seconds(request, "since"),
            seconds(request, "until"),
            limit(request, 100, 1_000),
        )
        return answer(self.store.history(span))

    def _window(self, request: Request) -> Response:
        only(request)
        name = printable("id", request.path_params["id"])
        kept = self.store.window(name)
        if kept is None:
            raise HTTPException(404, f"there is no window {name}")
        watched = histograms_of(self.bundles, kept.window.version)
        histograms = _beside(kept, *watched) if watched else ()
        threshold = self.rules.alert_rate.threshold
        traces = tuple(
            TraceRecord(name=f"suspicious_{side}", values=tuple(values.tolist()), threshold=threshold)
            for side, values in zip(("more", "fewer"), kept.traces, strict=True)
        )
        return answer(
            WindowEvidence(window=kept.window, rows_by_hour=kept.hours, histograms=histograms, traces=traces)
        )


def histograms_of(bundles: BundleStore, version: str) -> tuple[Histograms, Reference] | None:
    """What a version makes one expect; None where its bundle is not to be had."""
    try:
        return _loaded(bundles, version)
    except FraudError:
        return None


@lru_cache(maxsize=2)
def _loaded(bundles: BundleStore, version: str) -> tuple[Histograms, Reference]:
    reference = Reference.of(bundles.load(version))
    return Histograms(reference), reference


def _beside(kept: Kept, histograms: Histograms, reference: Reference) -> tuple[HistogramRecord, ...]:
    """Each column's shares of bins beside the expected ones; nothing for a window of which nothing was tested."""
    rows = sum(kept.hours)
    if not rows:
        return ()
    expected, _ = histograms.expected(np.array(kept.hours))
    low, high = reference.values.min(axis=0), reference.values.max(axis=0)
    return tuple(
        HistogramRecord(
            column=name,
            edges=(float(low[i]), *histograms.edges[i].tolist(), float(high[i])),
            observed=tuple((kept.histogram[i] / rows).tolist()),
            expected=tuple((expected[i] / rows).tolist()),
        )
        for i, name in enumerate(COLUMNS)
    )


def status(now: Now, settings: DetectorSettings, time: float) -> DriftRecord:
    """What is to be said at `time` [s, UTC]: a verdict on traffic that has stopped is none."""
    said, message = Status.WARMING_UP, "no window of this model has ended yet"
    since = None
    if now.promoted is None:
        message = "no model has been promoted: there is nothing to hold traffic against"
    elif now.window:
        said, message = Status(now.window.verdict.level), now.window.verdict.message
        since = now.former.ends if now.former else None
    if now.received is None or time - now.received > settings.stale_seconds:
        quiet = (
            "no event has come"
            if now.received is None
            else f"no event has come since {moment(now.received):%F %T} UTC"
        )
        said, message = Status.STALE, f"{quiet}; before: {message}"
    return DriftRecord(
        model=MODEL_NAME,
        version=now.promoted,
        status=said,
        message=message,
        since=since,
        last_event=None if now.received is None else moment(now.received),
        closed_until=moment(now.closed * settings.bucket_seconds) if now.closed else None,
        window=now.window,
        decision=now.decision,
    )
