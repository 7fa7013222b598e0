"""Inputs by how much their change moved the model's score: what to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.reference import HOURS, Reference, Values
from fraudkit.schema import DRIFT_FEATURES, FloatArray
from fraudkit.scoring import Scorer

_WIDTH = len(DRIFT_FEATURES)


@dataclass(frozen=True, slots=True)
class Influence:
    """How much a feature moved the log odds of a window, against the reference at the same hours.

    Attributes:
        feature: Its name.
        mean_change: Change of the mean log odds that it adds.
        spread_change: Change of their standard deviation.
    """

    feature: str
    mean_change: float
    spread_change: float


class Influences:
    """What each feature adds to the log odds in the reference, by hour."""

    def __init__(self, scorer: Scorer, reference: Reference) -> None:
        self._weights = np.array(scorer.weights[2:], dtype=np.float64)
        parts = reference.values[:, :_WIDTH] * self._weights
        self._present = reference.rows_by_hour > 0
        self._means: FloatArray = np.zeros((HOURS, _WIDTH))
        self._squares: FloatArray = np.zeros((HOURS, _WIDTH))
        for hour in np.flatnonzero(self._present):
            inside = parts[reference.starts[hour] : reference.starts[hour + 1]]
            self._means[hour] = inside.mean(axis=0)
            self._squares[hour] = (inside**2).mean(axis=0)
        weights = reference.rows_by_hour[:, None] / reference.rows_by_hour.sum()
        self._means[~self._present] = (self._means * weights).sum(axis=0)
        self._squares[~self._present] = (self._squares * weights).sum(axis=0)

    def rank(self, values: Values, hours: NDArray[np.int64]) -> tuple[Influence, ...]:
        """Features of a window's rows [n, 30], of hours [n], the most influential first."""
        if not len(values):
            return ()
        shares = np.bincount(hours, minlength=HOURS) / len(hours)
        parts = values[:, :_WIDTH] * self._weights
        mean = shares @ self._means
        spread = np.sqrt(np.maximum(shares @ self._squares - mean**2, 0.0))
        means, spreads = parts.mean(axis=0) - mean, parts.std(axis=0) - spread
        order = np.argsort(-(np.abs(means) + np.abs(spreads)), kind="stable")
        return tuple(Influence(DRIFT_FEATURES[i], float(means[i]), float(spreads[i])) for i in order)
