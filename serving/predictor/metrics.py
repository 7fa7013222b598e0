"""What the predictor counts, in Prometheus' terms, with buckets that fit a request of some fifty microseconds.

Counts are plain numbers, which the event loop alone touches; prometheus_client reads them when it is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from time import time
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fraudkit.schema import FloatArray
from fraudkit.scoring import ALERTS
from serving.predictor.request import Scores

SECONDS: Final = (50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
SCORES: Final = (
    1e-4,
    2e-4,
    5e-4,
    1e-3,
    2e-3,
    5e-3,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.99,
)

LOT: Final = 512
"""Plain requests with one row that are counted together."""
BATCHES: Final = 8
"""Other requests that are counted together."""


class Operation(NamedTuple):
    """What was asked for: `v1`, `v2` or `grpc`, and predict, explain, infer or another verb."""

    protocol: str
    verb: str


class Series:
    """The requests of one operation: how many by code, and how long they took.

    `waiting` are the seconds of requests with one row that are not in the histogram yet.
    """

    __slots__ = ("codes", "seconds", "waiting")

    def __init__(self) -> None:
        self.codes: defaultdict[str | int, int] = defaultdict(int)
        self.seconds = Histogram(SECONDS)
        self.waiting: list[float] = []


class Histogram:
    """Counts of values up to and including each bound, and beyond the last, and the values' sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_all(self, values: FloatArray) -> None:
        """Count many values [n]."""
        below = 0
        for place, bound in enumerate(self._bounds):  # of thousands quicker than to look for the place of each
            reached = np.count_nonzero(values <= bound)
            self._counts[place] += reached - below
            below = reached
        self._counts[-1] += len(values) - below
        self._sum += float(values.sum())

    def write(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add this histogram to `family`."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class Metrics(Collector):
    """The predictor's counts since its start, and which model it serves."""

    def __init__(self) -> None:
        self._series: defaultdict[Operation, Series] = defaultdict(Series)
        self._rows = Histogram(ROWS)
        self._scores = Histogram(SCORES)
        self._waiting: list[float] = []
        self._batches: list[tuple[FloatArray, NDArray[np.int64]]] = []
        self._alerts = [0] * len(ALERTS)
        self._loads = {"loaded": 0, "refused": 0}
        self._model = ("", "")
        self._load_seconds = 0.0
        self._loaded_at = 0.0

    def series(self, operation: Operation) -> Series:
        """Where the requests of an operation are counted."""
        return self._series[operation]

    def request(self, series: Series, code: str | int, seconds: float, scores: Scores | None) -> None:
        """Count a request that was answered with `code` after `seconds`, and what it scored."""
        series.codes[code] += 1
        series.seconds.add(seconds)
        if scores is None:
            return
        self._rows.add(len(scores.levels))
        self._batches.append((scores.probabilities, scores.levels))
        if len(self._batches) >= BATCHES:
            self._count_waiting()

    def single(self, series: Series, seconds: float, probability: float, level: int) -> None:
        """Count a request with one row that was answered; in lots, which takes a quarter of the time."""
        series.waiting.append(seconds)
        self._alerts[level] += 1
        self._waiting.append(probability)
        if len(self._waiting) >= LOT:
            self._count_waiting()

    def _count_waiting(self) -> None:
        for series in self._series.values():
            if series.waiting:
                series.codes[200] += len(series.waiting)
                series.seconds.add_all(np.array(series.waiting))
                series.waiting.clear()
        if self._waiting:
            self._rows.add_all(np.ones(len(self._waiting)))
            self._scores.add_all(np.array(self._waiting))
            self._waiting.clear()
        if self._batches:
            probabilities, levels = zip(*self._batches, strict=True)
            self._scores.add_all(np.concatenate(probabilities))
            for level, count in enumerate(np.bincount(np.concatenate(levels), minlength=len(ALERTS)).tolist()):
                self._alerts[level] += count
            self._batches.clear()

    def loaded(self, name: str, version: str, seconds: float) -> None:
        """A bundle was verified within `seconds` and is served from now on."""
        self._model = (name, version)
        self._load_seconds = seconds
        self._loaded_at = time()
        self._loads["loaded"] += 1

    def refused(self) -> None:
        """A bundle was not sound, so the one before it is still served."""
        self._loads["refused"] += 1

    def collect(self) -> Iterator[Metric]:
        """All metrics, for prometheus_client."""
        self._count_waiting()
        labels = ("protocol", "operation")
        requests = CounterMetricFamily(
            "fraud_requests", "Requests by outcome: HTTP status or gRPC code.", labels=(*labels, "code")
        )
        seconds = HistogramMetricFamily(
            "fraud_request_seconds", "Seconds from a request's head to its answer.", labels=labels
        )
        for operation, series in self._series.items():
            for code, count in series.codes.items():
                requests.add_metric((*operation, str(code)), count)
            if series.codes:
                series.seconds.write(seconds, operation)
        rows = HistogramMetricFamily("fraud_request_rows", "Rows of a request that was scored.", labels=())
        self._rows.write(rows, ())
        scores = HistogramMetricFamily("fraud_scores", "Probabilities of fraud that were served.", labels=())
        self._scores.write(scores, ())
        alerts = CounterMetricFamily("fraud_rows", "Rows that were scored, by alert.", labels=("alert",))
        for alert, count in zip(ALERTS, self._alerts, strict=True):
            alerts.add_metric((alert,), count)
        yield from (requests, seconds, rows, scores, alerts, *self._models())

    def _models(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("fraud_model_info", "The model that is served.", labels=("model", "version"))
        info.add_metric(self._model, 1)
        loads = CounterMetricFamily(
            "fraud_model_loads", "Bundles that were loaded or refused.", labels=("outcome",)
        )
        for outcome, count in self._loads.items():
            loads.add_metric((outcome,), count)
        yield info
        yield loads
        yield GaugeMetricFamily(
            "fraud_model_load_seconds",
            "Seconds that the bundle took to verify and load.",
            value=self._load_seconds,
        )
        yield GaugeMetricFamily(
            "fraud_model_loaded_timestamp_seconds", "When the model was loaded.", value=self._loaded_at
        )
