"""Outliers and dependence: Mahalanobis' distance of rows from the reference, whose columns may look as ever.

Tests of one column at a time do not see that columns no longer go together. The mean of log D² does, window by
window, as a cumulative sum of its standardized departure; and the rate of outlying rows sees new kinds of them, a
new kind of fraud among them, that the model may not find suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors import cusum
from detectors.channels import Level, Reading, Statistic, warn
from detectors.channels.rate import Rate, RateState
from detectors.reference import HOURS, Reference, Values
from fraudkit.policy.drift import DistanceRule
from fraudkit.schema import DRIFT_FEATURES, FloatArray

CHANNEL: Final = "distance"
SHARE: Final = 0.01
"""Share of the reference that is outlying."""
_WIDTH: Final = len(DRIFT_FEATURES)


@dataclass(frozen=True, slots=True)
class DistanceState:
    """The sums after the last window: of larger and smaller distances, and of outlying rows."""

    larger: float = 0.0
    smaller: float = 0.0
    outliers: RateState = field(default_factory=RateState)


class Distance:
    """The channel of one model."""

    def __init__(self, reference: Reference, rule: DistanceRule) -> None:
        features = reference.values[:, :_WIDTH].astype(np.float64)
        self._means: FloatArray = features.mean(axis=0)
        precision = np.linalg.pinv(np.cov(features, rowvar=False), hermitian=True)
        self._precision: FloatArray = np.asarray(precision, dtype=np.float64)
        logs = self.logs(reference.values)
        day_mean, day_sd = logs.mean(), max(float(logs.std()), 1e-9)
        rows = reference.rows_by_hour
        parts = np.split(logs, reference.starts[1:-1])
        # Standardized by hour; an hour of few rows has the day's.
        enough = rows >= _ENOUGH
        self._mean = np.array([part.mean() if ok else day_mean for part, ok in zip(parts, enough, strict=True)])
        self._sd = np.array([part.std() if ok else day_sd for part, ok in zip(parts, enough, strict=True)])
        self._sd = np.maximum(self._sd, 1e-9)
        self._rows = np.where(enough, rows, len(logs))
        self._outliers = Rate("outlying", "distance", logs.astype(np.float32), reference, SHARE, rule.outliers)
        self._rule = rule

    def logs(self, values: Values) -> FloatArray:
        """Log D² [n] of rows [n, 30] of `COLUMNS`."""
        centred = values[:, :_WIDTH] - self._means
        return np.asarray(np.log(np.maximum(np.einsum("ij,ij->i", centred @ self._precision, centred), 1e-12)))

    def read(
        self, values: Values, hours: NDArray[np.int64], state: DistanceState
    ) -> tuple[Reading, DistanceState]:
        """What the rows [n, 30] of a window say, in the order of their time."""
        if not len(values):
            return Reading(CHANNEL, Level.INSUFFICIENT_DATA, "no row can be tested"), state
        logs, rule = self.logs(values), self._rule
        departure = self._departure(logs, hours)
        larger = float(cusum.path(state.larger, np.array([departure - rule.slack]))[0])
        smaller = float(cusum.path(state.smaller, np.array([-departure - rule.slack]))[0])
        said, outliers, _ = self._outliers.read(logs.astype(np.float32), hours, state.outliers)
        statistics = (
            Statistic("larger", "distance", larger, rule.threshold, larger > rule.threshold),
            Statistic("smaller", "distance", smaller, rule.threshold, smaller > rule.threshold),
            *said.statistics,
        )
        message = f"mean log D² departs by {departure:+.1f} standard errors; {said.message}"
        most = 2.0 * rule.threshold
        after = DistanceState(min(larger, most), min(smaller, most), outliers)
        return warn(CHANNEL, message, statistics), after

    def _departure(self, logs: FloatArray, hours: NDArray[np.int64]) -> float:
        """The window's mean log D² less that of the reference at the same hours, in standard errors of both."""
        counts = np.bincount(hours, minlength=HOURS)
        n = len(logs)
        variance = (counts * self._sd**2).sum() / n**2 + ((counts / n) ** 2 * self._sd**2 / self._rows).sum()
        return float((logs.mean() - (counts * self._mean).sum() / n) / np.sqrt(variance))


_ENOUGH: Final = 100
"""Rows of an hour from which on it has a mean and a spread of its own."""
